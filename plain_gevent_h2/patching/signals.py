"""Calls that wait for a signal, while other greenlets run."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterable
from typing import Any

from gevent.monkey.api import patch_item

from . import native
from .waiting import block_or_poll

_main_thread = native.get_ident()


def _sigtimedwait(sigset: Iterable[int], timeout: float) -> Any:
    if timeout < 0:
        raise ValueError("timeout must be non-negative")
    wanted = set(sigset)
    wait = _original["sigtimedwait"]
    return block_or_poll(lambda: wait(wanted, timeout), lambda: wait(wanted, 0), timeout)


def _sigwaitinfo(sigset: Iterable[int]) -> Any:
    wanted = set(sigset)
    return block_or_poll(
        lambda: _original["sigwaitinfo"](wanted), lambda: _original["sigtimedwait"](wanted, 0)
    )


def _sigwait(sigset: Iterable[int]) -> int:
    wanted = set(sigset)

    def wait() -> int:
        return int(_original["sigwait"](wanted))

    return block_or_poll(wait, lambda: wait() if wanted & signal.sigpending() else None)


def _pthread_kill(thread_id: int, signalnum: int) -> None:
    """`threading.get_ident()` is the number of a greenlet, which C would take for an address."""
    if thread_id == threading.get_ident():
        thread_id = native.get_ident()
    elif thread_id == threading.main_thread().ident:
        thread_id = _main_thread
    elif thread_id not in vars(sys)["_current_frames"]():
        raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
    _original["pthread_kill"](thread_id, signalnum)


def _pause() -> None:
    raise RuntimeError(
        "signal.pause() does not work with the gevent-h2 worker: it would stop every request. "
        "Wait for a threading.Event that your handler sets."
    )


_patched = {
    "sigtimedwait": _sigtimedwait,
    "sigwaitinfo": _sigwaitinfo,
    "sigwait": _sigwait,
    "pause": _pause,
    "pthread_kill": _pthread_kill,
}
_original = {name: getattr(signal, name) for name in _patched if hasattr(signal, name)}


def patch_signals() -> None:
    for name in _original:
        patch_item(signal, name, _patched[name])
