"""The greenlets that run streams, one stream after another."""

from collections.abc import Callable
from sys import getrefcount
from typing import Any, Protocol
from weakref import getweakrefcount

import gevent
from gevent import Greenlet

from plain_gevent_h2.net.fairness import yield_to_others

#: Greenlets that are kept for the next streams, even if there are none for a while.
_IDLE_GREENLETS = 200


class Runnable(Protocol):
    """A stream, as far as it runs in a greenlet."""

    greenlet: Any
    is_clientless: bool

    def run(self) -> bool:
        """Serve the request, in its greenlet. Returns whether that may run another stream."""


class StreamGreenlets:
    """Those of one worker. Keeps the idle ones for the next streams.

    `began` is called in a greenlet before it runs a stream, and `done` after it.

    Made in a greenlet that may wait.
    """

    def __init__(self, began: Callable[[], None], done: Callable[[Runnable], None]) -> None:
        self.began = began
        self.done = done
        self.idle: list[StreamGreenlet] = []  # the last to become idle is taken first
        self._least_idle = 0  # since the last `trim()`
        self._references = self._references_to_idle()

    def take(self) -> "StreamGreenlet":
        """A greenlet for a stream: an idle one that nobody else knows, or else a new one.

        A reference that a request has left, as a `gevent.Timeout` that goes on, would reach the
        next one: `throw()`, `kill()`. So such a greenlet ends. To count costs 0.1 us.
        """
        while self.idle:
            greenlet, references = self._pop_idle()
            links = greenlet.links_to_call
            if references == self._references + links and getweakrefcount(greenlet) <= links:
                self._least_idle = min(self._least_idle, len(self.idle))
                return greenlet
            greenlet.end()
        self._least_idle = 0
        return StreamGreenlet(self)

    def _pop_idle(self) -> tuple["StreamGreenlet", int]:
        """The greenlet that became idle last, and the number of references to it."""
        greenlet = self.idle.pop()
        return greenlet, getrefcount(greenlet)

    def _references_to_idle(self) -> int:
        """How many references there are to an idle greenlet that nobody else knows.

        Its own frames hold most of them, some more on one version of CPython than on another.
        """
        greenlet = StreamGreenlet(self)
        greenlet.start()
        del greenlet
        while not self.idle:
            yield_to_others()
        greenlet, references = self._pop_idle()
        greenlet.end()
        return references

    def keep(self, greenlet: "StreamGreenlet") -> None:
        """Let `greenlet` wait for another stream."""
        self.idle.append(greenlet)

    def lose(self, greenlet: "StreamGreenlet") -> None:
        """An idle greenlet ends."""
        if greenlet in self.idle:
            self.idle.remove(greenlet)

    def trim(self) -> None:
        """End a tenth of the greenlets that no stream has needed lately. Called once a second.

        Not all: 10,000 streams come and go in waves of two seconds.
        """
        spare = max(0, self._least_idle - _IDLE_GREENLETS) // 10
        unneeded, self.idle = self.idle[:spare], self.idle[spare:]
        for greenlet in unneeded:
            greenlet.end()
        self._least_idle = len(self.idle)


class StreamGreenlet(Greenlet):  # type: ignore[type-arg]
    """Runs one stream, and then perhaps another.

    CPython maps 16 KiB of stack for each new greenlet and unmaps them at its end: 8 of the 9 us
    that one takes (measured; a small request takes 150 in all).

    What is linked to it hears of the stream's end instead of the greenlet's: so the stream's
    `threading.local` data go with it, and `join()` returns. After something was thrown into it, it
    ends with its stream; so it does if somebody still knows it (`StreamGreenlets.take()`).
    """

    # A `Greenlet` is of a class in C: CPython's caches for attributes do not work for those in its
    # `__dict__`. Each stream looks some forty of them up.
    __slots__ = (
        "_greenlets",
        "_idle",
        "_is_ending",
        "_stream",
        "_stream_links",
        "links_to_call",
    )

    def __init__(self, greenlets: StreamGreenlets) -> None:
        super().__init__()
        self._greenlets = greenlets
        self._stream: Runnable | None = None
        self._idle = False
        self._is_ending = False
        self._stream_links: list[Callable[[Any], object]] = []
        self.links_to_call = 0  # of the stream before, each a reference to this greenlet

    def rawlink(self, callback: Callable[[Any], object]) -> None:
        """Call `callback` in the hub when the stream is over."""
        self._stream_links.append(callback)

    def unlink(self, callback: Callable[[Any], object]) -> None:
        """Take back a `rawlink()`."""
        if callback in self._stream_links:
            self._stream_links.remove(callback)

    def start_stream(self, stream: Runnable) -> None:
        """Run `stream` when the loop comes to it."""
        self._stream = stream
        if self.started:
            gevent.get_hub().loop.run_callback(self._wake)
        else:
            self.start()

    def end(self) -> None:
        """End, being idle: there is no stream to run."""
        gevent.get_hub().loop.run_callback(self._wake)

    def _wake(self) -> None:
        if self._idle:
            self.switch()

    def _run(self) -> None:
        while self._stream is None or self._run_stream():
            if self._is_ending:
                return
            self._greenlets.keep(self)
            self._wait()
            if self._stream is None:  # see `end()`
                return

    def _run_stream(self) -> bool:
        assert self._stream is not None
        stream, self._stream = self._stream, None
        self._greenlets.began()
        try:
            return stream.run()
        finally:
            self._notify_stream_links()
            self._greenlets.done(stream)

    def _notify_stream_links(self) -> None:
        if self._stream_links:
            links, self._stream_links = self._stream_links, []
            self.links_to_call += len(links)
            for link in links:
                gevent.get_hub().loop.run_callback(self._call_link, link)

    def _call_link(self, link: Callable[[Any], object]) -> None:
        self.links_to_call -= 1
        link(self)

    def _wait(self) -> None:
        self._idle = True
        try:
            gevent.get_hub().switch()
        except BaseException:  # meant for a stream that is over
            self._is_ending = True
            self._greenlets.lose(self)
        finally:
            self._idle = False
