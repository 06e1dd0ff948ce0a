"""The stacks of a worker in its log: all of them on SIGUSR2, one when a view blocks the hub."""

import asyncio
import gc
import inspect
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any, Literal

import gevent
from gevent import threadpool
from gevent.monkey import get_original
from greenlet import gettrace, greenlet, settrace
from plain.logs import get_framework_logger

import plain_gevent_h2
from plain_gevent_h2.app import asyncio_bridge
from plain_gevent_h2.app.plain_internals import FOLDERS_OF_EACH_REQUEST
from plain_gevent_h2.http1 import connection as http1
from plain_gevent_h2.http2 import connection, shutdown
from plain_gevent_h2.limits import stream_greenlets
from plain_gevent_h2.net import metrics
from plain_gevent_h2.stream import Stream

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


#: A line of a stack: the code and the line in it.
type _Place = tuple[CodeType, int]

#: How many requests of those with the same stack are named, the oldest first.
_NAMED = 5

#: What a greenlet is, by the outermost of these files in its stack.
_KINDS = {
    connection.__file__: "connection(s)",
    shutdown.__file__: "connection(s)",
    http1.__file__: "connection(s)",
    stream_greenlets.__file__: "idle greenlet(s), for the next requests",
    asyncio_bridge.__file__: "greenlet(s) of the asyncio loop's thread",
    threadpool.__file__: "greenlet(s) of native threads",
}

#: Where the frames are that every request has. Of Plain only these: where an app waits in
#: `plain.postgres`, say, is worth a line.
_FRAMEWORK = tuple(
    f"{folder}{os.sep}"
    for folder in (
        *FOLDERS_OF_EACH_REQUEST,
        *gevent.__path__,
        *plain_gevent_h2.__path__,
    )
)

#: Lines that are left of a stack in which there is nothing but the framework.
_INNERMOST = 3


@dataclass
class _Group:
    """Greenlets, tasks or native threads that have the same stack."""

    kind: str
    places: list[_Place]
    task: list[_Place]
    count: int = 0
    streams: list[Stream] = field(default_factory=list)


def log_stacks() -> None:
    """Write all stacks of this worker to the log: equal ones once, with a count.

    They are those of requests, other greenlets, asyncio tasks that no request waits for, and
    native threads.
    """
    groups = sorted(_groups(), key=lambda group: (not group.streams, group.kind, -group.count))
    counts: dict[str, int] = {}
    for group in groups:
        counts[group.kind] = counts.get(group.kind, 0) + group.count
    pid = os.getpid()
    summary = "; ".join(f"{count} {kind}" for kind, count in counts.items())
    log.warning("Stacks (pid: %s): %s", pid, summary)
    for group in groups:
        log.warning("Stack of %s %s (pid: %s):\n%s", group.count, group.kind, pid, _text(group))


def _groups() -> Iterable[_Group]:
    groups: dict[Any, _Group] = {}

    def add(kind: str, places: list[_Place], task: list[_Place], stream: Stream | None) -> None:
        places = _without_framework(places, empty=bool(task))
        task = _without_framework(task)
        group = groups.setdefault((kind, *places, None, *task), _Group(kind, places, task))
        group.count += 1
        if stream is not None:
            group.streams.append(stream)

    greenlets, tasks = _greenlets_and_tasks()
    for found in greenlets:
        frame = found.gr_frame
        if frame is None:  # it runs, or is over
            continue
        stream, task = stream_of(frame), _task_of(frame)
        places = _stack(frame)
        kind = _kind_of(places) if stream is None else "request(s)"
        awaited = []
        if task is not None:
            tasks.discard(task)
            awaited = list(_awaited(task))
        add(kind, places, awaited, stream)
    for task in tasks:
        add("other asyncio task(s)", list(_awaited(task)), [], None)
    for places in _native_threads():
        add("native thread(s)", places, [], None)
    return groups.values()


def _greenlets_and_tasks() -> tuple[list[greenlet], set[asyncio.Task[Any]]]:
    greenlets: list[greenlet] = []
    tasks: set[asyncio.Task[Any]] = set()
    for found in gc.get_objects():
        # Not isinstance(), which asks a proxy for its `__class__`: some raise.
        kind = type(found)
        if issubclass(kind, greenlet):
            greenlets.append(found)
        elif issubclass(kind, asyncio.Task) and not found.done():
            tasks.add(found)
    return greenlets, tasks


def _native_threads() -> list[list[_Place]]:
    """What all other threads run, quickly (see `BlockedHub`)."""
    ours = gevent.get_hub().thread_ident
    return [_stack(frame) for ident, frame in sys._current_frames().items() if ident != ours]


def _kind_of(places: list[_Place]) -> str:
    for code, _ in places:
        if kind := _KINDS.get(code.co_filename):
            return kind
    return "other greenlet(s)"


def _without_framework(places: list[_Place], *, empty: bool = False) -> list[_Place]:
    """What is not the framework's; if there is nothing else, its last lines unless `empty`."""
    kept = [place for place in places if not place[0].co_filename.startswith(_FRAMEWORK)]
    return kept if kept or empty else places[-_INNERMOST:]


def _stack(frame: FrameType) -> list[_Place]:
    """The stack of `frame`, outermost first, without a reference to it."""
    return [(f.f_code, line) for f, line in traceback.walk_stack(frame)][::-1]


def _task_of(frame: FrameType | None) -> "asyncio.Task[Any] | None":
    """The task on the asyncio loop that the greenlet with `frame` waits for."""
    while frame is not None:
        if frame.f_code is asyncio_bridge.Call.wait.__code__:
            call = frame.f_locals["self"]
            return call.task if isinstance(call, asyncio_bridge.Call) else None
        frame = frame.f_back
    return None


def _awaited(task: "asyncio.Task[Any]") -> Iterator[_Place]:
    """Where each coroutine and async generator is, from the outermost to what it waits for."""
    awaited: Any = task.get_coro()
    while awaited is not None:
        if type(awaited).__name__.startswith("async_generator_a"):  # a step of a generator
            awaited = next(filter(inspect.isasyncgen, gc.get_referents(awaited)), None)
        kind = "ag" if inspect.isasyncgen(awaited) else "cr"
        frame = getattr(awaited, f"{kind}_frame", None)
        if frame is not None:
            yield frame.f_code, frame.f_lineno
        awaited = getattr(awaited, f"{kind}_await", None)


def _text(group: _Group) -> str:
    oldest = sorted(group.streams, key=lambda stream: stream.began_at)[:_NAMED]
    lines = [f"  {stream.describe()}\n" for stream in oldest]
    if younger := len(group.streams) - len(oldest):
        lines.append(f"  and {younger} younger\n")
    lines += _lines(group.places)
    if group.task:
        lines += ["  Its task:\n", *_lines(group.task)]
    return "".join(lines)


def _lines(places: list[_Place]) -> list[str]:
    return traceback.format_list(
        [
            traceback.FrameSummary(code.co_filename, line, code.co_name, lookup_line=False)
            for code, line in places
        ]
    )


class BlockedHub:
    """Finds, from a native thread, a greenlet that blocks the hub for `threshold` seconds.

    It logs the stack while the hub is blocked, and the whole time afterwards. A call into C that
    holds the GIL stops this thread as well: both lines then follow at its end.

    gevent's own monitor will not do. It misses most calls that hold the GIL, describes every
    greenlet before it reports one (0.1 s with 2,000 of them, and by then another may run), and ends
    silently if the hub has not run before its first check.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._hub = gevent.get_hub()
        # The greenlet that runs, since when, and until when (0 while it runs): a new list at each
        # switch. Written by the hub's thread.
        self._turn: list[Any] = [self._hub, 0.0, 0.0]
        # The turn that is logged, but for its end, and who runs in it. Of the native thread.
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
            self._check_end()
            self._check_start()

    def _check_start(self) -> None:
        turn = self._turn
        running, since, _ = turn
        now = time.monotonic()
        if running is self._hub or now - since < self._threshold or self._blocking is not None:
            return
        frame = sys._current_frames()[self._hub.thread_ident]
        if self._turn is not turn:  # over: the frame may be of another
            return
        stream = stream_of(frame)
        # Quickly: a thread that drops the last reference to a frame also ends what its locals
        # hold, and that must not happen in this thread.
        places = _stack(frame)
        del frame
        who = stream.describe() if stream is not None else "no request"
        self._blocking = (turn, stream.name() if stream is not None else who)
        del stream
        stack = "".join(_lines(places))
        log.warning("Worker blocked for over %g s by %s:\n%s", self._threshold, who, stack)

    def _check_end(self) -> None:
        if self._blocking is None:
            return
        (_, since, until), who = self._blocking
        if until:
            self._blocking = None
            metrics.hub_blocked(until - since)
            log.warning("Worker was blocked for %.2f s by %s", until - since, who)
