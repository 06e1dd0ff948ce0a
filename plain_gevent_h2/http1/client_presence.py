"""Whether the client of a request is still there, as far as the kernel tells."""

import select
from contextlib import suppress

from gevent.monkey import get_original
from gevent.socket import socket

from plain_gevent_h2.net.tcp import enable_keepalive
from plain_gevent_h2.net.tls_socket import TlsSocket

from .output import Output
from .stream import Http1Stream

#: Seconds without a byte of its response after which a client that has closed its side counts as
#: gone. A client that still reads (HTTP/1.0, `nc`) and one that has closed both sides look the same
#: until something is sent. Only the latter then answers with a TCP reset.
HALF_CLOSED_SILENCE = 10.0

#: Seconds after which a client that has closed its side, and has no answer yet, is asked whether it
#: reads.
ASK_AFTER = 5.0

# Not gevent's: this poll never waits.
_poll = get_original("select", "poll")
_POLLRDHUP = getattr(select, "POLLRDHUP", None)


class ClientPresence:
    """Watches the client of one connection while a request of it is under way.

    The connection's sweep owns the attributes.
    """

    __slots__ = ("_half_closed_at", "_output", "_sock")

    def __init__(self, sock: socket | TlsSocket, output: Output) -> None:
        self._sock = sock
        self._output = output
        self._half_closed_at: float | None = None  # when that was first seen (monotonic)

    def has_hung_up(self) -> bool:
        """Whether both sides are closed, or the client has sent a TCP reset."""
        return self._has_event(0)

    def is_half_closed(self) -> bool:
        """Whether the client has closed its side. Only Linux tells."""
        return _POLLRDHUP is not None and self._has_event(_POLLRDHUP)

    def has_left(self, stream: Http1Stream, now: float) -> bool:
        """Whether the client of `stream` is gone. Called once a second.

        A client that has only closed its sending side is served. So is one that has closed both
        sides, until its kernel tells: by a TCP reset, when something is sent to it, or when it has
        forgotten the connection (on Linux a minute later) and gets a keepalive probe.
        """
        if self.has_hung_up():
            return True
        if not self.is_half_closed():
            return False
        if self._half_closed_at is None:
            self._half_closed_at = now
            enable_keepalive(self._sock)
        if stream.in_body:
            return now - max(self._half_closed_at, self._output.sent_at) > HALF_CLOSED_SILENCE
        if now - max(self._half_closed_at, stream.began_at) > ASK_AFTER:
            self._ask(stream)
        return False

    def _ask(self, stream: Http1Stream) -> None:
        """Send an interim response, once: a client that has closed answers with a TCP reset.

        Any other has to skip an interim response that it did not expect (RFC 9110 section 15.2).
        HTTP/1.0 has none.
        """
        if stream.was_asked or stream.headers_sent or stream.version < (1, 1):
            return
        if not self._output.is_sending and self._has_event(select.POLLOUT):
            stream.was_asked = True
            with suppress(OSError):  # the next sweep sees why
                self._output.send_continue()

    def _has_event(self, events: int) -> bool:
        """Whether `poll` has one of `events`, or an error, or the end of both sides."""
        if self._sock.fileno() < 0:  # another greenlet has closed it
            return True
        poll = _poll()
        poll.register(self._sock.fileno(), events)
        return bool(poll.poll(0))
