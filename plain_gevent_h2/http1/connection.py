"""One HTTP/1.1 connection: it serves one request after another.

The parser, the limits, the error pages and the framing of responses are Plain's. Its reading and
writing wait on an asyncio loop, so these are ours.
"""

import time
from datetime import timedelta
from typing import Any

import gevent
from gevent.socket import socket
from plain.logs import get_framework_logger

from plain_gevent_h2.app.plain_internals import (
    DRAIN_MIN_RECV,
    LINGER_CLOSE_TIMEOUT,
    RECV_PROGRESS_TIMEOUT,
    BodyBudgetExceeded,
    LimitRequestBody,
    LimitRequestHeaders,
    ParsedRequest,
    ParseException,
    http1_response,
    log_access,
)
from plain_gevent_h2.app.spool import BodyNotWritten, SpooledBody, log_no_room, log_unwritten
from plain_gevent_h2.app.websocket import WebSocketTransport
from plain_gevent_h2.app.worker_interface import WorkerInterface
from plain_gevent_h2.limits.header_budget import FREE, size_to_charge
from plain_gevent_h2.net.abuse import report_abuse
from plain_gevent_h2.net.tcp import close_our_side, reset
from plain_gevent_h2.net.tls_socket import RecordFlood, TlsSocket

from .body import BodyReader, IncompleteBody
from .client_presence import ClientPresence
from .early_answers import EarlyAnswers, expects_continue
from .error_pages import ErrorPages
from .head import HEAD_RECV_SIZE, HeadReader
from .output import Output
from .request_checks import check_request
from .socket_reader import SocketReader
from .stream import Http1Stream

log = get_framework_logger("plain.server")

#: A client of a later minor version is answered with, and treated as, this one (RFC 9110 section
#: 2.5).
_HIGHEST_VERSION = (1, 1)

#: Bytes of a WebSocket that may wait for its view before nothing more is read.
WEBSOCKET_BACKLOG = 64 * 1024


class _NoRoomForHead(Exception):
    """The header fields of other requests fill the worker's budget: a 503."""


class Http1Connection:
    """The HTTP/1.1 side of one accepted connection.

    `run()` is its greenlet. Each request runs in a greenlet of its own, while the connection's
    greenlet waits. There are three ways to close it: `evict()` ends an idle connection cleanly,
    `abort()` gives up the connection and its request, `close_at_once()` closes the socket alone.
    """

    protocol_version = "1.1"

    def __init__(
        self, worker: WorkerInterface, sock: socket | TlsSocket, client: Any, server: Any
    ) -> None:
        # Set once.
        self.worker = worker
        self._limits = worker.limits
        self.client = client
        self.server = server
        self._is_tls = worker.rules.is_tls
        self._sock = sock
        self.socket_reader = SocketReader(sock)
        self.output = Output(sock, worker.config.send_timeout, worker.limits.unsent)
        self._heads = HeadReader(worker, self.socket_reader)
        self._bodies = BodyReader(worker, self.socket_reader)
        self._presence = ClientPresence(sock, self.output)
        self._early_answers = EarlyAnswers(worker, self.output, self._heads)
        self._error_pages = ErrorPages(worker, self.output, self._heads, client)

        # Changed by the connection's greenlet alone.
        self._idle_since: float | None = None  # monotonic, while it waits for a request
        # Bytes of the head under way, in the worker's header budget, until its stream has them.
        self._head_charged = 0
        self._stream: Http1Stream | None = None  # the request under way

        # Changed by the slots, the worker and the streams as well.
        self._unstarted: Http1Stream | None = None  # the request, until it has its greenlet
        self._is_refused = False  # the request under way got no slot
        self._drain_since: float | None = None
        self._abort_later: gevent.Greenlet[..., None] | None = None  # after a WebSocket

    # -- the connection's greenlet --------------------------------------------

    def run(self) -> bool:
        """Serve requests until the connection is over. Return True then. Raises `OSError`."""
        try:
            while self._wait_for_request():
                try:
                    another = self._serve_request()
                except _NoRoomForHead:
                    another = self._refuse(503)
                if not another:
                    return True
            close_our_side(self._sock)  # the client has closed its own
        finally:
            self._sock.close()
            self._limits.headers.release(self, self._head_charged)
            self._limits.headers.forget(self)
            if self._abort_later is not None:
                self._abort_later.kill(block=False)
        return True

    def _wait_for_request(self) -> bool:
        """Wait for the first bytes of a request, idle. Return False if the client has closed."""
        reader = self.socket_reader
        self._idle_since = time.monotonic()
        self._limits.idle.add(self)
        reader.skip_empty_lines()
        while not reader.received:
            self._sock.settimeout(None)  # sweep() closes an idle connection
            if not reader.receive(HEAD_RECV_SIZE):
                return False
            reader.skip_empty_lines()
        self._idle_since = None
        return True

    def _serve_request(self) -> bool:
        """Serve one request. Return True if another may follow on this connection.

        Raises `_NoRoomForHead`.
        """
        try:
            head = self._heads.read(self)
        except LimitRequestHeaders as exc:
            return self._refuse_exception(None, exc)
        finally:
            self._limits.idle.remove(self)  # a connection with half a head counts as idle
        if head is None:
            return False
        if self._early_answers.answer(head):
            return self._linger()
        try:
            parsed = self._parse(head)
            response = http1_response(parsed, self.output, is_tls=self._is_tls)
        except Exception as exc:
            return self._refuse_exception(None, exc)
        try:
            self.worker.rules.check_length(parsed.content_length)
        except LimitRequestBody as exc:
            return self._refuse_exception(parsed, exc)
        if len(head) > FREE:
            self._charge_head(size_to_charge(parsed.headers, len(head)))
        del head  # it is not needed for as long as the view runs
        return self._serve_parsed(parsed, response)

    def _parse(self, head: bytes) -> ParsedRequest:
        parsed = ParsedRequest(self._is_tls, head, self.client)
        check_request(parsed)
        parsed.version = min(parsed.version, _HIGHEST_VERSION)
        return parsed

    def _charge_head(self, size: int) -> None:
        """Count `size` bytes of the request's head in the budget. Raises `_NoRoomForHead`."""
        if not self._limits.headers.charge(self, size):
            raise _NoRoomForHead
        self._head_charged = size

    def _serve_parsed(self, parsed: ParsedRequest, response: Any) -> bool:
        """Take in the body and run the stream. Return True if another request may follow."""
        if expects_continue(parsed):
            self.output.send_continue()
        began = time.monotonic()
        sink = self._take_body(parsed, response, began)
        if sink is None:
            return False
        stream = Http1Stream(self, parsed, response, sink, time.monotonic() - began)
        self._run_stream(stream)
        if stream.gone_at is not None:
            reset(self._sock)
            return False
        if self._is_refused:
            self._error_pages.send(503)
        return stream.keep_alive or self._linger()

    def _take_body(self, parsed: ParsedRequest, response: Any, began: float) -> SpooledBody | None:
        """The whole body of a request; None if the request was answered with an error page.

        `began` (monotonic) is for the access log. Raises `OSError` if the client has left.
        """
        sink = self._bodies.new_sink()
        try:
            self._bodies.read(sink, parsed)
        except (IncompleteBody, BodyNotWritten, ParseException) as exc:
            sink.lost()
            self._refuse_body(parsed, response, exc, time.monotonic() - began)
            return None
        except BaseException:
            sink.lost()
            raise
        return sink

    def _run_stream(self, stream: Http1Stream) -> None:
        """Start `stream` when it has a slot, and wait until the connection may go on."""
        stream.header_bytes, self._head_charged = self._head_charged, 0
        stream.bytes_follow = bool(self.socket_reader.received)
        self._stream = self._unstarted = stream
        self._limits.slots.start_from(self)
        stream.connection_may_go_on.wait()
        if stream.websocket_transport is not None:
            self._read_websocket(stream, stream.websocket_transport)
        self._stream = None

    def _read_websocket(self, stream: Http1Stream, websocket: WebSocketTransport) -> None:
        """Pass on what the client sends, until both sides have ended."""
        reader = self.socket_reader
        self._sock.settimeout(None)
        try:
            while reader.receive():
                websocket.feed(bytes(reader.received))
                reader.received.clear()
                websocket.wait_for_room(WEBSOCKET_BACKLOG)
                self._sock.settimeout(None)  # a send may have set another
            websocket.end()
        except OSError as exc:
            stream.client_gone()
            if isinstance(exc, RecordFlood):
                report_abuse(self.client, str(exc))
        if not stream.greenlet_done:
            stream.connection_may_go_on.clear()  # the upgrade has set it: wait for the end
            stream.connection_may_go_on.wait()

    # -- answers that end the connection ----------------------------------------

    def _refuse(self, status: int, message: str = "") -> bool:
        self._error_pages.send(status, message)
        return self._linger()

    def _refuse_exception(self, parsed: ParsedRequest | None, exc: Exception) -> bool:
        """Answer with Plain's error page for `exc`. Called while it is handled."""
        self._error_pages.send_for(exc, parsed)
        return self._linger()

    def _refuse_body(
        self, parsed: ParsedRequest, response: Any, exc: Exception, seconds: float
    ) -> None:
        """Answer a request whose body failed with `exc`. Called while that is handled."""
        if isinstance(exc, IncompleteBody):
            self._refuse(408, "Incomplete request body")
            return
        if isinstance(exc, BodyNotWritten):
            log_unwritten(exc)
            status, message = 500, ""
        elif isinstance(exc, BodyBudgetExceeded):
            log_no_room(exc, self.client)
            status, message = 503, str(exc)
        else:  # a 413 for `LimitRequestBody`, a 400 for bad chunks or trailers
            self._refuse_exception(parsed, exc)
            return
        response.status = str(status)
        log_access(response, parsed, timedelta(seconds=seconds))
        self._refuse(status, message)

    def _linger(self) -> bool:
        """End the connection so that its last response arrives. No request follows: False."""
        self.socket_reader.linger()
        return False

    # -- what the slots ask: see `Source` ---------------------------------------

    @property
    def has_stream_to_start(self) -> bool:
        return self._unstarted is not None

    def next_stream(self) -> Http1Stream | None:
        """Take the stream to start."""
        stream, self._unstarted = self._unstarted, None
        return stream

    def refuse_waiting(self) -> None:
        """Have a request that waits answered with a 503, in the connection's greenlet."""
        if self._unstarted is not None:
            self._is_refused = True
            self._leave_queue(self._unstarted)

    def _leave_queue(self, stream: Http1Stream) -> None:
        """Give up a request that has no slot yet, and with it the connection."""
        self._limits.slots.leave(self)
        self._unstarted = None
        stream.clean_up()

    # -- what a stream asks: see `StreamConnection` -----------------------------

    def send_error(self, status: int) -> None:
        self._error_pages.send(status)

    def websocket_evicted(self) -> None:
        # Its view's side closes with 1013: `BoundedWebSocket._drop()`.
        log.debug("WebSocket holds too much", extra={"client": self.client})

    def end_websocket(self) -> None:
        """Close our side. The client has `LINGER_CLOSE_TIMEOUT` to close its own."""
        close_our_side(self._sock)
        self._abort_later = gevent.spawn_later(LINGER_CLOSE_TIMEOUT, self.abort)

    def close_at_once(self) -> None:
        """Close the socket, without TLS's close_notify. Called by the stream's greenlet too.

        If the client has closed its side in the middle of a response, the close is a TCP reset:
        such a client may take any other end for that of the response.
        """
        if (
            self._stream is not None
            and self._stream.is_under_way
            and self._presence.is_half_closed()
        ):
            self.socket_reader.reset_on_close(on=True)
        self._sock.close()

    # -- what the worker and its limits ask -------------------------------------

    def evict(self) -> None:
        """Close an idle connection, with close_notify and FIN. Does not wait for the client."""
        close_our_side(self._sock)
        self.close_at_once()

    def abort(self) -> None:
        """Close the connection at once, and tell the request under way that its client is gone."""
        self.close_at_once()
        if self._stream is not None:
            self._stream.client_gone()

    def close_for_headers(self) -> None:
        """Close, to make room for other requests' header fields. See `Holder`."""
        self.evict()

    def drain(self) -> None:
        """Close once idle, after the time that a request on its way may take."""
        self._drain_since = time.monotonic()
        if self._stream is not None:
            self._stream.worker_shuts_down()

    def sweep(self, now: float) -> None:
        """Close a connection that is idle for too long, or whose client has left its request.

        Called by the worker once a second, ten times a second while it drains.
        """
        if self._idle_since is not None:
            self._sweep_idle(now, self._idle_since)
        elif self._stream is not None:
            self._sweep_stream(self._stream, now)
        else:
            self._bodies.sweep()

    def _sweep_idle(self, now: float, since: float) -> None:
        grace = min(RECV_PROGRESS_TIMEOUT, max(DRAIN_MIN_RECV, self._drain_seconds_left(now)))
        if now - since > self.worker.rules.keepalive_timeout or (
            self._drain_since is not None and now - self._drain_since > grace
        ):
            self.evict()

    def _drain_seconds_left(self, now: float) -> float:
        deadline = self.worker.drain_read_deadline
        return RECV_PROGRESS_TIMEOUT if deadline is None else deadline - now

    def _sweep_stream(self, stream: Http1Stream, now: float) -> None:
        if self._unstarted is not None:
            if self._presence.has_hung_up():  # a client that only closes its side may still read
                self._leave_queue(stream)
        elif self.output.stalled(now) > self._limits.send_timeout.now():
            log.debug("Client does not take its response", extra={"client": self.client})
            reset(self._sock)  # wakes the greenlet that sends
        elif self._presence.has_left(stream, now):
            stream.client_gone()
