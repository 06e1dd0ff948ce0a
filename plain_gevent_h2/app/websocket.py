"""The bytes of one WebSocket, between its stream's greenlets and its view on the asyncio loop.

Plain's own `run_websocket` does the rest: frames, messages, pings, the closing handshake. It
only asks for a transport, which is what this is, whatever carries it: an HTTP/1.1 connection
after its 101, or an HTTP/2 stream after an extended CONNECT (RFC 8441).
"""

import asyncio
import contextvars
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from gevent.event import Event

from plain_gevent_h2.net.fairness import ReadTurns

from .asyncio_bridge import AsyncioThread, Call, Mailbox, Pieces
from .upload_budget import UploadBudget

#: Bytes that the view has taken before the hub is told, unless there is no more: to tell it of
#: each read, as of the two bytes of a frame's header, cost more than the read. Fewer that the view
#: keeps are not told of.
TELL_OF = 16 * 1024

#: Bytes of a payload that are read at once, if so many are to come: Plain keeps a list of what
#: each read gave, where a piece of 2 bytes takes 43 (measured: 22 MB for a message of 1 MiB).
MIN_READ = 16 * 1024

#: Bytes that may come before the view accepts. A client has no leave to send any (RFC 6455
#: section 4.1), and of some the first frames may be under way.
MAX_EARLY = 64 * 1024

#: Bytes that all WebSockets of a worker may hold which their views have not taken, and to which
#: they must then fall. A view that never reads lets each client leave 3 MiB. The socket that
#: holds most is not among them: how large a message may be is for its view to say.
MAX_UNREAD = 16 * 1024 * 1024
UNREAD_LOW_WATER = MAX_UNREAD * 3 // 4


class Unread:
    """What the WebSockets of one worker hold that their views have not taken. Lives in the hub.

    It counts in the worker's budget for bodies, and has a limit of its own.
    """

    def __init__(self, budget: UploadBudget) -> None:
        self._budget = budget
        self._held: dict[WebSocketTransport, int] = {}  # bytes; without those that hold none
        self._since: dict[WebSocketTransport, float] = {}  # when its view last took some
        self._size = 0  # the sum of `_held`

    def hold(self, socket: "WebSocketTransport", size: int) -> None:
        """`socket` holds `size` bytes from now on."""
        change = size - self._held.get(socket, 0)
        self._size += change
        self._budget.release(-change)  # not charge(): it is compared in check()
        if not size:
            self._held.pop(socket, None)
            self._since.pop(socket, None)
            return
        self._held[socket] = size
        if change < 0 or socket not in self._since:
            self._since[socket] = time.monotonic()

    def check(self, socket: "WebSocketTransport") -> None:
        """Refuse some if there is more than may be: `socket`, which got some, or others.

        Called in greenlets, as to refuse one is to log it.
        """
        if not self._budget.make_room_for_websockets() and self._held[socket] > MAX_EARLY:
            socket.refuse()
        elif self._size > MAX_UNREAD:
            self._make_room()

    def _make_room(self) -> None:
        """Refuse those that hold most for longest.

        Not the largest: an honest message that just comes would go before what an attacker has
        left for minutes in many smaller pieces.
        """
        largest = max(self._held, key=self._held.__getitem__)
        spared = self._held[largest]
        if self._size - spared <= MAX_UNREAD:
            return
        now = time.monotonic()
        weights = {s: size * (now - self._since[s]) for s, size in self._held.items()}
        del weights[largest]
        for socket in sorted(weights, key=weights.__getitem__, reverse=True):
            socket.refuse()
            if self._size - spared <= UNREAD_LOW_WATER:
                break


class WebSocketTransport:
    """Both ends of the bytes of one WebSocket.

    The stream's side, an `Inbound`, is called in the hub's thread, the view's side by
    Plain in the loop's. Each attribute belongs to one of the two, but for three. `_received` is
    added to at its end by the stream's and cut at its front by the view's, each in one call that
    the GIL makes whole. `_ended` and `_is_told` may be set by either.

    `consumed` is called in the hub, with a number of bytes, when the view has taken them;
    `refused` when this socket may hold no more.
    """

    def __init__(
        self, unread: Unread, consumed: Callable[[int], None], refused: Callable[[], None]
    ) -> None:
        self._unread = unread
        self._consumed = consumed
        self._refused = refused
        # Both sides'.
        self._received = bytearray()
        self._is_told = False  # the view's side is about to look at what is new
        self._ended = False  # the client sends nothing more
        # The stream's.
        self._loop: Mailbox | None = None  # None until serve()
        self.is_accepted = False
        self.waiting = 0  # bytes fed and not yet consumed
        self._kept = 0  # bytes consumed that the view has not taken, as far as is known
        self._less = Event()  # set when some were
        self._is_lost = self._is_draining = False
        self.is_refused = False
        self._is_void = False  # nothing is held any more: it was refused, or its view has ended
        # The view's.
        self._hub: Mailbox | None = None  # None until serve()
        self._sent: Pieces | None = None  # the same
        self.dropped: Callable[[], None] | None = None  # called when what is kept has to go
        self._read = 0  # bytes so far
        self._read_of_frame = 0  # bytes of the frame that comes
        self._of_messages = 0  # bytes of those that came before
        self._told: tuple[int, int] = 0, 0  # bytes taken and kept, as the hub knows them
        self._turns: ReadTurns | None = None  # the same
        self._broken = False  # nothing more reaches the client
        self._arrived = asyncio.Event()
        self._shutdown: asyncio.Future[None] | None = None

    # -- the stream's side ----------------------------------------------------

    def accept(self) -> None:
        """The view accepts: the client may send."""
        self.is_accepted = True

    def feed(self, data: bytes) -> int:
        """See `Inbound`. All of it waits for the view."""
        size = len(data)
        if self._is_lost or self._is_void:
            return 0
        self.waiting += size
        self._received.extend(data)
        self._tell_view()
        if self.waiting > MAX_EARLY and not self.is_accepted:
            self.refuse()
        else:
            self._unread.hold(self, self.waiting + self._kept)
            self._unread.check(self)
        return size

    def end(self) -> None:
        """See `Inbound`."""
        self._ended = True
        self._tell_view()

    def wait_for_room(self, limit: int) -> None:
        """Block the reader while more than `limit` bytes wait for the view."""
        while self.waiting > limit and not self._is_lost:
            self._less.clear()
            self._less.wait()

    def drain(self) -> None:
        """The worker shuts down: close with 1001."""
        self._is_draining = True
        if self._loop is not None:
            self._loop.post(self._shut_down)

    @property
    def progress(self) -> int | None:
        """See `Inbound`. A client that sends nothing owes nothing: it need not."""
        return self.waiting or None

    def lost(self) -> None:
        """See `Inbound`."""
        if not self._is_lost:
            self._is_lost = True
            self._taken(self.waiting, self._kept)
            if self._loop is not None:
                self._loop.post(self._lose)
            else:
                self._received.clear()

    def refuse(self) -> None:
        """Hold nothing for this socket any more, and have it closed."""
        if self._is_void:
            return
        self._is_void = self.is_refused = True
        self._taken(self.waiting, 0)
        if self._loop is not None:
            self._loop.post(self._drop)
        else:
            self._received.clear()
        self._refused()

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
        if self._is_draining:
            self.drain()
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
            self.dropped = None  # whose object holds this one
            self._is_void = True
            self._taken(self.waiting, 0)

    def _tell_view(self) -> None:
        if self._loop is not None and not self._is_told:
            self._is_told = True
            self._loop.post(self._look)

    def _taken(self, size: int, kept: int) -> None:
        """So many bytes were taken from those that wait, and so many are kept."""
        size = min(size, self.waiting)  # lost() may have counted them already
        self.waiting -= size
        self._kept = 0 if self._is_void else kept
        self._unread.hold(self, self.waiting + self._kept)
        self._less.set()
        if size:
            self._consumed(size)

    # -- the view's side ------------------------------------------------------

    def _look(self) -> None:
        self._is_told = False  # first: what the view does not see yet is told again
        self._arrived.set()

    def _lose(self) -> None:
        self._ended = self._broken = True
        self._received.clear()
        self._arrived.set()
        assert self._sent is not None
        self._sent.close()

    def _drop(self) -> None:
        self._received.clear()
        if self.dropped is not None:
            self.dropped()

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
            self._tell_hub(len(self._received))  # or the client might wait for its window
            await self._arrived.wait()
        data = bytes(self._received[:n])
        del self._received[: len(data)]
        self._read += len(data)
        self._read_of_frame += len(data)
        if not self._received or self._read - self._told[0] >= TELL_OF:
            self._tell_hub()
        return data

    def keep(self, size: int) -> None:
        """A frame was read, and `size` bytes of messages wait for the view."""
        self._read_of_frame = 0
        self._of_messages = size
        self._tell_hub()

    def _tell_hub(self, ahead: int = 0) -> None:
        """Tell the hub what was taken, with the next `ahead` bytes, and what is kept."""
        before, kept_before = self._told
        taken = max(before, self._read + ahead)
        kept = self._read_of_frame + self._of_messages + taken - self._read
        self._told = taken, kept if kept >= TELL_OF else 0
        if self._told != (before, kept_before):
            assert self._hub is not None
            self._hub.post(self._taken, taken - before, self._told[1])

    async def sendall(self, data: bytes) -> None:
        """Send `data`; waits for the client to take what went before."""
        assert self._sent is not None
        await self._sent.wait_for_room()
        if self._broken:
            raise ConnectionResetError("the client is gone")
        self._sent.put(data)

    def close(self) -> None:
        """Nothing more is read. The stream ends when the view has."""
        self._ended = True
        self._arrived.set()

    abort = close
