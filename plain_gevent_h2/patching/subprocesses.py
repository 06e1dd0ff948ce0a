"""Child processes, which any greenlet and any native thread may start and wait for.

gevent's own `subprocess` waits through the one hub that gets SIGCHLD, so in every other thread it
failed after the program had run. It also takes the exit status of children that others started.
Here `subprocess` is the standard library's, and the calls that it waits with let other greenlets
run: `os.waitpid()` waits for a process descriptor (Linux), and `pipes.py` patches its pipes.
SIGCHLD is left to the app.
"""

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

from gevent.monkey import get_original
from gevent.monkey.api import patch_item

from .native import can_switch
from .pipes import over_pipe
from .waiting import block_or_poll, poll, wait_until_ready


@contextmanager
def _process_descriptor(pid: int) -> Iterator[int | None]:
    """A descriptor that can be read once `pid` has ended. None where the system has none."""
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

    def attempt() -> tuple[int, int] | None:
        done = _waitpid(pid, options | os.WNOHANG)
        return done if done[0] else None

    if options & os.WNOHANG:
        return _waitpid(pid, options)
    # With options it may wait for something other than the end.
    return _block_or_watch(lambda: _waitpid(pid, options), attempt, 0 if options else pid)


def wait_for_end(pid: int) -> None:
    """Wait until the child has ended, and leave its status for a later `waitpid()`."""
    options = os.WEXITED | os.WNOWAIT
    with suppress(ChildProcessError):  # its status has been taken
        _block_or_watch(
            lambda: _waitid(os.P_PID, pid, options),
            lambda: _waitid(os.P_PID, pid, options | os.WNOHANG),
            pid,
        )


def _block_or_watch[Result](
    block: Callable[[], Result], attempt: Callable[[], Result | None], pid: int
) -> Result:
    """As `block_or_poll()`, but it waits for the end of `pid` where that has a descriptor."""
    if not can_switch():
        return block()
    if (result := attempt()) is not None:
        return result
    with _process_descriptor(pid) as fd:
        if fd is not None:
            wait_until_ready(fd)
    return poll(attempt)  # a debugger may hold the status of a child that has ended


def _polling(wait: Callable[..., Any], has_ended: Callable[[Any], object]) -> Callable[..., Any]:
    """Wrap `wait`, whose last argument is its options: a greenlet polls."""
    signature = inspect.signature(wait)

    @wraps(wait)
    def call(*args: Any, **named: Any) -> Any:
        *which, options = signature.bind(*args, **named).args

        def attempt() -> Any:
            result = wait(*which, options | os.WNOHANG)
            return result if has_ended(result) else None

        if options & os.WNOHANG:
            return wait(*which, options)
        return block_or_poll(lambda: wait(*which, options), attempt)

    return call


class Popen(get_original("subprocess", "Popen")):  # type: ignore[misc]
    """The standard library's, whose pipes let other greenlets run."""

    def __init__(self, args: Any, bufsize: int = -1, *rest: Any, **options: Any) -> None:
        super().__init__(args, bufsize, *rest, **options)
        for name in ("stdin", "stdout", "stderr"):
            if (file := getattr(self, name)) is not None:
                setattr(self, name, over_pipe(file, bufsize))


def _system(command: Any) -> int:
    """`os.system()`, which returns the status as `os.waitpid()` has it."""
    process = Popen(command, shell=True, close_fds=False)
    _, status = waitpid(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return status


def patch_children() -> None:
    """Put the standard library's functions back, with waits that let other greenlets run."""
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
