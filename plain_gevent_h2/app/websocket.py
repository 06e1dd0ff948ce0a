"""The bytes of one WebSocket, between its stream's greenlets and its view on the asyncio loop.

Plain's `run_websocket` runs the view. It makes a WebSocket on a transport, which is the class here,
whatever carries the bytes: an HTTP/1.1 connection after its 101, or an HTTP/2 stream after an
extended CONNECT (RFC 8441). Plain frames what the view sends, sends pings and closes.
`BoundedWebSocket`, which `patches.patch_websockets` puts in the place of Plain's class, reads
frames, joins them to messages and answers control frames.
"""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from gevent.event import Event

from plain_gevent_h2.net.fairness import ReadTurns

from .asyncio_bridge import AsyncioThread, Call, Mailbox, Pieces
from .unread_websockets import UnreadBudget

#: Bytes that are read before the read is reported to the hub, unless no more are there: to report
#: each read, as of the two bytes of a frame's header, cost more than the read. Fewer bytes that
#: are read ahead of the view are not reported.
REPORT_AFTER = 16 * 1024

#: Bytes of a payload that are read at once, if so many are to come: Plain keeps a list of what
#: each read gave, where a piece of 2 bytes takes 43 (measured: 22 MB for a message of 1 MiB).
MIN_READ = 16 * 1024

#: Bytes that may come before the view accepts. A client may not send any yet (RFC 6455 section
#: 4.1), but the first frames of an eager one may be under way.
MAX_EARLY = 64 * 1024


def _nobody(*_: int) -> None:
    """The callbacks of the stream, once the view is over."""


class WebSocketTransport:
    """Both ends of the bytes of one WebSocket.

    Bytes that the client sends wait in `_received` until they are read ("waiting"). Then they are
    part of a frame or of a message until the view takes that ("read ahead" of the view).

    The stream's side, an `Inbound`, runs in the hub's thread. The view's side, which Plain and
    `BoundedWebSocket` call, runs in the loop's. Each calls the other by a `Mailbox`. The comments
    at the fields say which side sets them.

    `on_read` is called in the hub with a number of bytes when they have been read or given up;
    `on_evicted` when this socket may hold no more.
    """

    def __init__(
        self, unread: UnreadBudget, on_read: Callable[[int], None], on_evicted: Callable[[], None]
    ) -> None:
        self._unread = unread
        self._on_read = on_read
        self._on_evicted = on_evicted
        # Set by both sides. The stream's adds at the end of `_received`, the view's cuts its front,
        # each in one call that the GIL makes whole.
        self._received = bytearray()
        self._ended = False  # the client sends nothing more
        self._view_is_notified = False  # a call of _see_news() is on its way

        # Set by the stream's side.
        self.is_accepted = False
        self.waiting = 0  # bytes of `_received`, as far as reads are reported
        self._read_ahead = 0  # bytes read ahead of the view, as reported
        self._less_waits = Event()  # set when some were read
        self._is_lost = self._worker_shuts_down = False
        self.is_evicted = False  # read by the view's side, too
        self._gives_up = False  # nothing is held any more: it was evicted, or its view has ended
        # The same, by serve(), before the view's side runs.
        self._loop: Mailbox | None = None
        self._hub: Mailbox | None = None
        self._sent: Pieces | None = None
        self._turns: ReadTurns | None = None

        # Set by the view's side.
        self._read = 0  # bytes so far
        self._frame_bytes = 0  # bytes of the frame under way
        self._message_bytes = 0  # bytes of messages, whole or not, that the view has not taken
        self._reported_read = 0  # bytes, as the hub knows it
        self._reported_ahead = 0  # the same of those read ahead
        self._broken = False  # nothing more reaches the client
        self._arrived = asyncio.Event()
        self._shutdown: asyncio.Future[None] | None = None
        #: Give up messages, and end the socket. Set by `BoundedWebSocket`, cleared in the hub after
        #: the view.
        self.drop_messages: Callable[[], None] | None = None
        self.end_socket: Callable[[], None] | None = None

    # -- the stream's side ----------------------------------------------------

    def accept(self) -> None:
        """The view accepts: the client may send."""
        self.is_accepted = True

    def feed(self, data: bytes) -> int:
        """See `Inbound`. All of it waits for the view."""
        size = len(data)
        if self._is_lost or self._gives_up:
            return 0
        self.waiting += size
        self._received.extend(data)
        self._notify_view()
        if self.waiting > MAX_EARLY and not self.is_accepted:
            self.evict()
        else:
            self._unread.hold(self, self.waiting + self._read_ahead)
            self._unread.check(self)
        return size

    def end(self) -> None:
        """See `Inbound`."""
        self._ended = True
        self._notify_view()

    def wait_for_room(self, limit: int) -> None:
        """Block the connection's reader while more than `limit` bytes wait."""
        while self.waiting > limit and not self._is_lost:
            self._less_waits.clear()
            self._less_waits.wait()

    def worker_shuts_down(self) -> None:
        """Close with 1001."""
        self._worker_shuts_down = True
        if self._loop is not None:
            self._loop.post(self._shut_down)

    @property
    def progress(self) -> int | None:
        """See `Inbound`. Asked until the view accepts: only bytes that came too early count.

        A silent client may wait for the answer. One that drips is below the rate floor.
        """
        return self.waiting or None

    def lost(self) -> None:
        """See `Inbound`."""
        if not self._is_lost:
            self._is_lost = True
            self._on_report(self.waiting, self._read_ahead)
            if self._loop is not None:
                self._loop.post(self._lose)
            else:
                self._received.clear()

    def evict(self) -> None:
        """Hold nothing for this socket any more, and have it closed.

        Over HTTP/2 `on_evicted` resets the stream. Over HTTP/1.1 it only logs, and the view's side
        closes with 1013.
        """
        if self._gives_up:
            return
        self._gives_up = self.is_evicted = True
        self._on_report(self.waiting, 0)
        if self._loop is not None:
            self._loop.post(self._drop)
        else:
            self._received.clear()
        self._on_evicted()

    def serve(
        self,
        bridge: AsyncioThread,
        run: Callable[["WebSocketTransport", "asyncio.Future[None]"], Coroutine[Any, Any, Any]],
    ) -> Generator[bytes]:
        """Run the view; yield what it sends. Closing this iterator ends the view.

        `run` makes the coroutine, given the transport and a future that is done once the
        worker shuts down.
        """
        call = Call(bridge.hub)
        context = contextvars.copy_context()

        def start() -> None:
            self._shutdown = asyncio.get_running_loop().create_future()
            call.start(run(self, self._shutdown), context)

        self._hub = bridge.hub
        self._loop = bridge.loop()
        self._turns = ReadTurns(bridge.penalty_box)
        self._sent = sent = Pieces(call, self._loop)
        self._loop.post(start)
        if self._worker_shuts_down:
            self.worker_shuts_down()
        if self._is_lost:  # while the loop was started
            self._loop.post(self._lose)
        try:
            while not call.is_done() or sent:
                yield from sent.take()
                call.wait(lambda: sent or call.is_done())
            call.result()
        finally:
            self.lost()
            call.wait(call.is_done)
            self.drop_messages = self.end_socket = None  # of the object that holds this one
            self._gives_up = True
            self._on_report(self.waiting, 0)
            # Plain's WebSocket is in a cycle with its task for pings, and holds this object. It
            # should not hold the connection until the garbage collector comes.
            self._on_read = self._on_evicted = _nobody

    def _notify_view(self) -> None:
        if self._loop is not None and not self._view_is_notified:
            self._view_is_notified = True
            self._loop.post(self._see_news)

    def _on_report(self, size: int, read_ahead: int) -> None:
        """`size` bytes of those that waited were read, and so many are read ahead now."""
        size = min(size, self.waiting)  # lost() may have counted them already
        self.waiting -= size
        self._read_ahead = 0 if self._gives_up else read_ahead
        self._unread.hold(self, self.waiting + self._read_ahead)
        self._less_waits.set()
        if size:
            self._on_read(size)

    # -- the view's side ------------------------------------------------------

    def _see_news(self) -> None:
        self._view_is_notified = False  # first: what the view does not see yet notifies again
        self._arrived.set()

    def _lose(self) -> None:
        self._ended = self._broken = True
        self._received.clear()
        self._arrived.set()
        assert self._sent is not None
        self._sent.close()
        # The reader may wait for room for a message: it would not see the end before the next ping.
        if (end := self.end_socket) is not None:
            end()

    def _drop(self) -> None:
        self._received.clear()
        if (drop := self.drop_messages) is not None:
            drop()

    def _shut_down(self) -> None:
        assert self._shutdown is not None
        if not self._shutdown.done():
            self._shutdown.set_result(None)

    async def recv(self, n: int) -> bytes:
        """Up to `n` bytes; none at the end."""
        assert self._turns is not None
        await self._turns.count()
        while len(self._received) < min(n, MIN_READ) and not self._ended:
            self._arrived.clear()
            self._report(len(self._received))  # or the client might wait for its window
            await self._arrived.wait()
        data = bytes(self._received[:n])
        del self._received[: len(data)]
        self._read += len(data)
        self._frame_bytes += len(data)
        if not self._received or self._read - self._reported_read >= REPORT_AFTER:
            self._report()
        return data

    def frame_was_read(self, message_bytes: int) -> None:
        """A frame is whole, or the view took a message: so many bytes of messages are left."""
        self._frame_bytes = 0
        self._message_bytes = message_bytes
        self._report()

    def _report(self, next_bytes: int = 0) -> None:
        """Report to the hub what was read, with the next bytes of `_received` that will be."""
        read_before, ahead_before = self._reported_read, self._reported_ahead
        read = max(read_before, self._read + next_bytes)
        ahead = self._frame_bytes + self._message_bytes + read - self._read
        if ahead < REPORT_AFTER:
            ahead = 0
        if read != read_before or ahead != ahead_before:
            self._reported_read, self._reported_ahead = read, ahead
            assert self._hub is not None
            self._hub.post(self._on_report, read - read_before, ahead)

    async def sendall(self, data: bytes) -> None:
        """Send `data`; waits for the client to take what was sent before."""
        assert self._sent is not None
        await self._sent.wait_for_room()
        if self._broken:
            raise ConnectionResetError("the client is gone")
        self._sent.put(data)

    def close(self) -> None:
        """Nothing more is read. The stream ends when the view has."""
        self._ended = True
        self._arrived.set()

    #: Plain aborts when the client takes nothing of a message for 20 s. The view ends, but what is
    #: queued is not dropped: the stream's greenlet goes on waiting for its client, until
    #: `SERVER_SEND_TIMEOUT` ends the stream.
    abort = close
