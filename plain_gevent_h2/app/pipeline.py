"""Runs Plain's middleware, view and response body in the calling greenlet.

The only file that touches the inside of Plain's handler, and the only one that knows its
two lines apart: 0.164 (the last for Python 3.13) ends the request's span when the view
returns, 0.165 and later when the response is closed.
"""

import contextvars
import io
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Generator
from contextlib import closing, nullcontext
from copy import copy
from typing import TYPE_CHECKING, Any

import gevent
from opentelemetry import context as otel_context
from opentelemetry import trace
from plain.http import AsyncStreamingResponse, FileResponse, NotAllowedResponse, Response
from plain.http.websocket import is_websocket_upgrade
from plain.internal.handlers import base
from plain.logs import get_framework_logger
from plain.server.http import websocket as plain_websocket
from plain.views import View

from .asyncio_bridge import Abandoned, Asker, AsyncioThread
from .deadline import limited
from .websocket import WebSocketTransport

try:
    from plain.internal.handlers.response_lifecycle import (  # type: ignore[import-not-found, unused-ignore]
        ResponseLifecycle,
    )
except ImportError:  # Plain 0.164
    ResponseLifecycle = None  # type: ignore[assignment, misc, unused-ignore]

if TYPE_CHECKING:
    from plain.http import Request

log = get_framework_logger("plain.server")

#: Bytes read from a file at once, each read a trip to a native thread (about 60 us).
FILE_BLOCK_SIZE = 256 * 1024

#: What the access log and the middleware see of an async view that was cancelled since its client
#: had left: no status of HTTP's, but the one that nginx has for it.
CLIENT_LEFT = 499

_END: Any = object()

#: Whether the request is an extended CONNECT, which Plain's views see as an HTTP/1.1 upgrade.
_is_connect = contextvars.ContextVar("plain_gevent_h2_is_connect", default=False)


class ResponseBodyFailed(Exception):
    """The response's body raised. It is logged already."""


class BodyTooShort(Exception):
    """The response's body ended before the bytes that its Content-Length promises."""

    def __init__(self, sent: int, promised: int) -> None:
        super().__init__(f"the body ended after {sent} of {promised} bytes (Content-Length)")


class Handled(ABC):
    """A request that the pipeline has run, with a response that is not sent yet.

    Used by one greenlet, the stream's: read `chunks()` (or not), then `close()` once. A
    generator is closed in the greenlet and the context that ran it.
    """

    def __init__(
        self,
        response: "Response",
        context: contextvars.Context,
        bridge: AsyncioThread,
        path: str,
    ) -> None:
        self.response = response
        self._context = context
        self._bridge = bridge
        self._path = path
        self._handed_over = False

    @property
    def headers_first(self) -> bool:
        """Whether the headers go out before the first chunk.

        An async stream and an event stream are open-ended: the client should see them open.
        Any other body that fails before its first chunk can still become a 500.
        """
        response = self.response
        return isinstance(response, AsyncStreamingResponse) or _is_event_stream(response)

    def chunks(self, promised: int | None) -> Generator[bytes]:
        """The response's body, each chunk as soon as it is there, up to `promised` bytes.

        Raises `ResponseBodyFailed`, if it ends before these as well.
        """
        with closing(self._pull(promised)) as pull:
            while True:
                try:
                    chunk = next(pull, _END)
                except Exception as exc:
                    self._body_failed(exc)
                    raise ResponseBodyFailed(str(exc)) from exc
                if chunk is _END:
                    return
                self._body_sent(len(chunk))
                yield chunk

    def websocket(
        self, transport: WebSocketTransport, close_timeout: Callable[[], float]
    ) -> Generator[bytes]:
        """Run the view's `websocket()`; yield the bytes that it sends.

        `close_timeout` says how many seconds the closing handshake may take. Plain's runner
        closes the response.
        """

        def run(transport: WebSocketTransport, shutdown: Any) -> Coroutine[Any, Any, Any]:
            return plain_websocket.run_websocket(
                self._upgrade(), transport, shutdown_wait=shutdown, close_timeout=close_timeout
            )

        self._handed_over = True
        with closing(transport.serve(self._bridge, run)) as sent:
            yield from sent

    @abstractmethod
    def _upgrade(self) -> Any:
        """What Plain's WebSocket runner takes: the response, or its lifecycle."""

    def _pull(self, promised: int | None) -> Generator[bytes]:
        response = self.response
        file = getattr(response, "file_to_stream", None)
        pull: Generator[bytes]
        if isinstance(response, AsyncStreamingResponse):
            pull = self._bridge.iterate(response, self._context)
        elif isinstance(response, FileResponse) and _is_disk_file(file):
            pull = _read_in_native_thread(file, promised)
        else:
            pull = self._pull_generator(response)
        return pull if promised is None else self._keep_promise(pull, promised)

    def _keep_promise(self, pull: Generator[bytes], promised: int) -> Generator[bytes]:
        """What of a body its Content-Length allows. Raises `BodyTooShort`."""
        left = promised
        with closing(pull):
            for chunk in pull:
                if len(chunk) > left:
                    log.warning(
                        "Response body is longer than its Content-Length and is cut",
                        extra={"path": self._path, "content_length": promised},
                    )
                    yield chunk[:left]
                    return
                left -= len(chunk)
                yield chunk
        if left:
            raise BodyTooShort(promised - left, promised)

    def _pull_generator(self, response: "Response") -> Generator[bytes]:
        iterator = self._context.run(iter, response)  # type: ignore[arg-type]
        run = self._context.run
        while (chunk := run(next, iterator, _END)) is not _END:
            yield chunk

    @abstractmethod
    def _body_failed(self, exc: Exception) -> None:
        """Log what the body raised, in the request's context."""

    @abstractmethod
    def _body_sent(self, size: int) -> None:
        """Count `size` bytes of a streaming body for the span."""

    def close(self, sent_status: int | None) -> None:
        """Run the response's closers and end what is left of the span.

        `sent_status` is the status that went out: None if nothing did.
        """
        if not self._handed_over:
            self._close(sent_status)

    @abstractmethod
    def _close(self, sent_status: int | None) -> None: ...


class _Handled164(Handled):
    """Plain 0.164: the span is over, only the closers are left."""

    def _body_failed(self, exc: Exception) -> None:
        extra = {"path": self._path}
        self._context.run(log.error, "Response body failed", extra=extra, exc_info=exc)

    def _body_sent(self, size: int) -> None:
        pass  # the span is over

    def _upgrade(self) -> Any:
        return self.response

    def _close(self, sent_status: int | None) -> None:
        self._context.run(self.response.close)


class _HandledWithLifecycle(Handled):
    """Plain 0.165 and later: its `ResponseLifecycle` owns the closers and the span.

    This does what `ResponseLifecycle.read()` does, a chunk at a time.
    """

    def __init__(self, lifecycle: Any, context: contextvars.Context, bridge: AsyncioThread) -> None:
        super().__init__(lifecycle.response, context, bridge, lifecycle.request.path)
        self._lifecycle = lifecycle

    def _body_failed(self, exc: Exception) -> None:
        self._lifecycle._body_failed(exc, in_context=False)

    def _body_sent(self, size: int) -> None:
        self._lifecycle._body_read = True
        self._lifecycle._body_bytes += size

    def _upgrade(self) -> Any:
        return self._lifecycle

    def _close(self, sent_status: int | None) -> None:
        self._lifecycle.sent_status_code = sent_status
        self._context.run(self._lifecycle._finish)


class Pipeline:
    """Plain's request handler, called from greenlets. One for a worker."""

    def __init__(self, handler: base.BaseHandler, deadline: float) -> None:
        self._handler: Any = handler
        self._deadline = deadline  # seconds; 0 is none
        self._bridge = AsyncioThread()
        self._resolve_request = self._handler._resolve_request
        vars(handler)["_resolve_request"] = self._resolve_limited

    def _resolve_limited(self, request: "Request") -> Any:
        """Plain's resolving; a view that has a deadline is replaced by one that keeps it.

        So is one that would answer an extended CONNECT with a page.
        """
        match = self._resolve_request(request)
        if _is_connect.get() and not (
            getattr(match.view_class, "implements_websocket", False)
            and is_websocket_upgrade(request)
        ):
            match = copy(match)
            match.view_class = _NoWebSocket
            return match
        seconds = getattr(match.view_class, "request_deadline", self._deadline)
        if seconds:
            match = copy(match)
            match.view_class = limited(match.view_class, seconds)
        return match

    def handle(self, request: "Request", *, is_connect: bool, asker: Asker) -> Handled:
        """Run `request` through middleware and its view, in the calling greenlet.

        An async view is cancelled when the client of `asker` leaves.

        To an extended CONNECT (`is_connect`) a response of a page's is none: a 2xx would open the
        tunnel, and the page be its first bytes (RFC 9110 section 9.3.6, RFC 8441 section 5).

        As in Plain's own worker, the request gets an empty `contextvars.Context` of its
        own with the server span in it, and every part of it runs there. What the app
        raises has become a response; what this raises is a failure of the framework.
        """
        handler = self._handler
        context = contextvars.Context()
        if is_connect:
            context.run(_is_connect.set, True)
        traced = _is_traced()
        if ResponseLifecycle is None:
            return self._handle_164(handler, request, context, asker, traced=traced)
        started = time.perf_counter()
        span = trace.INVALID_SPAN
        if traced:
            span = handler._start_request_span(request)
            context.run(otel_context.attach, trace.set_span_in_context(span))
        try:
            response = self._run(handler, request, context, asker)
        except BaseException as exc:
            handler._fail_request_span(span, exc)
            raise
        lifecycle = handler._response_lifecycle(
            response,
            request=request,
            request_context=context,
            span=span,
            started=started,
            executor=None,
        )
        return _HandledWithLifecycle(lifecycle, context, self._bridge)

    def _handle_164(
        self,
        handler: Any,
        request: "Request",
        context: contextvars.Context,
        asker: Asker,
        *,
        traced: bool,
    ) -> Handled:
        with handler._start_request_span(request) if traced else nullcontext() as span:
            if traced:
                context.run(otel_context.attach, otel_context.get_current())
            started = time.perf_counter()
            response = self._run(handler, request, context, asker)
            response._resource_closers.append(request.close)
            response.request_context = context
            if traced:
                handler._finalize_span(span, response)
            _record_duration_164(request, response, time.perf_counter() - started)
        return _Handled164(response, context, self._bridge, request.path)

    def _run(
        self, handler: Any, request: "Request", context: contextvars.Context, asker: Asker
    ) -> Any:
        response = context.run(handler._run_sync_pipeline, request)
        if isinstance(response, base._AsyncViewPending):
            pending = response
            try:
                response = self._bridge.run(_await_view(handler, request, pending), context, asker)
            except Abandoned:
                pending.coroutine.close()  # it may never have started
                # For the middleware, which gives back what it holds for the request.
                response = Response(status_code=CLIENT_LEFT)
            response = context.run(handler._finish_pipeline, request, response, pending.ran_before)
        if _is_connect in context:
            return context.run(_accepts_or_refuses, response)
        return response


class _NoWebSocket(View):
    """Answers an extended CONNECT to what is no WebSocket, or of another version than 13.

    405 is for a method that the server knows and this resource has not (RFC 9110 section 15.5.6);
    501, for one that nothing here has, answers another `:protocol`.
    """

    def get_response(self) -> "Response":
        return _no_websocket()


def _no_websocket() -> "Response":
    # Of CONNECT, which has none of them, Allow can be empty: RFC 9110 section 10.2.1.
    return NotAllowedResponse([], headers={"Sec-WebSocket-Version": "13"})


def _accepts_or_refuses(response: "Response") -> "Response":
    """An extended CONNECT gets a 405 in place of a page that a middleware gives to everybody."""
    if not 200 <= response.status_code < 300:
        return response
    response.close()
    return _no_websocket()


def _is_traced() -> bool:
    """Whether a span can be seen by anybody: the app has set a tracer provider.

    Without one each request would get the same invalid span, and Plain makes fifteen attributes
    for it (measured: 9 % of a small response on Plain 0.164).
    """
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


async def _await_view(handler: Any, request: "Request", pending: Any) -> Any:
    """An async view's response, or the error response for what it raised."""
    try:
        response = await pending.coroutine
        handler._check_response(response, pending.view_class)
    except Exception as exc:
        return base.response_for_exception(request, exc)
    return response


def _record_duration_164(request: "Request", response: "Response", seconds: float) -> None:
    """The server's duration metric, with the attributes that Plain 0.164 gives it."""
    method = request.method or ""
    attributes: dict[str, str | int] = {
        base.http_attributes.HTTP_REQUEST_METHOD: (
            method if method in base._KNOWN_HTTP_METHODS else "_OTHER"  # type: ignore[attr-defined]
        ),
        base.http_attributes.HTTP_RESPONSE_STATUS_CODE: response.status_code,
        base.url_attributes.URL_SCHEME: request.scheme,
        base.network_attributes.NETWORK_PROTOCOL_NAME: "http",  # type: ignore[attr-defined]
    }
    if request.resolver_match and request.resolver_match.route is not None:
        attributes[base.http_attributes.HTTP_ROUTE] = f"/{request.resolver_match.route}"
    if response.status_code >= 500:
        attributes[base.error_attributes.ERROR_TYPE] = str(response.status_code)
    base.request_duration_histogram.record(seconds, attributes)  # type: ignore[attr-defined]


def _is_event_stream(response: "Response") -> bool:
    content_type: str = response.headers.get("Content-Type") or ""
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


def _is_disk_file(file: Any) -> bool:
    """Whether reading `file` can block the hub and is safe in another native thread.

    Other file-like objects (a `BytesIO`, a socket's file) never block, or block the
    cooperative way, which only works in the hub's own thread.
    """
    file = getattr(file, "file", file)  # tempfile's wrapper
    return isinstance(file, io.FileIO) or isinstance(getattr(file, "raw", None), io.FileIO)


def _read_in_native_thread(file: Any, size: int | None) -> Generator[bytes]:
    """What `file` holds, or of one that may have grown (a log) its first `size` bytes."""
    pool = gevent.get_hub().threadpool
    left = sys.maxsize if size is None else size
    while left and (block := pool.apply(file.read, (min(FILE_BLOCK_SIZE, left),))):
        left -= len(block)
        yield block
