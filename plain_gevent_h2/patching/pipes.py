"""Pipes and file locks, whose waits let other greenlets run.

gevent patches sockets alone. `os.read()` of an empty pipe stopped every request, for ever where
another greenlet was to write into it, and so did `fcntl.flock()` of a file that another greenlet
has locked. `open()` of a pipe's descriptor or of a named pipe still does: it is C code.
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

from .native import can_switch
from .waiting import READ, WRITE, block_or_poll, is_ready, wait_until_ready

_os_write = os.write


def _yield_until_ready(fd: int, event: int = READ) -> None:
    """Wait for `fd`, unless the call that follows returns at once.

    It does on a descriptor that is ready or non-blocking, and on one that is not open for it.
    """
    if fd < 0 or not can_switch() or is_ready(fd, event):
        return
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_NONBLOCK or flags & os.O_ACCMODE == (os.O_WRONLY, os.O_RDONLY)[event == WRITE]:
        return
    wait_until_ready(fd, event)


def _when_ready(read: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `os.read()` or one of its like."""

    @wraps(read)
    def call(fd: int, *args: Any) -> Any:
        if args != (0,):  # a read of no bytes returns at once
            _yield_until_ready(fd)
        return read(fd, *args)

    return call


def write(fd: int, data: Any, /) -> int:
    """`os.write()`, which writes all of `data` into a blocking pipe."""
    with memoryview(data).cast("B") as view:
        size = len(view)
        if size > select.PIPE_BUF and can_switch() and _is_pipe(fd) and os.get_blocking(fd):
            return _write_in_pieces(fd, view)
    if size:
        _yield_until_ready(fd, WRITE)
    return _os_write(fd, data)


def _write_in_pieces(fd: int, view: memoryview) -> int:
    """Write PIPE_BUF bytes at a time: a pipe that is ready takes that many without blocking.

    The pipe stays a blocking one: other processes that write into it share its flags.
    """
    written = 0
    while written < len(view):
        _yield_until_ready(fd, WRITE)
        try:
            written += _os_write(fd, view[written : written + select.PIPE_BUF])
        except OSError:  # its reader has closed it: the next write raises
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
        _yield_until_ready(self.fileno())
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
    """A `_Pipe` that returns after each piece.

    If its greenlet is killed, its buffer has to know what was written.
    """

    def __init__(self, file: io.FileIO) -> None:
        super().__init__(file)
        self.lock = threading.RLock()  # the buffer's

    def write(self, data: Any) -> int | None:
        return super().write(memoryview(data)[: select.PIPE_BUF])


def _serialized(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(self: Any, *args: Any) -> Any:
        with self.raw.lock:
            return method(self, *args)

    return call


class _Reader(io.BufferedReader):
    """Greenlets take turns. C's own lock is for native threads: a second greenlet got an error."""

    read = _serialized(io.BufferedReader.read)
    read1 = _serialized(io.BufferedReader.read1)
    readinto = _serialized(io.BufferedReader.readinto)
    readinto1 = _serialized(io.BufferedReader.readinto1)
    readline = _serialized(io.BufferedReader.readline)
    peek = _serialized(io.BufferedReader.peek)
    close = _serialized(io.BufferedReader.close)


class _Writer(io.BufferedWriter):
    """Greenlets take turns. What a second greenlet wrote was lost."""

    write = _serialized(io.BufferedWriter.write)
    flush = _serialized(io.BufferedWriter.flush)
    close = _serialized(io.BufferedWriter.close)


def over_pipe(file: Any, buffering: int = -1, newline: str | None = None) -> Any:
    """Rebuild `file`, which `io.open()` made of a pipe with these arguments, over a `_Pipe`."""
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
    given = _open_signature.bind(fd, *args, **options).arguments
    return over_pipe(file, given.get("buffering", -1), given.get("newline"))


def close(fd: int) -> None:
    """`os.close()` at once, unless a greenlet of this thread waits for `fd`.

    gevent closes in the next turn of the hub's loop, which may never come: the worker kept the end
    of a pipe that a child should hold alone, and nobody saw that child's end. While a greenlet
    waits for `fd`, a close at once would leave the loop with a descriptor that is closed.
    """
    hub: Any = get_hub_if_exists()
    if hub is not None and hub.loop.closing_fd(fd):
        _close_later(fd)
    else:
        _close_now(fd)


_close_now = get_original("os", "close")
_close_later: Callable[[int], None] = vars(gevent.os)["close"]


def _patch_lock(module: Any, name: str, without_waiting: Callable[[int], int | None]) -> None:
    """Patch a function that locks files. It polls: the system does not tell when a file is free.

    `without_waiting` turns an operation that waits into one that does not. It returns None for one
    that never waits.
    """
    lock = getattr(module, name)

    @wraps(lock)
    def call(fd: Any, operation: int, *rest: Any) -> None:
        at_once = without_waiting(operation)
        if at_once is None:
            lock(fd, operation, *rest)
            return

        def wait() -> bool:
            lock(fd, operation, *rest)
            return True

        def attempt() -> bool | None:
            try:
                lock(fd, at_once, *rest)
            except BlockingIOError:
                return None
            return True

        block_or_poll(wait, attempt)

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
