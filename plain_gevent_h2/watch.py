"""What a worker tells of itself when asked, or when a view blocks it."""

import asyncio
import gc
import inspect
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

import gevent
from greenlet import greenlet
from plain.logs import get_framework_logger

from . import metrics
from .stream import Stream

log = get_framework_logger("plain.server")


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


class BlockedHub:
    """Sees from a native thread when a greenlet keeps the hub for `threshold` seconds.

    gevent's monitor does the watching: it counts the switches between greenlets. What it finds
    is logged at once, with the stack, and again with the whole time when it is over. A call
    into C that keeps the GIL shows itself only when it is over.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._ident = gevent.get_hub().thread_ident
        self._loop = gevent.get_hub().loop
        # Who blocks it: set in the monitor's thread, cleared in the hub, which may not come to
        # that before another greenlet blocks it.
        self._reported: tuple[greenlet, Stream | None] | None = None

    def start(self) -> None:
        """Called in the hub's thread."""
        gevent.config.max_blocking_time = self._threshold
        gevent.config.monitor_thread = True
        with warnings.catch_warnings(action="ignore"):  # without psutil it cannot watch memory
            monitor: Any = gevent.get_hub().start_periodic_monitoring_thread()
        gevent.config.monitor_thread = False  # not for the hubs of other threads
        # Asked here, not through gevent's own check, which describes every greenlet before it tells
        # of one: 0.1 s with 2,000 of them, and by then another may run than the one that blocked.
        self._tracer = monitor._greenlet_tracer
        monitor.add_monitoring_function(self._look, self._threshold)
        monitor.add_monitoring_function(monitor.monitor_blocking, None)

    def _look(self, hub: Any) -> None:
        blocked = self._tracer.did_block_hub(hub)
        if not blocked:
            return
        guilty: greenlet = blocked[1]
        frame = sys._current_frames().get(self._ident)
        if self._tracer.active_greenlet is not guilty:  # it has just let go
            frame = guilty.gr_frame
        stream = stream_of(frame)
        blocking = (guilty, stream)
        if frame is None or blocking == self._reported:
            return
        self._reported = blocking
        who = stream.describe() if stream is not None else "no request"
        stack = "".join(traceback.format_stack(frame))
        since = time.monotonic() - self._threshold
        log.warning("Worker blocked for over %g s by %s:\n%s", self._threshold, who, stack)
        self._loop.run_callback_threadsafe(self._over, blocking, since, who)

    def _over(self, blocking: tuple[greenlet, Stream | None], since: float, who: str) -> None:
        if self._reported is blocking:
            self._reported = None
        seconds = time.monotonic() - since
        metrics.hub_blocked(seconds)
        log.warning("Worker was blocked for %.2f s by %s", seconds, who)
