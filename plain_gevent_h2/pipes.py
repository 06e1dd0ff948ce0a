"""Pipes and file locks whose waits let other greenlets run.

gevent patches sockets alone. `os.read()` of an empty pipe stopped every request, for good where
another greenlet was to write into it, and so did `fcntl.flock()` of a file that another one has
locked. `open()` of a pipe's descriptor and of a named pipe are C alone, and still do.

Imported while the worker is patched: nothing here may import what is to be patched.
"""

import fcntl
import io
import os
import select
import stat
from collections.abc import Callable, Sequence
from typing import Any

import gevent
import gevent.os
from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original
from gevent.monkey.api import patch_item

from .locks import can_switch
from .waits import READ, WRITE, is_ready, pauses, wait_until_ready

_os_write = os.write


def _let_others_run_until_ready(fd: int, event: int = READ) -> None:
    """Not if `fd` does not block: its caller is told at once that it is not ready."""
    if can_switch() and not is_ready(fd, event) and os.get_blocking(fd):
        wait_until_ready(fd, event)


def _when_ready(read: Callable[..., Any]) -> Callable[..., Any]:
    """`os.read()` and its like."""

    def call(fd: int, *args: Any) -> Any:
        _let_others_run_until_ready(fd)
        return read(fd, *args)

    return call


def write(fd: int, data: Any, /) -> int:
    """`os.write()`: all of `data`, as a pipe takes it that blocks."""
    with memoryview(data).cast("B") as view:
        if len(view) > select.PIPE_BUF and can_switch() and _is_pipe(fd) and os.get_blocking(fd):
            return _write_in_pieces(fd, view)
    _let_others_run_until_ready(fd, WRITE)
    return _os_write(fd, data)


def _write_in_pieces(fd: int, view: memoryview) -> int:
    """Never more than what a pipe takes whole once it takes anything.

    The pipe is not made a non-blocking one: other processes that write into it share that.
    """
    written = 0
    while written < len(view):
        wait_until_ready(fd, WRITE)
        try:
            written += _os_write(fd, view[written : written + select.PIPE_BUF])
        except OSError:  # nobody reads it any more: the next write says so
            if not written:
                raise
            break
    return written


def _writev(fd: int, buffers: Sequence[Any], /) -> int:
    return write(fd, b"".join(buffers))


def _is_pipe(fd: int) -> bool:
    return stat.S_ISFIFO(os.fstat(fd).st_mode)


class _Pipe(io.RawIOBase):
    """The file of one end of a pipe."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.mode, self.name = file.mode, file.name

    def fileno(self) -> int:
        return self._file.fileno()

    def readable(self) -> bool:
        return self._file.readable()

    def writable(self) -> bool:
        return self._file.writable()

    def readinto(self, buffer: Any) -> int | None:
        _let_others_run_until_ready(self.fileno())
        return self._file.readinto(buffer)

    def write(self, data: Any) -> int | None:
        try:
            return write(self.fileno(), data)
        except BlockingIOError:
            return None

    def close(self) -> None:
        self._file.close()
        super().close()


def over_pipe(file: Any, bufsize: int = -1) -> Any:
    """The file object of a pipe, as `io.open()` made it, over a `_Pipe`."""
    if isinstance(file, io.TextIOWrapper):
        options: dict[str, Any] = {
            "encoding": file.encoding,
            "errors": file.errors,
            "line_buffering": file.line_buffering,
            "write_through": file.write_through,
        }
        return io.TextIOWrapper(over_pipe(file.detach(), bufsize), **options)
    if isinstance(file, io.FileIO):
        return _Pipe(file)
    buffer = io.BufferedReader if file.readable() else io.BufferedWriter
    return buffer(_Pipe(file.detach()), bufsize if bufsize > 1 else io.DEFAULT_BUFFER_SIZE)


_os_fdopen: Callable[..., Any] = os.fdopen


def _fdopen(fd: int, *args: Any, **options: Any) -> Any:
    file = _os_fdopen(fd, *args, **options)
    return over_pipe(file) if _is_pipe(fd) else file


def close(fd: int) -> None:
    """`os.close()`: at once, unless a greenlet of this thread waits for `fd`.

    gevent always waits for the next event of the hub's loop, which may never come: the end of a
    pipe that a child should hold alone stayed open, and nobody saw that child's end. Where somebody
    waits, a close at once would leave the loop with a descriptor that is none.
    """
    hub: Any = get_hub_if_exists()
    if hub is not None and hub.loop.closing_fd(fd):
        _close_later(fd)
    else:
        _close_now(fd)


_close_now = get_original("os", "close")
_close_later: Callable[[int], None] = vars(gevent.os)["close"]


def _lock_again_and_again(lock: Callable[..., Any]) -> Callable[..., Any]:
    """`fcntl.flock()` or `fcntl.lockf()`. The system tells nobody that a lock is free."""

    def call(fd: Any, operation: int, *rest: Any) -> Any:
        if operation & (fcntl.LOCK_NB | fcntl.LOCK_UN) or not can_switch():
            return lock(fd, operation, *rest)
        for pause in pauses():
            try:
                return lock(fd, operation | fcntl.LOCK_NB, *rest)
            except BlockingIOError:
                gevent.sleep(pause)
        raise AssertionError  # the pauses have no end

    return call


def patch_pipes() -> None:
    for name in ("read", "readv", "eventfd_read"):
        if hasattr(os, name):
            patch_item(os, name, _when_ready(getattr(os, name)))
    patch_item(os, "write", write)
    patch_item(os, "writev", _writev)
    patch_item(os, "fdopen", _fdopen)
    patch_item(os, "close", close)
    patch_item(fcntl, "flock", _lock_again_and_again(fcntl.flock))
    patch_item(fcntl, "lockf", _lock_again_and_again(fcntl.lockf))
