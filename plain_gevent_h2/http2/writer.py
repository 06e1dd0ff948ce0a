"""The write side of an HTTP/2 connection: frames DATA, encrypts, and writes.

Only the writer sends HTTP/2 frames. (TLS's own records are `TlsSocket`'s: the handshake, alerts,
answers to KeyUpdates, close_notify.) What the kernel takes at once, as it does nearly all small
responses, goes out from the event loop; the rest from a greenlet, which ends when all is sent.
"""

import time
from collections.abc import Callable

import gevent
from gevent.event import Event
from h2.exceptions import ProtocolError
from plain.logs import get_framework_logger

from plain_gevent_h2.net.fairness import HTTP2_SEND_TURN, yield_to_others
from plain_gevent_h2.net.tls_socket import TlsSocket

from .frames import FRAME_HEADER_SIZE, FrameType
from .scheduler import RoundRobin, Scheduler
from .send_buffer import SendBuffer
from .state_machine import StateMachine
from .token_buckets import PINGS_FOR_DATA, WINDOW_UPDATES_FOR_DATA, TokenBuckets

log = get_framework_logger("plain.server")

#: The largest DATA frame sent, in bytes: the turn of one stream among those that have data. With
#: its header it fills one TLS record. Every client takes frames of 16 KiB (RFC 9113 section 4.2).
MAX_DATA_FRAME = 16 * 1024 - FRAME_HEADER_SIZE

#: Bytes of DATA from which on a TLS record is not filled up with the next frames.
FULL_RECORD = 8 * 1024

#: Seconds that count as lately, once or twice over. Less than a second, at which the sweeps come.
TAKEN_INTERVAL = 0.9

#: Bytes of control frames and headers that may wait for a peer that does not read. Past
#: it, nothing more is read from the peer either.
MAX_CONTROL_BACKLOG = 64 * 1024


def _nobody(*_: int) -> None:
    """The callbacks of the connection, once that is over."""


class Writer:
    """Frames DATA in the scheduler's order, and writes everything that the connection sends.

    `response_framed` is called when a response's last byte is framed, `failed` when the socket
    fails.
    """

    __slots__ = (
        "_buckets",
        "_closed",
        "_control",
        "_failed",
        "_framed",
        "_idle",
        "_loop",
        "_response_framed",
        "_room",
        "_running",
        "_scheduler",
        "_sock",
        "_state_machine",
        "_swept_at",
        "_taken",
        "_taken_before",
        "writing_since",
    )

    def __init__(
        self,
        sock: TlsSocket,
        state_machine: StateMachine,
        buckets: TokenBuckets,
        *,
        response_framed: Callable[[int], None],
        failed: Callable[[], None],
    ) -> None:
        self._loop = gevent.get_hub().loop
        self._sock = sock
        self._state_machine = state_machine
        self._buckets = buckets
        self._response_framed = response_framed
        self._failed = failed
        self._scheduler: Scheduler = RoundRobin()
        # To be sent. send_raw(), wait_for_room() and frame_now() add to them in any greenlet; only
        # the callback or the greenlet that sends takes from them.
        self._control = bytearray()  # frames that come first, of `h2` and send_raw()
        self._framed: list[bytes | memoryview] = []  # to be encrypted next
        self._running = False  # a write is due, or under way
        self._idle: Event | None = None  # somebody waits until it is not
        self._closed = False
        self._room: Event | None = None  # the reader waits
        self._taken = self._taken_before = 0  # bytes of bodies framed: see `taken_lately`
        self._swept_at = 0.0  # monotonic
        #: When the write that is under way began (monotonic), or None.
        self.writing_since: float | None = None

    @property
    def idle(self) -> bool:
        """Whether the kernel has all that can be sent now."""
        return not self._running

    def wait_until_idle(self) -> None:
        """Block until the kernel has all that can be sent now, or the socket is closed."""
        if self._running:
            self._idle = Event()
            self._idle.wait()

    def _became_idle(self) -> None:
        self._running = False
        if self._idle is not None:
            self._idle.set()

    @property
    def taken_lately(self) -> int:
        """Bytes of bodies that the windows have let through in the last one to two seconds."""
        return self._taken + self._taken_before

    def sweep(self, now: float) -> None:
        """Called once a second, or more often."""
        if now - self._swept_at >= TAKEN_INTERVAL:
            self._swept_at = now
            self._taken, self._taken_before = 0, self._taken

    @property
    def backlogged(self) -> bool:
        """Whether the reader waits, since the peer leaves too many of our answers unread."""
        return self._room is not None

    def wake(self) -> None:
        """Send what there is, once the greenlets whose turn it is have had it."""
        if not self._running and not self._closed:
            self._running = True
            self._loop.run_callback(self._send_at_once)

    def send_raw(self, frame: bytes) -> None:
        """Send a frame that `h2` does not know of, after all that `h2` has framed."""
        self._control += self._state_machine.data_to_send()
        self._control += frame
        self.wake()

    def queue(self, buffer: SendBuffer) -> None:
        """Send of `buffer` what its window allows. Called when it got data, or window."""
        if buffer.size and not buffer.queued and not buffer.closed:
            self._scheduler.add(buffer)
            self.wake()

    def forget(self, buffer: SendBuffer) -> None:
        """Send nothing more of `buffer`."""
        buffer.close()
        if buffer.queued:
            self._scheduler.remove(buffer)

    def frame_now(self, buffer: SendBuffer) -> None:
        """Frame of `buffer` all that its window allows, out of turn: it is to be reset."""
        self._take_framed()
        while buffer.size and self._frame(buffer):
            pass
        self.wake()

    def wait_for_room(self) -> None:
        """Block the reader while the peer leaves too many of our answers unread."""
        self._control += self._state_machine.data_to_send()
        if len(self._control) > MAX_CONTROL_BACKLOG and not self._closed:
            self._room = Event()
            self._room.wait()
            self._room = None

    def close(self) -> None:
        """Send nothing more, and drop the callbacks: they hold the writer."""
        self._closed = True
        self._response_framed = self._failed = _nobody
        while self._scheduler.next() is not None:
            pass
        self._control.clear()
        self._framed.clear()
        if self._room is not None:
            self._room.set()

    def _send_at_once(self) -> None:
        """Send one batch, if that is all there is. Runs in the hub, and so must not block.

        A greenlet for it would cost 10 us, most of it to map and unmap its stack.
        """
        try:
            self._fill_batch()
            whole = self._sock.send_now()
            self._wake_reader()
        except Exception as exc:
            self._fail(exc)
            return
        if whole and not self._scheduler:
            self._became_idle()
        else:
            gevent.spawn(self._send_all)

    def _send_all(self) -> None:
        """Send until there is nothing more to send. Runs in a greenlet of its own."""
        try:
            self._flush()
            while self._fill_batch():
                self._flush()
        except Exception as exc:
            self._fail(exc)
        finally:
            self.writing_since = None
            self._became_idle()

    def _flush(self) -> None:
        self.writing_since = time.monotonic()
        self._sock.flush()
        self.writing_since = None
        self._wake_reader()
        if self._scheduler:
            yield_to_others()

    def _wake_reader(self) -> None:
        if self._room is not None:
            self._room.set()

    def _fail(self, exc: Exception) -> None:
        if not isinstance(exc, OSError):
            log.exception("Unexpected connection error", exc_info=exc)
        failed = self._failed
        self.close()
        self._became_idle()
        failed()

    def _fill_batch(self) -> int:
        """Frame and encrypt what can be sent now, up to a batch; return its size in bytes.

        No greenlet runs meanwhile. What `h2` has framed before is taken once, and first.
        """
        machine, scheduler = self._state_machine, self._scheduler
        size = waiting = 0  # bytes encrypted; DATA that waits for more to share a record with
        self._take_framed()
        while (
            size + waiting < HTTP2_SEND_TURN
            and machine.outbound_flow_control_window > 0
            and (buffer := scheduler.next()) is not None
        ):
            sent = 0 if buffer.closed else self._frame(buffer)
            if not sent:
                continue
            # It has another turn. Without window it waits for a WINDOW_UPDATE or SETTINGS instead,
            # which queue it again.
            if buffer.size:
                scheduler.add(buffer)
            buffer.wake()
            waiting += sent
            if waiting >= FULL_RECORD:
                waiting = 0
                size += self._encrypt_framed()
        return size + self._encrypt_framed()

    def _encrypt_framed(self) -> int:
        framed = b"".join(self._framed)
        self._framed.clear()
        if not framed or self._closed:
            return 0
        self._sock.encrypt(framed)
        return len(framed)

    def _take_framed(self) -> None:
        """Take over what `h2` has framed."""
        if self._control:
            self._framed.append(bytes(self._control))
            self._control.clear()
        if framed := self._state_machine.data_to_send():
            self._framed.append(framed)

    def _frame(self, buffer: SendBuffer) -> int:
        """Frame one DATA of `buffer`; return its size in bytes, 0 if its window is empty."""
        machine, stream_id = self._state_machine, buffer.stream_id
        try:
            window = machine.local_flow_control_window(stream_id)
            limit = min(window, MAX_DATA_FRAME)
            if limit <= 0:
                return 0
            data = buffer.take(limit)
            end = buffer.ending and not buffer.size
            header = machine.frame_data_header(stream_id, len(data), end_stream=end)
        except ProtocolError:
            # `h2` has closed the stream: the event for that, which comes to `Receiver`, forgets it.
            buffer.close()
            return 0
        self._framed.append(header)
        self._framed.append(data)
        self._taken += len(data)
        if limit < window or not buffer.size:  # not cut short by the window
            self._buckets.refund(FrameType.WINDOW_UPDATE, WINDOW_UPDATES_FOR_DATA)
            self._buckets.refund(FrameType.PING, PINGS_FOR_DATA)
        if end:
            self._response_framed(stream_id)
            self._take_framed()
        return len(data)
