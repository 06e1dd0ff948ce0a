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

from .asyncio_bridge import AsyncioThread, Call, Mailbox, Pieces

#: Reads in a turn of one WebSocket: those of some 40 small frames, which keep the GIL for half a
#: millisecond. Plain's reader never waits while there is more, and the hub would get the GIL back
#: after 5 ms each time it lets go of it: a flood of empty fragments made small requests beside it
#: wait 23 times as long (measured).
READS_IN_A_TURN = 128

#: Reads a second past which a WebSocket then waits so many seconds for its next turn. All such of
#: a worker wait one after another: together they have a fifth of it. (Of a flood of empty
#: messages 15,000 a second are still echoed, of 21,000 before; measured.)
READS_PER_SECOND = 10_000
PENALTY = 0.002

#: Bytes that the view has taken before the hub is told, unless there is no more: to tell it of
#: each read, as of the two bytes of a frame's header, cost more than the read.
TELL_OF = 16 * 1024


class _Turns:
    """Those of one WebSocket that always has more to read."""

    _penalty_box = asyncio.Lock()  # of the worker: it has one loop

    def __init__(self) -> None:
        self._reads = 0
        self._began_at = 0.0

    async def count(self) -> None:
        """Count a read; wait if that was the turn's last."""
        self._reads += 1
        if self._reads < READS_IN_A_TURN:
            return
        if time.monotonic() - self._began_at < READS_IN_A_TURN / READS_PER_SECOND:
            async with self._penalty_box:
                await asyncio.sleep(PENALTY)
        self._reads = 0
        self._began_at = time.monotonic()


class WebSocketTransport:
    """Both ends of the bytes of one WebSocket.

    The stream's side, `feed()` to `lost()`, is called in the hub's thread, the view's side by
    Plain in the loop's. Each attribute belongs to one of the two.

    `consumed` is called in the hub, with a number of bytes, when the view has taken them.
    """

    def __init__(self, consumed: Callable[[int], None]) -> None:
        self._consumed = consumed
        # The stream's.
        self._loop: Mailbox | None = None  # None until serve()
        self._early: list[bytes | None] = []  # what came before; None is the end
        self._waiting = 0  # bytes fed and not yet consumed
        self._less = Event()  # set when some were
        self._is_lost = self._is_draining = False
        # The view's.
        self._hub: Mailbox | None = None  # None until serve()
        self._sent: Pieces | None = None  # the same
        self._received = bytearray()
        self._untold = 0  # bytes taken of which the hub does not know
        self._turns = _Turns()
        self._ended = False  # the client sends nothing more
        self._broken = False  # nothing more reaches the client
        self._arrived = asyncio.Event()
        self._shutdown: asyncio.Future[None] | None = None

    # -- the stream's side ----------------------------------------------------

    def feed(self, data: bytes) -> None:
        """The client sent `data`."""
        if self._is_lost:
            self._consumed(len(data))
            return
        self._waiting += len(data)
        self._tell(data)

    def feed_end(self) -> None:
        """The client sends nothing more."""
        self._tell(None)

    def wait_for_room(self, limit: int) -> None:
        """Block the reader while more than `limit` bytes wait for the view."""
        while self._waiting > limit and not self._is_lost:
            self._less.clear()
            self._less.wait()

    def drain(self) -> None:
        """The worker shuts down: close with 1001."""
        self._is_draining = True
        if self._loop is not None:
            self._loop.post(self._shut_down)

    def lost(self) -> None:
        """The client is gone, or the stream ended."""
        if not self._is_lost:
            self._is_lost = True
            self._less.set()
            if self._waiting:
                self._taken(self._waiting)
            if self._loop is not None:
                self._loop.post(self._lose)

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
        task: asyncio.Task[Any] | None = None
        context = contextvars.copy_context()

        def start() -> None:
            nonlocal task
            loop = asyncio.get_running_loop()
            self._shutdown = loop.create_future()
            task = loop.create_task(run(self, self._shutdown), context=context)
            task.add_done_callback(call.notify)

        def is_done() -> bool:
            return task is not None and task.done()

        self._hub = bridge.hub
        self._loop = bridge.loop()
        self._sent = sent = Pieces(call, self._loop)
        self._loop.post(start)
        for data in self._early:
            self._tell(data)
        if self._is_draining:
            self.drain()
        if self._is_lost:  # while the loop was started
            self._loop.post(self._lose)
        try:
            while not is_done() or sent:
                yield from sent.take()
                call.wait(lambda: sent or is_done())
            assert task is not None
            task.result()
        finally:
            self.lost()
            call.wait(is_done)

    def _tell(self, data: bytes | None) -> None:
        if self._loop is None:
            self._early.append(data)
        else:
            self._loop.post(self._receive, data)

    def _taken(self, size: int) -> None:
        size = min(size, self._waiting)  # lost() may have counted them already
        self._waiting -= size
        self._less.set()
        if size:
            self._consumed(size)

    # -- the view's side ------------------------------------------------------

    def _receive(self, data: bytes | None) -> None:
        if data is None:
            self._ended = True
        else:
            self._received += data
        self._arrived.set()

    def _lose(self) -> None:
        self._ended = self._broken = True
        self._received.clear()
        self._arrived.set()
        assert self._sent is not None
        self._sent.close()

    def _shut_down(self) -> None:
        assert self._shutdown is not None
        if not self._shutdown.done():
            self._shutdown.set_result(None)

    async def recv(self, n: int) -> bytes:
        """Up to `n` bytes; none at the end."""
        await self._turns.count()
        while not self._received and not self._ended:
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._received[:n])
        del self._received[:n]
        self._untold += len(data)
        if self._untold and (not self._received or self._untold >= TELL_OF):
            assert self._hub is not None
            self._hub.post(self._taken, self._untold)
            self._untold = 0
        return data

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
