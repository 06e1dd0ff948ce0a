"""What the client of an HTTP/2 connection sends: its frames, and what `h2` makes of them."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol

from h2 import events
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from plain.logs import get_framework_logger

from plain_gevent_h2.app.worker_interface import WorkerInterface
from plain_gevent_h2.limits.header_budget import FREE, LONG_BLOCK, size_to_charge
from plain_gevent_h2.net import metrics
from plain_gevent_h2.net.tls_socket import RECORD_SIZE, RECV_SIZE

from .early_answers import answer_early, expects_continue
from .faults import ConnectionFault, StreamFault
from .frame_filter import FrameFilter, GoAway, Settled
from .frames import ErrorCodes, FrameType, RawFrame, error_name, window_update
from .headers import (
    HeadersTooLarge,
    MalformedRequest,
    PathTooLong,
    RefusedRequest,
    RequestHead,
    check_trailers,
    parse_request,
)
from .shutdown import Shutdown
from .state_machine import HeadersDiscarded, StateMachine, error_code
from .stream import Http2Stream
from .streams import Streams
from .token_buckets import (
    DATA_ON_CLOSED_STREAM,
    LONG_PATH_COST,
    OVERSIZED_HEADERS_COST,
    RESET_FRAME,
    SMALL_DATA,
    TokenBuckets,
)

log = get_framework_logger("plain.server")

#: What a client may still send after a complete response to a request that is not
#: complete (RFC 9113 section 8.1). Past these bytes, or `timeouts.DISCARD_TIMEOUT`, the stream
#: is reset with NO_ERROR. Resetting at once would turn frames already under way into faults.
DISCARD_BYTES = 256 * 1024

#: Streams that may be open in a worker, 3 KiB each, before a connection may have only a few. (Or
#: twice as many as may run, if that is more.)
MANY_STREAMS = 20_000
FEW_STREAMS = 10


class ReceiverConnection(Protocol):
    """What the receiver needs of its connection."""

    worker: WorkerInterface
    client: Any


class Receiver:
    """Takes frames in the order in which they came; the reader's greenlet alone calls it."""

    __slots__ = (
        "_buckets",
        "_few_streams",
        "_requests",
        "_shutdown",
        "_state_machine",
        "_streams",
        "_writer",
        "client",
        "frames",
        "recv_size",
        "worker",
    )

    def __init__(
        self,
        connection: ReceiverConnection,
        state_machine: StateMachine,
        buckets: TokenBuckets,
        streams: Streams,
        shutdown: Shutdown,
    ) -> None:
        # Set once.
        self.worker = worker = connection.worker
        self.client = connection.client
        self._state_machine = state_machine
        self._buckets = buckets
        self._streams = streams
        self._shutdown = shutdown
        self._writer = streams.writer
        self._few_streams = min(FEW_STREAMS, worker.config.max_concurrent_streams)

        self.frames = FrameFilter(
            worker.config.max_frame_size,
            self._check_data,
            self._count_frame,
            2 * worker.config.max_header_list_size,
        )
        self._requests = 0
        #: Bytes to take from the socket at once. Many once a body comes, and few again when the
        #: connection is throttled, since it holds them for as long (100 held 80 MB).
        self.recv_size = RECORD_SIZE

    def throttled(self, *, is_faulty: bool) -> None:
        """The connection has to wait before it reads on.

        What comes after the final GOAWAY of one that `is_faulty` is thrown away: the sooner it is
        read, the sooner the connection ends.
        """
        self.recv_size = RECV_SIZE if is_faulty else RECORD_SIZE

    def connection_over(self) -> None:
        """The connection is over: drop what holds this object."""
        del self.frames

    # -- frames ---------------------------------------------------------------

    def process(self, frames: Iterable[RawFrame]) -> None:
        """Have `h2` process `frames`. Raises `ConnectionFault`."""
        try:
            received = self._state_machine.receive_frames(frames)
        except ProtocolError as exc:
            raise ConnectionFault(error_code(exc), str(exc)) from exc
        for event in received:
            handle = _HANDLERS.get(type(event))
            if handle is not None:
                handle(self, event)

    def process_without_h2(self, item: StreamFault | GoAway) -> None:
        """Process what `h2` does not get to see. Raises `ConnectionFault`."""
        if isinstance(item, GoAway):
            self._shutdown.client_goes_away()
            return
        self._buckets.take(FrameType.RST_STREAM)
        stream = self._streams.by_id.get(item.stream_id)
        if stream is not None:
            self._streams.reset(stream, item.code)
        if item.unseen:
            self._writer.send_raw(window_update(item.unseen))

    def _count_frame(self, kind: int) -> None:
        """Of RST_STREAM, those that end a stream are counted in `_stream_reset()` as well."""
        if kind == SMALL_DATA:
            self._buckets.take_if_any(kind)
            return
        self._buckets.take(RESET_FRAME if kind == FrameType.RST_STREAM else kind)

    def _check_data(
        self, stream_id: int, size: int, length: int, *, ends: bool
    ) -> ErrorCodes | Settled | None:
        """See `DataCheck`. Raises `ConnectionFault`.

        DATA is compared with the request's content-length (RFC 9113 section 8.1.1). An END_STREAM
        that comes with HEADERS or trailers has its check in `_stream_ended()`.
        """
        stream = self._streams.by_id.get(stream_id)
        if stream is None:
            self._buckets.take(DATA_ON_CLOSED_STREAM)
            return self._settle_late_data(stream_id, length)
        if stream.content_length is None or stream.headers_sent:
            return None
        missing = stream.content_length - stream.sink.received - size
        return ErrorCodes.PROTOCOL_ERROR if missing < 0 or (ends and missing) else None

    def _settle_late_data(self, stream_id: int, length: int) -> Settled | None:
        try:
            done = self._state_machine.settle_late_data(stream_id, length)
        except ProtocolError as exc:
            raise ConnectionFault(error_code(exc), str(exc)) from exc
        return Settled.SETTLED if done else None

    # -- events of h2: a request ----------------------------------------------

    def _request_received(self, event: events.RequestReceived) -> None:
        stream_id = event.stream_id
        open_here = len(self._streams.by_id)
        if self._shutdown.refuses_streams or (
            open_here >= self._few_streams and open_here >= self._most_streams()
        ):
            # Not processed in any way, so the client may send it again elsewhere (RFC 9113
            # section 8.7). If the connection is closing, it has the GOAWAY that says so.
            if self._shutdown.is_open:
                metrics.stream_refused()
                self._refuse(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        self._shutdown.last_stream_id = stream_id
        try:
            head = parse_request(event.headers, self.worker.config.max_header_list_size)
        except MalformedRequest as exc:
            log.debug("Malformed request", extra={"client": self.client, "error": str(exc)})
            self._refuse(stream_id, ErrorCodes.PROTOCOL_ERROR)
            return
        except RefusedRequest as exc:
            self._answer_refused(event, exc)
            return
        stream = self._open(stream_id, head)
        if head.size > FREE and not self._take_long_headers(stream, head):
            return
        if head.protocol is not None:
            self._open_tunnel(stream, head.protocol)
            return
        if answer_early(stream, head):
            return
        # It starts in _stream_ended(): a GET right after this, an upload once it is whole.
        if event.stream_ended is None and expects_continue(head):
            with suppress(ProtocolError):  # as in _refuse()
                self._state_machine.send_headers(stream_id, [(b":status", b"100")])

    def _open_tunnel(self, stream: Http2Stream, protocol: str) -> None:
        """Serve an extended CONNECT (RFC 8441). It has no end to wait for."""
        if protocol == "websocket":
            stream.open_websocket()
            self._streams.queue.add(stream)
        else:
            stream.send_error(501)

    def _most_streams(self) -> int:
        """How many streams may be open here: few, while the worker has very many.

        Not asked below those few.
        """
        config = self.worker.config
        if self.worker.limits.open_streams < max(MANY_STREAMS, 2 * config.max_running_streams):
            return config.max_concurrent_streams
        return self._few_streams

    def _open(self, stream_id: int, head: RequestHead) -> Http2Stream:
        stream = Http2Stream(self.worker, self._streams, stream_id, head)
        self._streams.open(stream)
        self._requests += 1
        if self._requests == self.worker.config.max_requests_per_connection:
            self._shutdown.drain()  # the worker goes on, so WebSockets do as well
        return stream

    def _refuse(self, stream_id: int, code: ErrorCodes) -> None:
        """Reset a stream that is not opened."""
        with suppress(ProtocolError):  # the client may have reset it already
            self._state_machine.reset_stream(stream_id, code)
        metrics.stream_reset(code.name, by_client=False)
        self._buckets.take(FrameType.RST_STREAM)

    def _answer_refused(self, event: events.RequestReceived, exc: RefusedRequest) -> None:
        if isinstance(exc, HeadersTooLarge):
            is_long_path = isinstance(exc, PathTooLong) and exc.size < LONG_BLOCK
            cost = LONG_PATH_COST if is_long_path else OVERSIZED_HEADERS_COST
            self._buckets.take(FrameType.RST_STREAM, cost)
        log.warning("Invalid request", extra={"client": self.client, "error": str(exc)})
        method = dict(event.headers)[b":method"].decode("latin-1")
        self._open(event.stream_id, RequestHead(method, "/", None, [])).send_error(exc.status)

    def _take_long_headers(self, stream: Http2Stream, head: RequestHead) -> bool:
        """Count what the request's header fields take; whether there is room for them."""
        if not self._streams.charge_headers(stream, size_to_charge(head.fields, head.size)):
            stream.send_error(503)
        elif self._shutdown.is_open:
            return True
        else:
            stream.release_headers()  # it was this connection that had to make room
        return False

    # -- events of h2: what follows -------------------------------------------

    def _data_received(self, event: events.DataReceived) -> None:
        stream = self._streams.by_id.get(event.stream_id)
        size = event.flow_controlled_length or 0
        self.recv_size = RECV_SIZE
        if stream is None:
            pass
        elif stream.body_given_up:
            stream.discarded += size
            if stream.discarded > DISCARD_BYTES and stream.response_ended:
                self._streams.reset(stream, ErrorCodes.NO_ERROR)
        elif event.data:
            # Bytes that wait are acknowledged as they are consumed.
            size -= stream.take_data(event.data)
        # The bytes are stored or thrown away: give the windows back, the stream's and the
        # connection's.
        self._state_machine.acknowledge_received_data(size, event.stream_id)

    def _trailers_received(self, event: events.TrailersReceived) -> None:
        try:
            check_trailers(event.headers)
        except MalformedRequest:
            if stream := self._streams.by_id.get(event.stream_id):
                self._reset_for_fault(stream)

    def _headers_discarded(self, _event: HeadersDiscarded) -> None:
        self._buckets.take(FrameType.RST_STREAM)

    def _stream_ended(self, event: events.StreamEnded) -> None:
        stream = self._streams.by_id.get(event.stream_id)
        if stream is None:
            return
        stream.client_ended = True
        if stream.response_ended:
            self._streams.forget(stream)
        elif stream.body_given_up:
            pass  # its answer is under way
        elif stream.is_handed_over:
            stream.inbound.end()  # a WebSocket
        elif stream.content_length not in (None, stream.sink.received):
            # RFC 9113 section 8.1.1: no body came, or trailers came too early.
            self._reset_for_fault(stream)
        else:
            stream.inbound.end()
            self._streams.queue.add(stream)

    def _reset_for_fault(self, stream: Http2Stream) -> None:
        """Reset `stream` because the client broke the protocol on it."""
        self._streams.reset(stream, ErrorCodes.PROTOCOL_ERROR)
        self._buckets.take(FrameType.RST_STREAM)

    def _stream_reset(self, event: events.StreamReset) -> None:
        by_client = bool(event.remote_reset)
        metrics.stream_reset(error_name(event.error_code or 0), by_client=by_client)
        stream = self._streams.by_id.get(event.stream_id)
        if stream is not None:
            self._streams.forget(stream)
        if stream is not None or not by_client:  # ours: for a fault that h2 found
            self._buckets.take(FrameType.RST_STREAM)

    # -- events of h2: the connection's ---------------------------------------

    def _window_updated(self, event: events.WindowUpdated) -> None:
        if event.stream_id == 0:
            self._writer.wake()
        elif stream := self._streams.by_id.get(event.stream_id):
            self._writer.queue(stream.buffer)

    def _settings_changed(self, event: events.RemoteSettingsChanged) -> None:
        # A new INITIAL_WINDOW_SIZE moves every stream's window (RFC 9113 section 6.9.2).
        if SettingCodes.INITIAL_WINDOW_SIZE in event.changed_settings:
            for stream in self._streams.by_id.values():
                self._writer.queue(stream.buffer)

    def _ping_acknowledged(self, event: events.PingAckReceived) -> None:
        self._shutdown.ping_acknowledged(event.ping_data or b"")


_HANDLERS: dict[type[events.Event], Any] = {
    events.RequestReceived: Receiver._request_received,
    events.DataReceived: Receiver._data_received,
    events.TrailersReceived: Receiver._trailers_received,
    HeadersDiscarded: Receiver._headers_discarded,
    events.StreamEnded: Receiver._stream_ended,
    events.StreamReset: Receiver._stream_reset,
    events.WindowUpdated: Receiver._window_updated,
    events.RemoteSettingsChanged: Receiver._settings_changed,
    events.PingAckReceived: Receiver._ping_acknowledged,
}
