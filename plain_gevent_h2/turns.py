"""How greenlets that always have more to do take turns."""

from typing import Any

import gevent


def give_way(seconds: float = 0) -> None:
    """Let the other greenlets run, those that wait for their sockets included.

    `gevent.sleep(0)` is not enough: it comes back before gevent looks at any socket, up to 50
    times over. A timer, even one of no time, is looked at together with the sockets. (One of
    a nanosecond would wait for a millisecond, libev's least.)
    """
    hub: Any = gevent.get_hub()
    with hub.loop.timer(seconds) as timer:
        hub.wait(timer)
