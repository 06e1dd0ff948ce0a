"""Pipes and file locks whose waits let other greenlets run.

gevent patches sockets alone. `os.read()` of an empty pipe stopped every request, for good where
another greenlet was to write into it, and so did `fcntl.flock()` of a file that another one has
locked. `open()` of a pipe's descriptor and of a named pipe are C alone, and still do.

Imported while the worker is patched: nothing here may import what is to be patched.
"""

import fcntl
import inspect
import io
import os
import select
import stat
import threading
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import gevent.os
from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original
from gevent.monkey.api import patch_item

from .locks import can_switch
from .waiting import READ, WRITE, ask_again, is_ready, wait_until_ready

_os_write = os.write


def _let_others_run_until_ready(fd: int, event: int = READ) -> None:
    """Not where the call returns at once: of what does not block, or is not open for this."""
    if fd < 0 or not can_switch() or is_ready(fd, event):
        return
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_NONBLOCK or flags & os.O_ACCMODE == (os.O_WRONLY, os.O_RDONLY)[event == WRITE]:
        return
    wait_until_ready(fd, event)


def _when_ready(read: Callable[..., Any]) -> Callable[..., Any]:
    """`os.read()` and its like."""

    @wraps(read)
    def call(fd: int, *args: Any) -> Any:
        if args != (0,):  # no bytes are there at once
            _let_others_run_until_ready(fd)
        return read(fd, *args)

    return call


def write(fd: int, data: Any, /) -> int:
    """`os.write()`: all of `data`, as a pipe takes it that blocks."""
    with memoryview(data).cast("B") as view:
        size = len(view)
        if size > select.PIPE_BUF and can_switch() and _is_pipe(fd) and os.get_blocking(fd):
            return _write_in_pieces(fd, view)
    if size:
        _let_others_run_until_ready(fd, WRITE)
    return _os_write(fd, data)


def _write_in_pieces(fd: int, view: memoryview) -> int:
    """Never more than what a pipe takes whole once it takes anything.

    The pipe is not made a non-blocking one: other processes that write into it share that.
    """
    written = 0
    while written < len(view):
        _let_others_run_until_ready(fd, WRITE)
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


class _PipeOfBuffer(_Pipe):
    """One that tells of each piece: its buffer must know what has gone if it is stopped."""

    def __init__(self, file: io.FileIO) -> None:
        super().__init__(file)
        self.lock = threading.RLock()  # the buffer's

    def write(self, data: Any) -> int | None:
        return super().write(memoryview(data)[: select.PIPE_BUF])


def _one_after_another(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: Any, *args: Any) -> Any:
        with self.raw.lock:
            return method(self, *args)

    return call


class _Reader(io.BufferedReader):
    """Greenlets take turns. The lock of C's is for native threads, and refuses the second."""

    read = _one_after_another(io.BufferedReader.read)
    read1 = _one_after_another(io.BufferedReader.read1)
    readinto = _one_after_another(io.BufferedReader.readinto)
    readinto1 = _one_after_another(io.BufferedReader.readinto1)
    readline = _one_after_another(io.BufferedReader.readline)
    peek = _one_after_another(io.BufferedReader.peek)
    close = _one_after_another(io.BufferedReader.close)


class _Writer(io.BufferedWriter):
    """As `_Reader`: what the second wrote was lost."""

    write = _one_after_another(io.BufferedWriter.write)
    flush = _one_after_another(io.BufferedWriter.flush)
    close = _one_after_another(io.BufferedWriter.close)


def over_pipe(file: Any, buffering: int = -1, newline: str | None = None) -> Any:
    """The file object of a pipe, as `io.open()` made it with these, over a `_Pipe`."""
    if isinstance(file, io.TextIOWrapper):
        options: dict[str, Any] = {
            "encoding": file.encoding,
            "errors": file.errors,
            "line_buffering": file.line_buffering,
            "write_through": file.write_through,
        }
        mode = vars(file).get("mode")
        text: Any = io.TextIOWrapper(
            over_pipe(file.detach(), buffering), newline=newline, **options
        )
        if mode is not None:
            text.mode = mode
        return text
    if isinstance(file, io.FileIO):
        return _Pipe(file)
    buffered = _Reader if file.readable() else _Writer
    size = buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
    return buffered(_PipeOfBuffer(file.detach()), size)


_os_fdopen: Callable[..., Any] = os.fdopen


_open_signature = inspect.signature(io.open)


def _fdopen(fd: int, *args: Any, **options: Any) -> Any:
    file = _os_fdopen(fd, *args, **options)
    if not _is_pipe(fd):
        return file
    asked = _open_signature.bind(fd, *args, **options).arguments
    return over_pipe(file, asked.get("buffering", -1), asked.get("newline"))


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


def _patch_lock(module: Any, name: str, try_instead: Callable[[int], int | None]) -> None:
    """Patch a function that locks files.

    `try_instead` gives the operation that does not wait, and None of one that does not in any case.
    """
    lock = getattr(module, name)

    @wraps(lock)
    def call(fd: Any, operation: int, *rest: Any) -> Any:
        attempt = try_instead(operation)
        if attempt is None or not can_switch():
            return lock(fd, operation, *rest)

        def try_it() -> tuple[Any] | None:
            try:
                return (lock(fd, attempt, *rest),)
            except BlockingIOError:  # the system tells nobody when it is free
                return None

        return ask_again(try_it)[0]

    patch_item(module, name, call)


def patch_pipes() -> None:
    for name in ("read", "readv", "readinto", "eventfd_read"):
        if hasattr(os, name):
            patch_item(os, name, _when_ready(getattr(os, name)))
    patch_item(os, "write", write)
    patch_item(os, "writev", _writev)
    patch_item(os, "fdopen", _fdopen)
    patch_item(os, "close", close)
    at_once = fcntl.LOCK_NB | fcntl.LOCK_UN
    for name in ("flock", "lockf"):
        _patch_lock(fcntl, name, lambda op: None if op & at_once else op | fcntl.LOCK_NB)
    _patch_lock(os, "lockf", lambda op: os.F_TLOCK if op == os.F_LOCK else None)
