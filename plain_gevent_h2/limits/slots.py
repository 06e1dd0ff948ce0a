"""The places for streams that run at once in a worker, and the greenlets that run them."""

from collections import OrderedDict
from collections.abc import Callable
from sys import getrefcount
from typing import Any, Protocol
from weakref import getweakrefcount

import gevent
from gevent import Greenlet
from plain.logs import get_framework_logger

from plain_gevent_h2.net.fairness import give_way
from plain_gevent_h2.net.log_throttle import OnceAMinute

log = get_framework_logger("plain.server")

#: Greenlets that are kept for the next streams, even if there are none for a while.
_IDLE_GREENLETS = 200


#: Streams of one connection that start before others have their turn, and streams that may be
#: started ahead of the view that runs. A request on a quiet connection would otherwise wait for
#: all those that came before it on busy ones: 2.5 s behind 100 connections of 100 streams
#: (measured). With fewer, less of a connection's responses would leave together.
STREAMS_IN_A_TURN = 10
AHEAD = 64


class Runnable(Protocol):
    """A stream, as far as it runs in a greenlet."""

    greenlet: Any
    is_clientless: bool

    def run(self) -> bool:
        """Serve the request, in its greenlet. Returns whether that may run another stream."""


class Source(Protocol):
    """A connection, as far as its streams wait for a place."""

    @property
    def has_stream_to_start(self) -> bool:
        """Whether `next_stream()` has one to give."""

    def next_stream(self) -> Runnable | None:
        """Take the stream that is to start next; None if there is none for now."""

    def refuse_waiting(self) -> None:
        """Answer all that wait with a 503, without blocking."""


class Slots:
    """The places for streams that run at once. For these, connections wait by turns.

    A stream whose client leaves gives its place back and runs on beside the others: a blocking view
    is let finish. As many may do so as there are places; those past them keep theirs.

    Made in a greenlet that may wait, before there are streams.
    """

    def __init__(self, limit: int, started: Callable[[], None]) -> None:
        self._limit = limit
        self._started = started
        self._waiting: OrderedDict[Source, None] = OrderedDict()
        self._ahead = 0  # streams whose greenlets have not begun
        self._idle: list[_StreamGreenlet] = []  # the last to become idle is taken first
        self._least_idle = 0  # since the last `trim()`
        self.running = 0  # streams that hold a place
        self.clientless = 0  # streams whose client left while they ran, those past the limit too
        self._refusal_line = OnceAMinute()
        self.most_running = 0  # lately; less by a tenth a second
        self._references = self._references_to_idle()

    @property
    def busy(self) -> int:
        """How many streams run, with their clients or without."""
        return self.running + self.clientless

    def is_full(self) -> bool:
        """Whether streams wait for others to end."""
        return self.running >= self._limit and any(s.has_stream_to_start for s in self._waiting)

    def share(self, streams: int) -> int:
        """How many streams one connection may have running, with and without its client.

        `streams` is how many may run with it. Half of the places are left to other connections,
        even if all of these run on without it.
        """
        return min(2 * streams, self._limit + (self._limit + 1) // 2)

    def run(self, source: Source) -> None:
        """Start what `source` has, now or when there is a place and it has its turn."""
        if self._waiting or not self._has_place() or self._start_turn(source):
            self._waiting[source] = None
            self._start_waiting()

    def leave(self, source: Source) -> None:
        """`source` is over: it waits for no place any more."""
        self._waiting.pop(source, None)

    def _has_place(self) -> bool:
        return self.running < self._limit and self._ahead < AHEAD

    def _start_waiting(self) -> None:
        while self._waiting and self._has_place():
            source, _ = self._waiting.popitem(last=False)
            if self._start_turn(source):
                self._waiting[source] = None

    def _start_turn(self, source: Source) -> bool:
        """Start streams of `source`; whether it may have more."""
        for _ in range(STREAMS_IN_A_TURN):
            if self.running >= self._limit:
                break
            if (stream := source.next_stream()) is None:
                return False
            self._start(stream)
        return source.has_stream_to_start

    def _start(self, stream: Runnable) -> None:
        self.running += 1
        self._ahead += 1
        self.most_running = max(self.most_running, self.running)
        self._started()
        greenlet = self._take_idle() or _StreamGreenlet(self)
        stream.greenlet = greenlet
        greenlet.take(stream)

    def began(self) -> None:
        """A stream's greenlet has begun to run."""
        self._ahead -= 1
        if self._waiting:
            self._start_waiting()

    def client_left(self) -> None:
        """The client of a stream that runs has left."""
        self.clientless += 1
        if self.clientless <= self._limit:
            self.running -= 1
            # Not from here: its connection may be in the middle of its end.
            gevent.get_hub().loop.run_callback(self._start_waiting)

    def refuse_waiting(self) -> None:
        """Answer what waits once streams without clients hold half of the places, or more.

        Called once a second. These may take any time.
        """
        held = self.clientless - self._limit
        if held <= 0 or 2 * held < self._limit or self.running < self._limit or not self._waiting:
            return
        if self._refusal_line.is_due():
            log.warning(
                "Too many requests run on without their clients, refusing others",
                extra={"clientless": self.clientless},
            )
        waiting = list(self._waiting)
        self._waiting.clear()
        for source in waiting:
            source.refuse_waiting()
            give_way()

    def ended(self, stream: Runnable) -> None:
        """A stream has ended."""
        if stream.is_clientless:
            self.clientless -= 1
        if not stream.is_clientless or self.clientless >= self._limit:
            self.running -= 1
        if self._waiting:
            self._start_waiting()

    def keep(self, greenlet: "_StreamGreenlet") -> None:
        """Let `greenlet` wait for another stream."""
        self._idle.append(greenlet)

    def _take_idle(self) -> "_StreamGreenlet | None":
        """An idle greenlet that nobody else knows, if there is one.

        A reference that a request has left, as a `gevent.Timeout` that goes on, would reach the
        next one: `throw()`, `kill()`. So such a greenlet ends. To count costs 0.1 us.
        """
        while self._idle:
            greenlet, references = self._pop_idle()
            links = greenlet.links_to_call
            if references == self._references + links and getweakrefcount(greenlet) <= links:
                self._least_idle = min(self._least_idle, len(self._idle))
                return greenlet
            greenlet.end()
        self._least_idle = 0
        return None

    def _pop_idle(self) -> tuple["_StreamGreenlet", int]:
        """The greenlet that became idle last, and the number of references to it."""
        greenlet = self._idle.pop()
        return greenlet, getrefcount(greenlet)

    def _references_to_idle(self) -> int:
        """How many references there are to an idle greenlet that nobody else knows.

        Its own frames hold most of them, some more on one version of CPython than on another.
        """
        greenlet = _StreamGreenlet(self)
        greenlet.start()
        del greenlet
        while not self._idle:
            give_way()
        greenlet, references = self._pop_idle()
        greenlet.end()
        return references

    def trim(self) -> None:
        """End a tenth of the greenlets that no stream has needed lately. Called once a second.

        Not all: 10,000 streams come and go in waves of two seconds.
        """
        spare = max(0, self._least_idle - _IDLE_GREENLETS) // 10
        unneeded, self._idle = self._idle[:spare], self._idle[spare:]
        for greenlet in unneeded:
            greenlet.end()
        self._least_idle = len(self._idle)
        self.most_running = max(self.running, self.most_running * 9 // 10)

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
    ends with its stream; so it does if somebody still knows it (`Slots._take_idle()`).
    """

    # A `Greenlet` is of a class in C: CPython's caches for attributes do not work for those in its
    # `__dict__`. Each stream looks some forty of them up.
    __slots__ = (
        "_idle",
        "_is_ending",
        "_slots",
        "_stream",
        "_stream_links",
        "links_to_call",
    )

    def __init__(self, slots: Slots) -> None:
        super().__init__()
        self._slots = slots
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

    def take(self, stream: Runnable) -> None:
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
            self._slots.keep(self)
            self._wait()
            if self._stream is None:  # see `end()`
                return

    def _run_stream(self) -> bool:
        assert self._stream is not None
        stream, self._stream = self._stream, None
        self._slots.began()
        try:
            return stream.run()
        finally:
            self._notify_stream_links()
            self._slots.ended(stream)

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
            self._slots.lose(self)
        finally:
            self._idle = False
