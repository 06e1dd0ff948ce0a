"""One HTTP/1.1 request, and the verbs that answer it."""

from contextlib import suppress
from typing import Any, Protocol

from gevent.event import Event
from plain.http import Request, Response

from plain_gevent_h2.app.plain_internals import (
    HEADER_VALUE_RE,
    InvalidHeader,
    ParsedRequest,
    create_request,
    stored_headers,
)
from plain_gevent_h2.app.spool import SpooledBody
from plain_gevent_h2.app.websocket import WebSocketTransport
from plain_gevent_h2.app.worker_interface import WorkerInterface
from plain_gevent_h2.limits.header_budget import Holder
from plain_gevent_h2.stream import ClientGone, Stream

from .output import Output, complete
from .request_checks import list_members
from .socket_reader import SocketReader

_NO_FIELD = ("", None)


class StreamConnection(Holder, Protocol):
    """A connection, as far as its streams use it."""

    worker: WorkerInterface
    client: Any
    server: Any
    socket_reader: SocketReader
    output: Output

    def send_error(self, status: int) -> None:
        """Send an error page of the server's own."""

    def websocket_evicted(self) -> None:
        """The WebSocket holds too much, and takes nothing more. Its view's side closes it."""

    def end_websocket(self) -> None:
        """Close our side after a WebSocket."""

    def close_at_once(self) -> None:
        """Close the socket, whatever is still to be sent."""


class Http1Stream(Stream):
    """One request of an HTTP/1.1 connection.

    The connection owns `header_bytes` and `was_asked`, and waits for `connection_may_go_on`. The
    stream's greenlet owns the rest.
    """

    __slots__ = (
        "_connection",
        "_ended",
        "_ingest_seconds",
        "_parsed",
        "_response",
        "_sink",
        "connection_may_go_on",
        "header_bytes",
        "keep_alive",
        "was_asked",
    )

    def __init__(
        self,
        connection: StreamConnection,
        parsed: ParsedRequest,
        response: Any,
        sink: SpooledBody,
        ingest_seconds: float,
    ) -> None:
        super().__init__(connection.worker)
        self._connection = connection
        self._sink = sink
        self._ingest_seconds = ingest_seconds
        self.logged_request = self._parsed = parsed
        self.logged_response = self._response = response
        self.header_bytes = 0  # in the worker's header budget
        self.keep_alive = False  # another request may follow
        self._ended = False  # the response is whole
        self.was_asked = False  # see `ClientPresence`
        # Set by the upgrade to a WebSocket, for which the connection's greenlet reads on, and when
        # the request is over or its client has left. That greenlet clears it after an upgrade.
        self.connection_may_go_on = Event()

    # -- the verbs of Stream --------------------------------------------------

    def build_request(self) -> Request:
        return create_request(
            self._parsed,
            self._connection.client,
            self._connection.server,
            stream=self._sink.finish(),
            received=self._sink.received,
            ingest_seconds=self._ingest_seconds,
        )

    def send_headers(self, response: Response, *, end_stream: bool) -> None:
        # The one place that checks for a shutdown: a response that promises keep-alive is followed
        # by one more wait for a request.
        if not self.worker.alive or _asks_to_close(response):
            self._response.force_close()
        self._response.prepare_response(response)
        # With the reason phrase, of which Plain lets all pass.
        if not HEADER_VALUE_RE.fullmatch(self._response.status):
            raise InvalidHeader(f"status line: {self._response.status!r}")
        complete(self._response.async_send_headers())
        self.headers_sent = True
        if end_stream:
            self.end()
            return
        if self._ends_with_connection():
            self._connection.socket_reader.reset_on_close(on=True)
        if response.streaming:
            self._flush()

    def upgrade(self, response: Response) -> WebSocketTransport:
        self.send_headers(response, end_stream=False)
        self._flush()
        self.websocket_transport = WebSocketTransport(
            self.worker.limits.unread_websockets,
            lambda _size: None,
            self._connection.websocket_evicted,
        )
        self.websocket_transport.accept()
        self.connection_may_go_on.set()
        return self.websocket_transport

    def send_data(self, data: bytes) -> None:
        if self.websocket_transport is None:
            complete(self._response.async_write(data))
        else:
            self._connection.output.write(data)
        self._flush()

    def end(self) -> None:
        if self.websocket_transport is not None:
            self._ended = True
            self._connection.end_websocket()
            return
        complete(self._response.async_close())
        self._flush()
        self._ended = True
        self._connection.socket_reader.reset_on_close(on=False)
        self.keep_alive = not self._response.should_close()

    def send_error(self, status: int) -> None:
        self._connection.send_error(status)

    def abort(self) -> None:
        # Not a clean close: where the close ends the body, that would call it whole.
        self.keep_alive = False
        with suppress(ClientGone):
            self._flush()  # the headers may still be here
        self._connection.close_at_once()

    def clean_up(self) -> None:
        if self.headers_sent and not self._ended:
            self.abort()  # stopped without its client, as far as we know
        self._sink.lost()
        self.worker.limits.headers.release(self._connection, self.header_bytes)
        self.connection_may_go_on.set()

    # -- what the connection asks and tells -----------------------------------

    @property
    def is_under_way(self) -> bool:
        """Whether the response has begun and is not whole."""
        return self.headers_sent and not self._ended and self.websocket_transport is None

    @property
    def version(self) -> tuple[int, int]:
        """The HTTP version of the request."""
        return self._parsed.version

    def client_gone(self) -> None:
        super().client_gone()
        self.connection_may_go_on.set()  # a view that goes on takes up no connection

    # -------------------------------------------------------------------------

    def _ends_with_connection(self) -> bool:
        """Whether nothing but the close tells the end of the body (RFC 9112 section 6.3)."""
        response = self._response
        return response.response_length is None and not (response.chunked or response.omits_body)

    def _flush(self) -> None:
        try:
            self._connection.output.flush()
        except OSError as exc:
            self.client_gone()
            raise ClientGone from exc


def _asks_to_close(response: Response) -> bool:
    value = stored_headers(response).get("connection", _NO_FIELD)[1]
    return value is not None and "close" in list_members(value)
