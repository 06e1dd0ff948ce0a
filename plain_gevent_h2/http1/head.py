"""Reading the head of a request: its request line and its header fields."""

import time

from plain_gevent_h2.app.plain_internals import (
    HEADER_READ_TIMEOUT,
    LimitRequestHeaders,
    drain_expired,
    recv_timeout,
)
from plain_gevent_h2.app.worker_interface import WorkerInterface
from plain_gevent_h2.limits.header_budget import FREE, Holder

from .socket_reader import SocketReader

#: Lines of a head. Plain's parser refuses more than 100 fields, but only after it has split all
#: lines: 40 ms for 200,000 (measured).
MAX_HEAD_LINES = 1000

#: Bytes of a head that are received at once. Bytes that come after the head wait for as long as its
#: view runs: 1,000 connections that sent a request and 256 KiB of others would take 256 MiB.
HEAD_RECV_SIZE = 16 * 1024

#: Bytes of a head, as over HTTP/2. Plain's limit is 800 KB, which take its parser 20 ms (measured).
MAX_HEAD_SIZE = 64 * 1024

#: How a client's first TLS record begins (RFC 8446 section 5.1).
_TLS_HANDSHAKE = b"\x16\x03"


class HeadReader:
    """Takes the heads of requests off what one connection receives, in its greenlet."""

    __slots__ = ("_socket_reader", "_worker", "is_head")

    def __init__(self, worker: WorkerInterface, socket_reader: SocketReader) -> None:
        self._worker = worker
        self._socket_reader = socket_reader
        self.is_head = False  # the last request is a HEAD, even if it was too long

    def read(self, holder: Holder) -> bytes | None:
        """Read the next head; None if it does not come in time, or the client closes.

        A head that comes in pieces counts for `holder` in the worker's header budget. Raises
        `LimitRequestHeaders` and `OSError`.
        """
        received, scanned = self._socket_reader.received, 0
        if received.startswith(_TLS_HANDSHAKE) and self._is_tls_without_certificate():
            return None
        deadline = time.monotonic() + HEADER_READ_TIMEOUT
        while True:
            self._socket_reader.skip_empty_lines()
            end = received.find(b"\r\n\r\n", scanned)
            if end >= 0 or len(received) > MAX_HEAD_SIZE:
                self.is_head = received.startswith(b"HEAD ")
            if end >= 0:
                if scanned:  # it came in pieces
                    self._worker.limits.headers.unfinished(holder, 0)
                return self._take(end + 4)
            if len(received) > MAX_HEAD_SIZE:
                raise LimitRequestHeaders("Request headers exceeded max size")
            self._worker.limits.headers.unfinished(holder, max(0, len(received) - FREE))
            scanned = max(0, len(received) - 3)
            if not self._receive(deadline):
                return None

    def _take(self, size: int) -> bytes:
        received = self._socket_reader.received
        head = bytes(received[:size])
        del received[:size]
        if size > MAX_HEAD_SIZE or head.count(b"\r\n") > MAX_HEAD_LINES:
            raise LimitRequestHeaders("limit request headers")
        return head

    def _receive(self, deadline: float) -> bool:
        """Wait for more of a head. Return False if it does not come by `deadline`."""
        now = time.monotonic()
        if now >= deadline or drain_expired(self._worker):
            return False
        self._socket_reader.sock.settimeout(min(deadline - now, recv_timeout(self._worker)))
        try:
            return self._socket_reader.receive(HEAD_RECV_SIZE)
        except TimeoutError:
            return False

    def _is_tls_without_certificate(self) -> bool:
        """Whether a client speaks TLS to a server that was started without a certificate.

        It is counted for the log. Bytes with the end of a head in them are answered as a request.
        """
        if self._worker.rules.is_tls:
            return False
        self._worker.failed_handshakes.add("TLS to a port without TLS (--certfile)")
        return b"\r\n\r\n" not in self._socket_reader.received
