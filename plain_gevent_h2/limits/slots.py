"""The slots for streams that run at once in a worker, for which its connections take turns."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import gevent
from plain.logs import get_framework_logger

from plain_gevent_h2.net.fairness import yield_to_others
from plain_gevent_h2.net.log_throttle import OnceAMinute

from .stream_greenlets import Runnable, StreamGreenlets

log = get_framework_logger("plain.server")

#: Streams of one connection that start before others have their turn, and streams that may be
#: started ahead of the view that runs. A request on a quiet connection would otherwise wait for
#: all those that came before it on busy ones: 2.5 s behind 100 connections of 100 streams
#: (measured). With fewer, less of a connection's responses would leave together.
STREAMS_IN_A_TURN = 10
AHEAD = 64


class Source(Protocol):
    """A connection, as far as its streams wait for a slot."""

    @property
    def has_stream_to_start(self) -> bool:
        """Whether `next_stream()` has one to give."""

    def next_stream(self) -> Runnable | None:
        """Take the stream that is to start next; None if there is none for now."""

    def refuse_waiting(self) -> None:
        """Answer all that wait with a 503, without blocking."""


class Slots:
    """The slots for streams that run at once. Connections take turns for them.

    A stream whose client leaves gives its slot back and runs on beside the others: a blocking view
    is let finish. As many may do so as there are slots; those past that number keep theirs.

    Made in a greenlet that may wait, before there are streams.

    A stream's way: `start_from()`, `_start()`, its greenlet (`StreamGreenlets`), then
    `greenlet_began()`, its own `run()`, and `give_back()`.
    """

    def __init__(self, limit: int, count_request: Callable[[], None]) -> None:
        self._limit = limit
        self._count_request = count_request  # of the worker: called for each stream
        self._waiting: OrderedDict[Source, None] = OrderedDict()
        self._ahead = 0  # streams whose greenlets have not begun
        self.greenlets = StreamGreenlets(self.greenlet_began, self.give_back)
        self.running = 0  # streams that hold a slot
        self.clientless = 0  # streams whose client left while they ran, those past the limit too
        self._refusal_line = OnceAMinute()
        self.most_running = 0  # lately; less by a tenth a second

    @property
    def busy(self) -> int:
        """How many streams run, with their clients or without."""
        return self.running + min(self.clientless, self._limit)  # those past the limit hold slots

    def is_full(self) -> bool:
        """Whether streams wait for others to end."""
        return self.running >= self._limit and any(s.has_stream_to_start for s in self._waiting)

    def share(self, streams: int) -> int:
        """How many streams one connection may have running, with and without its client.

        `streams` is how many may run with it. Half of the slots are left to other connections,
        even if all of these run on without it.
        """
        return min(2 * streams, self._limit + (self._limit + 1) // 2)

    def start_from(self, source: Source) -> None:
        """Start what `source` has, now or when there is a slot and it has its turn."""
        is_its_turn = not self._waiting and self._has_slot()
        if is_its_turn and not self._start_turn(source):
            return  # it has no more
        self._waiting[source] = None
        self._start_waiting()

    def leave(self, source: Source) -> None:
        """`source` is over: it waits for no slot any more."""
        self._waiting.pop(source, None)

    def _has_slot(self) -> bool:
        return self.running < self._limit and self._ahead < AHEAD

    def _start_waiting(self) -> None:
        while self._waiting and self._has_slot():
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
        self._count_request()
        stream.greenlet = greenlet = self.greenlets.take()
        greenlet.start_stream(stream)

    def greenlet_began(self) -> None:
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
        """Answer what waits once streams without clients hold half of the slots, or more.

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
            yield_to_others()

    def give_back(self, stream: Runnable) -> None:
        """`stream` has ended: others may have its slot."""
        if stream.is_clientless:
            self.clientless -= 1
        if not stream.is_clientless or self.clientless >= self._limit:
            self.running -= 1
        if self._waiting:
            self._start_waiting()

    def lower_most_running(self) -> None:
        """Called once a second."""
        self.most_running = max(self.running, self.most_running * 9 // 10)
