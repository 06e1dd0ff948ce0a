"""Child processes: started and waited for in any greenlet and any native thread.

gevent's own `subprocess` waits through the one hub that gets SIGCHLD, so in every other thread it
failed after the program had run. It also takes the exit status of every child, whoever started
it. Here the standard library's `subprocess` is used; what it waits with lets other greenlets run:
`os.waitpid()` by a process descriptor of Linux, and pipes as of `pipes.py`. SIGCHLD is left alone.

Imported while the worker is patched: nothing here may import what is to be patched.
"""

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

from gevent.monkey import get_original
from gevent.monkey.api import patch_item

from .locks import can_switch
from .pipes import over_pipe
from .waiting import ask_again, wait_until_ready


@contextmanager
def _process_descriptor(pid: int) -> Iterator[int | None]:
    """A descriptor that can be read once `pid` has ended, where the system has such."""
    if pid <= 0 or not hasattr(os, "pidfd_open"):
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


_waitid = os.waitid
_waitpid: Callable[[int, int], tuple[int, int]] = get_original("os", "waitpid")


def waitpid(pid: int, options: int) -> tuple[int, int]:
    """`os.waitpid()` that lets other greenlets run."""
    if options & os.WNOHANG or not can_switch():
        return _waitpid(pid, options)

    def ask() -> tuple[int, int] | None:
        done = _waitpid(pid, options | os.WNOHANG)
        return done if done[0] else None

    return _ask_at_end(ask, 0 if options else pid)


def wait_for_end(pid: int) -> None:
    """Wait until the child has ended, and leave its status to who asks for it."""
    left = os.WEXITED | os.WNOWAIT
    with suppress(ChildProcessError):  # somebody has asked
        if can_switch():
            _ask_at_end(lambda: _waitid(os.P_PID, pid, left | os.WNOHANG), pid)
        else:
            _waitid(os.P_PID, pid, left)


def _ask_at_end[Answer](ask: Callable[[], Answer | None], pid: int) -> Answer:
    """`ask()` now and, if `pid` can be waited for, when it has ended."""
    if (answer := ask()) is not None:
        return answer
    with _process_descriptor(pid) as fd:
        if fd is not None:
            wait_until_ready(fd)
    return ask_again(ask)  # a debugger may have the status of a child that has ended


def _polling(wait: Callable[..., Any], has_ended: Callable[[Any], object]) -> Callable[..., Any]:
    """`wait`, whose last argument is its options, asked again and again."""
    signature = inspect.signature(wait)

    @wraps(wait)
    def call(*args: Any, **named: Any) -> Any:
        *which, options = signature.bind(*args, **named).args
        if options & os.WNOHANG or not can_switch():
            return wait(*which, options)

        def ask() -> Any:
            result = wait(*which, options | os.WNOHANG)
            return result if has_ended(result) else None

        return ask_again(ask)

    return call


class Popen(get_original("subprocess", "Popen")):  # type: ignore[misc]
    """The standard library's, whose pipes let other greenlets run."""

    def __init__(self, args: Any, bufsize: int = -1, *rest: Any, **options: Any) -> None:
        super().__init__(args, bufsize, *rest, **options)
        for name in ("stdin", "stdout", "stderr"):
            if (file := getattr(self, name)) is not None:
                setattr(self, name, over_pipe(file, bufsize))


def _system(command: Any) -> int:
    """`os.system()`: the status that `os.waitpid()` would tell."""
    process = Popen(command, shell=True, close_fds=False)
    _, status = waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return status


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
    patch_item(os, "wait", lambda: waitpid(-1, 0))
    patch_item(os, "wait3", _polling(os.wait3, lambda result: result[0]))
    patch_item(os, "wait4", _polling(os.wait4, lambda result: result[0]))
    patch_item(os, "waitid", _polling(os.waitid, lambda result: result is not None))
