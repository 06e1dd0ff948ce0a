"""Plain's private names: the only file of this package that imports them.

Private is what Plain does not document for apps: all of `plain.server`, `plain.internal` and
`plain.cli`, the parsers inside `plain.http` and `plain.utils`, and each name with an underscore.
Plain changes them without notice. `tests/unit/test_plain_internals.py` says in milliseconds which
one has changed.

This is also the only file that tells Plain 0.164 (the last for Python 3.13) from 0.165 and later.
0.164 ends the span of a request when the view returns, later ones when the response is closed.
"""

import contextvars
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from operator import attrgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeIs, cast

import plain.http
import plain.internal
import plain.server
import plain.server.app
import plain.server.util
import plain.views
from opentelemetry import context as otel_context
from opentelemetry import trace
from plain.cli.options import SettingOption
from plain.cli.server import server as server_command
from plain.http import Response, multipartparser
from plain.http import request as _http_request
from plain.http.request import MediaType
from plain.http.websocket import RECEIVE_QUEUE_SIZE, WebSocket, is_websocket_upgrade
from plain.http.websocket_frames import (
    CLOSE_INVALID_PAYLOAD,
    CLOSE_MESSAGE_TOO_BIG,
    CLOSE_PROTOCOL_ERROR,
    OP_CLOSE,
    OP_CONTINUATION,
    OP_PING,
    OP_PONG,
    OP_TEXT,
    Frame,
    IncompleteFrame,
    PayloadTooLarge,
    ProtocolError,
    encode_frame,
    parse_close_payload,
    read_frame,
)
from plain.internal.handlers import base
from plain.internal.reloader import Reloader
from plain.logs import formatters, get_framework_logger
from plain.server.accesslog import log_access
from plain.server.arbiter import Arbiter, WorkerInfo
from plain.server.connection import (
    DRAIN_MIN_RECV,
    RECV_PROGRESS_TIMEOUT,
    is_client_socket_noise,
)
from plain.server.errors import WORKER_BOOT_ERROR, HaltServer
from plain.server.http import h1, h2
from plain.server.http import request as _server_request
from plain.server.http import websocket as _server_websocket
from plain.server.http.errors import (
    BodyBudgetExceeded,
    ChunkedFramingError,
    InvalidHeader,
    InvalidHeaderName,
    InvalidHostHeader,
    InvalidRequestLine,
    LimitRequestBody,
    LimitRequestHeaders,
    ParseException,
    UpgradeRefused,
)
from plain.server.http.h1 import (
    BODY_RECV_TIMEOUT,
    HEADER_READ_TIMEOUT,
    HEALTHCHECK_RESPONSE,
    HEALTHCHECK_RESPONSE_HEAD,
    LINGER_CLOSE_MAX_BYTES,
    LINGER_CLOSE_TIMEOUT,
    WEBSOCKET_CLOSE_TIMEOUT,
    extract_request_path,
)
from plain.server.http.message import (
    LIMIT_REQUEST_FIELD_SIZE,
    LIMIT_REQUEST_FIELDS,
    METHOD_BADCHAR_RE,
    TOKEN_RE,
)
from plain.server.http.message import Request as ParsedRequest
from plain.server.http.request import create_request
from plain.server.http.response import HEADER_VALUE_RE
from plain.server.http.response import Response as Http1Response
from plain.server.http.sink import (
    CHUNK_SIZE_LINE_MAX,
    MAX_TRAILER_SIZE,
    BodyBudget,
    BodyRateFloor,
    BodySink,
)
from plain.server.util import HEALTHCHECK_BODY, close_on_exec, seed
from plain.server.workers import boot_failure as _boot_failure
from plain.server.workers import entry as _entry
from plain.server.workers import worker as _worker
from plain.server.workers.worker import DRAIN_TEARDOWN_MARGIN, Worker
from plain.utils import http as _utils_http
from plain.utils.http import parse_header_parameters
from plain.utils.module_loading import import_string

try:
    from plain.internal.handlers.response_lifecycle import (  # type: ignore[import-not-found, unused-ignore]
        ResponseLifecycle,
    )
except ImportError:  # Plain 0.164
    ResponseLifecycle = None  # type: ignore[assignment, misc, unused-ignore]

if TYPE_CHECKING:
    from plain.http import Request

log = get_framework_logger("plain.server")

#: Where Plain's frames are in the stack of every request.
FOLDERS_OF_EACH_REQUEST = (
    *plain.internal.__path__,
    *plain.server.__path__,
    *plain.views.__path__,
    *plain.http.__path__,
)

#: The header fields of a response as they are stored: by lower-case name, the name as it was set
#: and its value. `items()` looks each name up again, which took 2 % of a small response.
stored_headers: Callable[[Response], dict[str, tuple[str, str | None]]] = attrgetter(
    "headers._store"
)


# -- a request and its response over HTTP/1.1 ------------------------------------


class HasDrainDeadline(Protocol):
    """The worker, as far as it says until when a request may still be read."""

    drain_read_deadline: float | None  # monotonic; None unless it drains


class ResponseOutput(Protocol):
    """What Plain's HTTP/1.1 response writes to: the part of `asyncio.StreamWriter` that it uses."""

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...


class ErrorTarget(Protocol):
    """What Plain's error page uses of its own `Connection`."""

    client: Any
    is_ssl: bool

    @property
    def writer(self) -> ResponseOutput: ...

    async def write_error(self, status: int, reason: str, message: str) -> None: ...


class HasLog(Protocol):
    """What Plain's error page uses of its own `Worker`."""

    log: Any


def recv_timeout(worker: HasDrainDeadline, seconds: float = RECV_PROGRESS_TIMEOUT) -> float:
    """Seconds that a read may take: `seconds`, or what the drain of `worker` leaves of them."""
    return h1._recv_timeout(cast(Any, worker), seconds)


def drain_expired(worker: HasDrainDeadline) -> bool:
    """Whether the time is over in which a draining worker reads requests."""
    return h1._drain_expired(cast(Any, worker))


def http1_response(parsed: ParsedRequest, output: ResponseOutput, *, is_tls: bool) -> Http1Response:
    """The response to `parsed`, which frames what it sends and writes it to `output`."""
    stream_writer: Any = output
    return Http1Response(parsed, stream_writer, is_ssl=is_tls)


def answer_error(
    worker: HasLog, parsed: ParsedRequest | None, target: ErrorTarget, exc: BaseException
) -> Coroutine[Any, Any, Any]:
    """Answer `exc` with Plain's error page, and log it. Called while it is handled."""
    return h1.async_handle_error(cast(Any, worker), parsed, cast(Any, target), cast(Any, exc))


def error_page(status: int, reason: str, message: str, *, head: bool) -> bytes:
    """A whole HTTP/1.1 response; without its body if `head`."""
    return plain.server.util._error_response_bytes(status, reason, message, head=head)


# -- a request over HTTP/2 --------------------------------------------------------


class ReceivedStream(Protocol):
    """What Plain's request builder uses of its own `H2Stream`."""

    method: str
    headers: list[tuple[str, str]]
    opened: float  # monotonic

    @property
    def sink(self) -> BodySink: ...


def http2_request(
    stream: ReceivedStream, client: Any, server: Any, scheme: str
) -> "tuple[h2.H2Request, Request, h2.H2Response]":
    """The request as the access log sees it, as the app sees it, and the logged response."""
    h2_stream: Any = stream
    return h2._prepare_stream_request(h2_stream, client, server, scheme)


# -- the request handler ----------------------------------------------------------


class ResponseOwner(ABC):
    """Owns the closers and the span of a response that is not sent yet."""

    def __init__(self, response: Response, path: str) -> None:
        self.response = response
        self.path = path

    @abstractmethod
    def body_failed(self, exc: Exception, context: contextvars.Context) -> None:
        """Log what the body raised, in the request's context."""

    @abstractmethod
    def body_sent(self, size: int) -> None:
        """Count `size` bytes of a streaming body for the span."""

    @property
    @abstractmethod
    def for_websocket(self) -> Any:
        """What Plain's WebSocket runner takes: the response, or its lifecycle."""

    @abstractmethod
    def finish(self, sent_status: int | None, context: contextvars.Context) -> None:
        """Run the closers and end the span. `sent_status` is the status that went out, or None."""


class _Owner164(ResponseOwner):
    """Plain 0.164: the span is over, only the closers are left."""

    def body_failed(self, exc: Exception, context: contextvars.Context) -> None:
        context.run(log.error, "Response body failed", extra={"path": self.path}, exc_info=exc)

    def body_sent(self, size: int) -> None:
        pass  # the span is over

    @property
    def for_websocket(self) -> Any:
        return self.response

    def finish(self, sent_status: int | None, context: contextvars.Context) -> None:
        context.run(self.response.close)


class _LifecycleOwner(ResponseOwner):
    """Plain 0.165 and later: its `ResponseLifecycle` owns the closers and the span.

    This does what `ResponseLifecycle.read()` does, a chunk at a time.
    """

    def __init__(self, lifecycle: Any) -> None:
        super().__init__(lifecycle.response, lifecycle.request.path)
        self._lifecycle = lifecycle

    def body_failed(self, exc: Exception, context: contextvars.Context) -> None:
        self._lifecycle._body_failed(exc, in_context=False)

    def body_sent(self, size: int) -> None:
        self._lifecycle._body_read = True
        self._lifecycle._body_bytes += size

    @property
    def for_websocket(self) -> Any:
        return self._lifecycle

    def finish(self, sent_status: int | None, context: contextvars.Context) -> None:
        self._lifecycle.sent_status_code = sent_status
        context.run(self._lifecycle._finish)


type Resolve = Callable[[Request], Any]


class PendingView(Protocol):
    """An async view's coroutine, and the middleware that ran before it."""

    coroutine: Coroutine[Any, Any, Any]
    view_class: Any
    ran_before: Any


class RequestHandler:
    """Plain's request handler, step by step. One for a worker."""

    def __init__(self, handler: base.BaseHandler) -> None:
        self._handler: Any = handler

    def wrap_resolving(
        self, wrap: "Callable[[Callable[[Request], Any]], Callable[[Request], Any]]"
    ) -> None:
        """Put `wrap(resolve)` in place of the function that finds the view of a request."""
        vars(self._handler)["_resolve_request"] = wrap(self._handler._resolve_request)

    def run_until_view_returns(self, request: "Request") -> Response | PendingView:
        """Run middleware and view; the response, or what is left to do of an async one."""
        outcome: Response | PendingView = self._handler._run_sync_pipeline(request)
        return outcome

    @staticmethod
    def is_pending(outcome: Response | PendingView) -> TypeIs[PendingView]:
        return isinstance(outcome, base._AsyncViewPending)

    async def await_view(self, request: "Request", pending: PendingView) -> Response:
        """An async view's response, or the error response for what it raised."""
        try:
            response = await pending.coroutine
            self._handler._check_response(response, pending.view_class)
        except Exception as exc:
            return base.response_for_exception(request, exc)
        return cast(Response, response)

    def finish_pipeline(
        self, request: "Request", response: Response, pending: PendingView
    ) -> Response:
        """Run the rest of the middleware on an async view's response."""
        return cast(Response, self._handler._finish_pipeline(request, response, pending.ran_before))

    def handle(
        self,
        request: "Request",
        context: contextvars.Context,
        run: Callable[[], Response],
        *,
        traced: bool,
    ) -> ResponseOwner:
        """Make a response by `run()`, with the server's span and metrics around it."""
        if ResponseLifecycle is None:
            return self._handle_164(request, context, run, traced=traced)
        handler = self._handler
        started = time.perf_counter()
        span = trace.INVALID_SPAN
        if traced:
            span = handler._start_request_span(request)
            context.run(otel_context.attach, trace.set_span_in_context(span))
        try:
            response = run()
        except BaseException as exc:
            handler._fail_request_span(span, exc)
            raise
        return _LifecycleOwner(
            handler._response_lifecycle(
                response,
                request=request,
                request_context=context,
                span=span,
                started=started,
                executor=None,
            )
        )

    def _handle_164(
        self,
        request: "Request",
        context: contextvars.Context,
        run: Callable[[], Response],
        *,
        traced: bool,
    ) -> ResponseOwner:
        handler = self._handler
        with handler._start_request_span(request) if traced else nullcontext() as span:
            if traced:
                context.run(otel_context.attach, otel_context.get_current())
            started = time.perf_counter()
            response: Any = run()
            response._resource_closers.append(request.close)
            response.request_context = context
            if traced:
                handler._finalize_span(span, response)
            _record_duration_164(request, response, time.perf_counter() - started)
        return _Owner164(response, request.path)


def _record_duration_164(request: "Request", response: Response, seconds: float) -> None:
    """The server's duration metric, with the attributes that Plain 0.164 gives it."""
    method = request.method or ""
    attributes: dict[str, str | int] = {
        base.http_attributes.HTTP_REQUEST_METHOD: (
            method if method in base._KNOWN_HTTP_METHODS else "_OTHER"  # type: ignore[attr-defined, unused-ignore]
        ),
        base.http_attributes.HTTP_RESPONSE_STATUS_CODE: response.status_code,
        base.url_attributes.URL_SCHEME: request.scheme,
        base.network_attributes.NETWORK_PROTOCOL_NAME: "http",  # type: ignore[attr-defined, unused-ignore]
    }
    if request.resolver_match and request.resolver_match.route is not None:
        attributes[base.http_attributes.HTTP_ROUTE] = f"/{request.resolver_match.route}"
    if response.status_code >= 500:
        attributes[base.error_attributes.ERROR_TYPE] = str(response.status_code)
    base.request_duration_histogram.record(seconds, attributes)  # type: ignore[attr-defined, unused-ignore]


def run_websocket(
    upgrade: Any, transport: Any, shutdown: Any, close_timeout: Callable[[], float]
) -> Coroutine[Any, Any, Any]:
    """Run a view's `websocket()` over `transport`, until `shutdown` is done."""
    return _server_websocket.run_websocket(
        upgrade, transport, shutdown_wait=shutdown, close_timeout=close_timeout
    )


# -- what takes the place of Plain's own ------------------------------------------


def run_worker(worker_class: type[Worker], *args: Any) -> None:
    """Plain's entry point of a worker process, with `worker_class` in place of its own."""
    vars(_worker)["Worker"] = worker_class
    _entry.worker_main(*args)


@contextmanager
def arbiter_replaced(make_arbiter: Callable[[Any], Arbiter]) -> Iterator[None]:
    """In this block, Plain's `ServerApplication` makes its arbiter by `make_arbiter`."""
    original = plain.server.app.Arbiter
    vars(plain.server.app)["Arbiter"] = make_arbiter
    try:
        yield
    finally:
        vars(plain.server.app)["Arbiter"] = original


def make_reloader(changed: Callable[[str], None]) -> Reloader:
    """The file watcher, of the class that `replace_reloader()` has set."""
    watcher: Reloader = vars(_worker)["Reloader"](callback=changed, watch_html=True)
    return watcher


def replace_reloader(reloader_class: type[Reloader]) -> None:
    for module in (_worker, _boot_failure):
        vars(module)["Reloader"] = reloader_class


def replace_websocket(websocket_class: type[WebSocket]) -> None:
    vars(_server_websocket)["WebSocket"] = websocket_class


class Parsers(NamedTuple):
    """Functions that run on what a client sends, by what Plain calls its own."""

    decode_path: Callable[[bytes], str]
    split_parameters: Callable[[str], Iterable[str]]
    unquote: Callable[[str, str], str]
    part_parameters: Callable[[str], Any]
    find_charset: Callable[[str], Any]
    load_json: Callable[[bytes], Any]
    accepted_types: "Callable[[Request], list[MediaType]]"
    quality: Callable[[MediaType], float]


def replace_parsers(parsers: Parsers) -> None:
    vars(_server_request)["_decode_path"] = parsers.decode_path
    vars(_utils_http)["_parseparam"] = parsers.split_parameters
    vars(_utils_http)["unquote"] = parsers.unquote
    vars(multipartparser)["parse_header_parameters"] = parsers.part_parameters
    vars(_http_request)["codecs"] = SimpleNamespace(lookup=parsers.find_charset)
    vars(_http_request)["json"] = SimpleNamespace(
        loads=parsers.load_json, JSONDecodeError=json.JSONDecodeError
    )
    request_class: Any = _http_request.Request
    request_class.accepted_types = cached_property(parsers.accepted_types)
    request_class.accepted_types.__set_name__(request_class, "accepted_types")
    media_type: Any = MediaType
    media_type.quality = property(parsers.quality)


def replace_log_formatting(
    format_value: Callable[[object], str],
    wrap: Callable[..., Callable[[Any, Any], str]],
) -> None:
    """Put `format_value` in place of the key-value formatter's, and `wrap(format)` of both."""
    keyvalue: Any = formatters.KeyValueFormatter
    as_json: Any = formatters.JSONFormatter
    keyvalue._format_value = staticmethod(format_value)
    keyvalue.format = wrap(keyvalue.format)
    as_json.format = wrap(as_json.format, formatters._get_context)
