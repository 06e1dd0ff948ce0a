"""Async views and async streams, on one asyncio loop in one native thread of the worker.

A loop in a greenlet of the main thread would be wrong: `asyncio.get_running_loop()` is per
native thread, so every blocking view would believe that it runs inside a loop.

Most of the cost between the two threads is wake-ups: a system call on either side, a turn of a
loop, and contention for the GIL. So a thread is woken once for all calls that wait for it, and a
greenlet only for what it waits for.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterable, Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import gevent
from gevent.hub import Waiter
from gevent.lock import BoundedSemaphore
from gevent.monkey import get_original
from gevent.selectors import GeventSelector

from plain_gevent_h2.net.fairness import AsyncPenaltyBox
from plain_gevent_h2.patching.threads import shared_threads

_start_new_thread = get_original("_thread", "start_new_thread")
_native_thread = get_original("_thread", "get_ident")

#: Pieces that may wait for a greenlet before the coroutine that makes them does, and their bytes.
BACKLOG = 64
BACKLOG_BYTES = 64 * 1024


class Mailbox:
    """Calls for another thread, which is woken once for all that wait.

    `wake` is given a function to call there. It may be called in any thread.
    """

    def __init__(self, wake: Callable[[Callable[[], None]], object]) -> None:
        self._wake = wake
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._is_woken = False

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Have `function` called in the other thread."""
        self._calls.append((function, args))
        self._wake_once()

    def _wake_once(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._wake(self._run)

    def _run(self) -> None:
        self._is_woken = False  # first: a call that the loop below does not see wakes again
        try:
            for _ in range(len(self._calls)):
                function, args = self._calls.popleft()
                function(*args)
        finally:
            if self._calls:  # one of them raised
                self._wake_once()


class Abandoned(Exception):
    """A coroutine was cancelled because its client has left."""


class WaitingStream(Protocol):
    """A stream, as far as it waits for a coroutine's result."""

    gone_at: float | None  # no longer None once its client has left
    cancel: Callable[[], None] | None  # set while the coroutine runs, to be called then


class Call:
    """Something the loop's thread does while a greenlet waits. Made in the hub's thread."""

    def __init__(self, hub: Mailbox) -> None:
        self._hub = hub
        self._waiter: Any = Waiter()
        self._is_waiting = False
        self.task: asyncio.Task[Any] | None = None  # what it does, once that has started

    def start(self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context) -> None:
        """Run `coroutine` in a task, in `context`. Called in the loop's thread."""
        self.task = asyncio.get_running_loop().create_task(coroutine, context=context)
        self.task.add_done_callback(self.notify)

    def cancel(self) -> None:
        """Cancel the task, if it has started. Called in the loop's thread."""
        if self.task is not None:
            self.task.cancel()

    def is_done(self) -> bool:
        return self.task is not None and self.task.done()

    def result(self) -> Any:
        """What the task returned; raises what it raised. Called once it is done."""
        assert self.task is not None
        return self.task.result()

    def notify(self, _task: object = None) -> None:
        """Have the greenlet ask `ready()` again. Called in the loop's thread."""
        if self._is_waiting:
            self._is_waiting = False
            self._hub.post(self._waiter.switch, None)

    def wait(self, ready: Callable[[], object]) -> None:
        """Block the greenlet until `ready()`."""
        while True:
            self._is_waiting = True  # first: what `ready` does not see yet notifies
            if ready():
                break
            self._waiter.get()
            self._waiter.clear()
        self._is_waiting = False


class Pieces:
    """Bytes from coroutines to a greenlet, in pieces, a few of which may wait.

    The coroutines' side, `put()` to `close()`, is called in the loop's thread.
    """

    def __init__(self, call: Call, loop: Mailbox) -> None:
        self._call = call
        self._loop = loop
        self._waiting: deque[bytes] = deque()
        self._is_full = False  # set by the coroutines, which wait, cleared by the greenlet
        # The coroutines'.
        self._put = 0  # bytes so far
        self._room = asyncio.Event()
        self._is_closed = False
        # The greenlet's.
        self._taken = 0  # bytes so far

    def put(self, piece: bytes) -> None:
        self._put += len(piece)
        self._waiting.append(piece)
        self._call.notify()

    async def wait_for_room(self) -> None:
        while self._exceed(BACKLOG, BACKLOG_BYTES) and not self._is_closed:
            self._room.clear()
            self._is_full = True  # before the second check: what is taken after it sets `_room`
            if self._exceed(BACKLOG, BACKLOG_BYTES):
                await self._room.wait()

    def close(self) -> None:
        """No greenlet takes pieces any more."""
        self._is_closed = True
        self._room.set()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self) -> Generator[bytes]:
        """What waits, and what comes meanwhile."""
        while self._waiting:
            piece = self._waiting.popleft()
            self._taken += len(piece)
            if self._is_full and not self._exceed(BACKLOG // 2, BACKLOG_BYTES // 2):
                self._is_full = False
                self._loop.post(self._room.set)
            yield piece

    def _exceed(self, count: int, size: int) -> bool:
        return len(self._waiting) > count or self._put - self._taken > size


class _Selector(GeventSelector):
    """gevent's, whose waits end by a timer in place of an exception: 5 to 15 us a turn less."""

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            return super().select()
        loop: Any = self.hub.loop
        with loop.timer(max(timeout, 0)) as timer:
            timer.start(self._ready.set)  # type: ignore[attr-defined]
            return super().select()


class AsyncioThread:
    """The worker's asyncio loop. It starts with the first call that needs it.

    Made in the hub's thread.
    """

    def __init__(self) -> None:
        #: Calls for the hub. From the loop's thread there is no other way that is safe.
        self.hub = Mailbox(gevent.get_hub().loop.run_callback_threadsafe)
        self._mailbox: Mailbox | None = None
        self._starting = BoundedSemaphore(1)
        self.penalty_box = AsyncPenaltyBox()  # the loop's

    def loop(self) -> Mailbox:
        """Calls for the loop, which is started if need be. Called in greenlets of the hub."""
        with self._starting:
            if self._mailbox is None:
                call = Call(self.hub)
                _start_new_thread(self._run_forever, (call,))
                call.wait(lambda: self._mailbox)
        assert self._mailbox is not None
        return self._mailbox

    def _run_forever(self, call: Call) -> None:
        shared_threads.add(_native_thread())
        # Made in the thread that runs it: its selector and its sockets wait in that thread's hub.
        loop = asyncio.SelectorEventLoop(_Selector())
        asyncio.set_event_loop(loop)
        wake = partial(loop.call_soon_threadsafe, context=contextvars.Context())
        self._mailbox = Mailbox(wake)
        call.notify()
        while True:
            # A task that raises one of these ends the loop's run as well as itself. The other
            # requests' tasks have to go on.
            with suppress(SystemExit, KeyboardInterrupt):
                loop.run_forever()

    def run(
        self,
        coroutine: Coroutine[Any, Any, Any],
        context: contextvars.Context,
        stream: WaitingStream,
    ) -> Any:
        """Run `coroutine` on the loop, in `context`, while the calling greenlet waits.

        Returns its result or raises its exception. If the greenlet is stopped meanwhile,
        the coroutine is cancelled. If the client of `stream` leaves, it is cancelled too, and
        once it has ended, this raises `Abandoned`.
        """
        call = Call(self.hub)
        loop = self.loop()

        def cancel() -> None:
            loop.post(call.cancel)

        if stream.gone_at is not None:
            coroutine.close()
            raise Abandoned
        stream.cancel = cancel
        loop.post(call.start, coroutine, context)
        try:
            call.wait(call.is_done)
        except BaseException:
            cancel()
            raise
        finally:
            stream.cancel = None
        assert call.task is not None
        if call.task.cancelled() and stream.gone_at is not None:
            raise Abandoned
        return call.result()

    def iterate(
        self, stream: AsyncIterable[bytes], context: contextvars.Context
    ) -> Generator[bytes]:
        """The chunks of an async stream, which is run in one task from first to last.

        One task, because what its generator holds across a yield (`asyncio.timeout()`, a
        `TaskGroup`) belongs to the task it was entered in. Closing this iterator closes
        the stream.
        """
        call = Call(self.hub)
        loop = self.loop()
        chunks = Pieces(call, loop)

        async def pump() -> None:
            iterator = aiter(stream)
            try:
                async for chunk in iterator:
                    chunks.put(chunk)
                    await chunks.wait_for_room()
            finally:
                # The response's own iterator wraps the view's: close both, outer first.
                for closing in (iterator, stream):
                    if (aclose := getattr(closing, "aclose", None)) is not None:
                        await aclose()

        loop.post(call.start, pump(), context)
        try:
            while not call.is_done() or chunks:
                yield from chunks.take()
                call.wait(lambda: chunks or call.is_done())
            call.result()
        finally:
            loop.post(call.cancel)
            call.wait(call.is_done)
