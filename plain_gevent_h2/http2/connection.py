"""One HTTP/2 connection: its reader, its streams and its end."""

import time
from contextlib import suppress
from functools import partial
from typing import Any

import gevent
from h2 import events
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from plain.http import NotAllowedResponse, Response
from plain.logs import get_framework_logger

from plain_gevent_h2.app.host import Host
from plain_gevent_h2.app.plain_internals import (
    HEALTHCHECK_BODY,
    BodyBudgetExceeded,
    LimitRequestBody,
)
from plain_gevent_h2.app.request_rules import expects_continue
from plain_gevent_h2.app.websocket import WebSocketTransport
from plain_gevent_h2.limits.header_budget import FREE, LONG_BLOCK, size_to_charge
from plain_gevent_h2.limits.send_timeout import MIN_PROGRESS, SEND_TIMEOUT_UNDER_PRESSURE
from plain_gevent_h2.limits.unsent import MAX_UNREAD_RESPONSES
from plain_gevent_h2.net import metrics
from plain_gevent_h2.net.abuse import report_abuse
from plain_gevent_h2.net.fairness import LONG_TURN, TURN, give_way, penalty
from plain_gevent_h2.net.tcp import close_our_side
from plain_gevent_h2.net.tls_socket import RECORD_SIZE, RECV_SIZE, TlsSocket
from plain_gevent_h2.stream import ClientGone, log_unwritten, release

from .faults import ConnectionFault, StreamFault
from .frame_filter import FrameFilter, GoAway
from .frames import (
    GOAWAY_SIZE,
    MAX_STREAM_ID,
    ErrorCodes,
    FrameType,
    error_name,
    goaway,
    window_update,
)
from .headers import (
    HeadersTooLarge,
    MalformedRequest,
    PathTooLong,
    RefusedRequest,
    RequestHead,
    check_trailers,
    parse_request,
)
from .send_buffer import LOW_WATER, SendBuffer
from .state_machine import HeadersDiscarded, error_code, h2_connection
from .stream import Http2Stream
from .token_buckets import (
    DATA_ON_CLOSED_STREAM,
    LONG_PATH_COST,
    OVERSIZED_HEADERS_COST,
    RESET_FRAME,
    RESET_FRAMES_FOR_RESPONSE,
    SMALL_DATA,
    TokenBuckets,
)
from .writer import Writer

log = get_framework_logger("plain.server")

#: Seconds of idleness after which a connection gives up its reader's greenlet.
PARK_AFTER = 1.0
_READ = 1  # a loop's io watcher: readable

#: Seconds a client has to send its connection preface.
PREFACE_TIMEOUT = 10.0

#: Bytes of a header block that are not counted while its end is still to come: a frame's. And
#: seconds in which the end has to come, as for a head of HTTP/1.1.
BLOCK_NOT_CHARGED = 16 * 1024
BLOCK_TIMEOUT = 10.0

#: Seconds that a byte of a header block takes at worst: one of Huffman's code.
DECODING_A_BYTE = 80e-9

#: What a client may still send after a complete response to a request that is not
#: complete (RFC 9113 section 8.1): past these bytes or seconds the stream is reset with
#: NO_ERROR. Resetting at once would turn frames already under way into faults.
DISCARD_BYTES = 256 * 1024
DISCARD_TIMEOUT = 2.0

#: Sweeps, of a second each, in which a client should have taken the whole responses that it has
#: asked for, while those of all connections are past `MAX_UNREAD_RESPONSES`.
SWEEPS_TO_TAKE = 4

#: Seconds for which a socket that takes nothing is not yet the client's doing.
STALLED = 1.0

#: Streams that may be open in a worker, 3 KiB each, before a connection may have only a few. (Or
#: twice as many as may run, if that is more.)
MANY_STREAMS = 20_000
FEW_STREAMS = 10

#: Seconds for which the drain of a busy connection waits until no stream is open. Clients
#: built on `h2`, such as httpx, fail every stream in flight when they see a GOAWAY.
DRAIN_GAP = 0.2

#: Seconds that the first GOAWAY of a drain has to reach the client, should it not answer
#: the PING that follows it.
DRAIN_PING_TIMEOUT = 1.0
_DRAIN_PING = b"draining"

#: Seconds to go on reading after our side is closed, so that the last frames are not lost
#: to a TCP reset.
LINGER_TIMEOUT = 2.0


class _Park(Exception):
    """Thrown into a reader that waits for an idle peer."""


class Http2Connection:
    """The HTTP/2 side of one accepted connection.

    `run()` is the reader's greenlet. Streams call the verbs from theirs, the worker calls
    `drain()`, `sweep()` and `abort()` from its own. All of these are greenlets of one
    thread and none of the methods but `run()` blocks, so there are no locks.
    """

    # As in `Stream`: there are more than 30.
    __slots__ = (
        "_aborted",
        "_block_since",
        "_buckets",
        "_client_is_going",
        "_clientless",
        "_closing_code",
        "_closing_since",
        "_drain_since",
        "_few_streams",
        "_final_stream_id",
        "_frames",
        "_goaway_sent_at",
        "_h2",
        "_idle_since",
        "_last_progress",
        "_last_stream_id",
        "_limits",
        "_most_running",
        "_opened_at",
        "_parked",
        "_reader",
        "_receiving",
        "_recv_size",
        "_requests",
        "_running",
        "_sock",
        "_streams",
        "_turn_began",
        "_unsent",
        "_waiting",
        "_writer",
        "client",
        "host",
        "penalties",
        "server",
    )

    protocol_version = "2"

    def __init__(self, host: Host, sock: TlsSocket, client: Any, server: Any) -> None:
        # Set once.
        self.host = host
        self._limits = limits = host.limits
        self.client = client
        self.server = server
        self._sock = sock
        self._few_streams = min(FEW_STREAMS, host.config.max_concurrent_streams)
        self._most_running = limits.slots.share(host.config.max_concurrent_streams)
        self._opened_at = time.monotonic()

        # The reader, and what stands for it while it is parked.
        self._reader: Any = None
        self._receiving = False  # it waits for the peer, in recv()
        self._parked: Any = None  # the watcher that starts it again

        # Changed by the reader alone.
        self._buckets = TokenBuckets()
        self._frames = FrameFilter(
            host.config.max_frame_size,
            self._data_fault,
            self._count_frame,
            2 * host.config.max_header_list_size,
        )
        self._turn_began = self._opened_at  # monotonic
        # Bytes taken from the socket at once: many for a body alone, since a connection that is
        # slowed down holds them for as long (100 held 80 MB).
        self._recv_size = RECORD_SIZE
        self.penalties = 0  # see `PenaltyBox`
        self._block_since: float | None = None  # monotonic, of a header block without its end
        self._requests = 0
        self._last_stream_id = 0  # the highest stream that was not refused

        # Shared by the reader, the writer and the streams.
        self._h2 = h2_connection(host.config)
        self._writer = Writer(
            sock,
            self._h2,
            self._buckets,
            ended=self._response_ended,
            failed=self.abort,
        )
        self._streams: dict[int, Http2Stream] = {}  # open, as RFC 9113 section 5.1.2 counts
        self._waiting: list[Http2Stream] = []  # received whole, to be started
        self._running = 0  # streams with a greenlet, the client's resets included
        self._clientless = 0  # of these, those whose client is gone
        self._idle_since: float | None = self._opened_at  # monotonic, None with streams open

        # The end of the connection.
        self._client_is_going = False  # it sent a GOAWAY
        self._drain_since: float | None = None
        self._goaway_sent_at: float | None = None  # the first of two
        self._final_stream_id: int | None = None  # the last stream of the final GOAWAY
        self._closing_since: float | None = None
        self._closing_code = ErrorCodes.NO_ERROR
        self._unsent = 0  # bytes in the kernel, when it was last looked at
        self._last_progress = 0.0  # monotonic time at which that changed
        self._aborted = False
        limits.idle.add(self)

    @property
    def active_streams(self) -> int:
        return len(self._streams)

    @property
    def is_faulty(self) -> bool:
        """Whether it is about to be closed for a fault of the client's."""
        return self._closing_code != ErrorCodes.NO_ERROR and not self._aborted

    # -- the reader -----------------------------------------------------------

    def run(self) -> bool:
        """Read until the connection is over (True) or idle for long enough to park (False).

        A parked connection has no greenlet (8 KiB): the worker's `read()` runs it again when
        the peer sends something. Raises `OSError` if the socket fails.
        """
        self._reader = gevent.getcurrent()
        self._writer.wake()
        try:
            while data := self._recv():
                self._turn_began = time.monotonic()
                if self._closing_since is None:
                    self._receive(data)
                # Else it is thrown away: see LINGER_TIMEOUT.
                del data  # before a wait
                self._give_way()
        except _Park:
            self._reader = None
            self._parked = gevent.get_hub().loop.io(self._sock.fileno(), _READ)
            self._parked.start(self._unpark)
            return False
        except BaseException:
            self._over()
            raise
        self._over()
        return True

    def _give_way(self) -> None:
        """Let other greenlets run, and wait for a peer that does not read our answers."""
        too_long = time.monotonic() - self._turn_began - LONG_TURN
        self._writer.wake()
        self._writer.wait_for_room()
        if self._is_unwelcome():
            # What comes after a GOAWAY is thrown away: the sooner it is read, the sooner it ends.
            self._recv_size = RECV_SIZE if self.is_faulty else RECORD_SIZE
            began = time.monotonic()
            self._limits.penalty_box.wait(self, penalty(too_long))
            # Else one of many would get back as much as it uses, and never be closed.
            self._buckets.skip_refill(time.monotonic() - began)
        else:
            give_way()
            self.penalties = 0
        self._turn_began = time.monotonic()

    def _is_unwelcome(self) -> bool:
        return self.is_faulty or self._buckets.low()

    def close_for_penalties(self) -> None:
        """Make room in the penalty box: no other was there as often."""
        if self.is_faulty:
            self.abort()
        else:
            self._close_for_abuse("too many penalties")

    def close_for_headers(self) -> None:
        """Make room for other requests' headers: no other holds as many bytes."""
        self._close_for_abuse("too many bytes of header fields")

    def close_for_responses(self) -> None:
        """Make room for other responses: this client takes none of its own."""
        self._close_for_abuse("responses that are not taken")

    def _close_for_abuse(self, reason: str) -> None:
        if self._closing_since is None and not self._aborted:
            report_abuse(self.client, reason)
            self._close(ErrorCodes.ENHANCE_YOUR_CALM, reason.encode())
        self._limits.penalty_box.leave(self)

    def _recv(self) -> bytes:
        self._receiving = True
        try:
            return self._sock.recv(self._recv_size)
        finally:
            self._receiving = False

    def _over(self) -> None:
        self._aborted = True
        self._let_go_of_streams()
        self._limits.headers.forget(self)
        self._limits.slots.leave(self)
        self._writer.close()
        self._sock.close()
        # Of what holds the connection in turn: a cycle is left to the garbage collector, which
        # comes seldom (`memory.py`). A connection takes up to 100 KiB.
        self._h2.receive_no_more()
        del self._frames
        self._reader = None

    def _park(self) -> None:
        """Stop the reader where it waits. Runs in the hub, as the timer of a Timeout does."""
        is_idle = self._receiving and self._idle_since is not None
        if is_idle and self._closing_since is None and not self._aborted:
            self._reader.throw(_Park())

    def _unpark(self) -> None:
        if self._parked is not None:
            self._parked.stop()
            self._parked.close()
            self._parked = None
            gevent.spawn(self.host.read, self)

    def _receive(self, data: bytes) -> None:
        try:
            for item in self._frames.feed(data):
                if isinstance(item, StreamFault):
                    self._fault_on_stream(item)
                elif isinstance(item, GoAway):
                    self._client_goes_away()
                elif item and self._may_decode():
                    self._receive_frames(item)
                if time.monotonic() > self._turn_began + TURN:
                    self._give_way()
                if self._closing_since is not None or self._aborted:
                    return
            self._count_unfinished_block()
        except ConnectionFault as fault:
            self._connection_fault(fault)

    def _connection_fault(self, fault: ConnectionFault) -> None:
        if fault.code == ErrorCodes.ENHANCE_YOUR_CALM:
            self._close_for_abuse(fault.reason)
            return
        log.debug("HTTP/2 connection fault", extra={"client": self.client, "error": str(fault)})
        self._close(fault.code, fault.reason.encode())

    def _may_decode(self) -> bool:
        """Wait before a long header block is decoded, if need be; False if that was the end."""
        size = self._frames.take_finished_block()
        if size > LONG_BLOCK and self._limits.headers.must_wait(size):
            self._limits.penalty_box.wait(self, penalty(size * DECODING_A_BYTE))
            self._turn_began = time.monotonic()
        return self._closing_since is None and not self._aborted

    def _count_unfinished_block(self) -> None:
        size = self._frames.unfinished_block
        if not size and self._block_since is None:
            return  # as after nearly every read
        if size and self._block_since is None:
            self._block_since = time.monotonic()
        elif not size:
            self._block_since = None
        self._limits.headers.unfinished(self, max(0, size - BLOCK_NOT_CHARGED))

    def _receive_frames(self, data: bytes) -> None:
        try:
            received = self._h2.receive_data(data)
        except ProtocolError as exc:
            # The answers to the frames before it stay; h2's own GOAWAY, the last that it
            # queued, may have the wrong code.
            self._writer.send_raw(self._h2.data_to_send()[:-GOAWAY_SIZE])
            raise ConnectionFault(error_code(exc), str(exc)) from exc
        for event in received:
            handle = _HANDLERS.get(type(event))
            if handle is not None:
                handle(self, event)

    def _client_goes_away(self) -> None:
        """The client opens no more streams: close when those that are open have ended.

        Not by a drain of our own: clients built on `h2` take nothing after its GOAWAY.
        """
        self._client_is_going = True
        if not self._streams:
            self._close(ErrorCodes.NO_ERROR)

    def _fault_on_stream(self, fault: StreamFault) -> None:
        self._buckets.take(FrameType.RST_STREAM)
        stream = self._streams.get(fault.stream_id)
        if stream is not None:
            self.reset(stream, fault.code)
        if fault.unseen:
            self._writer.send_raw(window_update(fault.unseen))

    def _count_frame(self, kind: int) -> None:
        """Of RST_STREAM, those that end a stream are counted in `_stream_reset()` as well."""
        if kind == SMALL_DATA:
            self._buckets.take_if_any(kind)
            return
        self._buckets.take(RESET_FRAME if kind == FrameType.RST_STREAM else kind)

    def _data_fault(self, stream_id: int, size: int, *, ends: bool) -> ErrorCodes | None:
        """Compare DATA with the request's content-length (RFC 9113 section 8.1.1)."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._buckets.take(DATA_ON_CLOSED_STREAM)
            return None
        if stream.content_length is None or stream.headers_sent:
            return None
        missing = stream.content_length - stream.sink.received - size
        return ErrorCodes.PROTOCOL_ERROR if missing < 0 or (ends and missing) else None

    # -- events of h2 ---------------------------------------------------------

    def _request_received(self, event: events.RequestReceived) -> None:
        stream_id = event.stream_id
        open_here = len(self._streams)
        if self._final_stream_id is not None or (
            open_here >= self._few_streams and open_here >= self._most_streams()
        ):
            # Not processed in any way, so the client may send it again elsewhere (RFC 9113
            # section 8.7).
            metrics.stream_refused()
            self._refuse(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        self._last_stream_id = stream_id
        try:
            head = parse_request(event.headers, self.host.config.max_header_list_size)  # type: ignore[arg-type]
        except MalformedRequest as exc:
            log.debug("Malformed request", extra={"client": self.client, "error": str(exc)})
            self._refuse(stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        except RefusedRequest as exc:
            if isinstance(exc, HeadersTooLarge):
                is_long_path = isinstance(exc, PathTooLong) and exc.size < LONG_BLOCK
                cost = LONG_PATH_COST if is_long_path else OVERSIZED_HEADERS_COST
                self._buckets.take(FrameType.RST_STREAM, cost)
            log.warning("Invalid request", extra={"client": self.client, "error": str(exc)})
            method = dict(event.headers).get(b":method", b"").decode("latin-1")  # type: ignore[arg-type, call-overload]
            self._open(Http2Stream(self, stream_id, RequestHead(method, "/", None, [])))
            self._streams[stream_id].send_error(exc.status)
            return
        stream = Http2Stream(self, stream_id, head)
        self._open(stream)
        if head.size > FREE and not self._take_long_headers(stream, head):
            return
        if head.protocol is None:
            self._answer_early(stream, head)
            if event.stream_ended is None and not stream.headers_sent:
                self._answer_expectation(stream_id, head)
        elif head.protocol == "websocket":
            stream.websocket = WebSocketTransport(
                self._limits.unread_websockets,
                partial(self.consumed, stream_id),
                partial(self._websocket_refused, stream_id),
            )
            self._start(stream)
        else:
            stream.send_error(501)

    def _take_long_headers(self, stream: Http2Stream, head: RequestHead) -> bool:
        """Count what the request's header fields take; whether there is room for them."""
        size = size_to_charge(head.fields, head.size)
        if self._limits.headers.charge(self, size):
            stream.header_bytes = size
            if self._closing_since is None:
                return True
            stream.release_headers()  # it was this connection that had to make room
        else:
            stream.send_error(503)
        return False

    def _most_streams(self) -> int:
        """How many streams may be open here: few, while the worker has very many.

        Not asked below those few.
        """
        config = self.host.config
        if self._limits.open_streams < max(MANY_STREAMS, 2 * config.max_running_streams):
            return config.max_concurrent_streams
        return self._few_streams

    def _refuse(self, stream_id: int, code: ErrorCodes) -> None:
        """Reset a stream that never was."""
        with suppress(ProtocolError):  # the client may have reset it in the same breath
            self._h2.reset_stream(stream_id, code)
        metrics.stream_reset(code.name, by_client=False)
        self._buckets.take(FrameType.RST_STREAM)

    def _reset_for_fault(self, stream: Http2Stream) -> None:
        """Reset `stream` because the client broke the protocol on it."""
        self.reset(stream, ErrorCodes.PROTOCOL_ERROR)
        self._buckets.take(FrameType.RST_STREAM)

    def _websocket_refused(self, stream_id: int) -> None:
        """A WebSocket holds too much. Called in the greenlet of any connection."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        log.debug("WebSocket holds too much", extra={"client": self.client})
        self.reset(stream, ErrorCodes.ENHANCE_YOUR_CALM)
        try:
            self._buckets.take(FrameType.RST_STREAM)
        except ConnectionFault as fault:
            self._connection_fault(fault)

    def _open(self, stream: Http2Stream) -> None:
        self._streams[stream.stream_id] = stream
        self._limits.open_streams += 1
        if self._idle_since is not None:
            self._idle_since = None
            self._limits.idle.remove(self)
        self._requests += 1
        if self._requests == self.host.config.max_requests_per_connection:
            self.drain()

    def _answer_early(self, stream: Http2Stream, head: RequestHead) -> None:
        """Answer what needs no body and no view: CONNECT, a health check, a body over the limit."""
        rules = self.host.rules
        if head.method == "CONNECT":
            # This is no proxy. Of a tunnel's client no end of a body is to be waited for.
            stream.respond_whole(NotAllowedResponse([]))
            return
        try:
            rules.check_length(head.content_length)
        except LimitRequestBody as exc:
            log.warning("Invalid request", extra={"client": self.client, "error": str(exc)})
            stream.send_error(413)
            return
        if rules.is_health_check(head.path):
            stream.respond_whole(Response(HEALTHCHECK_BODY, content_type="text/plain"))

    def _answer_expectation(self, stream_id: int, head: RequestHead) -> None:
        """Send the 100 that the client may be waiting for (RFC 9110 section 10.1.1)."""
        if expects_continue(value for name, value in head.fields if name == "expect"):
            with suppress(ProtocolError):  # as in _refuse()
                self._h2.send_headers(stream_id, [(b":status", b"100")])

    def _data_received(self, event: events.DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        size = event.flow_controlled_length or 0
        self._recv_size = RECV_SIZE
        if stream is not None:
            if stream.websocket is not None and event.data:
                size -= len(event.data)  # the rest when the view has taken them
                stream.websocket.feed(event.data)
            elif stream.headers_sent:
                stream.discarded += size
                if stream.discarded > DISCARD_BYTES and stream.response_ended:
                    self.reset(stream, ErrorCodes.NO_ERROR)
            else:
                size -= self._take_in(stream, event.data or b"")  # the rest when it is on disk
        # The bytes are taken in or thrown away: give the window back.
        self._h2.acknowledge_received_data(size, event.stream_id)

    def consumed(self, stream_id: int, size: int) -> None:
        """So many bytes were taken by a WebSocket's view, or written to disk."""
        if not self._aborted:
            with suppress(ProtocolError):
                self._h2.acknowledge_received_data(size, stream_id)
            self._writer.wake()

    def _take_in(self, stream: Http2Stream, data: bytes) -> int:
        """Add to a request's body. Returns how many bytes wait for the disk."""
        stream.received_at = time.monotonic()
        try:
            stream.sink.feed(data)
            return len(data) if stream.sink.spooled else 0
        except (LimitRequestBody, BodyBudgetExceeded) as exc:
            log.warning("Invalid request", extra={"client": self.client, "error": str(exc)})
            self._refuse_body(stream, 413 if isinstance(exc, LimitRequestBody) else 503)
        except OSError as exc:
            log_unwritten(exc)
            self._refuse_body(stream, 500)
        return 0

    def upload_evicted(self, stream_id: int) -> None:
        """A body was given up since another needs its room. Called by any greenlet."""
        if stream := self._streams.get(stream_id):
            log.warning("Upload evicted", extra={"client": self.client})
            self._refuse_body(stream, 503)

    def _refuse_body(self, stream: Http2Stream, status: int) -> None:
        release(stream.sink)
        stream.send_error(status)

    def _trailers_received(self, event: events.TrailersReceived) -> None:
        try:
            check_trailers(event.headers)  # type: ignore[arg-type]
        except MalformedRequest:
            if stream := self._streams.get(event.stream_id):
                self._reset_for_fault(stream)

    def _headers_discarded(self, _event: HeadersDiscarded) -> None:
        self._buckets.take(FrameType.RST_STREAM)

    def _stream_ended(self, event: events.StreamEnded) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        stream.client_ended = True
        if stream.websocket is not None:
            stream.websocket.feed_end()
        if stream.response_ended:
            self._forget(stream)
        elif not stream.headers_sent and stream.websocket is None:
            if stream.content_length not in (None, stream.sink.received):
                # RFC 9113 section 8.1.1: trailers came too early.
                self._reset_for_fault(stream)
            else:
                stream.sink.whole()
                self._start(stream)

    def _stream_reset(self, event: events.StreamReset) -> None:
        metrics.stream_reset(error_name(event.error_code or 0), by_client=bool(event.remote_reset))
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            self._forget(stream)
        if stream is not None or not event.remote_reset:  # ours: for a fault that h2 found
            self._buckets.take(FrameType.RST_STREAM)

    def _window_updated(self, event: events.WindowUpdated) -> None:
        if event.stream_id == 0:
            self._writer.wake()
        elif stream := self._streams.get(event.stream_id):
            self._writer.queue(stream.buffer)

    def _settings_changed(self, event: events.RemoteSettingsChanged) -> None:
        # A new INITIAL_WINDOW_SIZE moves every stream's window (RFC 9113 section 6.9.2).
        if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
            for stream in self._streams.values():
                self._writer.queue(stream.buffer)

    def _ping_acknowledged(self, event: events.PingAckReceived) -> None:
        if event.ping_data == _DRAIN_PING and self._goaway_sent_at is not None:
            self._send_final_goaway()

    # -- streams --------------------------------------------------------------

    def _start(self, stream: Http2Stream) -> None:
        """Give `stream` its greenlet, or let it wait for one that ends."""
        stream.started = True
        self._waiting.append(stream)
        self._limits.slots.run(self)

    @property
    def has_stream_to_start(self) -> bool:
        """Whether a stream waits, and no more run than the client may open and leave behind."""
        return (
            bool(self._waiting)
            and self._running - self._clientless < self.host.config.max_concurrent_streams
            and self._running < self._most_running
            and not self._takes_too_little()
        )

    def _takes_too_little(self) -> bool:
        """Whether the client should first take the whole responses that it has asked for.

        Only while other connections leave too much as well. It may leave what it takes in a few
        seconds: who reads is not held up.
        """
        if self._limits.unsent.http2 <= MAX_UNREAD_RESPONSES:
            return False
        streams = self._streams.values()
        own = sum(stream.buffer.size for stream in streams)
        if self._limits.unsent.http2 - own <= MAX_UNREAD_RESPONSES:
            return False
        if any(stream.greenlet is not None and not stream.started_at for stream in streams):
            return True  # one after another: what they will leave is not known yet
        left = sum(stream.buffer.size for stream in streams if stream.buffer.ending)
        return left > LOW_WATER + SWEEPS_TO_TAKE * self._writer.taken_lately

    def next_stream(self) -> Http2Stream | None:
        """Take the stream to start next, if there is one."""
        if not self.has_stream_to_start:
            return None
        self._running += 1
        return self._waiting.pop(0)

    def stream_began(self) -> None:
        """The greenlet of a stream is at its start: the next one's turn is when it waits or ends.

        Not before: what it leaves may be too much.
        """
        if self._waiting:
            gevent.get_hub().loop.run_callback(self._start_waiting)

    def _start_waiting(self) -> None:
        if self._waiting:
            self._limits.slots.run(self)

    def stream_finished(self, stream: Http2Stream) -> None:
        """The greenlet of `stream` is at its end."""
        self._running -= 1
        if stream.is_clientless:
            self._clientless -= 1
        self._start_waiting()

    def refuse_waiting(self) -> None:
        """Answer with a 503 what waits for views whose clients have left."""
        waiting, self._waiting = self._waiting, []
        for stream in waiting:
            stream.started = False
            self._refuse_body(stream, 503)

    def send_headers(self, stream: Http2Stream, headers: Any, *, end_stream: bool) -> None:
        """Send a response's header fields. Raises `ClientGone`."""
        if stream.buffer.closed:
            raise ClientGone
        try:
            self._h2.send_response(stream.stream_id, headers, end_stream=end_stream)
        except ProtocolError as exc:
            raise ClientGone from exc
        if end_stream:
            self._response_ended(stream.stream_id)
        self._writer.wake()

    def send_buffered(self, stream: Http2Stream) -> None:
        """Send what is in the stream's buffer, as its window allows."""
        self._writer.queue(stream.buffer)

    def send_what_fits(self, stream: Http2Stream) -> None:
        """Frame now what the stream's window allows of its buffer."""
        if not stream.buffer.closed:
            self._writer.frame_now(stream.buffer)

    def end(self, stream: Http2Stream) -> None:
        """End the response after what is in its buffer. Raises `ClientGone`."""
        buffer = stream.buffer
        if buffer.closed:
            raise ClientGone
        buffer.ending = True
        if buffer.size:
            self._writer.queue(buffer)
            return
        try:
            self._h2.end_stream(stream.stream_id)
        except ProtocolError as exc:
            raise ClientGone from exc
        self._response_ended(stream.stream_id)
        self._writer.wake()

    def reset(self, stream: Http2Stream, code: ErrorCodes) -> None:
        """Reset `stream` (RFC 9113 section 6.4); nothing if it is closed already."""
        if stream.buffer.closed:
            return
        with suppress(ProtocolError):
            self._h2.reset_stream(stream.stream_id, code)
        metrics.stream_reset(code.name, by_client=False)
        self._forget(stream)
        self._writer.wake()

    def _response_ended(self, stream_id: int) -> None:
        """Our END_STREAM is framed."""
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.response_ended = True
        stream.ended_at = time.monotonic()
        if stream.websocket is not None:
            stream.websocket.lost()
        if stream.client_ended:
            self._forget(stream)

    def _forget(self, stream: Http2Stream) -> None:
        """The stream is closed, whole or reset."""
        if self._streams.pop(stream.stream_id, None) is not None:
            self._limits.open_streams -= 1
        if stream.response_ended:
            self._buckets.refund(FrameType.RST_STREAM, 1)
            self._buckets.refund(RESET_FRAME, RESET_FRAMES_FOR_RESPONSE)
        self._let_go(stream)
        self._start_waiting()  # perhaps one waits for this one's bytes to be gone
        if not self._streams:
            self._idle_since = time.monotonic()
            self._limits.idle.add(self)
            self._h2.forget_closed_streams()
            if self._drain_since is not None or self._client_is_going:
                self._close(ErrorCodes.NO_ERROR)

    def _let_go(self, stream: Http2Stream) -> None:
        self._writer.forget(stream.buffer)
        if not stream.response_ended:
            stream.client_gone()
            self._clientless += stream.is_clientless
        if stream.websocket is not None:
            stream.websocket.lost()
        if stream in self._waiting:
            self._waiting.remove(stream)
            stream.started = False
        if not stream.started:
            release(stream.sink)
            stream.release_headers()

    def _let_go_of_streams(self) -> None:
        for stream in self._streams.values():
            self._let_go(stream)
        self._limits.open_streams -= len(self._streams)
        self._streams.clear()

    # -- the end of the connection ----------------------------------------------

    def drain(self) -> None:
        """Let open streams finish, take no new ones, then close (RFC 9113 section 6.8).

        Two GOAWAYs, as gRPC does: the first says "no new streams, please" while streams on
        their way to us are still served; the second, when a PING has come back or its time
        is up, names the last stream that is.
        """
        if self._drain_since is None:
            self._drain_since = time.monotonic()
        for stream in list(self._streams.values()):
            stream.drain()
        if not self._streams and self._last_stream_id:
            self._close(ErrorCodes.NO_ERROR)

    def _send_first_goaway(self, now: float) -> None:
        self._goaway_sent_at = now
        self._writer.send_raw(goaway(MAX_STREAM_ID, ErrorCodes.NO_ERROR))
        self._h2.ping(_DRAIN_PING)
        self._writer.wake()

    def _send_final_goaway(self) -> None:
        if self._final_stream_id is None:
            self._final_stream_id = self._last_stream_id
            self._writer.send_raw(goaway(self._last_stream_id, ErrorCodes.NO_ERROR))
            if not self._streams:
                self._close(ErrorCodes.NO_ERROR)

    def _close(self, code: ErrorCodes, reason: bytes = b"") -> None:
        """Send the final GOAWAY if it is still to be sent, then close, our side first."""
        if self._closing_since is not None or self._aborted:
            return
        self._closing_since = time.monotonic()
        self._closing_code = code
        self._limits.idle.remove(self)
        if code != ErrorCodes.NO_ERROR:
            self._limits.idle.faulty(self)
        self._unpark()
        if self._final_stream_id is None or code != ErrorCodes.NO_ERROR:
            self._writer.send_raw(goaway(self._last_stream_id, code, reason))
        self._final_stream_id = self._last_stream_id
        self._let_go_of_streams()
        gevent.spawn(self._close_after_last_write)

    def _close_after_last_write(self) -> None:
        self._writer.wait_until_idle()
        if not self._aborted:
            close_our_side(self._sock)

    def evict(self) -> None:
        """Close, being idle. The GOAWAY tells a client that asks just now to ask again."""
        self._close(ErrorCodes.NO_ERROR)

    def abort(self) -> None:
        """Close at once, whatever is still to be sent."""
        self._aborted = True
        self._limits.penalty_box.leave(self)
        self._limits.idle.remove(self)
        self._writer.close()
        self._unpark()
        self._sock.close()  # wakes the reader, which lets go of the streams

    # -- the worker's sweep -----------------------------------------------------

    def sweep(self, now: float) -> None:
        """Do what time asks for. Called by the worker, at least once a second."""
        if self._aborted:
            return  # its socket is closed, and the reader is about to see that
        if self._closing_since is not None:
            self._sweep_closing(now)
        elif (since := self._writer.writing_since) is not None and (
            now - since > self.host.config.send_timeout
        ):
            if self._writer.backlogged:
                report_abuse(self.client, "answers that are not read")
            else:
                log.debug("Client does not read", extra={"client": self.client})
            self.abort()
        elif self._block_since is not None and now - self._block_since > BLOCK_TIMEOUT:
            self._close_for_abuse("header block without an end")
        elif self._drain_since is not None:
            self._sweep_drain(now, self._drain_since)
        elif self._idle_since is not None:
            self._sweep_idle(now, self._idle_since)
        for stream in list(self._streams.values()):
            self._sweep_stream(stream, now)
        if self._waiting and self._clientless >= self._most_running:
            self.refuse_waiting()
        self._writer.sweep(now)
        self._start_waiting()  # the worker may have fewer bytes unsent by now

    def _sweep_closing(self, now: float) -> None:
        """Close the socket once the client had its time to read what was sent, and to close."""
        in_kernel = self._sock.unsent()
        if in_kernel != self._unsent:
            self._unsent = in_kernel
            self._last_progress = now
        limit = LINGER_TIMEOUT
        if self._closing_code == ErrorCodes.NO_ERROR and (in_kernel or not self._writer.idle):
            limit = self.host.config.send_timeout
        if now - max(self._last_progress, self._closing_since or 0) > limit:
            self.abort()

    def _sweep_drain(self, now: float, since: float) -> None:
        if self._goaway_sent_at is None:
            if now - since > DRAIN_GAP:
                self._send_first_goaway(now)
        elif now - self._goaway_sent_at > DRAIN_PING_TIMEOUT:
            self._send_final_goaway()

    def _sweep_idle(self, now: float, since: float) -> None:
        if now - since > self.host.rules.keepalive_timeout:
            self._close(ErrorCodes.NO_ERROR)
        elif not self._frames.preface_seen and now - self._opened_at > PREFACE_TIMEOUT:
            self._close(ErrorCodes.PROTOCOL_ERROR, b"no connection preface")
        elif self._receiving and now - since > PARK_AFTER:
            gevent.get_hub().loop.run_callback(self._park)

    def _sweep_stream(self, stream: Http2Stream, now: float) -> None:
        buffer = stream.buffer
        if stream.response_ended:
            if now - stream.ended_at > DISCARD_TIMEOUT:
                self.reset(stream, ErrorCodes.NO_ERROR)
        elif buffer.size and now - buffer.progress_at > self._send_timeout(stream, now):
            log.debug("Client does not take its response", extra={"client": self.client})
            self.reset(stream, ErrorCodes.CANCEL)
        elif not (stream.client_ended or stream.headers_sent) and stream.too_slow(now):
            if stream.websocket is None:
                self._refuse_body(stream, 408)
            else:
                stream.websocket.refuse()

    def _send_timeout(self, stream: Http2Stream, now: float) -> float:
        if self._holds_back(stream.buffer, now):
            return self._limits.send_timeout.now(holds_place=not stream.is_over)
        return self.host.config.send_timeout

    def untaken(self) -> list[int]:
        """The bytes left of each whole response, if the client has taken nothing for a while.

        By its connection: of 100 streams on a slow link each waits for its turn longer than that.
        """
        if self._aborted or self._writer.taken_lately >= MIN_PROGRESS:
            return []
        now = time.monotonic()
        buffers = [stream.buffer for stream in self._streams.values() if stream.buffer.ending]
        return [b.size for b in buffers if b.size and self._holds_back(b, now, STALLED)]

    def _holds_back(
        self, buffer: SendBuffer, now: float, patience: float = SEND_TIMEOUT_UNDER_PRESSURE
    ) -> bool:
        """Whether the body waits for the client's windows or its socket, not just for its turn.

        One of 100 on a slow link waits for its turn longer than the short limits. `patience`:
        seconds for which its socket may take nothing.
        """
        writing_since = self._writer.writing_since
        return (
            not buffer.queued  # by a window: see Writer
            or self._h2.outbound_flow_control_window <= 0
            or (writing_since is not None and now - writing_since > patience)
        )


_HANDLERS: dict[type[events.Event], Any] = {
    events.RequestReceived: Http2Connection._request_received,
    events.DataReceived: Http2Connection._data_received,
    events.TrailersReceived: Http2Connection._trailers_received,
    HeadersDiscarded: Http2Connection._headers_discarded,
    events.StreamEnded: Http2Connection._stream_ended,
    events.StreamReset: Http2Connection._stream_reset,
    events.WindowUpdated: Http2Connection._window_updated,
    events.RemoteSettingsChanged: Http2Connection._settings_changed,
    events.PingAckReceived: Http2Connection._ping_acknowledged,
}
