"""`threading.Lock` and `queue.SimpleQueue` for greenlets and native threads at once.

gevent's own lock does not wake every waiter where several native threads wait for it: of 60
requests that logged from gevent's thread pool, from greenlets and from async views, 12 to 33
were answered and the others hung (measured). Everything that the standard library builds on a lock
(RLock, Condition, Event, Semaphore, Barrier, Queue, Future, logging's handlers) had the same fault.

A lock here holds a native lock, which decides who owns it, and a queue of waiters. A waiter is
woken in its own way: a greenlet through its thread's hub, a thread without a hub through a native
lock. The queue needs no lock: a deque's `append()` and `popleft()` are atomic. The one that takes
the `_claim` of a waiter decides how its wait ends.
"""

from _queue import Empty
from _thread import TIMEOUT_MAX
from collections import deque
from contextlib import suppress
from time import monotonic
from types import GenericAlias
from typing import Any

from gevent._hub_local import get_hub_if_exists
from gevent.exceptions import BlockingSwitchOutError
from gevent.hub import Waiter, sleep

from . import native
from .native import can_switch

#: Seconds that a hub's own greenlet waits for a lock. It blocks its whole thread meanwhile: another
#: native thread may release the lock, a greenlet of the same thread cannot.
HUB_TIMEOUT = 1.0


class _Waiter:
    """A greenlet or thread that waits. It makes this object itself."""

    __slots__ = ("_claim", "_greenlet", "_hub", "_wakeup", "owns", "wants_it")

    def __init__(self) -> None:
        self._claim = native.allocate_lock()
        hub: Any = get_hub_if_exists()
        self._hub = hub
        #: It was woken and found the lock taken: the next release passes the lock to it.
        self.wants_it = False
        #: A release passed the lock to it. Set before the claim.
        self.owns = False
        self._greenlet = can_switch()
        self._wakeup: Any
        if self._greenlet:
            self._wakeup = Waiter(hub)
        else:
            self._wakeup = native.allocate_lock()
            self._wakeup.acquire()

    def claim(self) -> bool:
        """Whether the caller decides how this wait ends: one waker, or the waiter itself."""
        return bool(self._claim.acquire(False))

    def wake(self) -> None:
        """Called in any thread, once, after `claim()`."""
        if not self._greenlet:
            self._wakeup.release()
        elif self._hub.thread_ident == native.get_ident():
            self._hub.loop.run_callback(self._wakeup.switch, None)
        else:
            self._hub.loop.run_callback_threadsafe(self._wakeup.switch, None)

    def wait(self, timeout: float | None) -> None:
        """Block until `wake()`, or for `timeout` seconds."""
        if not self._greenlet:
            self._wait_in_thread(timeout)
            return
        loop = self._hub.loop
        loop.ref()  # without it, a loop that waits for another thread alone ends
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
            True, HUB_TIMEOUT if timeout is None else min(timeout, HUB_TIMEOUT)
        ):
            raise BlockingSwitchOutError(
                "a callback of the hub waits for a lock that is not released"
            )

    def again(self) -> None:
        """Prepare for another `wait()`, which ends with the lock."""
        self.wants_it = True
        self._claim.release()
        if self._greenlet:
            self._wakeup.clear()


def _wake(waiter: _Waiter) -> bool:
    """Wake `waiter`. False if it is awake already, or gone."""
    if not waiter.claim():
        return False
    try:
        waiter.wake()
    except (AttributeError, ValueError):  # its thread ended, and its hub with it
        return False
    return True


def _wake_first(waiters: deque[_Waiter]) -> None:
    """Wake the first that still waits. If it leaves without taking anything, it wakes the next."""
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
        self._native = native.allocate_lock()
        self._waiters: deque[_Waiter] = deque()

    def __init_subclass__(cls) -> None:
        raise TypeError("type 'Lock' is not an acceptable base type")

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._native.acquire(False):
            return True
        if not blocking:
            if timeout != -1:
                raise ValueError("can't specify a timeout for a non-blocking call")
            if can_switch():  # a caller that tries in a loop must let the owner run
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
        if not self._native.locked():  # before it takes a waiter from the queue
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
                return  # the lock was never free, so no other caller can have taken it
        self._native.release()
        if waiters:  # one that came meanwhile found the lock taken
            _wake_first(self._waiters)

    def __exit__(self, *_: object) -> None:
        self.release()

    def locked(self) -> bool:
        return bool(self._native.locked())

    #: For `threading.Condition`, which would call `acquire(False)` instead.
    _is_owned = locked

    # Obsolete names, which `_thread.lock` has, too.
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
        deadline = None if timeout is None else monotonic() + timeout
        waiter = _Waiter()
        enqueue = self._waiters.append
        try:
            while True:
                enqueue(waiter)
                if self._native.acquire(False):  # released before it was in the queue
                    self._leave(waiter)
                    return True
                waiter.wait(None if deadline is None else max(deadline - monotonic(), 0))
                if waiter.claim():  # nobody woke it: the timeout has passed
                    self._leave(waiter)
                    return False
                if waiter.owns or self._native.acquire(False):
                    return True
                if deadline is not None and monotonic() >= deadline:
                    return False
                waiter.again()
                enqueue = self._waiters.appendleft
        except BaseException:  # its greenlet is killed
            self._give_up(waiter)
            raise

    def _leave(self, waiter: _Waiter) -> None:
        with suppress(ValueError):  # a waker has just removed it, and sees that it is claimed
            self._waiters.remove(waiter)

    def _give_up(self, waiter: _Waiter) -> None:
        """Leave the queue, and pass on the lock if `waiter` got it meanwhile."""
        if waiter.claim():
            self._leave(waiter)
        elif waiter.owns:
            self.release()
        elif not self._native.locked():
            _wake_first(self._waiters)


class SimpleQueue:
    """What `queue.SimpleQueue` is in a worker process. Its interface is that of the original.

    As in the original, a finalizer may call `put()` in the middle of a `get()` of the same thread:
    it takes no lock. (An executor that is garbage-collected puts into its queue.)
    """

    __slots__ = ("__weakref__", "_items", "_waiters")

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._waiters: deque[_Waiter] = deque()

    __class_getitem__: Any = classmethod(GenericAlias)

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Never blocks. `block` and `timeout` are there as in the original."""
        self._items.append(item)
        _wake_first(self._waiters)

    def put_nowait(self, item: Any) -> None:
        self.put(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Raises `queue.Empty` if nothing arrives within `timeout`, or at once without `block`."""
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
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            waiter = _Waiter()
            self._waiters.append(waiter)
            try:
                if not self._items:  # nothing was put before it was in the queue
                    waiter.wait(None if deadline is None else max(deadline - monotonic(), 0))
            finally:
                if waiter.claim():  # nobody woke it
                    with suppress(ValueError):
                        self._waiters.remove(waiter)
                elif self._items:  # it takes one item, and may have been woken for several
                    _wake_first(self._waiters)
            with suppress(IndexError):  # another taker was faster
                return self._items.popleft()
            if deadline is not None and monotonic() >= deadline:
                raise Empty
