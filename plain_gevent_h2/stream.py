"""One request and its response: what the stream's greenlet runs, whatever the protocol."""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import gevent
from gevent import Greenlet, GreenletExit
from plain.http import (
    Response,
    WebSocketResponse,
    content_length_forbidden,
    response_omits_body,
)
from plain.logs import get_framework_logger

from .app.deadline import DeadlinePassed, body_limited, log_passed
from .app.host import Host
from .app.pipeline import Handled, ResponseBodyFailed
from .app.plain_internals import (
    WEBSOCKET_CLOSE_TIMEOUT,
    BodySink,
    InvalidHeader,
    UpgradeRefused,
    log_access,
    recv_timeout,
    stored_headers,
)
from .app.websocket import WebSocketTransport
from .net import metrics

if TYPE_CHECKING:
    from plain.http import Request

log = get_framework_logger("plain.server")

#: Seconds after its client left that a response body may go on without a write. A body
#: that blocks for longer (on a queue, say) is stopped at that blocking point.
STOP_GRACE = 1.0


# RFC 9110 section 8.6. More digits are no size of anything.
_LENGTH_RE = re.compile("[0-9]{1,19}")
_NO_FIELD = ("", None)


class ClientGone(Exception):
    """The client reset the stream or left: there is nobody to answer."""


def promised_length(response: Response) -> int | None:
    """The number of bytes that the view promises. Raises `InvalidHeader` for what is none."""
    _, value = stored_headers(response).get("content-length", _NO_FIELD)
    if value is None or content_length_forbidden(response.status_code):
        return None  # or it is not sent
    if not _LENGTH_RE.fullmatch(value.strip(" \t")):
        raise InvalidHeader(f"Content-Length: {value!r}")
    return int(value)


def release(sink: BodySink) -> None:
    """Give up a request's body. Closing it can fail as a write did (a full disk)."""
    with suppress(OSError):
        sink.close()


def log_unwritten(exc: OSError) -> None:
    """A request's body is not in its temporary file. One line, since it may be so for each."""
    log.error(
        "Request body could not be written to a temporary file (see TMPDIR)",
        extra={"error": str(exc)},
    )


class Stream(ABC):
    """A request that was received whole, and the way its response goes back.

    `run()` is the stream's greenlet. The verbs below it are the protocol's:
    `http2_stream.Http2Stream` and `http1.Http1Stream` have them. Each raises `ClientGone`
    once the client has left.
    """

    # CPython has no quick way to the attributes of an object that has more than 30: 2 % of a small
    # request (measured).
    __slots__ = (
        "_has_failed",
        "cancel",
        "gone_at",
        "greenlet",
        "headers_sent",
        "host",
        "in_body",
        "is_clientless",
        "is_over",
        "log_request",
        "log_response",
        "pipelined",
        "started_at",
        "websocket",
    )

    #: Plain's access log reads these two.
    log_request: Any
    log_response: Any

    def __init__(self, host: Host) -> None:
        self.host = host
        self.greenlet: Greenlet[..., None] | None = None
        self.headers_sent = False
        self.gone_at: float | None = None  # monotonic time at which the client left
        self.cancel: Callable[[], None] | None = None  # has an async view cancelled
        self.is_clientless = False  # it ran when its client left: see `Slots`
        self.in_body = False
        self.is_over = False  # its greenlet may run another stream by now
        self._has_failed = False
        self.started_at = 0.0  # monotonic time at which its greenlet began, 0 before
        self.websocket: WebSocketTransport | None = None
        self.pipelined = False  # more than this request has arrived

    # -- the protocol's verbs -------------------------------------------------

    @abstractmethod
    def build_request(self) -> "Request":
        """Plain's request. Sets `log_request` and `log_response`.

        Raises `LookupError` or `ValueError` for a field that Plain cannot take.
        """

    @abstractmethod
    def send_headers(self, response: Response, *, end_stream: bool) -> None:
        """Send the header fields of `response`.

        Raises `InvalidHeader` or `InvalidHeaderName`, with nothing sent, for one that
        must not reach the wire.
        """

    @abstractmethod
    def upgrade(self, response: Response) -> WebSocketTransport:
        """Send `response`, which accepts a WebSocket; return its transport."""

    @abstractmethod
    def send_data(self, data: bytes) -> None:
        """Send a part of the body. Blocks while the client does not take it."""

    @abstractmethod
    def end(self) -> None:
        """End the body."""

    def send_whole(self, data: bytes) -> None:
        """Send a whole body, and end it. Need not wait until the client has taken it."""
        self.send_data(data)
        self.end()

    @abstractmethod
    def send_error(self, status: int) -> None:
        """Answer with one of the server's own error pages. Nothing was sent before."""

    @abstractmethod
    def abort(self) -> None:
        """End a response that began and cannot be completed."""

    def began(self) -> None:  # noqa: B027
        """The greenlet is at its start. Not every protocol has to know."""

    @abstractmethod
    def finished(self) -> None:
        """The greenlet is at its end: release what the stream holds."""

    # -- the stream's greenlet ------------------------------------------------

    def run(self) -> bool:
        """Handle the request and answer it. Raises nothing.

        Not even `SystemExit`, which gevent would take for the end of the process, or what a
        view threw into its own greenlet: such a request failed, and the worker lives on. Returns
        whether it did not.
        """
        self.started_at = time.monotonic()
        self.began()
        try:
            if self.gone_at is None:  # the client may have left before its turn came
                self._run()
        except ClientGone:
            pass
        except BaseException as exc:
            self._failed(exc)
        finally:
            self.is_over = True
            self.greenlet = None  # it may run another stream next
            self.finished()
        return not self._has_failed

    def name(self) -> str:
        """The request, for the log. Safe to call in any thread."""
        request = getattr(self, "log_request", None)
        return "a request" if request is None else f"{request.method} {request.path}"

    def describe(self) -> str:
        """The same with its age."""
        return f"{self.name()} ({time.monotonic() - self.started_at:.2f} s)"

    def _run(self) -> None:
        try:
            request = self.build_request()
        except (LookupError, ValueError) as exc:  # an encoding that is none, say
            log.warning("Invalid request", extra={"error": str(exc)})
            self.send_error(400)
            return
        except OSError as exc:  # the last of its body
            log_unwritten(exc)
            self.send_error(500)
            return
        scheme = self.host.rules.scheme
        metrics.active_requests_changed(1, request.method or "", scheme)
        try:
            self._answer(request)
        finally:
            metrics.active_requests_changed(-1, request.method or "", scheme)

    def _answer(self, request: "Request") -> None:
        started = datetime.now(UTC)
        is_connect = self.websocket is not None
        handled = self.host.pipeline.handle(request, is_connect=is_connect, asker=self)
        status: int | None = handled.response.status_code
        try:
            self._send(handled)
        except ClientGone:
            status = status if self.headers_sent else None
        except UpgradeRefused:
            status = 503
            self.send_error(status)
        except DeadlinePassed:
            log_passed(request)
            if self.headers_sent:
                self.abort()
            else:
                status = 503
                self.send_error(status)
        except BaseException as exc:
            status = status if self.headers_sent else 500
            self._failed(exc)
        finally:
            self._log_access(handled.response, status, datetime.now(UTC) - started)
            handled.close(status)

    def _failed(self, exc: BaseException) -> None:
        """Log what stopped the response, and tell the client."""
        self._has_failed = True
        if self.gone_at is not None:
            return  # it is stop_body() that stopped it
        if not isinstance(exc, ResponseBodyFailed):
            request = getattr(self, "log_request", None)
            extra = {"path": request.path} if request else {}
            log.error("Error handling request", extra=extra, exc_info=exc)
        if self.headers_sent:
            self.abort()
        else:
            self.send_error(500)

    def _log_access(self, response: Response, status: int | None, elapsed: timedelta) -> None:
        if response.log_access:
            self.log_response.status = str(status or response.status_code)
            log_access(self.log_response, self.log_request, elapsed)

    def _send(self, handled: Handled) -> None:
        if self.gone_at is not None:
            raise ClientGone
        response = handled.response
        promised = promised_length(response)
        if isinstance(response, WebSocketResponse):
            self._send_websocket(handled)
        elif response_omits_body(method=self.log_request.method, status_code=response.status_code):
            self.send_headers(response, end_stream=True)
        elif response.streaming:
            with body_limited(response):
                self._send_streaming(handled, promised)
        elif promised is not None and promised != len(response.content):
            self._send_streaming(handled, promised)
        elif content := response.content:
            if promised is None:
                response.headers["Content-Length"] = str(len(content))
            self.send_headers(response, end_stream=False)
            self.send_whole(content)
        else:
            self.send_headers(response, end_stream=True)

    def _send_streaming(self, handled: Handled, promised: int | None) -> None:
        """Send each chunk as it comes, and the headers with the first one.

        So a body that fails before its first chunk can still be answered with a 500.
        """
        response = handled.response
        self.in_body = True
        chunks = handled.chunks(promised)
        try:
            first = None if handled.headers_first else next(chunks, None)
            self.send_headers(response, end_stream=False)
            if first:
                self.send_data(first)
            for chunk in chunks:
                if chunk:
                    self.send_data(chunk)
        finally:
            chunks.close()
            self.in_body = False
        self.end()

    def _send_websocket(self, handled: Handled) -> None:
        if not self.host.alive:
            raise UpgradeRefused("worker is shutting down")
        if self.pipelined:
            raise UpgradeRefused("bytes received before the upgrade completed")
        transport = self.upgrade(handled.response)
        try:
            for piece in handled.websocket(transport, self._close_timeout):
                self.send_data(piece)
        finally:
            transport.lost()
        self.end()

    def _close_timeout(self) -> float:
        """Seconds for a WebSocket's closing handshake: while the worker drains, what is left."""
        return recv_timeout(self.host, WEBSOCKET_CLOSE_TIMEOUT)

    # -- called from outside the stream's greenlet ----------------------------

    def client_gone(self) -> None:
        """The client reset the stream or left.

        An async view is cancelled. A blocking one that still computes its response may finish. A
        streaming body ends at its next write, or (`stop_body`) where it blocks.
        """
        if self.gone_at is not None:
            return
        self.gone_at = time.monotonic()
        if self.greenlet is not None:
            self.is_clientless = True
            self.host.limits.slots.client_left()
        if self.cancel is not None:
            self.cancel()
        if self.websocket is not None:
            self.websocket.lost()
        elif self.greenlet is not None:
            self.host.stop_body_later(self)

    def drain(self) -> None:
        """The worker shuts down: a WebSocket, which has no end of its own, is told so."""
        if self.websocket is not None:
            self.websocket.drain()

    def stop_body(self, now: float) -> bool:
        """Stop a streaming body that goes on without its client; True if it is over.

        Called once a second for streams whose client has left.
        """
        if self.greenlet is None or self.is_over:
            return True
        if self.in_body and self.gone_at is not None and now - self.gone_at > STOP_GRACE:
            gevent.get_hub().loop.run_callback(self._throw_exit)
            return True
        return False

    def _throw_exit(self) -> None:
        """Stop the body where it blocks. Runs in the hub; the stream may be over by now."""
        if self.in_body and self.greenlet is not None:
            self.greenlet.throw(GreenletExit())
