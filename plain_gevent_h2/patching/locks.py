"""`threading.Lock` for greenlets and native threads at once.

gevent's own lock does not wake all that wait where several native threads want it: of 60
requests that logged from gevent's thread pool, from greenlets and from async views, 12 to 33
were answered and the others hung. Everything that the standard library builds on a lock (RLock,
Condition, Event, Semaphore, Barrier, Queue, Future, logging's handlers) had the same fault.

A lock here is a native one, which settles who owns it. Those who wait stand in a queue, and each
is woken in its own way: a greenlet through its thread's hub, a thread that has no hub through a
native lock. Nothing of the queue needs a lock itself: appending to a deque and taking from it are
atomic, and a waiter is claimed by whoever takes its `_claim`.

Imported while the worker is patched: nothing here may import what is to be patched.
"""

from _queue import Empty
from _thread import TIMEOUT_MAX
from collections import deque
from contextlib import suppress
from types import GenericAlias
from typing import Any

from gevent import getcurrent
from gevent._hub_local import get_hub_if_exists
from gevent.exceptions import BlockingSwitchOutError
from gevent.hub import Waiter, sleep
from gevent.monkey import get_original

_allocate_native = get_original("_thread", "allocate_lock")
_native_thread = get_original("_thread", "get_ident")
_monotonic = get_original("time", "monotonic")

#: Seconds that a hub's own greenlet waits for a lock. It can only block its whole thread: another
#: native thread releases the lock soon, a greenlet of the same thread never could.
HUB_PATIENCE = 1.0


def can_switch() -> bool:
    """Whether the caller can let other greenlets of its native thread run."""
    hub = get_hub_if_exists()
    return hub is not None and getcurrent() is not hub


class _Waiter:
    """Someone who waits for a lock. Made in the greenlet or thread that waits."""

    __slots__ = ("_claim", "_greenlet", "_hub", "_wakeup", "owns", "wants_it")

    def __init__(self) -> None:
        self._claim = _allocate_native()
        hub: Any = get_hub_if_exists()
        self._hub = hub
        #: Set when it was woken and found the lock taken: the next release gives it the lock.
        self.wants_it = False
        #: The lock is this waiter's: the one who released it gave it away. Set before the claim.
        self.owns = False
        self._greenlet = can_switch()
        self._wakeup: Any
        if self._greenlet:
            self._wakeup = Waiter(hub)
        else:
            self._wakeup = _allocate_native()
            self._wakeup.acquire()

    def claim(self) -> bool:
        """Whether the caller decides what becomes of this wait: one waker, or its own end."""
        return bool(self._claim.acquire(False))

    def wake(self) -> None:
        """Called in any thread, once, after `claim()`."""
        if not self._greenlet:
            self._wakeup.release()
        elif self._hub.thread_ident == _native_thread():
            self._hub.loop.run_callback(self._wakeup.switch, None)
        else:
            self._hub.loop.run_callback_threadsafe(self._wakeup.switch, None)

    def wait(self, timeout: float | None) -> None:
        """Block until `wake()`, or for `timeout` seconds."""
        if not self._greenlet:
            self._wait_in_thread(timeout)
            return
        loop = self._hub.loop
        loop.ref()  # else the loop ends where there is nothing to wait for but another thread
        try:
            if timeout is None:
                self._wakeup.get()
                return
            with loop.timer(timeout) as timer:
                timer.start(self._wakeup.switch, None)
                self._wakeup.get()
        finally:
            loop.unref()

    def _wait_in_thread(self, timeout: float | None) -> None:
        if self._hub is None:
            self._wakeup.acquire(True, -1 if timeout is None else timeout)
        elif not self._wakeup.acquire(
            True, HUB_PATIENCE if timeout is None else min(timeout, HUB_PATIENCE)
        ):
            raise BlockingSwitchOutError(
                "a callback of the hub waits for a lock that is not released"
            )

    def again(self) -> None:
        """Be ready for another `wait()`, which is to end with the lock."""
        self.wants_it = True
        self._claim.release()
        if self._greenlet:
            self._wakeup.clear()


def _wake(waiter: _Waiter) -> bool:
    """Wake `waiter`, if nobody has and it still waits."""
    if not waiter.claim():
        return False
    try:
        waiter.wake()
    except (AttributeError, ValueError):  # its thread ended, and its hub with it
        return False
    return True


def _wake_first(waiters: deque[_Waiter]) -> None:
    """Have the first who still waits try. Who has the better of it wakes the next."""
    while waiters:
        try:
            waiter = waiters.popleft()
        except IndexError:
            return
        if _wake(waiter):
            return


class Lock:
    """What `threading.Lock` is in a worker process. Its interface is that of the original."""

    __slots__ = ("__weakref__", "_native", "_waiters")

    def __init__(self) -> None:
        self._native = _allocate_native()
        self._waiters: deque[_Waiter] = deque()

    def __init_subclass__(cls) -> None:
        raise TypeError("type 'Lock' is not an acceptable base type")

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._native.acquire(False):
            return True
        if not blocking:
            if timeout != -1:
                raise ValueError("can't specify a timeout for a non-blocking call")
            if can_switch():  # who tries again and again must not keep out the one who holds it
                sleep(0)
            return False
        if timeout == -1:
            return self._wait(None)
        if timeout < 0:
            raise ValueError("timeout value must be a non-negative number")
        if timeout > TIMEOUT_MAX:
            raise OverflowError("timeout value is too large")
        return self._wait(timeout)

    def __enter__(self) -> bool:
        return self._native.acquire(False) or self._wait(None)

    def release(self) -> None:
        if not self._native.locked():  # first: who waits is not to be lost to this error
            raise RuntimeError("release unlocked lock")
        waiters = self._waiters
        while waiters:
            try:
                waiter = waiters.popleft()
            except IndexError:  # the last one has just left
                break
            if not waiter.wants_it:
                self._native.release()
                if not _wake(waiter):
                    _wake_first(waiters)
                return
            waiter.owns = True
            if _wake(waiter):
                return  # the lock was never free, so nobody came between
        self._native.release()
        if waiters:  # one who came meanwhile found the lock taken
            _wake_first(self._waiters)

    def __exit__(self, *_: object) -> None:
        self.release()

    def locked(self) -> bool:
        return bool(self._native.locked())

    #: For `threading.Condition`, which else asks by `acquire(False)`.
    _is_owned = locked

    # The names of old, which `_thread.lock` has, too.
    acquire_lock = acquire
    release_lock = release
    locked_lock = locked

    def _at_fork_reinit(self) -> None:
        self._native._at_fork_reinit()
        self._waiters.clear()

    def __repr__(self) -> str:
        state = "locked" if self.locked() else "unlocked"
        return f"<{state} {type(self).__module__}.{type(self).__qualname__} at {id(self):#x}>"

    def _wait(self, timeout: float | None) -> bool:
        if timeout == 0:
            return False
        deadline = None if timeout is None else _monotonic() + timeout
        waiter = _Waiter()
        queue_up = self._waiters.append
        try:
            while True:
                queue_up(waiter)
                if self._native.acquire(False):  # released before it stood in the queue
                    self._leave(waiter)
                    return True
                waiter.wait(None if deadline is None else max(deadline - _monotonic(), 0))
                if waiter.claim():  # nobody woke it: its time is over
                    self._leave(waiter)
                    return False
                if waiter.owns or self._native.acquire(False):
                    return True
                if deadline is not None and _monotonic() >= deadline:
                    return False
                waiter.again()
                queue_up = self._waiters.appendleft
        except BaseException:  # its greenlet is stopped
            self._give_up(waiter)
            raise

    def _leave(self, waiter: _Waiter) -> None:
        with suppress(ValueError):  # someone has just taken it out, and sees that it is claimed
            self._waiters.remove(waiter)

    def _give_up(self, waiter: _Waiter) -> None:
        """Leave, and pass on what `waiter` may have been given meanwhile."""
        if waiter.claim():
            self._leave(waiter)
        elif waiter.owns:
            self.release()
        elif not self._native.locked():
            _wake_first(self._waiters)


class SimpleQueue:
    """What `queue.SimpleQueue` is in a worker process. Its interface is that of the original.

    As in the original, `put()` may be called in the middle of a `get()` of the same thread, by a
    finalizer: it takes no lock. (An executor that is collected puts into its queue.)
    """

    __slots__ = ("__weakref__", "_items", "_waiters")

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiters: deque[_Waiter] = deque()

    __class_getitem__: Any = classmethod(GenericAlias)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """`block` and `timeout` are for compatibility: it never blocks."""
        self._items.append(item)
        _wake_first(self._waiters)

    def put_nowait(self, item: Any) -> None:
        self.put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Raises `queue.Empty` if nothing came in time, or at once if it may not block."""
        if block and timeout is not None and timeout < 0:
            raise ValueError("'timeout' must be a non-negative number")
        try:
            return self._items.popleft()
        except IndexError:
            if not block:
                raise Empty from None
        return self._wait(timeout)

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def empty(self) -> bool:
        return not self._items

    def qsize(self) -> int:
        return len(self._items)

    def _wait(self, timeout: float | None) -> Any:
        deadline = None if timeout is None else _monotonic() + timeout
        while True:
            waiter = _Waiter()
            self._waiters.append(waiter)
            try:
                if not self._items:  # nothing was put before it stood in the queue
                    waiter.wait(None if deadline is None else max(deadline - _monotonic(), 0))
            finally:
                if waiter.claim():  # nobody woke it
                    with suppress(ValueError):
                        self._waiters.remove(waiter)
                elif self._items:  # it may have been woken for more than it takes
                    _wake_first(self._waiters)
            with suppress(IndexError):  # someone else was faster
                return self._items.popleft()
            if deadline is not None and _monotonic() >= deadline:
                raise Empty
