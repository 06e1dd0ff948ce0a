"""An event loop whose time passes in no time: the protocol tier's clock.

Sockets, callbacks and native threads are the real ones. Timers are not: the loop's clock stands
still while any greenlet can run, and when none can it jumps to the next timer. So a keep-alive
of a minute is over as soon as everybody waits for it, in the order in which it would happen, and
how busy the machine is makes no difference.

This holds because both ends of each connection are in this process: what one end of a socket pair
of the system sends is at the other end when `send()` returns. Native threads are the exception, so
the clock stands still while one works for a greenlet.
"""

import heapq
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Self, cast

import gevent.hub
from gevent._hub_local import get_hub_if_exists, set_hub
from gevent.core import loop as Loop  # type: ignore[import-not-found]  # gevent's stubs lack it

#: Seconds of the loop's time after which a test is stuck: a wait that nothing ends, beside a
#: timer that goes on for ever (the worker's sweeps).
STUCK_AFTER = 2 * 3600.0

#: Seconds of real time between looks at native threads.
_LOOK_AT_THREADS = 0.0002

_sleep = time.sleep


class Stuck(BaseException):
    """Every greenlet waits, and nothing will end that. No `Exception`, since clients retry."""


class VirtualTimer:
    """As much of a libev timer as gevent uses, by the time of a `VirtualLoop`."""

    pending = False

    def __init__(self, loop: "VirtualLoop", after: float, repeat: float) -> None:
        self._loop = loop
        self._after = after
        self._repeat = repeat
        self.callback: Callable[..., object] | None = None
        self.args: tuple[Any, ...] = ()
        self.entry = 0  # the loop's, since this was started last

    @property
    def active(self) -> bool:
        return self.callback is not None

    def start(self, callback: Callable[..., object], *args: Any, update: bool = True) -> None:
        self.callback, self.args = callback, args
        self._loop.add(self, self._after)

    def stop(self) -> None:
        self.callback, self.args = None, ()

    close = stop

    def fire(self) -> None:
        callback, args = self.callback, self.args
        self.stop()
        assert callback is not None
        if self._repeat:
            self.callback, self.args = callback, args
            self._loop.add(self, self._repeat)
        try:
            callback(*args)
        except BaseException:
            self._loop.handle_error(self, *sys.exc_info())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VirtualLoop(Loop):  # type: ignore[misc]
    """gevent's loop, with timers that take no real time."""

    def __init__(self, *, default: bool) -> None:
        super().__init__(default=default)
        self._time = 1000.0
        self._stuck_at = self._time + STUCK_AFTER
        self._timers: list[tuple[float, int, VirtualTimer]] = []
        self._order = itertools.count()  # of timers that are due at the same time
        self._idle_at = -1  # the iteration in which nobody had anything to do, threads included
        self.hub: Any = None
        # Called when a turn of the loop found nothing to do.
        self._idle = self.idle()
        self._idle.priority = self.MINPRI
        self._idle.start(self._nothing_to_do)

    def monotonic(self) -> float:
        return self._time

    def timer(
        self, after: float, repeat: float = 0.0, ref: bool = True, priority: int | None = None
    ) -> Any:
        if after <= 0 and not repeat:
            # It asks for a look at the sockets, and is due after it.
            return super().timer(after, repeat, ref, priority)
        return VirtualTimer(self, after, repeat)

    def add(self, timer: VirtualTimer, after: float) -> None:
        timer.entry = next(self._order)
        heapq.heappush(self._timers, (self._time + after, timer.entry, timer))

    def not_stuck(self) -> None:
        """A test begins."""
        self._stuck_at = self._time + STUCK_AFTER

    def _nothing_to_do(self) -> None:
        if self._callbacks:
            return
        if self._threads_may_have_news():
            return
        while self._timers:
            due, entry, timer = heapq.heappop(self._timers)
            if timer.active and timer.entry == entry:
                break
        else:
            self._stop("no timer is left")
            return
        if due > self._stuck_at:
            heapq.heappush(self._timers, (due, entry, timer))
            self._stop("only timers that come again are left")
            return
        self._time = max(self._time, due)
        self._idle_at = -1  # whom it wakes may give work to a thread
        timer.fire()

    def _threads_may_have_news(self) -> bool:
        """Whether a native thread works, or has ended its work since the loop last polled."""
        threads = self.hub._threadpool
        if threads is None:
            return False
        if len(threads):
            _sleep(_LOOK_AT_THREADS)
            return True
        idle_since, self._idle_at = self._idle_at, self.iteration
        return bool(idle_since != self.iteration - 1)

    def _stop(self, why: str) -> None:
        self._stuck_at = self._time + STUCK_AFTER
        self.hub.parent.throw(Stuck(f"everybody waits, and {why}"))


class Time(ModuleType):
    """The module `time`, on the clock of `loop`."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__("time")
        vars(self).update(vars(time))
        self.monotonic = loop.monotonic
        self.sleep = gevent.sleep


class VirtualHub(gevent.hub.Hub):
    """A hub of the calling thread's, on a loop of its own. `using()` puts it to use."""

    loop: VirtualLoop

    def __init__(self) -> None:
        super().__init__(VirtualLoop(default=False))  # the default one belongs to gevent's own hub
        self.loop.hub = self
        #: What greenlets and callbacks raised, and nobody caught.
        self.errors: list[BaseException] = []

    def handle_error(self, context: Any, type: Any, value: Any, tb: Any) -> None:
        super().handle_error(context, type, value, tb)
        if not issubclass(type, self.NOT_ERROR):
            self.errors.append(value)


@contextmanager
def using(hub: VirtualHub, modules: Callable[[ModuleType], bool]) -> Iterator[None]:
    """In this block, the calling thread has this hub, and `modules` see the time of its loop.

    They are those of which `modules` is true, and see it in place of the module `time`.
    """
    before: Any = get_hub_if_exists()  # None is right for `set_hub()`, but not for its stub
    set_hub(hub)
    virtual = Time(hub.loop)
    changed = [m for m in list(sys.modules.values()) if _sees_time(m) and modules(m)]
    for module in changed:
        vars(module)["time"] = virtual
    try:
        yield
    finally:
        for module in changed:
            vars(module)["time"] = time
        set_hub(before)


def _sees_time(module: ModuleType) -> bool:
    return isinstance(module, ModuleType) and vars(module).get("time") is time


def advance(seconds: float) -> None:
    """Return when so many seconds have passed for everybody."""
    hub: Any = gevent.get_hub()
    with hub.loop.timer(seconds) as timer:
        hub.wait(timer)


def now() -> float:
    """Seconds, on the clock that `advance()` sets."""
    return cast(float, cast(Any, gevent.get_hub().loop).monotonic())
