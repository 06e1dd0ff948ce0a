"""One HTTP/2 stream: a request as it arrives, and the verbs that answer it."""

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from plain.http import Response
from plain.logs import get_framework_logger

from plain_gevent_h2.app.body_rate import BodyRate
from plain_gevent_h2.app.inbound import Inbound
from plain_gevent_h2.app.plain_internals import (
    BodyBudgetExceeded,
    LimitRequestBody,
    http2_request,
)
from plain_gevent_h2.app.spool import BodyNotWritten, SpooledBody, log_no_room, log_unwritten
from plain_gevent_h2.app.websocket import WebSocketTransport
from plain_gevent_h2.app.worker_interface import WorkerInterface
from plain_gevent_h2.net.fairness import yield_to_others
from plain_gevent_h2.stream import ClientGone, Stream

from .frames import ErrorCodes
from .headers import RequestHead, response_headers
from .send_buffer import SendBuffer

if TYPE_CHECKING:
    from plain.http import Request

log = get_framework_logger("plain.server")

#: Fields that Plain's access log looks for.
_LOGGED = ("USER-AGENT", "REFERER")


class Queue(Protocol):
    """What a stream tells of its greenlet. `StartQueue` has it."""

    def greenlet_began(self) -> None: ...

    def greenlet_done(self, stream: Any) -> None: ...


class OpenStreams(Protocol):
    """What a stream asks of the open streams of its connection. `Streams` has it."""

    client: Any
    server: Any

    @property
    def queue(self) -> Queue: ...

    def send_headers(self, stream: Any, headers: Any, *, end_stream: bool) -> None: ...

    def send_buffered(self, stream: Any) -> None: ...

    def send_what_fits(self, stream: Any) -> None: ...

    def end(self, stream: Any) -> None: ...

    def reset(self, stream: Any, code: ErrorCodes) -> None: ...

    def give_window_back(self, stream_id: int, size: int) -> None: ...

    def upload_evicted(self, stream_id: int) -> None: ...

    def websocket_evicted(self, stream_id: int) -> None: ...

    def release_headers(self, size: int) -> None: ...


class Http2Stream(Stream):
    """A stream of an HTTP/2 connection."""

    __slots__ = (
        "_rate",
        "_raw_path",
        "body_given_up",
        "buffer",
        "client_ended",
        "content_length",
        "discarded",
        "ended_at",
        "header_bytes",
        "headers",
        "inbound",
        "is_handed_over",
        "method",
        "opened",
        "response_ended",
        "sink",
        "stream_id",
        "streams",
    )

    def __init__(
        self, worker: WorkerInterface, streams: OpenStreams, stream_id: int, head: RequestHead
    ) -> None:
        super().__init__(worker)
        self.streams = streams
        self.stream_id = stream_id
        self.buffer = SendBuffer(stream_id, worker.limits.unsent)
        self._raw_path = head.path.partition("?")[0]
        # Plain's request builder reads these four.
        self.method = head.method
        self.headers = head.fields
        self.opened = time.monotonic()
        # Plain's request builder calls its finish(), which waits for the disk.
        self.sink = SpooledBody(
            worker.rules,
            worker.limits.uploads,
            partial(streams.upload_evicted, stream_id),
            partial(streams.give_window_back, stream_id),
        )
        self.inbound: Inbound = self.sink  # what takes the client's bytes: this or a WebSocket
        self.body_given_up = False  # the client's bytes are thrown away: see give_up_body()
        self.content_length = head.content_length
        # Of `StartQueue`: the stream waits there, or has its greenlet, which gives up the body.
        self.is_handed_over = False
        # Of `Streams`. The stream's greenlet gives these bytes back.
        self.header_bytes = 0  # in the worker's header budget
        self.response_ended = False  # its END_STREAM is framed
        self.ended_at = 0.0  # when (monotonic)
        # Of the connection's `Receiver`.
        self.client_ended = False  # END_STREAM has come: the request is whole
        self.discarded = 0  # bytes that came after the body was given up
        # Of the sweep.
        self._rate: BodyRate | None = None

    # -- what the client sends ------------------------------------------------

    def open_websocket(self) -> None:
        """The request is an extended CONNECT for a WebSocket (RFC 8441)."""
        self.websocket_transport = self.inbound = WebSocketTransport(
            self.worker.limits.unread_websockets,
            partial(self.streams.give_window_back, self.stream_id),
            partial(self.streams.websocket_evicted, self.stream_id),
        )

    @property
    def is_extended_connect(self) -> bool:
        return self.websocket_transport is not None  # made as the request came

    def take_data(self, data: bytes) -> int:
        """Take what came in a DATA frame. Returns how many bytes of it wait to be consumed."""
        try:
            return self.inbound.feed(data)
        except LimitRequestBody as exc:
            extra = {"client": self.streams.client, "error": str(exc)}
            log.warning("Invalid request", extra=extra)
            self.send_error(413)
        except BodyBudgetExceeded as exc:
            log_no_room(exc, self.streams.client)
            self.send_error(503)
        except BodyNotWritten as exc:
            log_unwritten(exc)
            self.send_error(500)
        return 0

    def give_up_body(self) -> None:
        """Throw away what came of the body, and what may still come. May be called again.

        For a request that no greenlet runs: one that does gives up its body at its end.
        """
        self.body_given_up = True
        self.inbound.lost()

    def too_slow(self, now: float) -> bool:
        """Whether the client sends what it owes too slowly. Asked at each sweep.

        Before a view accepts a WebSocket, its client owes nothing, but bytes that came too early
        fall under the same rate: one that drips is evicted.
        """
        received = None if self.body_given_up else self.inbound.progress
        if received is None:
            return False
        if self._rate is None:
            self._rate = BodyRate(self.worker.rules, self.opened)
        return self._rate.is_too_slow(now, received, self.content_length)

    def refuse_slow(self) -> None:
        """Give up a request that is `too_slow()`."""
        if self.websocket_transport is None:
            self.send_error(408)
        else:
            self.websocket_transport.evict()

    def release_headers(self) -> None:
        """Nobody needs the request's header fields any more."""
        self.headers = []
        if self.header_bytes:
            self.streams.release_headers(self.header_bytes)
            self.header_bytes = 0

    # -- the verbs of Stream --------------------------------------------------

    def build_request(self) -> "Request":
        self.logged_request, request, self.logged_response = http2_request(
            self, self.streams.client, self.streams.server, self.worker.rules.scheme
        )
        # For the log: Plain's is decoded, so what a client encoded could be a line of its own.
        self.logged_request.path = self._raw_path
        if self.header_bytes:
            # Plain's request has them joined. Of these, the access log wants two.
            self.headers = []
            logged = self.logged_request
            logged.headers = [field for field in logged.headers if field[0] in _LOGGED]
        return request

    def upgrade(self, response: Response) -> WebSocketTransport:
        """RFC 8441 section 5: a 200 takes the place of HTTP/1.1's 101."""
        fields = response_headers(response)[1:]
        headers = [field for field in fields if field[0] != b"sec-websocket-accept"]
        self.streams.send_headers(self, [(b":status", b"200"), *headers], end_stream=False)
        self.headers_sent = True
        assert self.websocket_transport is not None  # made with the stream
        self.websocket_transport.accept()
        return self.websocket_transport

    def send_headers(self, response: Response, *, end_stream: bool) -> None:
        headers = response_headers(response)
        self.streams.send_headers(self, headers, end_stream=end_stream)
        self.headers_sent = True

    def send_data(self, data: bytes) -> None:
        if self.buffer.closed:
            raise ClientGone
        self.logged_response.sent += len(data)  # as it is queued, sent or not
        self.buffer.put(data)
        self.streams.send_buffered(self)
        self.buffer.wait_for_room()

    def end(self) -> None:
        self.streams.end(self)

    def send_whole(self, data: bytes) -> None:
        # The writer has it from here on. A greenlet and a request that wait beside it take more
        # than most bodies: 17 KiB (measured).
        if self.buffer.closed:
            raise ClientGone
        self.logged_response.sent += len(data)
        self.buffer.put_whole(data)
        self.streams.end(self)
        self.worker.limits.unread_responses.make_room()

    def send_error(self, status: int) -> None:
        body = f"<h1>{status}</h1>".encode()
        response = Response(body, status_code=status, content_type="text/html")
        if status == 503:
            response.headers["Retry-After"] = "1"  # shedding load: the request may come again
        self.respond_whole(response)

    def respond_whole(self, response: Response) -> None:
        """Queue a response with a small body, from any greenlet, without blocking.

        It gives up the body of a request that no greenlet runs.
        """
        if not self.is_handed_over:
            self.give_up_body()
        try:
            bodiless = self.method == "HEAD"
            response.headers["Content-Length"] = str(len(response.content))
            self.send_headers(response, end_stream=bodiless)
            if not bodiless:
                self.buffer.put(response.content)
                self.streams.end(self)
        except ClientGone:
            pass

    def abort(self) -> None:
        # Not NO_ERROR: that would call a response whole that is not (RFC 9113 section 8.1).
        # The writer has its turn first: of data that come in one TLS record with their reset,
        # curl shows nothing.
        yield_to_others()
        self.streams.send_what_fits(self)
        self.streams.reset(self, ErrorCodes.INTERNAL_ERROR)

    def greenlet_began(self) -> None:
        self.streams.queue.greenlet_began()

    def clean_up(self) -> None:
        self.sink.lost()
        # The stream may wait for its client for a long time yet.
        self.release_headers()
        self.logged_request = self.logged_response = None
        self.streams.queue.greenlet_done(self)
