"""The open streams of a connection, and what they ask of it."""

import time
from contextlib import suppress
from typing import Any, Protocol

from h2.exceptions import ProtocolError
from plain.logs import get_framework_logger

from plain_gevent_h2.app.worker_interface import WorkerInterface
from plain_gevent_h2.net import metrics
from plain_gevent_h2.net.tls_socket import TlsSocket
from plain_gevent_h2.stream import ClientGone

from .faults import ConnectionFault
from .frames import ErrorCodes, FrameType
from .start_queue import StartQueue
from .state_machine import StateMachine
from .stream import Http2Stream
from .token_buckets import RESET_FRAME, RESET_FRAMES_FOR_RESPONSE, TokenBuckets
from .writer import Writer

log = get_framework_logger("plain.server")


class StreamsConnection(Protocol):
    """What `Streams` needs of its connection."""

    worker: WorkerInterface
    client: Any
    server: Any

    def became_busy(self) -> None:
        """A stream is open, and none was."""

    def became_idle(self) -> None:
        """No stream is open any more."""

    def abort(self) -> None:
        """Close at once."""

    def fail(self, fault: ConnectionFault) -> None:
        """Close for what the client did."""

    def close_for_headers(self) -> None:
        """See `header_budget.Holder`."""


class Streams:
    """The open streams, as RFC 9113 section 5.1.2 counts, and the verbs that answer them.

    It owns the `response_ended` and `ended_at` of each.
    """

    __slots__ = (
        "_buckets",
        "_closed",
        "_connection",
        "_limits",
        "_state_machine",
        "by_id",
        "client",
        "idle_since",
        "queue",
        "server",
        "writer",
    )

    def __init__(
        self,
        connection: StreamsConnection,
        sock: TlsSocket,
        state_machine: StateMachine,
        buckets: TokenBuckets,
    ) -> None:
        # Set once.
        worker = connection.worker
        self._connection = connection
        self._limits = limits = worker.limits
        self.client = connection.client
        self.server = connection.server
        self._state_machine = state_machine
        self._buckets = buckets
        self.writer = writer = Writer(
            sock,
            state_machine,
            buckets,
            response_framed=self.response_framed,
            failed=connection.abort,
        )
        # Changed by the reader, the writer, the streams, the worker's sweep, and by other
        # connections that need this one's room.
        self.by_id: dict[int, Http2Stream] = {}
        self._closed = False  # nothing more is sent on any of them
        self.idle_since: float | None = time.monotonic()  # None with streams open
        self.queue = StartQueue(
            limits.slots,
            limits.unsent,
            worker.config.max_concurrent_streams,
            self.by_id.values(),
            writer,
        )

    def open(self, stream: Http2Stream) -> None:
        self.by_id[stream.stream_id] = stream
        self._limits.open_streams += 1
        if self.idle_since is not None:
            self.idle_since = None
            self._connection.became_busy()

    def response_framed(self, stream_id: int) -> None:
        """The last frame of a response is made: our END_STREAM."""
        stream = self.by_id.get(stream_id)
        if stream is None:
            return
        stream.response_ended = True
        stream.ended_at = time.monotonic()
        if stream.websocket_transport is not None:
            stream.websocket_transport.lost()
        if stream.client_ended:
            self.forget(stream)

    def charge_headers(self, stream: Http2Stream, size: int) -> bool:
        """Count what the header fields of `stream` take; False if there is no room for them."""
        if not self._limits.headers.charge(self, size):
            return False
        stream.header_bytes = size
        return True

    def forget(self, stream: Http2Stream) -> None:
        """The stream is closed, whole or reset."""
        if self.by_id.pop(stream.stream_id, None) is not None:
            self._limits.open_streams -= 1
        if stream.response_ended:
            self._buckets.refund(FrameType.RST_STREAM, 1)
            self._buckets.refund(RESET_FRAME, RESET_FRAMES_FOR_RESPONSE)
        self._close(stream)
        self.queue.start_waiting()  # perhaps one waits for this one's bytes to be gone
        if not self.by_id:
            self.idle_since = time.monotonic()
            self._state_machine.forget_closed_streams()
            self._connection.became_idle()

    def _close(self, stream: Http2Stream) -> None:
        """Send nothing more of `stream`, and give up what no greenlet will."""
        self.writer.forget(stream.buffer)
        if not stream.response_ended:
            stream.client_gone()
            self.queue.client_left(stream)
        if not stream.began_at and (not stream.is_handed_over or self.queue.remove(stream)):
            stream.give_up_body()
            stream.release_headers()

    def close_all(self) -> None:
        """The connection takes nothing more, and sends nothing but its end."""
        self._closed = True
        for stream in self.by_id.values():
            self._close(stream)
        self._limits.open_streams -= len(self.by_id)
        self.by_id.clear()

    def connection_over(self) -> None:
        """The connection is over. Greenlets that go on without their client still hold this."""
        self.close_all()
        self.queue.leave()
        self._limits.headers.forget(self)
        del self._connection

    # -- the verbs of a stream: see `OpenStreams` -----------------------------

    def send_headers(self, stream: Http2Stream, headers: Any, *, end_stream: bool) -> None:
        """Send a response's header fields. Raises `ClientGone`."""
        if stream.buffer.closed:
            raise ClientGone
        try:
            self._state_machine.frame_headers(stream.stream_id, headers, end_stream=end_stream)
        except ProtocolError as exc:
            raise ClientGone from exc
        if end_stream:
            self.response_framed(stream.stream_id)
        self.writer.wake()

    def send_buffered(self, stream: Http2Stream) -> None:
        """Send what is in the stream's buffer, as its window allows."""
        self.writer.queue(stream.buffer)

    def send_what_fits(self, stream: Http2Stream) -> None:
        """Frame now what the stream's window allows of its buffer."""
        if not stream.buffer.closed:
            self.writer.frame_now(stream.buffer)

    def end(self, stream: Http2Stream) -> None:
        """End the response after what is in its buffer. Raises `ClientGone`."""
        buffer = stream.buffer
        if buffer.closed:
            raise ClientGone
        buffer.ending = True
        if buffer.size:
            self.writer.queue(buffer)
            return
        try:
            self._state_machine.end_stream(stream.stream_id)
        except ProtocolError as exc:
            raise ClientGone from exc
        self.response_framed(stream.stream_id)
        self.writer.wake()

    def reset(self, stream: Http2Stream, code: ErrorCodes) -> None:
        """Reset `stream` (RFC 9113 section 6.4); nothing if it is closed already."""
        if stream.buffer.closed:
            return
        with suppress(ProtocolError):
            self._state_machine.reset_stream(stream.stream_id, code)
        metrics.stream_reset(code.name, by_client=False)
        self.forget(stream)
        self.writer.wake()

    def give_window_back(self, stream_id: int, size: int) -> None:
        """Let the client send `size` more bytes: so many no longer wait for a view or the disk."""
        if self._closed:
            return
        with suppress(ProtocolError):
            self._state_machine.acknowledge_received_data(size, stream_id)
        self.writer.wake()

    def upload_evicted(self, stream_id: int) -> None:
        """A body was given up since another needs its room. Called by any greenlet."""
        if stream := self.by_id.get(stream_id):
            log.warning("Upload evicted", extra={"client": self.client})
            stream.send_error(503)

    def websocket_evicted(self, stream_id: int) -> None:
        """A WebSocket holds too much. Called in the greenlet of any connection."""
        stream = self.by_id.get(stream_id)
        if stream is None:
            return
        log.debug("WebSocket holds too much", extra={"client": self.client})
        self.reset(stream, ErrorCodes.ENHANCE_YOUR_CALM)
        try:
            self._buckets.take(FrameType.RST_STREAM)
        except ConnectionFault as fault:
            self._connection.fail(fault)

    def close_for_headers(self) -> None:
        """See `header_budget.Holder`."""
        self._connection.close_for_headers()

    def release_headers(self, size: int) -> None:
        """Take back what `charge_headers()` has counted."""
        self._limits.headers.release(self, size)
