"""How long a client may leave its response where it is, over both protocols."""

from typing import TYPE_CHECKING

from plain_gevent_h2.http2.writer import unsent

if TYPE_CHECKING:
    from plain_gevent_h2.worker import GeventWorker

#: Seconds in place of `SERVER_SEND_TIMEOUT` while requests wait for a place to run: those who
#: do not take their responses should not keep out those who would.
SEND_TIMEOUT_WHEN_FULL = 1.0

#: Seconds in its place while the worker holds more than so many bytes of unsent bodies.
SEND_TIMEOUT_UNDER_PRESSURE = 5.0
PRESSURE = 256 * 1024 * 1024


def send_timeout(worker: "GeventWorker", *, holds_place: bool = True) -> float:
    """Seconds that a client has, now, which holds its response back.

    `holds_place`: whether the response's stream still has a place that others wait for.
    """
    timeout = worker.config.send_timeout
    if holds_place and worker.slots.full:
        return min(timeout, SEND_TIMEOUT_WHEN_FULL)
    if unsent.size + unsent.http1 > PRESSURE:
        return min(timeout, SEND_TIMEOUT_UNDER_PRESSURE)
    return timeout
