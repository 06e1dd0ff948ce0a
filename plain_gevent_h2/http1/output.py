"""What Plain's HTTP/1.1 response writes to, and how that is sent."""

import time
from collections.abc import Coroutine
from typing import Any

from gevent.socket import socket

from plain_gevent_h2.limits.send_timeout import MIN_PROGRESS
from plain_gevent_h2.limits.unsent import UnsentBytes
from plain_gevent_h2.net.fairness import HTTP1_SEND_TURN
from plain_gevent_h2.net.tcp import bytes_acknowledged, reset
from plain_gevent_h2.net.tls_socket import TlsSocket

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def complete[T](coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of Plain's that awaits nothing but `Output`, which never suspends it."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise RuntimeError("Plain's HTTP/1.1 writer waited for an event loop")


class Output:
    """The part of `asyncio.StreamWriter` that Plain's response uses, for one connection.

    It keeps small pieces until `flush()`, so that headers and body leave in one packet.

    The greenlet that answers owns all attributes but `_acknowledged`, which belongs to the
    connection's sweep. The sweep also moves `_progress_at` on.
    """

    __slots__ = (
        "_acknowledged",
        "_pieces",
        "_progress_at",
        "_sock",
        "_timeout",
        "_unsent",
        "sent_at",
    )

    def __init__(self, sock: socket | TlsSocket, timeout: float, unsent: UnsentBytes) -> None:
        self._sock = sock
        self._unsent = unsent
        self._timeout = timeout  # seconds without progress
        self._pieces: list[bytes] = []
        self._progress_at: float | None = None  # monotonic, of the send under way
        self.sent_at = 0.0  # monotonic, of the last bytes
        self._acknowledged = 0  # bytes, at the last progress that `stalled()` saw

    def write(self, data: bytes) -> None:
        """Keep `data` for `flush()`."""
        self._pieces.append(data)

    def send_continue(self) -> None:
        """Send an interim response, 100 (RFC 9110 section 15.2.1). Raises `OSError`."""
        self.write(_CONTINUE)
        self.flush()

    async def drain(self) -> None:
        """Do nothing: `flush()` waits for the client."""

    def flush(self) -> None:
        """Send what was written. Blocks the greenlet; raises `OSError`."""
        pieces, self._pieces = self._pieces, []
        head: list[bytes] = []
        for piece in pieces:
            head.append(piece)
            if len(piece) >= HTTP1_SEND_TURN:  # a copy would cost more than another send
                self._send(b"".join(head[:-1]))
                self._send(piece)
                head.clear()
        self._send(b"".join(head))

    def _send(self, data: bytes) -> None:
        rest = data if len(data) <= HTTP1_SEND_TURN else memoryview(data)
        self._unsent.http1 += len(rest)
        try:
            while rest:
                self._progress_at = self.sent_at = time.monotonic()
                self._sock.settimeout(self._timeout)  # the reader of a WebSocket has another
                batch = rest[:HTTP1_SEND_TURN]
                self._sock.sendall(batch)
                self._unsent.http1 -= len(batch)
                rest = rest[HTTP1_SEND_TURN:]
        except TimeoutError:
            reset(self._sock)
            raise
        finally:
            self._progress_at = None
            self._unsent.http1 -= len(rest)

    @property
    def is_sending(self) -> bool:
        """Whether `flush()` waits for the client."""
        return self._progress_at is not None

    def stalled(self, now: float) -> float:
        """Seconds for which the send under way has made no progress. Called once a second."""
        if self._progress_at is None or (taken := bytes_acknowledged(self._sock)) is None:
            return 0.0
        if taken - self._acknowledged >= MIN_PROGRESS:
            self._acknowledged = taken
            self._progress_at = now
        return now - self._progress_at
