"""`threading` in a worker: for greenlets and native threads at once.

A greenlet runs only while its native thread waits in its hub. The main thread and that of the
asyncio loop always come back to theirs. Others (gevent's thread pool, `asyncio.run()` in a view)
sleep or end after the function that they run. A `threading.Thread` started there, or a worker of
an executor, was a greenlet that nobody ran again: who waited for it waited for ever. There a
`Thread` is a native thread.

Imported while the worker is patched: nothing here may import what is to be patched.
"""

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any
from weakref import WeakSet

from gevent import Greenlet, GreenletExit
from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original
from gevent.monkey.api import patch_item
from gevent.thread import _ThreadHandle, get_ident  # type: ignore[import-not-found]

from .locks import Lock, SimpleQueue

_allocate_native = get_original("_thread", "allocate_lock")
_start_native = get_original("_thread", "start_new_thread")
_native_ident = get_original("_thread", "get_ident")

#: Of all threads that may still run.
_handles: WeakSet["ThreadHandle"] = WeakSet()
#: Native threads whose greenlets serve many requests: the main one, and that of the asyncio loop.
shared_threads: set[int] = set()


class ThreadHandle(_ThreadHandle):  # type: ignore[misc]
    """What a `threading.Thread` holds of its greenlet or native thread."""

    def __init__(self, *_args: Any) -> None:
        self._running = Lock()  # held from the start to the end
        self._ident: int | None = None

    def start(self, function: Callable[[], object]) -> None:
        if self._ident is not None:
            raise RuntimeError("thread already started")
        self._running.acquire()
        self._ident = 0  # until it runs
        _handles.add(self)
        if _native_ident() in shared_threads:
            greenlet = Greenlet(function)
            greenlet.rawlink(self._end)  # also if it is killed before it runs
            self._ident = get_ident(greenlet)
            greenlet.start()
        else:
            is_running = _allocate_native()
            is_running.acquire()
            _start_native(self._run_in_native_thread, (function, is_running.release))
            is_running.acquire()

    def _run_in_native_thread(
        self, function: Callable[[], object], is_running: Callable[[], object]
    ) -> None:
        self._ident = get_ident()
        is_running()
        try:
            function()
        finally:
            self._end()
            leave_native_thread()

    def _end(self, _greenlet: object = None) -> None:
        if self._running.locked():
            self._running.release()

    @property
    def ident(self) -> int | None:
        return self._ident

    def is_done(self) -> bool:
        return self._ident is not None and not self._running.locked()

    def join(self, timeout: float | None = -1) -> None:
        if self._ident is None:
            raise RuntimeError("thread not started")
        if self._ident == get_ident() and not self.is_done():
            raise RuntimeError("Cannot join current thread")
        if self._running.acquire(True, -1 if timeout is None else timeout):
            self._running.release()

    def forget(self) -> None:
        """It has not been forked with the process, unless it is the one that forked."""
        if self._ident != get_ident():
            self._running._at_fork_reinit()

    def _set_done(self, enter_hub: bool = True) -> None:
        self._end()


def forget_threads() -> None:
    """In a forked child: the other threads have ended. Those that start are native threads."""
    for handle in list(_handles):
        handle.forget()
    shared_threads.clear()
    futures: Any = import_module("concurrent.futures.thread")
    # Whoever starts the first thread of an executor holds it until that runs, and may fork.
    futures._global_shutdown_lock._at_fork_reinit()
    # Python 3.14 does so itself. In 3.13 a child of an executor's thread joins itself at its end.
    futures._threads_queues.clear()


def leave_native_thread() -> None:
    """Give back the hub that the current native thread may have made. It ends after this."""
    hub: Any = get_hub_if_exists()
    if hub is None:
        return
    hub.destroy(destroy_loop=True)
    # It is left in its last switch, where 12 KB would stay for ever once the thread has ended.
    if not hub.dead:
        hub.throw(GreenletExit)


def start_joinable_thread(
    function: Callable[[], object], handle: ThreadHandle | None = None, daemon: bool = True
) -> ThreadHandle:
    handle = ThreadHandle() if handle is None else handle
    handle.start(function)
    return handle


def start_new_thread(
    function: Callable[..., object],
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
) -> int | None:
    def call() -> None:
        with suppress(SystemExit):  # as a native thread does. In a greenlet it would end the hub
            function(*args, **(kwargs or {}))

    return start_joinable_thread(call).ident


def lend_lock_to_gevent() -> None:
    """Have gevent patch with the lock of this package. Called before it patches anything.

    It imports `concurrent.futures.thread` and `logging` as it patches. These take a lock around
    every fork, for good: with gevent's, of several native threads that forked at once one hung.
    """
    of_thread: Any = import_module("gevent.thread")
    of_threading: Any = import_module("gevent.threading")
    of_thread.LockType = of_thread.lock = of_thread.allocate_lock = Lock
    of_threading.Lock = of_threading._allocate_lock = Lock


def patch_threading() -> None:
    """Put the locks and threads of this package in place of gevent's. Called in the main thread."""
    import _thread

    # As `Any`: much of what is set here is private to these modules.
    futures: Any = import_module("concurrent.futures.thread")
    logging: Any = import_module("logging")
    queue: Any = import_module("queue")
    threading: Any = import_module("threading")
    shared_threads.add(_native_ident())
    of_thread = {
        "LockType": Lock,
        "lock": Lock,
        "allocate_lock": Lock,
        "allocate": Lock,
        "start_new_thread": start_new_thread,
        "start_new": start_new_thread,
        "start_joinable_thread": start_joinable_thread,
        "_ThreadHandle": ThreadHandle,
    }
    of_threading = {
        "Lock": Lock,
        "_allocate_lock": Lock,
        "Event": get_original("threading", "Event"),
        "_start_joinable_thread": start_joinable_thread,
        "_ThreadHandle": ThreadHandle,
    }
    # gevent's lose wake-ups between native threads. CPython's SimpleQueue has a native lock, in C.
    of_queue = {
        **{n: get_original("queue", n) for n in ("Queue", "LifoQueue", "PriorityQueue")},
        "SimpleQueue": SimpleQueue,
    }
    for module, names in (
        (_thread, of_thread),
        (threading, of_threading),
        (queue, of_queue),
    ):
        for name, value in names.items():
            if hasattr(module, name):
                patch_item(module, name, value)

    if isinstance(futures._global_shutdown_lock, Lock):
        return
    # gevent had patched before, in the interpreter's start, with its own.
    threading._active_limbo_lock = threading.RLock()
    futures._global_shutdown_lock = Lock()
    logging._lock = threading.RLock()
    for reference in logging._handlerList:
        handler = reference()
        if handler is not None:
            handler.createLock()
