"""Runs Plain's middleware, view and response body in the calling greenlet."""

import contextvars
import io
import sys
from collections.abc import Callable, Coroutine, Generator
from contextlib import closing
from copy import copy
from typing import TYPE_CHECKING, Any

import gevent
from opentelemetry import trace
from plain.http import AsyncStreamingResponse, FileResponse, Response
from plain.logs import get_framework_logger
from plain.views import View

from .asyncio_bridge import Abandoned, AsyncioThread, WaitingStream
from .deadline import with_deadline
from .extended_connect import (
    NotAWebSocket,
    is_extended_connect,
    opens_websocket,
    without_a_page,
)
from .plain_internals import (
    RequestHandler,
    Resolve,
    ResponseOwner,
    run_websocket,
)
from .websocket import WebSocketTransport

if TYPE_CHECKING:
    from plain.http import Request

log = get_framework_logger("plain.server")

#: Bytes read from a file at once. The way to a native thread and back takes about 60 us.
FILE_BLOCK_SIZE = 256 * 1024

#: The status of an async view that was cancelled because its client left, in the access log and for
#: middleware. HTTP has none for it; nginx uses this one.
CLIENT_LEFT = 499

_END: Any = object()


class ResponseBodyFailed(Exception):
    """The response's body raised. It is logged already."""


class BodyTooShort(Exception):
    """The response's body ended before the bytes that its Content-Length promises."""

    def __init__(self, sent: int, promised: int) -> None:
        super().__init__(f"the body ended after {sent} of {promised} bytes (Content-Length)")


class Handled:
    """A request that the pipeline has run, with a response that is not sent yet.

    Used by one greenlet, the stream's: read `chunks()` (or not), then `close()` once. A
    generator is closed in the greenlet and the context that ran it.
    """

    def __init__(
        self, owner: ResponseOwner, context: contextvars.Context, bridge: AsyncioThread
    ) -> None:
        self.response = owner.response
        self._owner = owner
        self._context = context
        self._bridge = bridge
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
                    self._owner.body_failed(exc, self._context)
                    raise ResponseBodyFailed(str(exc)) from exc
                if chunk is _END:
                    return
                self._owner.body_sent(len(chunk))
                yield chunk

    def run_websocket(
        self, transport: WebSocketTransport, close_timeout: Callable[[], float]
    ) -> Generator[bytes]:
        """Run the view's `websocket()`; yield the bytes that it sends.

        `close_timeout` says how many seconds the closing handshake may take. Plain's runner
        closes the response.
        """

        def run(transport: WebSocketTransport, shutdown: Any) -> Coroutine[Any, Any, Any]:
            return run_websocket(self._owner.for_websocket, transport, shutdown, close_timeout)

        self._handed_over = True
        with closing(transport.serve(self._bridge, run)) as sent:
            yield from sent

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
        """The part of a body that its Content-Length allows. Raises `BodyTooShort`."""
        left = promised
        with closing(pull):
            for chunk in pull:
                if len(chunk) > left:
                    log.warning(
                        "Response body is longer than its Content-Length and is cut",
                        extra={"path": self._owner.path, "content_length": promised},
                    )
                    yield chunk[:left]
                    return
                left -= len(chunk)
                yield chunk
        if left:
            raise BodyTooShort(promised - left, promised)

    def _pull_generator(self, response: "Response") -> Generator[bytes]:
        iterator = self._context.run(iter, response)
        run = self._context.run
        while (chunk := run(next, iterator, _END)) is not _END:
            yield chunk

    def close(self, sent_status: int | None) -> None:
        """Run the response's closers and end what is left of the span.

        `sent_status` is the status that went out: None if nothing did.
        """
        if not self._handed_over:
            self._owner.finish(sent_status, self._context)


class Pipeline:
    """Plain's request handler, called from greenlets. One for a worker."""

    def __init__(self, handler: Any, deadline: float) -> None:
        self._request_handler = RequestHandler(handler)
        self._deadline = deadline  # seconds; 0 is none
        self._bridge = AsyncioThread()
        self._request_handler.wrap_resolving(self._wrap_resolve)

    def _wrap_resolve(self, resolve: Resolve) -> Resolve:
        """What finds the view of a request: Plain's `resolve`, and views of ours in some places."""

        def resolve_wrapped(request: "Request") -> Any:
            match = resolve(request)
            if is_extended_connect.get() and not opens_websocket(match.view_class, request):
                return _with_view(match, NotAWebSocket)
            seconds = getattr(match.view_class, "request_deadline", self._deadline)
            if seconds:
                return _with_view(match, with_deadline(match.view_class, seconds))
            return match

        return resolve_wrapped

    def handle(
        self, request: "Request", *, extended_connect: bool, stream: WaitingStream
    ) -> Handled:
        """Run `request` through middleware and its view, in the calling greenlet.

        An async view is cancelled when the client of `stream` leaves. `extended_connect`: see
        `extended_connect.py`.

        As in Plain's own worker, the request gets an empty `contextvars.Context` of its
        own with the server span in it, and every part of it runs there. What the app
        raises has become a response; what this raises is a failure of the framework.
        """
        context = contextvars.Context()
        if extended_connect:
            context.run(is_extended_connect.set, True)

        def run() -> Response:
            return self._run(request, context, stream)

        owner = self._request_handler.handle(request, context, run, traced=_is_traced())
        return Handled(owner, context, self._bridge)

    def _run(
        self, request: "Request", context: contextvars.Context, stream: WaitingStream
    ) -> Response:
        handler = self._request_handler
        outcome = context.run(handler.run_until_view_returns, request)
        if handler.is_pending(outcome):
            try:
                view = handler.await_view(request, outcome)
                response = self._bridge.run(view, context, stream)
            except Abandoned:
                outcome.coroutine.close()  # it may never have started
                # For the middleware, which gives back what it holds for the request.
                response = Response(status_code=CLIENT_LEFT)
            response = context.run(handler.finish_pipeline, request, response, outcome)
        else:
            response = outcome
        if is_extended_connect in context:
            response = context.run(without_a_page, response)
        return response


def _with_view(match: Any, view_class: type[View]) -> Any:
    match = copy(match)
    match.view_class = view_class
    return match


def _is_traced() -> bool:
    """Whether spans are recorded: the app has set a tracer provider.

    Without one each request would get the same invalid span, and Plain makes fifteen attributes
    for it (measured: 9 % of a small response on Plain 0.164).
    """
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _is_event_stream(response: "Response") -> bool:
    content_type: str = response.headers.get("Content-Type") or ""
    return content_type.partition(";")[0].strip().lower() == "text/event-stream"


def _is_disk_file(file: Any) -> bool:
    """Whether reading `file` can block the hub and is safe in another native thread.

    Other file-like objects never block (a `BytesIO`), or yield to other greenlets (a socket's
    file), which works in the hub's own thread alone.
    """
    file = getattr(file, "file", file)  # tempfile's wrapper
    return isinstance(file, io.FileIO) or isinstance(getattr(file, "raw", None), io.FileIO)


def _read_in_native_thread(file: Any, size: int | None) -> Generator[bytes]:
    """The content of `file`, or its first `size` bytes: a log may have grown since."""
    pool = gevent.get_hub().threadpool
    left = sys.maxsize if size is None else size
    while left and (block := pool.apply(file.read, (min(FILE_BLOCK_SIZE, left),))):
        left -= len(block)
        yield block
