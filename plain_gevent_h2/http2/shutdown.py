"""The end of an HTTP/2 connection: the drain, the GOAWAYs, the last write and the wait after it."""

import time
from collections.abc import Callable

import gevent

from plain_gevent_h2.net.tcp import close_our_side
from plain_gevent_h2.net.tls_socket import TlsSocket

from .frames import MAX_STREAM_ID, ErrorCodes, goaway
from .state_machine import StateMachine
from .streams import Streams

#: Seconds for which the drain of a busy connection waits until no stream is open. Clients
#: built on `h2`, such as httpx, fail every stream in flight when they see a GOAWAY.
DRAIN_GAP = 0.2

#: Seconds that the first GOAWAY of a drain has to reach the client, should it not answer
#: the PING that follows it.
DRAIN_PING_TIMEOUT = 1.0
_DRAIN_PING = b"draining"

#: Seconds to go on reading after our side is closed, so that the last frames are not lost
#: to a TCP reset.
LINGER_TIMEOUT = 2.0


def _nobody(_code: ErrorCodes) -> None:
    """The callback of the connection, once that is over."""


class Shutdown:
    """Ends one connection, and owns how far it has come.

    `closing` is called once, with the code of the final GOAWAY, when nothing the client sends
    matters any more. None of the methods blocks.
    """

    __slots__ = (
        "_client_is_going",
        "_closing",
        "_code",
        "_drain_since",
        "_final_goaway_sent",
        "_first_goaway_at",
        "_in_kernel",
        "_last_progress",
        "_send_timeout",
        "_sock",
        "_state_machine",
        "_streams",
        "_writer",
        "aborted",
        "is_open",
        "last_stream_id",
    )

    def __init__(
        self,
        sock: TlsSocket,
        state_machine: StateMachine,
        streams: Streams,
        *,
        send_timeout: float,
        closing: Callable[[ErrorCodes], None],
    ) -> None:
        # Set once.
        self._sock = sock
        self._state_machine = state_machine
        self._writer = streams.writer
        self._streams = streams
        self._send_timeout = send_timeout
        self._closing = closing

        self.is_open = True  # frames are received: it is neither closing nor aborted
        self.aborted = False  # the socket is closed
        self.last_stream_id = 0  # the highest stream that was not refused; the reader's

        self._client_is_going = False  # it sent a GOAWAY
        self._drain_since: float | None = None  # monotonic
        self._first_goaway_at: float | None = None  # the same
        self._final_goaway_sent = False
        self._code = ErrorCodes.NO_ERROR  # of the final GOAWAY
        self._in_kernel = 0  # bytes, when that was last checked
        self._last_progress = 0.0  # monotonic time at which it changed, or of the close

    @property
    def is_faulty(self) -> bool:
        """Whether it is about to be closed for a fault of the client's."""
        return self._code != ErrorCodes.NO_ERROR and not self.aborted

    @property
    def is_draining(self) -> bool:
        return self._drain_since is not None

    @property
    def refuses_streams(self) -> bool:
        """Whether the client was told that no further stream is served."""
        return self._final_goaway_sent

    # -- a clean end ----------------------------------------------------------

    def drain(self) -> None:
        """Let open streams finish, take no new ones, then close (RFC 9113 section 6.8).

        Two GOAWAYs, as gRPC does: the first says "no new streams, please" while streams on
        their way to us are still served; the second, when a PING has come back or its timeout
        has passed, names the last stream that is.
        """
        if not self.is_open:
            return
        if self._drain_since is None:
            self._drain_since = time.monotonic()
        if not self._streams.by_id and self.last_stream_id:
            self.close(ErrorCodes.NO_ERROR)

    def client_goes_away(self) -> None:
        """The client opens no more streams: close when those that are open have ended.

        Not by a drain of our own: clients built on `h2` take nothing after its GOAWAY.
        """
        self._client_is_going = True
        self.close_if_done()

    def close_if_done(self) -> None:
        """Close if no stream is open, and none is to come."""
        if self._streams.by_id:
            return
        if self._drain_since is not None or self._client_is_going:
            self.close(ErrorCodes.NO_ERROR)

    def ping_acknowledged(self, data: bytes) -> None:
        if data == _DRAIN_PING and self._first_goaway_at is not None:
            self._send_final_goaway()

    def _send_first_goaway(self, now: float) -> None:
        self._first_goaway_at = now
        self._writer.send_raw(goaway(MAX_STREAM_ID, ErrorCodes.NO_ERROR))
        self._state_machine.ping(_DRAIN_PING)
        self._writer.wake()

    def _send_final_goaway(self) -> None:
        if not self._final_goaway_sent:
            self._final_goaway_sent = True
            self._writer.send_raw(goaway(self.last_stream_id, ErrorCodes.NO_ERROR))
            self.close_if_done()

    # -- the close ------------------------------------------------------------

    def close(self, code: ErrorCodes, reason: bytes = b"") -> None:
        """Send the final GOAWAY if it is still to be sent, then close, our side first."""
        if not self.is_open:
            return
        self.is_open = False
        self._last_progress = time.monotonic()
        self._code = code
        self._closing(code)
        if not self._final_goaway_sent or code != ErrorCodes.NO_ERROR:
            self._writer.send_raw(goaway(self.last_stream_id, code, reason))
        self._final_goaway_sent = True
        self._streams.close_all()
        gevent.spawn(self._close_after_last_write)

    def _close_after_last_write(self) -> None:
        self._writer.wait_until_idle()
        if not self.aborted:
            close_our_side(self._sock)

    def abort(self) -> None:
        """Close at once, whatever is still to be sent."""
        self.is_open = False
        self.aborted = True
        self._writer.close()
        self._sock.close()  # wakes the reader, which ends the streams

    def connection_over(self) -> None:
        """The reader has ended. Drop the callback: it holds this object."""
        self.abort()
        self._closing = _nobody

    # -- timeouts -------------------------------------------------------------

    def check_drain(self, now: float) -> None:
        """Send the GOAWAYs of a drain when it is their time."""
        if self._first_goaway_at is None:
            if self._drain_since is not None and now - self._drain_since > DRAIN_GAP:
                self._send_first_goaway(now)
        elif now - self._first_goaway_at > DRAIN_PING_TIMEOUT:
            self._send_final_goaway()

    def lingered(self, now: float) -> bool:
        """Whether the client had its time to read what was sent last, and to close."""
        in_kernel = self._sock.unsent()
        if in_kernel != self._in_kernel:
            self._in_kernel = in_kernel
            self._last_progress = now
        limit = LINGER_TIMEOUT
        if self._code == ErrorCodes.NO_ERROR and (in_kernel or not self._writer.idle):
            limit = self._send_timeout
        return now - self._last_progress > limit
