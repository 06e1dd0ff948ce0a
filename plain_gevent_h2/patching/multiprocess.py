"""`multiprocessing`, whose waits let other greenlets run.

A wait for another process stopped every request of the worker: a read from a pipe, or a semaphore
that the other process holds. A `Pool` waits in threads of its own, which are greenlets, and blocked
the worker until the arbiter killed it.
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

from . import native
from .subprocesses import wait_for_end
from .waiting import WRITE, block_or_poll, is_ready, wait_until_ready


def _read(fd: int, size: int) -> bytes:
    """Read some bytes, also from what does not block, such as the sockets of a `Listener`."""
    while True:
        wait_until_ready(fd)
        try:
            return os.read(fd, size)
        except BlockingIOError:  # another greenlet was faster
            pass


def _write(fd: int, data: Any) -> int:
    """Write some of `data`: PIPE_BUF bytes, which a pipe that is ready takes without blocking."""
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
    return bool(
        block_or_poll(lambda: acquire(True, timeout), lambda: acquire(False) or None, timeout)
    )


def _make_methods(self: Any) -> None:
    """Give a semaphore, lock or recursive lock its `acquire` and `release`."""
    semaphore = self._semlock

    def acquire(block: bool = True, timeout: float | None = None) -> bool:
        return _acquire_semaphore(semaphore.acquire, block, timeout)

    self.acquire, self.release = acquire, semaphore.release
    if semaphore.kind == vars(synchronize)["RECURSIVE_MUTEX"]:
        _own_by_greenlet(self)


def _own_by_greenlet(lock: Any) -> None:
    """Have a recursive lock belong to a greenlet. Its semaphore knows native threads alone."""
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


#: Held for a poll, which waits for nothing. Recursive, since a handler of SIGCHLD may poll, too.
_poll_lock: Any = native.RLock()


def _poll_one_at_a_time(
    poll_now: Callable[[Any], Any], wait: Callable[[Any], Any]
) -> Callable[..., Any]:
    """`Popen.poll()`, by which a process learns how its child ended, for several callers at once.

    A caller that starts a process polls all others. Another caller that polled at that moment was
    told that there is no such child, and the `exitcode` was None.
    """

    def poll(self: Any, flag: int = os.WNOHANG) -> Any:
        if self.returncode is None and not flag & os.WNOHANG:
            wait(self)
        with _poll_lock:
            if self.returncode is None:
                poll_now(self)
            return self.returncode

    return poll


def _poll_fork_server(popen: Any) -> None:
    """Read the status, if there is one. Unlike the original, this lets no other greenlet run."""
    if is_ready(popen.sentinel):
        try:
            popen.returncode = forkserver.read_signed(popen.sentinel)
        except (OSError, EOFError):  # the fork server is gone
            popen.returncode = 255


def _patch_popen() -> None:
    forked: Any = popen_fork.Popen  # the base class of spawned ones, too
    poll_now = forked.poll
    forked.poll = _poll_one_at_a_time(poll_now, lambda popen: wait_for_end(popen.pid))
    served: Any = popen_forkserver.Popen
    wait = connection.wait
    served.poll = _poll_one_at_a_time(_poll_fork_server, lambda popen: wait([popen.sentinel]))
    os.register_at_fork(after_in_child=_poll_lock._at_fork_reinit)
    for module in (popen_spawn_posix, popen_forkserver):
        # A new process reads its work once it has started, which takes half a second: the write
        # has to wait.
        vars(module)["open"] = os.fdopen


def _pipe(duplex: bool = True) -> Any:
    """`Pipe()`, whose ends block: gevent's sockets do not, and a child may inherit an end."""
    ends = _make_pipe(duplex)
    for end in ends:
        os.set_blocking(end.fileno(), True)
    return ends


_make_pipe = connection.Pipe


def _forget_executors() -> None:
    """In a forked child: forget the threads of the parent's `ProcessPoolExecutor`s.

    At exit the child would wake them. It has none of them, and waited for ever for a lock that one
    of them held. CPython has the same fault.
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
