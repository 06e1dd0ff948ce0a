"""`multiprocessing` whose waits let other greenlets run.

A read from a pipe to another process, or a semaphore that another process holds, stopped every
request of the worker: a `Pool` waits in its own "threads", and blocked the worker until it was
killed.
"""

import os
import select
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from multiprocessing import (
    connection,
    forkserver,
    popen_fork,
    popen_forkserver,
    popen_spawn_posix,
    synchronize,
    util,
)
from typing import Any

import gevent
from gevent.monkey import get_original

from .locks import can_switch
from .subprocesses import wait_for_end
from .waiting import WRITE, is_ready, pauses, wait_until_ready


def _read(fd: int, size: int) -> bytes:
    """Read some, also from what does not block: the sockets of a `Listener`, say."""
    while True:
        wait_until_ready(fd)
        try:
            return os.read(fd, size)
        except BlockingIOError:  # another greenlet was faster
            pass


def _write(fd: int, data: Any) -> int:
    """Write some of `data`: as much as never blocks once the pipe can take anything."""
    while True:
        wait_until_ready(fd, WRITE)
        try:
            return os.write(fd, data[: select.PIPE_BUF])
        except BlockingIOError:
            pass


def _acquire_semaphore(
    acquire: Callable[..., bool], block: bool = True, timeout: float | None = None
) -> bool:
    if acquire(False):
        return True
    if not block:
        return False
    if not can_switch():
        return acquire(True, timeout)
    end = None if timeout is None else time.monotonic() + timeout
    for pause in pauses():
        left = pause if end is None else end - time.monotonic()
        if left <= 0:
            return False
        gevent.sleep(min(pause, left))
        if acquire(False):
            return True
    raise AssertionError  # the pauses have no end


def _make_methods(self: Any) -> None:
    """`acquire` and `release` of a semaphore, lock or recursive lock."""
    semaphore = self._semlock

    def acquire(block: bool = True, timeout: float | None = None) -> bool:
        return _acquire_semaphore(semaphore.acquire, block, timeout)

    self.acquire, self.release = acquire, semaphore.release
    if semaphore.kind == vars(synchronize)["RECURSIVE_MUTEX"]:
        _keep_greenlets_apart(self)


def _keep_greenlets_apart(lock: Any) -> None:
    """Have a recursive lock belong to a greenlet. The semaphore knows native threads only."""
    mine: Any = threading.RLock()
    acquire_from_others, release_to_others = lock.acquire, lock.release

    def acquire(block: bool = True, timeout: float | None = None) -> bool:
        since = time.monotonic()
        if not mine.acquire(block, -1 if timeout is None or not block else max(timeout, 0)):
            return False
        left = None if timeout is None else max(timeout - (time.monotonic() - since), 0)
        if acquire_from_others(block, left):
            return True
        mine.release()
        return False

    def release() -> None:
        if not mine._is_owned():
            raise AssertionError("attempt to release recursive lock not owned by thread")
        release_to_others()
        mine.release()

    lock.acquire, lock.release = acquire, release
    util.register_after_fork(lock, lambda _: mine._at_fork_reinit())


#: A native one, for sections in which nothing waits: a handler of SIGCHLD may ask, too.
_polling: Any = get_original("_thread", "RLock")()


def _ask_one_at_a_time(ask: Callable[[Any], Any], wait: Callable[[Any], Any]) -> Callable[..., Any]:
    """`Popen.poll()`, by which a process learns how its child ended: for all who ask.

    Whoever starts a process asks for all the others too. Another one who asked at that moment was
    told that there is no such child, and its `exitcode` was None.
    """

    def poll(self: Any, flag: int = os.WNOHANG) -> Any:
        if self.returncode is None and not flag & os.WNOHANG:
            wait(self)
        with _polling:
            if self.returncode is None:
                ask(self)
            return self.returncode

    return poll


def _ask_fork_server(popen: Any) -> None:
    """Its own way to see whether there is an answer lets other greenlets run."""
    if is_ready(popen.sentinel):
        try:
            popen.returncode = forkserver.read_signed(popen.sentinel)
        except (OSError, EOFError):  # the fork server is gone
            popen.returncode = 255


def _patch_popen() -> None:
    forked: Any = popen_fork.Popen  # a spawned one is a kind of it
    ask = forked.poll
    forked.poll = _ask_one_at_a_time(ask, lambda popen: wait_for_end(popen.pid))
    served: Any = popen_forkserver.Popen
    wait = connection.wait
    served.poll = _ask_one_at_a_time(_ask_fork_server, lambda popen: wait([popen.sentinel]))
    os.register_at_fork(after_in_child=_polling._at_fork_reinit)
    for module in (popen_spawn_posix, popen_forkserver):
        # A new process reads what it is to do once it has started, which takes half a second.
        vars(module)["open"] = os.fdopen


def _pipe(duplex: bool = True) -> Any:
    """`Pipe()`, both ends of which block: sockets of gevent's do not, and a child may have one."""
    ends = _make_pipe(duplex)
    for end in ends:
        os.set_blocking(end.fileno(), True)
    return ends


_make_pipe = connection.Pipe


def _forget_executors() -> None:
    """In a forked child, whose end would wake the threads of the parent's `ProcessPoolExecutor`s.

    It has none of them, and waited for ever for a lock that one of them had. CPython has the same
    fault.
    """
    if (process := sys.modules.get("concurrent.futures.process")) is not None:
        vars(process)["_threads_wakeups"].clear()


def patch_multiprocessing() -> None:
    os.register_at_fork(after_in_child=_forget_executors)
    _patch_popen()
    vars(connection)["Pipe"] = _pipe
    pipe: Any = connection.Connection
    pipe._recv = _with(pipe._recv, _read)
    pipe._send = _with(pipe._send, _write)
    semaphore: Any = synchronize.SemLock
    semaphore._make_methods = _make_methods
    semaphore.__enter__ = lambda self: self.acquire()
    semaphore.__exit__ = lambda self, *_: self.release()


def _with(method: Callable[..., Any], transfer: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: Any, data: Any) -> Any:
        return method(self, data, transfer)

    return call
