"""How a greenlet waits for what Python's C code would block on, while other greenlets run.

`wait_until_ready()` waits for a descriptor. `block_or_poll()` is for what has none.
"""

import errno
import os
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, overload

import gevent
import gevent.os
from gevent.monkey import get_original

from .native import can_switch

READ, WRITE = 1, 2  # a watcher's events
_POLLIN, _POLLOUT = 1, 4

#: Seconds between two attempts: the first pause, which doubles up to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05

_new_poller = get_original("select", "poll")


@overload
def block_or_poll[Result](
    block: Callable[[], Result], attempt: Callable[[], Result | None]
) -> Result: ...
@overload
def block_or_poll[Result](
    block: Callable[[], Result | None],
    attempt: Callable[[], Result | None],
    timeout: float | None,
) -> Result | None: ...
def block_or_poll[Result](
    block: Callable[[], Result | None],
    attempt: Callable[[], Result | None],
    timeout: float | None = None,
) -> Result | None:
    """`block()` where no other greenlet can run meanwhile. Elsewhere `poll()`."""
    return poll(attempt, timeout) if can_switch() else block()


@overload
def poll[Result](attempt: Callable[[], Result | None]) -> Result: ...
@overload
def poll[Result](attempt: Callable[[], Result | None], timeout: float | None) -> Result | None: ...
def poll[Result](
    attempt: Callable[[], Result | None], timeout: float | None = None
) -> Result | None:
    """Call `attempt()` until it returns something other than None, or for `timeout` seconds."""
    deadline = inf if timeout is None else monotonic() + timeout
    pause = FIRST_PAUSE
    while (result := attempt()) is None and (left := deadline - monotonic()) > 0:
        gevent.sleep(min(pause, left))
        pause = min(2 * pause, LONGEST_PAUSE)
    return result


#: Descriptors that gevent closes as soon as it has woken those who wait for them.
_closing: dict[int, Any] = vars(gevent.os)["_closing_fd_to_event"]


def wait_until_ready(fd: int, event: int = READ) -> None:
    """Wait until `fd` can be read or written, in whatever thread it was opened.

    Raises `OSError` if it is closed meanwhile. The next file that is opened may get the same
    number, and its bytes are not for the caller.
    """
    file = os.fstat(fd)
    while not is_ready(fd, event):
        _wait_for_event(fd, event)
        if fd in _closing or not os.path.samestat(os.fstat(fd), file):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def is_ready(fd: int, event: int = READ) -> bool:
    """Whether a call on `fd` returns at once.

    It does for a regular file, and for a number that is no descriptor: the call raises.
    """
    return bool(_poller(fd, event).poll(0))


def _wait_for_event(fd: int, event: int) -> None:
    if not can_switch():
        _poller(fd, event).poll()
        return
    hub = gevent.get_hub()
    watcher = hub.loop.io(fd, event)
    try:
        hub.wait(watcher)
    finally:
        watcher.close()


def _poller(fd: int, event: int) -> Any:
    poller = _new_poller()
    poller.register(fd, _POLLIN if event == READ else _POLLOUT)
    return poller
