"""How long a client may leave its response unread, over both protocols."""

from collections.abc import Callable

from .unsent import UnsentBytes

#: Bytes of a response that count as progress: fewer in `SERVER_SEND_TIMEOUT` seconds, and its
#: stream is reset. A client could keep it for ever by a window of one byte at a time.
MIN_PROGRESS = 1024

#: Seconds in place of `SERVER_SEND_TIMEOUT` while requests wait for a slot: clients that do not
#: take their responses should not keep out those that would.
SEND_TIMEOUT_WHEN_FULL = 1.0

#: Seconds in its place while the worker holds more than so many bytes of unsent bodies.
SEND_TIMEOUT_UNDER_PRESSURE = 5.0
PRESSURE = 256 * 1024 * 1024


class SendTimeout:
    """Shortens `SERVER_SEND_TIMEOUT` while the worker is full. One for a worker.

    `seconds` is the setting. `is_full` says whether requests wait for a slot.
    """

    def __init__(self, seconds: float, is_full: Callable[[], bool], unsent: UnsentBytes) -> None:
        self._seconds = seconds
        self._is_full = is_full
        self._unsent = unsent

    def now(self, *, holds_slot: bool = True) -> float:
        """Seconds, now, that a client has which does not take its response.

        `holds_slot`: whether the response's stream has a slot that others wait for.
        """
        if holds_slot and self._is_full():
            return min(self._seconds, SEND_TIMEOUT_WHEN_FULL)
        if self._unsent.total > PRESSURE:
            return min(self._seconds, SEND_TIMEOUT_UNDER_PRESSURE)
        return self._seconds
