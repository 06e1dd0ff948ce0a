"""The connections of a worker, from accept to end."""

import errno
import ssl
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import gevent
from gevent.server import StreamServer
from gevent.socket import IPPROTO_TCP, socket
from plain.logs import get_framework_logger

from plain_gevent_h2.app.plain_internals import is_client_socket_noise
from plain_gevent_h2.app.worker_interface import WorkerInterface
from plain_gevent_h2.http1.connection import Http1Connection
from plain_gevent_h2.http2.connection import Http2Connection
from plain_gevent_h2.net import metrics
from plain_gevent_h2.net.abuse import report_abuse
from plain_gevent_h2.net.fairness import HandshakeTurns
from plain_gevent_h2.net.log_throttle import OnceAMinute
from plain_gevent_h2.net.tls_context import why_handshake_failed
from plain_gevent_h2.net.tls_socket import RecordFlood, TlsSocket

from .descriptors import Descriptors
from .listener import Listener, reject

log = get_framework_logger("plain.server")

#: Bytes that the kernel may hold unsent for a connection. With its default of megabytes, a
#: small response would queue behind that much of a download on the same connection.
TCP_NOTSENT_LOWAT_BYTES = 256 * 1024
_TCP_NOTSENT_LOWAT = getattr(gevent.socket, "TCP_NOTSENT_LOWAT", None)

#: Connections taken from one listener in a turn of the loop. Of several workers, each takes one, so
#: that they share a burst.
MAX_ACCEPT = 100

type Connection = Http1Connection | Http2Connection


class ListeningSocket(Protocol):
    """One of the sockets that Plain's arbiter has opened."""

    @property
    def sock(self) -> Any: ...

    @property
    def cfg_addr(self) -> Any: ...


class _Handshake:
    """A connection whose TLS handshake is under way. It counts as idle."""

    def __init__(self, sock: socket) -> None:
        self._sock = sock

    def evict(self) -> None:
        self._sock.close()

    abort = evict


class Connections:
    """Accepts connections, gives each its reader, and has those that are open. One for a worker.

    `most` is the number that may be open, `tls` the context of a server with TLS, `alone` whether
    no other worker accepts from the same sockets.
    """

    def __init__(
        self,
        worker: WorkerInterface,
        *,
        most: int,
        descriptors: Descriptors,
        tls: ssl.SSLContext | None,
        alone: bool,
    ) -> None:
        # Set once.
        self._worker = worker
        self._most = most
        self._descriptors = descriptors
        self._tls = tls
        self._max_accept = self._accepted_in_a_turn() if alone else 1
        # Owned by this class.
        self._open: set[Connection] = set()
        self.handshakes = 0  # connections that have not agreed on a protocol yet
        self._listeners: list[StreamServer] = []
        self._handshake_turns = HandshakeTurns()
        self._capacity_line = OnceAMinute()  # no room, for lack of places or of descriptors

    def _accepted_in_a_turn(self) -> int:
        # So many have a descriptor before the number of one is checked.
        return max(1, min(MAX_ACCEPT, self._descriptors.reserved // 4))

    def __iter__(self) -> Iterator[Connection]:
        """Those that are open now; each may end meanwhile."""
        return iter(list(self._open))

    def __len__(self) -> int:
        return len(self._open)

    def http2(self) -> list[Http2Connection]:
        return [connection for connection in self._open if isinstance(connection, Http2Connection)]

    def active_streams(self) -> int:
        return sum(connection.active_streams for connection in self.http2())

    # -- accepting --------------------------------------------------------------

    def listen(self, sockets: Sequence[ListeningSocket]) -> None:
        for listening in sockets:
            sock = listening.sock
            assert sock is not None
            if _TCP_NOTSENT_LOWAT is not None and not isinstance(listening.cfg_addr, str):
                # Inherited by the connections that it accepts.
                sock.setsockopt(IPPROTO_TCP, _TCP_NOTSENT_LOWAT, TCP_NOTSENT_LOWAT_BYTES)
            listener = Listener(
                sock,
                self._accepted,
                is_tls=self._tls is not None,
                out_of_descriptors=self._log_descriptors,
            )
            listener.max_accept = self._max_accept
            listener.start()
            self._listeners.append(listener)

    def stop_listening(self) -> None:
        for listener in self._listeners:
            listener.close()

    def _accepted(self, sock: socket, client: Any) -> None:
        """An accepted connection's first greenlet: the TLS handshake, then its reader."""
        if not self._has_room(sock.fileno()):
            reject(sock.detach(), is_tls=self._tls is not None)
            return
        self.handshakes += 1
        connection = None
        try:
            connection = self._make(sock, client)
        except Exception as exc:
            self._log_failure(exc, client)
        finally:
            self.handshakes -= 1
        if connection is None:
            sock.close()
            return
        self._open.add(connection)
        metrics.connections_changed(1, connection.protocol_version)
        if not self._worker.alive:
            connection.drain()
        self.read(connection)

    def _has_room(self, descriptor: int) -> bool:
        """Whether there is room for a connection, or another makes it."""
        idle = self._worker.limits.idle
        descriptors_left = self._descriptors.left_after(descriptor)
        places_left = self._most - self.handshakes - len(self._open) + idle.closing
        if (descriptors_left > 0 and places_left > 0) or idle.make_room():
            return True
        if descriptors_left > 0:
            self._log_capacity()
        else:
            self._log_descriptors()
        return False

    def _make(self, sock: socket, client: Any) -> Connection | None:
        """The connection, of the protocol that the TLS handshake agrees on."""
        worker, server = self._worker, sock.getsockname()
        if self._tls is None:
            return Http1Connection(worker, sock, client, server)
        protocols = worker.config.protocols
        tls = TlsSocket(sock, self._tls, protocols, self._handshake_turns)
        handshake = _Handshake(sock)
        worker.limits.idle.add_handshake(handshake)
        try:
            tls.handshake()
        except ssl.SSLError as exc:
            worker.failed_handshakes.add(why_handshake_failed(exc))
            raise
        finally:
            worker.limits.idle.closed(handshake)
        protocol = tls.protocol or "http/1.1"
        if protocol not in protocols:
            worker.failed_handshakes.add(
                "the client offers no protocol (ALPN), and h1 is turned off"
            )
            return None
        kind = Http2Connection if protocol == "h2" else Http1Connection
        return kind(worker, tls, client, server)

    def read(self, connection: Connection) -> None:
        """Run the reader of `connection`, in its greenlet, until it is over or parks."""
        over = True
        try:
            over = connection.run()
        except Exception as exc:
            self._log_failure(exc, connection.client)
        if over:
            self._open.discard(connection)
            self._worker.limits.idle.closed(connection)
            metrics.connections_changed(-1, connection.protocol_version)

    # -- all of them --------------------------------------------------------------

    def drain(self) -> None:
        for connection in self:
            connection.drain()

    def abort(self) -> None:
        for connection in self:
            connection.abort()

    def sweep(self, now: float) -> None:
        """Check the timeouts of each. `now` is monotonic."""
        for connection in self:
            try:
                connection.sweep(now)
            except Exception:
                log.exception("Unexpected connection error")
                connection.abort()

    # -- the log -------------------------------------------------------------------

    def _log_failure(self, exc: Exception, client: Any) -> None:
        """Log what ended a connection: at DEBUG what clients do, at ERROR what is a bug."""
        if isinstance(exc, RecordFlood):
            report_abuse(client, str(exc))
            return
        # Our own doing: a timeout; a connection closed in another greenlet (EBADF).
        ours = isinstance(exc, TimeoutError) or getattr(exc, "errno", None) == errno.EBADF
        if isinstance(exc, OSError) and (ours or is_client_socket_noise(exc)):
            log.debug("Connection closed", extra={"client": client, "error": str(exc)})
        else:
            log.error("Unexpected connection error", extra={"client": client}, exc_info=exc)

    def _log_capacity(self) -> None:
        if self._capacity_line.is_due():
            log.warning(
                "Worker at connection capacity, rejecting new connections",
                extra={"max_connections": self._most},
            )

    def _log_descriptors(self) -> None:
        if self._capacity_line.is_due():
            log.warning("Worker out of file descriptors, rejecting new connections")
