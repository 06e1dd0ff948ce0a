"""Async views and async streams, on one asyncio loop in one native thread of the worker.

A loop in a greenlet of the main thread would be wrong: `asyncio.get_running_loop()` is per
native thread, so every blocking view would believe that it runs inside a loop.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterable, Callable, Coroutine, Generator
from contextlib import suppress
from typing import Any

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore
from gevent.monkey import get_original

_start_new_thread = get_original("_thread", "start_new_thread")

#: Chunks of an async stream that may wait for the client before its generator does.
STREAM_BACKLOG = 4


class Call:
    """Something the loop's thread does while a greenlet waits. Made in that greenlet."""

    def __init__(self) -> None:
        self._hub_loop = gevent.get_hub().loop
        self._changed = Event()

    def in_hub(self, function: Callable[..., Any], *args: Any) -> None:
        """Call `function` in the hub. From the loop's thread no other way there is safe."""
        self._hub_loop.run_callback_threadsafe(function, *args)

    def notify(self) -> None:
        """Wake the greenlet. Called in the loop's thread."""
        self.in_hub(self._changed.set)

    def wait(self) -> None:
        self._changed.wait()
        self._changed.clear()


class AsyncioThread:
    """The worker's asyncio loop. It starts with the first call that needs it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = BoundedSemaphore(1)

    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, started if need be. Called in greenlets of the hub's thread."""
        with self._starting:
            if self._loop is None:
                call = Call()
                _start_new_thread(self._run_forever, (call,))
                while self._loop is None:
                    call.wait()
        return self._loop

    def _run_forever(self, call: Call) -> None:
        # Made in its own thread, whose hub its selector and sockets wait in.
        loop = asyncio.SelectorEventLoop()
        asyncio.set_event_loop(loop)
        self._loop = loop
        call.notify()
        while True:
            # A task that raises one of these ends the loop's run as well as itself. The other
            # requests' tasks have to go on.
            with suppress(SystemExit, KeyboardInterrupt):
                loop.run_forever()

    def run(self, coroutine: Coroutine[Any, Any, Any], context: contextvars.Context) -> Any:
        """Run `coroutine` on the loop, in `context`, while the calling greenlet waits.

        Returns its result or raises its exception. If the greenlet is stopped meanwhile,
        the coroutine is cancelled.
        """
        call = Call()
        loop = self.loop()
        task: asyncio.Task[Any] | None = None

        def start() -> None:
            nonlocal task
            task = loop.create_task(coroutine, context=context)
            task.add_done_callback(lambda _: call.notify())

        loop.call_soon_threadsafe(start)
        try:
            while task is None or not task.done():
                call.wait()
        except BaseException:
            loop.call_soon_threadsafe(lambda: task and task.cancel())
            raise
        return task.result()

    def iterate(
        self, stream: AsyncIterable[bytes], context: contextvars.Context
    ) -> Generator[bytes]:
        """The chunks of an async stream, which is run in one task from first to last.

        One task, because what its generator holds across a yield (`asyncio.timeout()`, a
        `TaskGroup`) belongs to the task it was entered in. Closing this iterator closes
        the stream.
        """
        call = Call()
        loop = self.loop()
        chunks: deque[bytes] = deque()
        room = asyncio.Semaphore(STREAM_BACKLOG)
        task: asyncio.Task[None] | None = None

        async def pump() -> None:
            iterator = aiter(stream)
            try:
                async for chunk in iterator:
                    await room.acquire()
                    chunks.append(chunk)
                    call.notify()
            finally:
                # The response's own iterator wraps the view's: close both, outer first.
                for closing in (iterator, stream):
                    if (aclose := getattr(closing, "aclose", None)) is not None:
                        await aclose()

        def start() -> None:
            nonlocal task
            task = loop.create_task(pump(), context=context)
            task.add_done_callback(lambda _: call.notify())

        def cancel() -> None:
            if task is not None:
                task.cancel()

        loop.call_soon_threadsafe(start)
        try:
            while True:
                while chunks:
                    yield chunks.popleft()
                    loop.call_soon_threadsafe(room.release)
                if task is not None and task.done():
                    if not chunks:
                        break
                else:
                    call.wait()
            task.result()
        finally:
            loop.call_soon_threadsafe(cancel)
            while task is None or not task.done():
                call.wait()
