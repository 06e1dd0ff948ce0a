"""`threading`, `_thread` and `queue` for greenlets and native threads at once.

A greenlet runs only while its native thread waits in its hub. The main thread and the thread of the
asyncio loop always return to theirs. Other native threads (gevent's thread pool, `asyncio.run()` in
a view) sleep or end after the function that they run. Under gevent's patch a `threading.Thread`
that started there, or a worker of an executor, was a greenlet that never ran. Here it is a native
thread.
"""

from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any
from weakref import WeakSet

from gevent import Greenlet
from gevent.monkey import get_original
from gevent.monkey.api import patch_item
from gevent.thread import _ThreadHandle, get_ident  # type: ignore[import-not-found]

from . import native
from .locks import Lock, SimpleQueue

#: Of all threads that may still run.
_handles: WeakSet["ThreadHandle"] = WeakSet()
#: Native threads whose greenlets serve many requests: the main one, and that of the asyncio loop.
shared_threads: set[int] = set()


class ThreadHandle(_ThreadHandle):  # type: ignore[misc]
    """The handle that a `threading.Thread` has of its greenlet or native thread."""

    def __init__(self, *_args: Any) -> None:
        self._running = Lock()  # held from the start to the end
        self._ident: int | None = None

    def start(self, function: Callable[[], object]) -> None:
        if self._ident is not None:
            raise RuntimeError("thread already started")
        self._running.acquire()
        self._ident = 0  # until it runs
        _handles.add(self)
        if native.get_ident() in shared_threads:
            greenlet = Greenlet(function)
            greenlet.rawlink(self._end)  # also if it is killed before it runs
            self._ident = get_ident(greenlet)
            greenlet.start()
        else:
            is_running = native.allocate_lock()
            is_running.acquire()
            native.start_new_thread(self._run_in_native_thread, (function, is_running.release))
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
            native.destroy_hub()

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
        """Called in a forked child: the thread has ended, unless it is the one that forked."""
        if self._ident != get_ident():
            self._running._at_fork_reinit()

    def _set_done(self, enter_hub: bool = True) -> None:
        self._end()


def forget_threads() -> None:
    """Called in a forked child, which has none of the other threads. Later ones are native."""
    for handle in list(_handles):
        handle.forget()
    shared_threads.clear()
    futures: Any = import_module("concurrent.futures.thread")
    # A thread that starts an executor's first thread holds it until that runs, and may fork.
    futures._global_shutdown_lock._at_fork_reinit()
    # Python 3.14 clears it itself. In 3.13 a child of an executor's thread joins itself at exit.
    futures._threads_queues.clear()


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
        with suppress(SystemExit):  # it would end the hub of a greenlet
            function(*args, **(kwargs or {}))

    return start_joinable_thread(call).ident


def give_gevent_our_lock() -> None:
    """Have gevent patch with the lock of this package. Called before it patches anything.

    gevent imports `concurrent.futures.thread` and `logging` as it patches, and these take a lock
    of theirs around every fork. With gevent's lock, one of several native threads that forked at
    once hung.
    """
    of_thread: Any = import_module("gevent.thread")
    of_threading: Any = import_module("gevent.threading")
    of_thread.LockType = of_thread.lock = of_thread.allocate_lock = Lock
    of_threading.Lock = of_threading._allocate_lock = Lock


def patch_threading() -> None:
    """Put the locks and threads of this package in place of gevent's. Called in the main thread."""
    import _thread

    # Typed `Any`: much of what is set here is private to these modules.
    futures: Any = import_module("concurrent.futures.thread")
    logging: Any = import_module("logging")
    queue: Any = import_module("queue")
    threading: Any = import_module("threading")
    shared_threads.add(native.get_ident())
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
    # gevent's lose wake-ups between native threads. CPython's SimpleQueue blocks in C.
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
    # gevent had patched before, as the interpreter started, with its own lock.
    threading._active_limbo_lock = threading.RLock()
    futures._global_shutdown_lock = Lock()
    logging._lock = threading.RLock()
    for reference in logging._handlerList:
        handler = reference()
        if handler is not None:
            handler.createLock()
