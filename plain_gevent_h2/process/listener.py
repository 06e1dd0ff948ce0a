"""Accepts connections, and answers those for which there is no room."""

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gevent import monkey
from gevent.server import StreamServer

#: The answer to a connection that is rejected. It costs no TLS handshake: a fatal alert
#: (RFC 8446 section 6, internal_error) may come in place of one.
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\n"
    b"Retry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)
_TLS_BUSY = bytes((21, 3, 3, 0, 2, 2, 80))

# The real one: gevent's closes a descriptor only a turn of the loop later.
_close = monkey.get_original("os", "close")


def reject(descriptor: int, *, is_tls: bool) -> None:
    """Tell the client of an accepted connection that there is no room, and close it."""
    with suppress(OSError):
        os.write(descriptor, _TLS_BUSY if is_tls else _BUSY)  # fits an empty send buffer
    _close(descriptor)


class Listener(StreamServer):
    """Accepts connections.

    It keeps a spare descriptor. When no other is free, it uses that one to accept connections and
    reject them.
    """

    def __init__(
        self, sock: Any, handle: Any, *, is_tls: bool, out_of_descriptors: Callable[[], None]
    ) -> None:
        super().__init__(sock, handle)
        self._is_tls = is_tls
        self._out_of_descriptors = out_of_descriptors
        self._spare: int | None = None
        self._keep_spare()

    def do_read(self) -> Any:
        try:
            accepted = super().do_read()
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._out_of_descriptors()
            self._reject_next()
            return None
        self._keep_spare()
        return accepted

    def _keep_spare(self) -> None:
        if self._spare is None:
            with suppress(OSError):  # another thread took the last one: try later
                self._spare = os.open(os.devnull, os.O_RDONLY)

    def _reject_next(self) -> None:
        """Accept and reject one. If another thread takes the descriptor, gevent tries again."""
        if self._spare is not None:
            _close(self._spare)
            self._spare = None
        with suppress(BlockingIOError):
            descriptor, _ = self.socket._accept()  # type: ignore[attr-defined]
            reject(descriptor, is_tls=self._is_tls)
        self._keep_spare()

    def do_close(self, *args: Any) -> None:
        """Nothing: each connection closes its own socket.

        gevent would close it when the first greenlet ends; a parked connection still needs it.
        """
