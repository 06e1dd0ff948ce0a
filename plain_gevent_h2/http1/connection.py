"""One HTTP/1.1 connection, with the same stream interface as HTTP/2.

Plain's own parser, limits, error pages and response framing; the reading and writing is ours,
since Plain's waits on an asyncio loop, and so is the refusal of what its parser lets pass and
whoever stands before us may read in another way (request smuggling).
"""

import re
import select
import time
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import Event
from gevent.monkey import get_original
from gevent.socket import socket
from plain.http import Response
from plain.logs import get_framework_logger

from plain_gevent_h2.app.host import Host
from plain_gevent_h2.app.plain_internals import (
    BODY_RECV_TIMEOUT,
    DRAIN_MIN_RECV,
    HEADER_READ_TIMEOUT,
    HEADER_VALUE_RE,
    HEALTHCHECK_RESPONSE,
    HEALTHCHECK_RESPONSE_HEAD,
    LINGER_CLOSE_MAX_BYTES,
    LINGER_CLOSE_TIMEOUT,
    RECV_PROGRESS_TIMEOUT,
    BodyBudgetExceeded,
    BodyRateFloor,
    InvalidHeader,
    InvalidHostHeader,
    InvalidRequestLine,
    LimitRequestBody,
    LimitRequestHeaders,
    ParsedRequest,
    ParseException,
    answer_error,
    create_request,
    drain_expired,
    error_page,
    expects_continue,
    extract_request_path,
    http1_response,
    log_access,
    recv_timeout,
    stored_headers,
)
from plain_gevent_h2.app.spool import SpooledBody
from plain_gevent_h2.app.websocket import WebSocketTransport
from plain_gevent_h2.http2.frames import ErrorCodes, FrameType, goaway, pack_frame
from plain_gevent_h2.http2.headers import (
    AUTHORITY_RE,
    LIMIT_COOKIE_PARTS,
    ascii_uri,
    same_authority,
)
from plain_gevent_h2.limits.header_budget import FREE, size_to_charge
from plain_gevent_h2.limits.send_timeout import MIN_PROGRESS
from plain_gevent_h2.limits.unsent import UnsentBytes
from plain_gevent_h2.net.abuse import report_abuse
from plain_gevent_h2.net.fairness import HTTP1_SEND_TURN, give_way
from plain_gevent_h2.net.tls import (
    RECV_SIZE,
    RecordFlood,
    TlsSocket,
    acknowledged,
    close_our_side,
    probe,
    reset,
    reset_on_close,
)
from plain_gevent_h2.stream import ClientGone, Stream, log_unwritten, release

from .chunked import ChunkedDecoder

if TYPE_CHECKING:
    from plain.http import Request

log = get_framework_logger("plain.server")

#: Lines that a head may have before Plain's parser, which refuses more than 100 fields, takes
#: it apart: 40 ms for 200,000 lines (measured).
MAX_HEAD_LINES = 1000

#: Bytes of a head that are received at once. What comes after it waits, for as long as its view
#: runs: 1,000 connections that sent a request and 256 KiB of others would take 256 MiB.
HEAD_RECV_SIZE = 16 * 1024
#: Bytes of a head, as over HTTP/2. Plain's limit is 800 KB, which take its parser 20 ms (measured).
MAX_HEAD_SIZE = 64 * 1024

#: What a client of a later minor version is answered with, and treated as (RFC 9110 section 2.5).
_HIGHEST_VERSION = (1, 1)

#: Seconds without a byte of its response after which a client that has closed its side counts
#: as gone. Who still reads (HTTP/1.0, `nc`) and who has closed both look the same until something
#: is sent: the latter answers with a reset.
HALF_CLOSED_SILENCE = 10.0

#: Seconds after which such a client, whose view has not answered yet, is asked whether it reads.
ASK_AFTER = 5.0

#: Chunks of a body that are taken in before other greenlets have their turn.
CHUNKS_IN_A_TURN = 20

# RFC 9112 section 2.2: some clients send a line break after a body.
_EMPTY_LINES_RE = re.compile(rb"(?:\r\n)*")
# RFC 9110 section 5.5 and RFC 9112 section 3.2.
_CONTROL_RE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BAD_TARGET_RE = re.compile(r"[\x00-\x20\x7f]")
_ABSOLUTE_TARGET_RE = re.compile(r"([^/?#:]+)://([^/?#]*)")
_NO_FIELD = ("", None)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

#: Bytes of a WebSocket that may wait for its view before nothing more is read.
WEBSOCKET_BACKLOG = 64 * 1024

#: How a client's first TLS record begins (RFC 8446 section 5.1).
_TLS_HANDSHAKE = b"\x16\x03"

#: What a client of HTTP/2 says first looks like a request's head (RFC 9113 section 3.4).
_HTTP2_HEAD = b"PRI * HTTP/2.0\r\n"

# The real ones: this poll never waits.
_poll = get_original("select", "poll")
_POLLRDHUP = getattr(select, "POLLRDHUP", None)


def _check_request(parsed: ParsedRequest) -> None:
    """Refuse what may be another request for whoever stands before us. Raises `ParseException`."""
    target = parsed.uri or ""
    if _BAD_TARGET_RE.search(target):
        raise InvalidRequestLine(target)
    if not target.isascii():
        # As over HTTP/2. Plain would take each byte for a character, and encode that as UTF-8.
        parsed.path = ascii_uri((parsed.path or "").encode("latin-1"))
        parsed.query = ascii_uri((parsed.query or "").encode("latin-1"))
    hosts, codings, options = [], [], []
    cookie_parts = 0
    for name, value in parsed.headers:
        if not value.isprintable() and _CONTROL_RE.search(value):
            raise InvalidHeader(name, req=parsed)
        if name == "HOST":
            if value and not AUTHORITY_RE.fullmatch(value):
                raise InvalidHostHeader("invalid characters")
            hosts.append(value)
        elif name == "TRANSFER-ENCODING":
            codings.append(value)
        elif name == "COOKIE":
            cookie_parts += value.count(";") + value.count("\\")
        elif name == "CONNECTION":
            options.append(value)
    if cookie_parts > LIMIT_COOKIE_PARTS:
        raise LimitRequestHeaders("cookies of too many parts")
    # RFC 9112 section 3.2.2 lets the target go before Host. Plain's views see Host.
    if (
        hosts
        and (absolute := _ABSOLUTE_TARGET_RE.match(target))
        and not same_authority(absolute[2], hosts[0], absolute[1].lower())
    ):
        raise InvalidHostHeader("not that of the request target")
    # RFC 9112 section 6.3: unless it is chunked at last, the body's length is not certain.
    if codings and (parsed.content_length is not None or not "".join(codings).isascii()):
        raise InvalidHeader("TRANSFER-ENCODING", req=parsed)
    _take_connection_options(parsed, ",".join(options))


def _take_connection_options(parsed: ParsedRequest, value: str) -> None:
    """RFC 9112 section 9.3, of a list. Plain takes the first Connection field for one word."""
    if "," not in value:
        return
    options = _members(value)
    keeps = "close" not in options and (parsed.version > (1, 0) or "keep-alive" in options)
    vars(parsed)["should_close"] = partial(bool, parsed.must_close or not keeps)


def _members(value: str) -> set[str]:
    """Those of a list of words, in lower case (RFC 9110 section 5.6.1)."""
    return {member.strip(" \t") for member in value.lower().split(",")}


def _run[T](coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of Plain's that only awaits our own writes, which never suspend it."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise RuntimeError("Plain's HTTP/1.1 writer waited for an event loop")


class _Output:
    """What Plain's response writes to: the part of `asyncio.StreamWriter` that it uses.

    Small pieces are kept until `flush()`, so that headers and body leave in one packet.
    """

    def __init__(self, sock: socket | TlsSocket, timeout: float, unsent: UnsentBytes) -> None:
        self._sock = sock
        self._unsent = unsent
        self._timeout = timeout  # seconds without progress
        self._pieces: list[bytes] = []
        self._progress_at: float | None = None  # monotonic, of the send under way
        self.sent_at = 0.0  # monotonic, of the last bytes
        self._acknowledged = 0  # bytes, at the last progress that `stalled()` saw

    def write(self, data: bytes) -> None:
        self._pieces.append(data)

    async def drain(self) -> None:
        pass

    def flush(self) -> None:
        """Send what was written. Blocks the greenlet; raises `OSError`."""
        pieces, self._pieces = self._pieces, []
        head: list[bytes] = []
        for piece in pieces:
            head.append(piece)
            if len(piece) >= HTTP1_SEND_TURN:  # not worth a copy
                self._send(b"".join(head[:-1]))
                self._send(piece)
                head.clear()
        self._send(b"".join(head))

    def _send(self, data: bytes) -> None:
        rest = data if len(data) <= HTTP1_SEND_TURN else memoryview(data)
        self._unsent.http1 += len(rest)
        try:
            while rest:
                self._progress_at = self.sent_at = time.monotonic()
                self._sock.settimeout(self._timeout)  # the reader of a WebSocket has another
                batch = rest[:HTTP1_SEND_TURN]
                self._sock.sendall(batch)
                self._unsent.http1 -= len(batch)
                rest = rest[HTTP1_SEND_TURN:]
        except TimeoutError:
            reset(self._sock)
            raise
        finally:
            self._progress_at = None
            self._unsent.http1 -= len(rest)

    @property
    def is_sending(self) -> bool:
        return self._progress_at is not None

    def stalled(self, now: float) -> float:
        """Seconds for which the send under way has made no progress. Called once a second."""
        if self._progress_at is None or (taken := acknowledged(self._sock)) is None:
            return 0.0
        if taken - self._acknowledged >= MIN_PROGRESS:
            self._acknowledged = taken
            self._progress_at = now
        return now - self._progress_at


class _NoRoomForHead(Exception):
    """The heads of other requests take too much of the worker: a 503."""


class _IncompleteBody(Exception):
    """The request's body did not arrive, or too slowly: a 408."""


class Http1Stream(Stream):
    """One request of an HTTP/1.1 connection."""

    __slots__ = (
        "_connection",
        "_ended",
        "_ingest_seconds",
        "_parsed",
        "_response",
        "_sink",
        "done",
        "header_bytes",
        "keep_alive",
        "was_asked",
    )

    def __init__(
        self,
        connection: "Http1Connection",
        parsed: ParsedRequest,
        response: Any,
        sink: SpooledBody,
        ingest_seconds: float,
    ) -> None:
        super().__init__(connection.host)
        self._connection = connection
        self._sink = sink
        self._ingest_seconds = ingest_seconds
        self.log_request = self._parsed = parsed
        self.log_response = self._response = response
        self.header_bytes = 0  # in the worker's header budget
        self.keep_alive = False
        self._ended = False  # the response is whole
        self.was_asked = False  # see `Http1Connection._ask()`
        self.done = Event()

    def build_request(self) -> "Request":
        return create_request(
            self._parsed,
            self._connection.client,
            self._connection.server,
            stream=self._sink.finish(),
            received=self._sink.received,
            ingest_seconds=self._ingest_seconds,
        )

    def send_headers(self, response: Response, *, end_stream: bool) -> None:
        # The one place where a shutdown is looked at: a response that promises keep-alive
        # is followed by one more wait for a request.
        if not self.host.alive or _asks_to_close(response):
            self._response.force_close()
        self._response.prepare_response(response)
        # With the reason phrase, of which Plain lets all pass.
        if not HEADER_VALUE_RE.fullmatch(self._response.status):
            raise InvalidHeader(f"status line: {self._response.status!r}")
        _run(self._response.async_send_headers())
        self.headers_sent = True
        if end_stream:
            self.end()
            return
        if self._ends_with_connection():
            self._connection.reset_on_close(on=True)
        if response.streaming:
            self._flush()

    def _ends_with_connection(self) -> bool:
        """Whether nothing but the close tells the end of the body (RFC 9112 section 6.3)."""
        response = self._response
        return response.response_length is None and not (response.chunked or response.omits_body)

    @property
    def is_under_way(self) -> bool:
        """Whether the response has begun and is not whole."""
        return self.headers_sent and not self._ended and self.websocket is None

    def upgrade(self, response: Response) -> WebSocketTransport:
        self.send_headers(response, end_stream=False)
        self._flush()
        self.websocket = WebSocketTransport(
            self.host.limits.unread_websockets,
            lambda _size: None,
            self._connection.websocket_refused,
        )
        self.websocket.accept()
        self.done.set()  # the connection's greenlet reads on, for the WebSocket
        return self.websocket

    def send_data(self, data: bytes) -> None:
        if self.websocket is None:
            _run(self._response.async_write(data))
        else:
            self._connection.output.write(data)
        self._flush()

    def end(self) -> None:
        if self.websocket is not None:
            self._ended = True
            self._connection.end_websocket()
            return
        _run(self._response.async_close())
        self._flush()
        self._ended = True
        self._connection.reset_on_close(on=False)
        self.keep_alive = not self._response.should_close()

    def _flush(self) -> None:
        try:
            self._connection.output.flush()
        except OSError as exc:
            self.client_gone()
            raise ClientGone from exc

    @property
    def version(self) -> tuple[int, int]:
        return self._parsed.version

    def client_gone(self) -> None:
        super().client_gone()
        self.done.set()  # a view may go on; its connection takes up no place meanwhile

    def send_error(self, status: int) -> None:
        _run(self._connection.write_error(status, HTTPStatus(status).phrase, ""))

    def abort(self) -> None:
        # Not a clean close: where the close ends the body, that would call it whole.
        self.keep_alive = False
        with suppress(ClientGone):
            self._flush()  # the headers may still be here
        self._connection.close_at_once()

    def finished(self) -> None:
        if self.headers_sent and not self._ended:
            self.abort()  # stopped without its client, as far as we know
        release(self._sink)
        self.host.limits.headers.release(self._connection, self.header_bytes)
        self.done.set()


def _asks_to_close(response: Response) -> bool:
    value = stored_headers(response).get("connection", _NO_FIELD)[1]
    return value is not None and "close" in _members(value)


class Http1Connection:
    """The HTTP/1.1 side of one accepted connection. `run()` is its only greenlet, but for
    the one of the request that it has under way.

    Plain's functions take it for their own `Connection`: `client`, `server`, `is_ssl`,
    `writer`, `req_count`, `request_is_head` and `write_error` are for them.
    """

    protocol_version = "1.1"

    def __init__(self, host: Host, sock: socket | TlsSocket, client: Any, server: Any) -> None:
        self.host = host
        self._limits = host.limits
        self.client = client
        self.server = server
        self.is_ssl = host.rules.is_tls
        self.req_count = 0
        self.request_is_head = False
        self.output = self.writer = _Output(sock, host.config.send_timeout, host.limits.unsent)
        self._sock = sock
        self._buffer = bytearray()  # received, not yet used
        self._idle_since: float | None = time.monotonic()
        self._drain_since: float | None = None
        self._stream: Http1Stream | None = None  # the request under way
        self._unstarted: Http1Stream | None = None  # the same, until it has its greenlet
        self._is_refused = False  # the request under way got no place
        self._body_reader: Any = None  # the greenlet that waits for more of a body
        self._abort_later: gevent.Greenlet[..., None] | None = None  # after a WebSocket
        self._head_charged = 0  # bytes of the head under way, in the worker's header budget
        self._half_closed_at: float | None = None  # when that was seen (monotonic)
        self._resets_on_close = False

    # -- the worker's verbs ---------------------------------------------------

    def drain(self) -> None:
        """Close when idle, after the grace that a request on its way needs."""
        self._drain_since = time.monotonic()
        if self._stream is not None:
            self._stream.drain()

    def sweep(self, now: float) -> None:
        """Close the connection if it was idle for too long, or its client left a request."""
        if self._body_reader is not None and drain_expired(self.host):
            self._stop_body_later(_IncompleteBody())
        if self._idle_since is None:
            if self._stream is not None:
                self._sweep_stream(self._stream, now)
            return
        grace = min(RECV_PROGRESS_TIMEOUT, max(DRAIN_MIN_RECV, self._drain_seconds_left(now)))
        if now - self._idle_since > self.host.rules.keepalive_timeout or (
            self._drain_since is not None and now - self._drain_since > grace
        ):
            self.evict()

    def _sweep_stream(self, stream: Http1Stream, now: float) -> None:
        if self._unstarted is not None:
            if self._has_event(0):  # a reset: who only closes its side may still read
                self._leave_queue(stream)
        elif self.output.stalled(now) > self._limits.send_timeout.now():
            log.debug("Client does not take its response", extra={"client": self.client})
            reset(self._sock)  # wakes who sends
        elif self._client_left(stream, now):
            stream.client_gone()

    def evict(self) -> None:
        """Close, being idle."""
        close_our_side(self._sock)
        self.close_at_once()

    def abort(self) -> None:
        """Close at once, and let go of the request under way."""
        self.close_at_once()
        if self._stream is not None:
            self._stream.client_gone()

    def close_at_once(self) -> None:
        # A client that has closed its side may take any end for that of the response.
        if self._stream is not None and self._stream.is_under_way and self._is_half_closed():
            self.reset_on_close(on=True)
        self._sock.close()

    def reset_on_close(self, *, on: bool) -> None:
        """Whether a close, also by the end of this process, is a reset: see `tls.py`."""
        if on != self._resets_on_close:
            self._resets_on_close = on
            reset_on_close(self._sock, on=on)

    def _client_left(self, stream: Http1Stream, now: float) -> bool:
        """Whether the client of the request under way is gone, as far as the system tells.

        One that has only closed its sending side is served. So is one that has closed, until its
        system tells: by a reset, when something is sent to it, or by itself when it has forgotten
        the connection (on Linux a minute later) and is asked by TCP.
        """
        if self._has_event(0):
            return True
        if not self._is_half_closed():
            return False
        if self._half_closed_at is None:
            self._half_closed_at = now
            probe(self._sock)
        if stream.in_body:
            return now - max(self._half_closed_at, self.output.sent_at) > HALF_CLOSED_SILENCE
        if now - max(self._half_closed_at, stream.started_at) > ASK_AFTER:
            self._ask(stream)
        return False

    def _is_half_closed(self) -> bool:
        """Whether the client has closed its side. (Linux tells.)"""
        return _POLLRDHUP is not None and self._has_event(_POLLRDHUP)

    def _ask(self, stream: Http1Stream) -> None:
        """Have a client that has closed answer with a TCP reset.

        Any other has to skip an interim response that it did not expect (RFC 9110 section 15.2).
        HTTP/1.0 has none.
        """
        if stream.was_asked or stream.headers_sent or stream.version < (1, 1):
            return
        if not self.output.is_sending and self._has_event(select.POLLOUT):
            stream.was_asked = True
            self.output.write(_CONTINUE)
            with suppress(OSError):  # the next look will tell
                self.output.flush()

    def _has_event(self, events: int) -> bool:
        """Whether `poll` has one of `events`, or an error or the end of both sides."""
        if self._sock.fileno() < 0:  # closed by another greenlet
            return True
        poll = _poll()
        poll.register(self._sock.fileno(), events)
        return bool(poll.poll(0))

    def _leave_queue(self, stream: Http1Stream) -> None:
        """Give up a request that has no place yet, and with it the connection."""
        self._limits.slots.leave(self)
        self._unstarted = None
        stream.is_over = True
        stream.finished()

    def _drain_seconds_left(self, now: float) -> float:
        deadline = self.host.drain_read_deadline
        return RECV_PROGRESS_TIMEOUT if deadline is None else deadline - now

    # -- the connection's greenlet --------------------------------------------

    def run(self) -> bool:
        """Serve requests until the connection is over; then True. Raises `OSError`."""
        try:
            while self._wait_for_request():
                try:
                    another = self._serve_request()
                except _NoRoomForHead:
                    another = self._refuse_head()
                if not another:
                    return True
            close_our_side(self._sock)  # the client has closed its own
        finally:
            self._sock.close()
            self._release_head()
            self._limits.headers.forget(self)
            if self._abort_later is not None:
                self._abort_later.kill(block=False)
        return True

    def _charge_head(self, size: int) -> None:
        """Have `size` bytes of the request's head counted. Raises `_NoRoomForHead`."""
        if not self._limits.headers.charge(self, size):
            raise _NoRoomForHead
        self._head_charged = size

    def _release_head(self) -> None:
        if self._head_charged:
            self._limits.headers.release(self, self._head_charged)
            self._head_charged = 0

    def close_for_headers(self) -> None:
        """Make room for other requests' heads."""
        self.evict()

    def _wait_for_request(self) -> bool:
        self._release_head()
        self._idle_since = time.monotonic()
        self._limits.idle.add(self)
        self._skip_empty_lines()
        while not self._buffer:
            self._sock.settimeout(None)  # sweep() ends it
            if not self._receive(HEAD_RECV_SIZE):
                return False
            self._skip_empty_lines()
        self._idle_since = None
        return True

    def _skip_empty_lines(self) -> None:
        if self._buffer.startswith(b"\r\n"):
            empty = _EMPTY_LINES_RE.match(bytes(self._buffer))
            assert empty is not None
            del self._buffer[: empty.end()]

    def _receive(self, size: int = RECV_SIZE) -> bool:
        data = self._sock.recv(size)
        self._buffer += data
        # A client that always has more to say must not keep the hub to itself.
        give_way()
        return bool(data)

    def _serve_request(self) -> bool:
        """Serve one request; True if another may follow on this connection.

        Raises `_NoRoomForHead`.
        """
        try:
            head = self._read_head()
        except LimitRequestHeaders as exc:
            return self._refuse(None, exc)
        finally:
            self._limits.idle.remove(self)  # half a head is as good as none
        if head is None or self._refused_as_http2(head):
            return False
        if self._is_healthcheck(head):
            return self._answer_healthcheck()
        try:
            parsed = ParsedRequest(self.is_ssl, head, self.client, self.req_count + 1)
            _check_request(parsed)
            parsed.version = min(parsed.version, _HIGHEST_VERSION)
            response = http1_response(parsed, self.output, is_tls=self.is_ssl)
        except Exception as exc:
            return self._refuse(None, exc)
        try:
            self.host.rules.check_length(parsed.content_length)
            if len(head) > FREE:
                self._charge_head(size_to_charge(parsed.headers, len(head)))
        except LimitRequestBody as exc:
            return self._refuse(parsed, exc)
        del head  # it is not needed for as long as the view runs
        return self._serve_parsed(parsed, response)

    def _serve_parsed(self, parsed: ParsedRequest, response: Any) -> bool:
        if expects_continue(parsed):
            self.output.write(_CONTINUE)
            self.output.flush()
        sink = SpooledBody(self.host.rules, self._limits.uploads, self._upload_evicted)
        started = time.monotonic()
        try:
            self._ingest(sink, parsed)
            sink.whole()
        except _IncompleteBody as exc:
            release(sink)
            if isinstance(exc.__cause__, RecordFlood):
                raise exc.__cause__ from None
            _run(self.write_error(408, "Request Timeout", "Incomplete request body"))
            return self._linger()
        except ParseException as exc:
            release(sink)
            return self._refuse(parsed, exc)
        except OSError as exc:
            release(sink)
            log_unwritten(exc)
            response.status = "500"
            log_access(response, parsed, timedelta(seconds=time.monotonic() - started))
            _run(self.write_error(500, "Internal Server Error", ""))
            return self._linger()
        except BaseException:
            release(sink)
            raise
        stream = Http1Stream(self, parsed, response, sink, time.monotonic() - started)
        stream.header_bytes, self._head_charged = self._head_charged, 0
        self.req_count += 1
        self._stream = stream
        stream.pipelined = bool(self._buffer)
        self._unstarted = stream
        self._limits.slots.run(self)
        stream.done.wait()
        if stream.websocket is not None:
            self._read_websocket(stream, stream.websocket)
        self._stream = None
        if stream.gone_at is not None:
            reset(self._sock)
            return False
        if self._is_refused:
            _run(self.write_error(503, "Service Unavailable", ""))
        return stream.keep_alive or self._linger()

    @property
    def has_stream_to_start(self) -> bool:
        return self._unstarted is not None

    def next_stream(self) -> Http1Stream | None:
        """Take the stream to start."""
        stream, self._unstarted = self._unstarted, None
        return stream

    def refuse_waiting(self) -> None:
        """Answer a request that waits with a 503, in the connection's greenlet."""
        if self._unstarted is not None:
            self._is_refused = True
            self._leave_queue(self._unstarted)

    def _read_websocket(self, stream: Http1Stream, websocket: WebSocketTransport) -> None:
        """Hand on what the client sends, until both sides have ended."""
        self._sock.settimeout(None)
        try:
            while self._receive():
                websocket.feed(bytes(self._buffer))
                self._buffer.clear()
                websocket.wait_for_room(WEBSOCKET_BACKLOG)
                self._sock.settimeout(None)  # not that of a send meanwhile
            websocket.feed_end()
        except OSError as exc:
            stream.client_gone()
            if isinstance(exc, RecordFlood):
                report_abuse(self.client, str(exc))
        if not stream.is_over:
            stream.done.clear()  # set by the upgrade
            stream.done.wait()

    def websocket_refused(self) -> None:
        log.debug("WebSocket holds too much", extra={"client": self.client})

    def end_websocket(self) -> None:
        """Close our side; the client has a while to close its own."""
        close_our_side(self._sock)
        self._abort_later = gevent.spawn_later(LINGER_CLOSE_TIMEOUT, self.abort)

    def _read_head(self) -> bytes | None:
        """A request's line and headers; None if they do not come.

        Raises `LimitRequestHeaders`.
        """
        buffer, scanned = self._buffer, 0
        if not self.is_ssl and buffer.startswith(_TLS_HANDSHAKE):
            self.host.failed_handshakes.add("TLS to a port without TLS (--certfile)")
            if b"\r\n\r\n" not in buffer:  # or what came is the head of a bad request
                return None
        self.request_is_head = False
        deadline = time.monotonic() + HEADER_READ_TIMEOUT
        while True:
            self._skip_empty_lines()
            end = buffer.find(b"\r\n\r\n", scanned)
            if end >= 0 or len(buffer) > MAX_HEAD_SIZE:
                self.request_is_head = buffer.startswith(b"HEAD ")
            if end >= 0:
                if scanned:  # it came in pieces
                    self._limits.headers.unfinished(self, 0)
                head = bytes(buffer[: end + 4])
                del buffer[: end + 4]
                if len(head) > MAX_HEAD_SIZE or head.count(b"\r\n") > MAX_HEAD_LINES:
                    raise LimitRequestHeaders("limit request headers")
                return head
            if len(buffer) > MAX_HEAD_SIZE:
                raise LimitRequestHeaders("Request headers exceeded max size")
            self._limits.headers.unfinished(self, max(0, len(buffer) - FREE))
            scanned = max(0, len(buffer) - 3)
            now = time.monotonic()
            if now >= deadline or (self._drain_since and drain_expired(self.host)):
                return None
            self._sock.settimeout(min(deadline - now, recv_timeout(self.host)))
            try:
                if not self._receive(HEAD_RECV_SIZE):
                    return None
            except TimeoutError:
                return None

    def _ingest(self, sink: SpooledBody, parsed: ParsedRequest) -> None:
        """Take in the whole body, as Plain's own worker does before it runs the view.

        Raises `_IncompleteBody`, and what `BodySink` and `ChunkedDecoder` raise.
        """
        rate = self.host.rules.rate_floor()
        if parsed.content_length is None:
            self._ingest_chunked(sink, parsed, rate)
            return
        remaining = parsed.content_length
        while True:
            piece = bytes(self._buffer[:remaining])
            del self._buffer[: len(piece)]
            if piece:
                sink.feed(piece)
                remaining -= len(piece)
            if not remaining:
                return
            sink.wait_for_room()
            self._receive_body(rate)

    def _ingest_chunked(
        self, sink: SpooledBody, parsed: ParsedRequest, rate: BodyRateFloor
    ) -> None:
        decoder = ChunkedDecoder()
        chunks = 0
        while not decoder.finished:
            if data := decoder.take(self._buffer):
                sink.feed(data)
                chunks += 1
                if not chunks % CHUNKS_IN_A_TURN:
                    give_way()
            elif not decoder.finished:
                sink.wait_for_room()
                self._receive_body(rate)
        if decoder.trailers:
            parsed.parse_headers(decoder.trailers)  # to refuse bad ones

    def _receive_body(self, rate: BodyRateFloor) -> None:
        if rate.violated() or drain_expired(self.host):
            raise _IncompleteBody
        started, before = time.monotonic(), len(self._buffer)
        self._sock.settimeout(recv_timeout(self.host, BODY_RECV_TIMEOUT))
        self._body_reader = gevent.getcurrent()
        try:
            received = self._receive()
        except OSError as exc:
            raise _IncompleteBody from exc
        finally:
            self._body_reader = None
        if not received:
            raise _IncompleteBody
        rate.record(waited=time.monotonic() - started, received=len(self._buffer) - before)

    def _upload_evicted(self) -> None:
        """The body was given up since another needs its room. Called by any greenlet."""
        limit = self._limits.uploads.limit
        assert limit is not None
        self._stop_body_later(BodyBudgetExceeded(limit))

    def _stop_body_later(self, exc: Exception) -> None:
        gevent.get_hub().loop.run_callback(self._stop_body, exc)

    def _stop_body(self, exc: Exception) -> None:
        """Stop the reader where it waits for more of the body. Runs in the hub.

        If it does not wait just now, the sink tells it that the body was given up.
        """
        if self._body_reader is not None:
            self._body_reader.throw(exc)

    # -- answers that need no view --------------------------------------------

    def _is_healthcheck(self, head: bytes) -> bool:
        path = extract_request_path(head)
        return self.host.rules.is_health_check(path.decode("latin-1"))

    def _answer_healthcheck(self) -> bool:
        head_only = self.request_is_head
        self.output.write(HEALTHCHECK_RESPONSE_HEAD if head_only else HEALTHCHECK_RESPONSE)
        self.output.flush()
        return self._linger()

    def _refuse(self, parsed: ParsedRequest | None, exc: Exception) -> bool:
        """Answer with Plain's error page for `exc`, which is being handled, and close."""
        _run(answer_error(self.host, parsed, self, exc))
        return self._linger()

    def _refused_as_http2(self, head: bytes) -> bool:
        """Tell a client that speaks HTTP/2 without having agreed on it, in its own protocol."""
        if not head.startswith(_HTTP2_HEAD):
            return False
        why = "HTTP/2 needs TLS and ALPN"
        self.host.http2_without_alpn.add(f"{why}{'' if self.is_ssl else ' (--certfile)'}")
        settings = pack_frame(FrameType.SETTINGS, 0, 0)
        self.output.write(settings + goaway(0, ErrorCodes.HTTP_1_1_REQUIRED, why.encode()))
        self.output.flush()
        self._linger()
        return True

    def _refuse_head(self) -> bool:
        _run(self.write_error(503, "Service Unavailable", ""))
        return self._linger()

    async def write_error(self, status: int, reason: str, message: str) -> None:
        page = error_page(status, reason, message, head=self.request_is_head)
        self.output.write(page)
        try:
            self.output.flush()
        except OSError:
            log.debug("Client left before its error page", extra={"client": self.client})

    def _linger(self) -> bool:
        """Close our side and read on for a while, so that the answer is not lost to a reset."""
        self.reset_on_close(on=False)
        close_our_side(self._sock)
        self._buffer.clear()
        discarded = 0
        with gevent.Timeout(LINGER_CLOSE_TIMEOUT, False):  # type: ignore[arg-type]
            while discarded < LINGER_CLOSE_MAX_BYTES:
                try:
                    data = self._sock.recv(RECV_SIZE)
                except OSError:
                    break
                if not data:
                    break
                discarded += len(data)
        return False
