"""The socket of one HTTP/1.1 connection: what it has received, and how it ends."""

import re

import gevent
from gevent.socket import socket

from plain_gevent_h2.app.plain_internals import LINGER_CLOSE_MAX_BYTES, LINGER_CLOSE_TIMEOUT
from plain_gevent_h2.net.fairness import yield_to_others
from plain_gevent_h2.net.tcp import close_our_side, reset_on_close
from plain_gevent_h2.net.tls_socket import RECV_SIZE, TlsSocket

# RFC 9112 section 2.2: some clients send a line break after a body.
_EMPTY_LINES_RE = re.compile(rb"(?:\r\n)*")


class SocketReader:
    """The socket of one connection, and the bytes received from it that are not used yet.

    The connection's greenlet alone receives, and owns `received`. The stream's may call
    `reset_on_close()` as well.
    """

    __slots__ = ("_resets_on_close", "received", "sock")

    def __init__(self, sock: socket | TlsSocket) -> None:
        self.sock = sock
        self.received = bytearray()
        self._resets_on_close = False

    def receive(self, size: int = RECV_SIZE) -> bool:
        """Wait for up to `size` bytes more. Return False at the end. Raises `OSError`."""
        data = self.sock.recv(size)
        self.received += data
        # A client that always sends more must not keep the hub to itself.
        yield_to_others()
        return bool(data)

    def skip_empty_lines(self) -> None:
        """Drop line breaks at the start of `received`."""
        if self.received.startswith(b"\r\n"):
            empty = _EMPTY_LINES_RE.match(bytes(self.received))
            assert empty is not None
            del self.received[: empty.end()]

    def reset_on_close(self, *, on: bool) -> None:
        """Set whether a close is a TCP reset, also the close at the end of this process."""
        if on != self._resets_on_close:
            self._resets_on_close = on
            reset_on_close(self.sock, on=on)

    def linger(self) -> None:
        """Close our side and discard what comes for a while. Raises nothing.

        A close with bytes unread would be a TCP reset, which can destroy the response. A client
        that goes on sending past `LINGER_CLOSE_MAX_BYTES` gets one.
        """
        self.reset_on_close(on=False)
        close_our_side(self.sock)
        self.received.clear()
        discarded = 0
        with gevent.Timeout(LINGER_CLOSE_TIMEOUT, False):  # type: ignore[arg-type]
            while discarded < LINGER_CLOSE_MAX_BYTES:
                try:
                    data = self.sock.recv(RECV_SIZE)
                except OSError:
                    break
                if not data:
                    break
                discarded += len(data)
