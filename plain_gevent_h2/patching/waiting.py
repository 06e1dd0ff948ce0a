"""How a greenlet waits for what Python's C code would block on, while other greenlets run.

Imported while the worker is patched: nothing here may import what is to be patched.
"""

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.os
from gevent.monkey import get_original

from .locks import can_switch

READ, WRITE = 1, 2  # a watcher's events
_POLLIN, _POLLOUT = 1, 4

#: Seconds between two tries where nothing tells that it is time.
FIRST_PAUSE, LONGEST_PAUSE = 0.001, 0.05

_poll = get_original("select", "poll")


def pauses() -> Iterator[float]:
    """Seconds to sleep between tries of something that cannot be waited for, without end."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


def ask_again[Answer](ask: Callable[[], Answer | None]) -> Answer:
    """`ask()` until there is an answer."""
    for pause in pauses():
        if (answer := ask()) is not None:
            return answer
        gevent.sleep(pause)
    raise AssertionError  # the pauses have no end


#: Descriptors that gevent closes once it has told those who wait for them.
_closing: dict[int, Any] = vars(gevent.os)["_closing_fd_to_event"]


def wait_until_ready(fd: int, event: int = READ) -> None:
    """Wait until `fd` can be read or written, in whatever thread it was opened.

    Raises `OSError` if it is closed meanwhile: what is opened next has the same number, and its
    bytes are not for who waits here.
    """
    file = os.fstat(fd)
    while not is_ready(fd, event):
        _wait_for_event(fd, event)
        if fd in _closing or not os.path.samestat(os.fstat(fd), file):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def is_ready(fd: int, event: int = READ) -> bool:
    """True of a regular file, and of what is no descriptor: the call that follows says so."""
    return bool(_poller(fd, event).poll(0))


def _wait_for_event(fd: int, event: int) -> None:
    """In the hub of the calling thread, if it has one."""
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
    poller = _poll()
    poller.register(fd, _POLLIN if event == READ else _POLLOUT)
    return poller
