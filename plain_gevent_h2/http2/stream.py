"""One HTTP/2 stream: a request as it arrives, and the verbs that answer it."""

import time
from functools import partial
from typing import TYPE_CHECKING

from plain.http import Response

from plain_gevent_h2.app.plain_internals import BODY_RECV_TIMEOUT, BodyRateFloor, http2_request
from plain_gevent_h2.app.spool import SpooledBody
from plain_gevent_h2.app.websocket import WebSocketTransport
from plain_gevent_h2.net.fairness import SWEEP_INTERVAL, give_way
from plain_gevent_h2.stream import ClientGone, Stream, release

from .frames import ErrorCodes
from .headers import RequestHead, response_headers
from .send_buffer import SendBuffer

if TYPE_CHECKING:
    from plain.http import Request

    from .connection import Http2Connection


#: Fields that Plain's access log looks for.
_LOGGED = ("USER-AGENT", "REFERER")


class Http2Stream(Stream):
    """A stream of an HTTP/2 connection."""

    __slots__ = (
        "_rate",
        "_rate_checked_at",
        "_rate_received",
        "_raw_path",
        "buffer",
        "client_ended",
        "connection",
        "content_length",
        "discarded",
        "ended_at",
        "header_bytes",
        "headers",
        "method",
        "opened",
        "received_at",
        "response_ended",
        "sink",
        "started",
        "stream_id",
    )

    def __init__(self, connection: "Http2Connection", stream_id: int, head: RequestHead) -> None:
        host = connection.host
        super().__init__(host)
        self.connection = connection
        self.stream_id = stream_id
        self.buffer = SendBuffer(stream_id, host.limits.unsent)
        self._raw_path = head.path.partition("?")[0]
        # Plain's request builder reads these four.
        self.method = head.method
        self.headers = head.fields
        self.opened = time.monotonic()
        self.sink = SpooledBody(
            host.rules,
            host.limits.uploads,
            partial(connection.upload_evicted, stream_id),
            partial(connection.consumed, stream_id),
        )
        self.content_length = head.content_length
        self.header_bytes = 0  # in the worker's header budget
        # Owned by the connection.
        self.started = False  # it has its greenlet, or waits for it; the sink goes with it
        self.client_ended = False
        self.response_ended = False
        self.discarded = 0  # bytes of a body that came after the response
        self.ended_at = 0.0  # when the response ended (monotonic)
        self.received_at = self.opened  # monotonic time of the last DATA
        self._rate: BodyRateFloor | None = None
        self._rate_checked_at = self.opened
        self._rate_received = 0

    def too_slow(self, now: float) -> bool:
        """Whether the body arrives below the rate floor, or not at all. Called once a second.

        A WebSocket that is not accepted has none, unless its client sends what it has no leave to.
        """
        if self.websocket is not None and not self.websocket.waiting:
            return False
        if self.sink.writing:
            return False  # it is our disk that is slow
        if not self.host.rules.min_body_rate:
            return now - self.received_at > self.host.rules.keepalive_timeout
        if self.content_length is not None and self.sink.received >= self.content_length:
            # Only END_STREAM or trailers are missing.
            return now - self.received_at > BODY_RECV_TIMEOUT
        if self._rate is None:
            self._rate = self.host.rules.rate_floor()
        received = self.sink.received if self.websocket is None else self.websocket.waiting
        # More than the interval was not the client's time: a view kept the hub busy.
        waited = min(now - self._rate_checked_at, SWEEP_INTERVAL)
        self._rate.record(waited=waited, received=received - self._rate_received)
        self._rate_checked_at, self._rate_received = now, received
        return self._rate.violated()

    def release_headers(self) -> None:
        """Nobody needs the request's header fields any more."""
        self.headers = []
        if self.header_bytes:
            self.host.limits.headers.release(self.connection, self.header_bytes)
            self.header_bytes = 0

    # -- the verbs of Stream --------------------------------------------------

    def build_request(self) -> "Request":
        connection = self.connection
        self.log_request, request, self.log_response = http2_request(
            self,
            connection.client,
            connection.server,
            self.host.rules.scheme,
        )
        # For the log: Plain's is decoded, so what a client encoded could be a line of its own.
        self.log_request.path = self._raw_path
        if self.header_bytes:
            # Plain's request has them joined. Of these, the access log wants two.
            self.headers = []
            self.log_request.headers = [f for f in self.log_request.headers if f[0] in _LOGGED]
        return request

    def upgrade(self, response: Response) -> WebSocketTransport:
        """RFC 8441 section 5: a 200 takes the place of HTTP/1.1's 101."""
        fields = response_headers(response)[1:]
        headers = [field for field in fields if field[0] != b"sec-websocket-accept"]
        self.connection.send_headers(self, [(b":status", b"200"), *headers], end_stream=False)
        self.headers_sent = True
        assert self.websocket is not None  # made with the stream
        self.websocket.accept()
        return self.websocket

    def send_headers(self, response: Response, *, end_stream: bool) -> None:
        headers = response_headers(response)
        self.connection.send_headers(self, headers, end_stream=end_stream)
        self.headers_sent = True

    def send_data(self, data: bytes) -> None:
        if self.buffer.closed:
            raise ClientGone
        self.log_response.sent += len(data)
        self.buffer.put(data)
        self.connection.send_buffered(self)
        self.buffer.wait_for_room()

    def end(self) -> None:
        self.connection.end(self)

    def send_whole(self, data: bytes) -> None:
        # The writer has it from here on. A greenlet and a request that wait beside it take more
        # than most bodies: 17 KiB (measured).
        if self.buffer.closed:
            raise ClientGone
        self.log_response.sent += len(data)
        self.buffer.put_whole(data)
        self.connection.end(self)
        self.host.limits.unread_responses.make_room()

    def send_error(self, status: int) -> None:
        body = f"<h1>{status}</h1>".encode()
        response = Response(body, status_code=status, content_type="text/html")
        if status == 503:
            response.headers["Retry-After"] = "1"  # shedding load: the request may come again
        self.respond_whole(response)

    def respond_whole(self, response: Response) -> None:
        """Queue a response with a small body, from any greenlet, without blocking."""
        try:
            bodiless = self.method == "HEAD"
            response.headers["Content-Length"] = str(len(response.content))
            self.send_headers(response, end_stream=bodiless)
            if not bodiless:
                self.buffer.put(response.content)
                self.connection.end(self)
        except ClientGone:
            pass

    def abort(self) -> None:
        # Not NO_ERROR: that would call a response whole that is not (RFC 9113 section 8.1).
        # The writer has its turn first: of data that come in one TLS record with their reset,
        # curl shows nothing.
        give_way()
        self.connection.send_what_fits(self)
        self.connection.reset(self, ErrorCodes.INTERNAL_ERROR)

    def began(self) -> None:
        self.connection.stream_began()

    def finished(self) -> None:
        release(self.sink)
        # The stream may wait for its client for a long time yet.
        self.release_headers()
        self.log_request = self.log_response = None
        self.connection.stream_finished(self)
