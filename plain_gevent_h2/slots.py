"""The places for streams that run at once in a worker, and the greenlets that run them."""

from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
from gevent import Greenlet

from .stream import Stream

#: Greenlets that are kept for the next streams.
_IDLE_GREENLETS = 200


class Slots:
    """The places for streams that run at once. More wait, first come first served."""

    def __init__(self, limit: int, started: Callable[[], None]) -> None:
        self._limit = limit
        self._started = started
        self._waiting: deque[Stream] = deque()
        self._starting = False
        self._idle: list[_StreamGreenlet] = []  # the last to become idle is taken first
        self.running = 0

    @property
    def full(self) -> bool:
        """Whether streams wait for others to end."""
        return bool(self._waiting)

    def run(self, stream: Stream) -> None:
        """Start the stream's greenlet now, or when a place is free."""
        self._waiting.append(stream)
        self._start_waiting()

    def _start_waiting(self) -> None:
        if self._starting:
            return  # a stream that was finished here brought its connection's next one
        self._starting = True
        try:
            while self._waiting and self.running < self._limit:
                stream = self._waiting.popleft()
                if stream.gone_at is not None:
                    stream.finished()
                else:
                    self._start(stream)
        finally:
            self._starting = False

    def _start(self, stream: Stream) -> None:
        self.running += 1
        self._started()
        greenlet = self._idle.pop() if self._idle else _StreamGreenlet(self)
        stream.greenlet = greenlet
        greenlet.take(stream)

    def ended(self) -> None:
        """A stream has left its place."""
        self.running -= 1
        self._start_waiting()

    def keep(self, greenlet: "_StreamGreenlet") -> bool:
        """Whether `greenlet` is to wait for another stream."""
        if len(self._idle) >= _IDLE_GREENLETS:
            return False
        self._idle.append(greenlet)
        return True

    def lose(self, greenlet: "_StreamGreenlet") -> None:
        """An idle greenlet ends."""
        if greenlet in self._idle:
            self._idle.remove(greenlet)


class _StreamGreenlet(Greenlet):  # type: ignore[type-arg]
    """Runs one stream, and then perhaps another.

    CPython maps 16 KiB of stack for each new greenlet and unmaps them at its end: 8 of the 9 us
    that one takes (measured; a small request takes 150 in all).

    What is linked to it hears of the stream's end instead of the greenlet's: so the stream's
    `threading.local` data go with it, and `join()` returns. After something was thrown into it, it
    ends with its stream.
    """

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self._slots = slots
        self._stream: Stream | None = None
        self._idle = False
        self._is_ending = False
        self._stream_links: list[Callable[[Any], object]] = []

    def rawlink(self, callback: Callable[[Any], object]) -> None:
        """Call `callback` in the hub when the stream is over."""
        self._stream_links.append(callback)

    def unlink(self, callback: Callable[[Any], object]) -> None:
        """Take back a `rawlink()`."""
        if callback in self._stream_links:
            self._stream_links.remove(callback)

    def take(self, stream: Stream) -> None:
        """Run `stream` when the loop comes to it."""
        self._stream = stream
        if self.started:
            gevent.get_hub().loop.run_callback(self._wake)
        else:
            self.start()

    def _wake(self) -> None:
        if self._idle:
            self.switch()

    def _run(self) -> None:
        while self._stream is not None:
            unharmed = self._run_stream()
            if not unharmed or self._is_ending or not self._slots.keep(self):
                return
            self._wait()

    def _run_stream(self) -> bool:
        assert self._stream is not None
        stream, self._stream = self._stream, None
        try:
            return stream.run()
        finally:
            self._notify_stream_links()
            self._slots.ended()

    def _notify_stream_links(self) -> None:
        if self._stream_links:
            links, self._stream_links = self._stream_links, []
            for callback in links:
                gevent.get_hub().loop.run_callback(callback, self)

    def _wait(self) -> None:
        self._idle = True
        try:
            gevent.get_hub().switch()
        except BaseException:  # meant for a stream that is over
            self._is_ending = True
            self._slots.lose(self)
        finally:
            self._idle = False
