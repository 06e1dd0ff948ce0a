"""`multiprocessing` whose waits let other greenlets run.

A read from a pipe to another process, or a semaphore that another process holds, stopped every
request of the worker: a `Pool` waits in its own "threads", and blocked the worker until it was
killed.
"""

import os
import select
import threading
import time
from collections.abc import Callable
from functools import wraps
from multiprocessing import connection, synchronize, util
from typing import Any

import gevent

from .locks import can_switch
from .waits import WRITE, pauses, wait_until_ready


def _read(fd: int, size: int) -> bytes:
    """A pipe is one of sockets, which gevent made not to block."""
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


def patch_multiprocessing() -> None:
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
