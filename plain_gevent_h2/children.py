"""Child processes: started and waited for in any greenlet and any native thread.

gevent's own `subprocess` waits through the one hub that gets SIGCHLD, so in every other thread it
failed after the program had run. It also takes the exit status of every child, whoever started
it. Here the standard library's `subprocess` is used; what it waits with lets other greenlets run:
`os.waitpid()` by a process descriptor of Linux, and pipes that are read and written without
blocking. SIGCHLD is left alone.

Imported while the worker is patched: nothing here may import what is to be patched.
"""

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import gevent.os
from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original
from gevent.monkey.api import patch_item

from .locks import can_switch

_READ, _WRITE = 1, 2
#: Seconds between two looks at a child where nothing tells that it has ended.
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05
#: How often to look whether another thread, which was told a child's status, has noted it: 0.1 s.
LOOKS_AT_STATUS = 7


def wait_until_ready(fd: int, *, to_write: bool = False) -> None:
    """Wait until `fd` can be read or written. Other greenlets of the thread run meanwhile.

    The thread's own hub is used, whatever thread `fd` was opened in.
    """
    if not can_switch():
        poll = get_original("select", "poll")()
        poll.register(fd, 4 if to_write else 1)
        poll.poll()
        return
    hub = gevent.get_hub()
    watcher = hub.loop.io(fd, _WRITE if to_write else _READ)
    try:
        hub.wait(watcher)
    finally:
        watcher.close()


def pauses() -> Iterator[float]:
    """Seconds to sleep between looks at something that cannot be waited for, without end."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


@contextmanager
def _process_descriptor(pid: int, options: int) -> Iterator[int | None]:
    """A descriptor that can be read once `pid` has ended, where the system has such."""
    if pid <= 0 or options or not hasattr(os, "pidfd_open"):
        yield None
        return
    try:
        fd = os.pidfd_open(pid)
    except OSError:  # no descriptor is left, or an old kernel
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def waitpid(pid: int, options: int) -> tuple[int, int]:
    """`os.waitpid()` that lets other greenlets run."""
    done = _ask(pid, options | os.WNOHANG)
    if done[0] or options & os.WNOHANG:
        return done
    with _waiting_for(pid):
        try:
            return _wait(pid, options)
        except ChildProcessError:
            return _status_of_another(pid)


def _wait(pid: int, options: int) -> tuple[int, int]:
    if not can_switch():
        return _ask(pid, options)
    with _process_descriptor(pid, options) as fd:
        pause = pauses()
        while True:
            if fd is not None:
                wait_until_ready(fd)
            else:
                gevent.sleep(next(pause))
            done = _ask(pid, options | os.WNOHANG)
            if done[0]:
                return done


def _ask(pid: int, options: int) -> tuple[int, int]:
    done = _waitpid(pid, options)
    if done[0] in _waiting:
        _statuses[done[0]] = done
    return done


@contextmanager
def _waiting_for(pid: int) -> Iterator[None]:
    with _counting:
        _waiting[pid] = _waiting.get(pid, 0) + 1
    try:
        yield
    finally:
        with _counting:
            _waiting[pid] -= 1
            if not _waiting[pid]:
                del _waiting[pid]
                _statuses.pop(pid, None)


def _status_of_another(pid: int) -> tuple[int, int]:
    """What another one who waited for `pid` was told. Raises `ChildProcessError` if nobody was.

    `multiprocessing` looks after all children whenever it starts one, in any thread.
    """
    for pause, _ in zip(pauses(), range(LOOKS_AT_STATUS), strict=False):
        if pid in _statuses:
            return _statuses[pid]
        (gevent.sleep if can_switch() else _sleep)(pause)
    raise ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD))


_waitpid: Callable[[int, int], tuple[int, int]] = get_original("os", "waitpid")
_sleep = get_original("time", "sleep")  # of a native thread without a hub
_counting = get_original("_thread", "allocate_lock")()
_waiting: dict[int, int] = {}  # how many wait for a child
_statuses: dict[int, tuple[int, int]] = {}  # of children that somebody still waits for


def _polling(wait: Callable[..., Any], has_ended: Callable[[Any], object]) -> Callable[..., Any]:
    """`wait`, whose last argument is its options, asked again and again."""

    def call(*args: Any) -> Any:
        *which, options = args
        if options & os.WNOHANG or not can_switch():
            return wait(*args)
        pause = pauses()
        while not has_ended(result := wait(*which, options | os.WNOHANG)):
            gevent.sleep(next(pause))
        return result

    return call


class _Pipe(io.RawIOBase):
    """One end of a pipe to a child. A read or a write lets other greenlets run."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.mode, self.name = file.mode, file.name
        # This end is ours alone: the child holds the other one.
        os.set_blocking(file.fileno(), False)

    def fileno(self) -> int:
        return self._file.fileno()

    def readable(self) -> bool:
        return self._file.readable()

    def writable(self) -> bool:
        return self._file.writable()

    def readinto(self, buffer: Any) -> int:
        while (size := self._file.readinto(buffer)) is None:
            wait_until_ready(self.fileno())
        return size

    def write(self, data: Any) -> int:
        while (size := self._file.write(data)) is None:
            wait_until_ready(self.fileno(), to_write=True)
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _cooperative(file: Any, bufsize: int) -> Any:
    """The file object of a pipe, as `subprocess` made it, over a `_Pipe`."""
    if isinstance(file, io.TextIOWrapper):
        options: dict[str, Any] = {
            "encoding": file.encoding,
            "errors": file.errors,
            "line_buffering": file.line_buffering,
            "write_through": file.write_through,
        }
        return io.TextIOWrapper(_cooperative(file.detach(), bufsize), **options)
    if isinstance(file, io.FileIO):
        return _Pipe(file)
    buffer = io.BufferedReader if file.readable() else io.BufferedWriter
    return buffer(_Pipe(file.detach()), bufsize if bufsize > 1 else io.DEFAULT_BUFFER_SIZE)


class Popen(get_original("subprocess", "Popen")):  # type: ignore[misc]
    """The standard library's, whose pipes let other greenlets run."""

    def __init__(self, args: Any, bufsize: int = -1, *rest: Any, **options: Any) -> None:
        super().__init__(args, bufsize, *rest, **options)
        for name in ("stdin", "stdout", "stderr"):
            if (file := getattr(self, name)) is not None:
                setattr(self, name, _cooperative(file, bufsize))


def _system(command: Any) -> int:
    """`os.system()`: the status that `os.waitpid()` would tell."""
    process = Popen(command, shell=True)
    _, status = waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return status


def _close(fd: int) -> None:
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


def patch_children() -> None:
    """Put the standard library's way to run programs back, with waits that let others run."""
    import signal
    import subprocess

    import gevent.subprocess
    from gevent import monkey

    for module, names in (
        (subprocess, vars(monkey)["saved"].get("subprocess", {})),
        (os, ("fork", "forkpty", "posix_spawn", "posix_spawnp")),
        (signal, ("signal", "getsignal")),
    ):
        for name in names:
            if hasattr(module, name):
                patch_item(module, name, get_original(module.__name__, name))
    for module in (subprocess, gevent.subprocess):
        patch_item(module, "Popen", Popen)
    patch_item(os, "fork", gevent.os.fork_gevent)
    patch_item(os, "forkpty", gevent.os.forkpty_gevent)
    patch_item(os, "waitpid", waitpid)
    patch_item(os, "system", _system)
    wait3, wait4, waitid = os.wait3, os.wait4, os.waitid
    patch_item(os, "wait", lambda: waitpid(-1, 0))
    patch_item(os, "wait3", _polling(wait3, lambda result: result[0]))
    patch_item(os, "wait4", _polling(wait4, lambda result: result[0]))
    patch_item(os, "waitid", _polling(waitid, lambda result: result is not None))
    patch_item(os, "close", _close)
