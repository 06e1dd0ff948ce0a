"""What a worker tells of itself when asked, or when a view blocks it."""

import asyncio
import gc
import inspect
import sys
import time
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any, Literal

import gevent
from gevent.monkey import get_original
from greenlet import gettrace, greenlet, settrace
from plain.logs import get_framework_logger

from . import metrics
from .stream import Stream

log = get_framework_logger("plain.server")

_start_new_thread = get_original("_thread", "start_new_thread")
_sleep = get_original("time", "sleep")  # of a native thread


def stream_of(frame: FrameType | None) -> Stream | None:
    """The stream whose greenlet has `frame` in its stack, if any has."""
    while frame is not None:
        if frame.f_code is Stream.run.__code__:
            stream = frame.f_locals["self"]
            return stream if isinstance(stream, Stream) else None
        frame = frame.f_back
    return None


def log_stacks() -> None:
    """Write the stack of every greenlet to the log, those of requests by themselves."""
    others: dict[str, int] = {}
    requests = 0
    for frame in _frames():
        stack = "".join(traceback.format_stack(frame))
        stream = stream_of(frame)
        if stream is None:
            others[stack] = others.get(stack, 0) + 1
        else:
            requests += 1
            log.warning("Greenlet of %s:\n%s%s", stream.describe(), stack, _task_stack(frame))
    for stack, count in others.items():
        log.warning("%s other greenlet(s):\n%s", count, stack)
    log.warning("%s requests, %s other greenlets", requests, sum(others.values()))


def _frames() -> Iterator[FrameType]:
    for found in gc.get_objects():
        if isinstance(found, greenlet) and found.gr_frame is not None:
            yield found.gr_frame


def _task_stack(frame: FrameType | None) -> str:
    """Where the task on the asyncio loop is that the greenlet with `frame` waits for."""
    while frame is not None:
        task = frame.f_locals.get("task")
        if isinstance(task, asyncio.Task) and frame.f_globals.get("__package__") == __package__:
            return "".join(["  Its task:\n", *_lines(task.get_coro())])
        frame = frame.f_back
    return ""


def _lines(awaited: Any) -> Iterator[str]:
    """A line for each coroutine and async generator, from the outermost to what it waits for."""
    while awaited is not None:
        if type(awaited).__name__.startswith("async_generator_a"):  # a step of a generator
            awaited = next(filter(inspect.isasyncgen, gc.get_referents(awaited)), None)
        kind = "ag" if inspect.isasyncgen(awaited) else "cr"
        frame = getattr(awaited, f"{kind}_frame", None)
        if frame is not None:
            yield from traceback.format_list(traceback.extract_stack(frame, limit=1))
        awaited = getattr(awaited, f"{kind}_await", None)


def _places(frame: FrameType) -> traceback.StackSummary:
    """The stack of `frame`, outermost first, without a reference to it.

    Quick, since its greenlet may run on: who holds a frame last also ends what its locals hold,
    which is not for another thread to do.
    """
    found = [
        traceback.FrameSummary(f.f_code.co_filename, line, f.f_code.co_name, lookup_line=False)
        for f, line in traceback.walk_stack(frame)
    ]
    return traceback.StackSummary.from_list(found[::-1])


class BlockedHub:
    """Sees from a native thread when a greenlet keeps the hub for `threshold` seconds.

    What it finds is logged with the stack while it lasts, and again with the whole time when it
    is over. A call into C that keeps the GIL keeps it from this thread too: both lines then
    follow at its end.

    Not gevent's own monitor, which misses most calls that keep the GIL, describes every greenlet
    before it tells of one (0.1 s with 2,000 of them, and by then another may run), and ends
    without a word if the hub has not run by the time of its first look.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._hub = gevent.get_hub()
        # Who runs, since when, and until when (0 as long as it does): a new list at each switch.
        # Written by the hub's thread.
        self._turn: list[Any] = [self._hub, 0.0, 0.0]
        # The turn that was logged and whose end was not, and whose it is. The native thread's own.
        self._blocking: tuple[list[Any], str] | None = None

    def start(self) -> None:
        """Called in the hub's thread."""
        others = gettrace()  # gevent's own monitor's, if GEVENT_MONITOR_THREAD_ENABLE is set
        monotonic = time.monotonic

        def switched(event: Literal["switch", "throw"], args: tuple[greenlet, greenlet]) -> None:
            now = self._turn[2] = monotonic()
            self._turn = [args[1], now, 0.0]
            if others is not None:
                others(event, args)

        settrace(switched)
        _start_new_thread(self._watch, ())

    def _watch(self) -> None:
        while True:
            _sleep(self._threshold / 2)
            self._look_for_end()
            self._look_for_start()

    def _look_for_start(self) -> None:
        turn = self._turn
        guilty, since, _ = turn
        now = time.monotonic()
        if guilty is self._hub or now - since < self._threshold or self._blocking is not None:
            return
        frame = sys._current_frames()[self._hub.thread_ident]
        if self._turn is not turn:  # over: the frame may be of another
            return
        stream = stream_of(frame)
        who = stream.describe() if stream is not None else "no request"
        places = _places(frame)
        del frame, stream
        self._blocking = (turn, who)
        stack = "".join(places.format())
        log.warning("Worker blocked for over %g s by %s:\n%s", self._threshold, who, stack)

    def _look_for_end(self) -> None:
        if self._blocking is None:
            return
        (_, since, until), who = self._blocking
        if until:
            self._blocking = None
            metrics.hub_blocked(until - since)
            log.warning("Worker was blocked for %.2f s by %s", until - since, who)
