"""One request, its response and its line in the access log, whatever the protocol.

`Stream.run()` is what a stream's greenlet runs.
"""

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import gevent
from gevent import Greenlet, GreenletExit
from plain.http import (
    Request,
    Response,
    WebSocketResponse,
    content_length_forbidden,
    response_omits_body,
)
from plain.logs import get_framework_logger

from .app.deadline import DeadlinePassed, body_in_time, log_passed
from .app.pipeline import Handled, ResponseBodyFailed
from .app.plain_internals import (
    WEBSOCKET_CLOSE_TIMEOUT,
    InvalidHeader,
    UpgradeRefused,
    log_access,
    recv_timeout,
    stored_headers,
)
from .app.spool import BodyNotWritten, log_unwritten
from .app.websocket import WebSocketTransport
from .app.worker_interface import WorkerInterface
from .net import metrics

log = get_framework_logger("plain.server")

#: Seconds that a response body may go on after its client left. A body that blocks for longer (on
#: a queue, say) is stopped where it blocks.
STOP_GRACE = 1.0

# RFC 9110 section 8.6. No body has a length of more digits.
_LENGTH_RE = re.compile("[0-9]{1,19}")
_NO_FIELD = ("", None)


class ClientGone(Exception):
    """The client reset the stream or left: there is nobody to answer."""


def promised_length(response: Response) -> int | None:
    """The bytes that the view's Content-Length promises; None if it does not say.

    Raises `InvalidHeader` if the value is no number.
    """
    _, value = stored_headers(response).get("content-length", _NO_FIELD)
    if value is None or content_length_forbidden(response.status_code):
        return None  # the field is not sent
    if not _LENGTH_RE.fullmatch(value.strip(" \t")):
        raise InvalidHeader(f"Content-Length: {value!r}")
    return int(value)


class Stream(ABC):
    """A request that is ready to run, and the way its response goes back.

    `run()` is what the stream's greenlet runs. It calls the protocol's verbs, which `Http1Stream`
    and `Http2Stream` define, and nobody else calls them unless their docstring says so. Sizes are
    in bytes, times in seconds, monotonic.

    The stream's greenlet owns the attributes, with these exceptions: `client_gone()` sets `gone_at`
    and `is_clientless`, `Slots` sets `greenlet`, and the connection sets `bytes_follow`.
    """

    # CPython caches no attributes of an object that has more than 30: 2 % of a small request
    # (measured).
    __slots__ = (
        "_has_failed",
        "began_at",
        "bytes_follow",
        "cancel",
        "gone_at",
        "greenlet",
        "greenlet_done",
        "headers_sent",
        "in_body",
        "is_clientless",
        "logged_request",
        "logged_response",
        "websocket_transport",
        "worker",
    )

    #: What the access log says of the request and of the response.
    logged_request: Any
    logged_response: Any

    def __init__(self, worker: WorkerInterface) -> None:
        self.worker = worker
        self.greenlet: Greenlet[..., None] | None = None  # None before run() and after it
        self.headers_sent = False
        self.gone_at: float | None = None  # when the client left
        self.cancel: Callable[[], None] | None = None  # cancels the async view that runs
        self.is_clientless = False  # it ran when its client left: see `Slots`
        self.in_body = False  # a streaming body is under way
        self.greenlet_done = False  # run() has ended: the greenlet may run another stream by now
        self._has_failed = False
        self.began_at = 0.0  # when its greenlet began, 0 before
        self.websocket_transport: WebSocketTransport | None = None
        self.bytes_follow = False  # more than this request has arrived

    # -- the protocol's verbs -------------------------------------------------

    @abstractmethod
    def build_request(self) -> Request:
        """Plain's request. Sets `logged_request` and `logged_response`. Called once, first.

        Raises `LookupError` or `ValueError` for a field that Plain cannot take, and
        `BodyNotWritten`.
        """

    @abstractmethod
    def send_headers(self, response: Response, *, end_stream: bool) -> None:
        """Send the status and the header fields of `response`, and with `end_stream` its end.

        Called once, before any other of the sending verbs. Raises `ClientGone`; and with nothing
        sent, `InvalidHeader` or `InvalidHeaderName` for a field that must not reach the wire.
        """

    @abstractmethod
    def upgrade(self, response: Response) -> WebSocketTransport:
        """Send `response`, which accepts a WebSocket, and return its transport.

        Takes the place of `send_headers()`, and raises the same. What the view sends then goes
        through `send_data()` and `end()`.
        """

    @abstractmethod
    def send_data(self, data: bytes) -> None:
        """Send a part of the body. Blocks while the client does not take it (backpressure).

        Raises `ClientGone`.
        """

    @abstractmethod
    def end(self) -> None:
        """End the body, after `send_headers(end_stream=False)`. Raises `ClientGone`."""

    def send_whole(self, data: bytes) -> None:
        """Send a whole body, and end it. Raises `ClientGone`.

        A protocol that can queue the body does not wait until the client has taken it.
        """
        self.send_data(data)
        self.end()

    @abstractmethod
    def send_error(self, status: int) -> None:
        """Answer with one of the server's own error pages, before any headers were sent.

        The connection may call it in its greenlet too. Raises nothing if the client has left.
        """

    @abstractmethod
    def abort(self) -> None:
        """End a response that began and cannot be completed, so that it does not look whole.

        Raises nothing if the client has left.
        """

    def greenlet_began(self) -> None:  # noqa: B027
        """`run()` begins. A protocol that counts these overrides it."""

    @abstractmethod
    def clean_up(self) -> None:
        """Give back what the request holds. Called once, as `run()` ends. Raises nothing.

        A connection calls it for a request that it gives up before that has a greenlet.
        """

    @property
    def is_extended_connect(self) -> bool:
        """Whether the request is an extended CONNECT (RFC 8441), which HTTP/2 alone has."""
        return False

    # -- the stream's greenlet ------------------------------------------------

    def run(self) -> bool:
        """Handle the request and answer it. Called by `Slots`, in the stream's greenlet.

        Raises nothing, not even `SystemExit`, which gevent would take for the end of the process,
        or what a view threw into its own greenlet. Returns False if such an exception stopped the
        request: its greenlet then runs no other.
        """
        self.began_at = time.monotonic()
        self.greenlet_began()
        try:
            if self.gone_at is None:  # the client may have left before its turn came
                self._serve()
        except ClientGone:
            pass
        except BaseException as exc:
            self._failed(exc)
        finally:
            self.greenlet_done = True
            self.greenlet = None  # it may run another stream next
            self.clean_up()
        return not self._has_failed

    def name(self) -> str:
        """The request's method and path, for the log. Any thread may call it."""
        request = getattr(self, "logged_request", None)
        return "a request" if request is None else f"{request.method} {request.path}"

    def describe(self) -> str:
        """The same, and the seconds for which the stream has run. Any thread may call it."""
        return f"{self.name()} ({time.monotonic() - self.began_at:.2f} s)"

    def _serve(self) -> None:
        try:
            request = self.build_request()
        except (LookupError, ValueError) as exc:  # an unknown charset, say
            log.warning("Invalid request", extra={"error": str(exc)})
            self.send_error(400)
            return
        except BodyNotWritten as exc:  # the last of its body
            log_unwritten(exc)
            self.send_error(500)
            return
        scheme = self.worker.rules.scheme
        metrics.active_requests_changed(1, request.method or "", scheme)
        try:
            self._answer(request)
        finally:
            metrics.active_requests_changed(-1, request.method or "", scheme)

    def _answer(self, request: Request) -> None:
        """Run the view, send its response and log it.

        The time in the access log begins here. It is without the wait for a slot, and without that
        for a client that is still to take a body which is queued whole. If the client left before
        the headers went out, the status there is the view's, which nobody has seen.
        """
        began = datetime.now(UTC)
        handled = self.worker.pipeline.handle(
            request, extended_connect=self.is_extended_connect, stream=self
        )
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
            self._log_access(handled.response, status, datetime.now(UTC) - began)
            handled.close(status)

    def _failed(self, exc: BaseException) -> None:
        """Log what stopped the response, and tell the client."""
        self._has_failed = True
        if self.gone_at is not None:
            return  # stop_body() stopped it
        if not isinstance(exc, ResponseBodyFailed):
            request = getattr(self, "logged_request", None)
            extra = {"path": request.path} if request else {}
            log.error("Error handling request", extra=extra, exc_info=exc)
        if self.headers_sent:
            self.abort()
        else:
            self.send_error(500)

    def _log_access(self, response: Response, status: int | None, elapsed: timedelta) -> None:
        if response.log_access:
            self.logged_response.status = str(status or response.status_code)
            log_access(self.logged_response, self.logged_request, elapsed)

    def _send(self, handled: Handled) -> None:
        if self.gone_at is not None:
            raise ClientGone
        response = handled.response
        promised = promised_length(response)
        if isinstance(response, WebSocketResponse):
            self._send_websocket(handled)
        elif response_omits_body(
            method=self.logged_request.method, status_code=response.status_code
        ):
            self.send_headers(response, end_stream=True)
        elif response.streaming:
            with body_in_time(response):
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

        A body that fails before its first chunk can then still be answered with a 500.
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
        if not self.worker.alive:
            raise UpgradeRefused("worker is shutting down")
        if self.bytes_follow:
            raise UpgradeRefused("bytes received before the upgrade completed")
        transport = self.upgrade(handled.response)
        if not self.worker.alive:  # it began to drain while the 101 waited for its client
            transport.worker_shuts_down()
        try:
            for piece in handled.run_websocket(transport, self._close_timeout):
                self.send_data(piece)
        finally:
            transport.lost()
        self.end()

    def _close_timeout(self) -> float:
        """Seconds for a WebSocket's closing handshake: while the worker drains, what is left."""
        return recv_timeout(self.worker, WEBSOCKET_CLOSE_TIMEOUT)

    # -- called from outside the stream's greenlet ----------------------------

    def client_gone(self) -> None:
        """The client reset the stream or left. Called by the connection, in any greenlet.

        May be called again. An async view is cancelled. A blocking one that still computes its
        response may finish. A streaming body ends at its next write, or by `stop_body()` where it
        blocks.
        """
        if self.gone_at is not None:
            return
        self.gone_at = time.monotonic()
        if self.greenlet is not None:
            self.is_clientless = True
            self.worker.limits.slots.client_left()
        if self.cancel is not None:
            self.cancel()
        if self.websocket_transport is not None:
            self.websocket_transport.lost()
        elif self.greenlet is not None:
            self.worker.stop_body_later(self)

    def worker_shuts_down(self) -> None:
        """Have a WebSocket closed with 1001, since it has no end of its own.

        Called by the connection. The other streams finish.
        """
        if self.websocket_transport is not None:
            self.websocket_transport.worker_shuts_down()

    def stop_body(self, now: float) -> bool:
        """Stop a streaming body that goes on for `STOP_GRACE` after its client left.

        Called by the worker once a second, for each stream whose client has left, until it returns
        True: then there is nothing more to stop. `now` is monotonic.
        """
        if self.greenlet is None or self.greenlet_done:
            return True
        if self.in_body and self.gone_at is not None and now - self.gone_at > STOP_GRACE:
            gevent.get_hub().loop.run_callback(self._throw_exit)
            return True
        return False

    def _throw_exit(self) -> None:
        """Stop the body where it blocks. Runs in the hub, when the stream may be over."""
        if self.in_body and self.greenlet is not None:
            self.greenlet.throw(GreenletExit())
