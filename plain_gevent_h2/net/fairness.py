"""How greenlets that always have more to do take turns."""

from typing import Any, Protocol

import gevent
from gevent.event import Event

#: Seconds between heartbeats of the worker, and between its sweeps, in which timeouts are checked.
#: While it drains, every tenth of that.
SWEEP_INTERVAL = 1.0

#: Connections that may be in the penalty box at once: the last of them waits for 0.2 s.
MOST_PENALIZED = 100


def give_way(seconds: float = 0) -> None:
    """Let the other greenlets run, those that wait for their sockets included.

    `gevent.sleep(0)` is not enough: it comes back before gevent looks at any socket, up to 50
    times over. A timer, even one of no time, is looked at together with the sockets. (One of
    a nanosecond would wait for a millisecond, libev's least.)
    """
    hub: Any = gevent.get_hub()
    with hub.loop.timer(seconds) as timer:
        hub.wait(timer)


class Penalized(Protocol):
    """A connection, as far as it waits in the penalty box."""

    penalties: int  # how often it has been there

    def close_for_penalties(self) -> None:
        """Close, and `leave()`: no other was here as often."""


class PenaltyBox:
    """Where connections wait that ask for too much, one after another. One for a worker.

    However many they are, together they have what one of them would have alone. So that an honest
    one among them does not wait for hundreds, only `MOST_PENALIZED` have room. Past them whoever
    was here most often is closed: an honest client is here seldom.
    """

    def __init__(self) -> None:
        # The first waits for its time to pass, the others for their turn.
        self._queue: dict[Penalized, Event] = {}

    def wait(self, connection: Penalized, seconds: float) -> None:
        """Block the reader of `connection` for `seconds`, once it has its turn."""
        connection.penalties += 1
        turn = self._queue[connection] = Event()
        if len(self._queue) > MOST_PENALIZED:
            max(self._queue, key=lambda waiting: waiting.penalties).close_for_penalties()
        try:
            if next(iter(self._queue), None) is not connection:
                turn.wait()
            if connection in self._queue:
                give_way(seconds)
        finally:
            self.leave(connection)

    def leave(self, connection: Penalized) -> None:
        """`connection` is over, or has waited."""
        if (turn := self._queue.pop(connection, None)) is not None:
            turn.set()
            for first in self._queue.values():
                first.set()
                break
