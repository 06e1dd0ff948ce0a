"""Waiting for a signal while other greenlets run.

Imported while the worker is patched: nothing here may import what is to be patched.
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterable
from typing import Any

import gevent
from gevent.monkey import get_original
from gevent.monkey.api import patch_item

from .locks import can_switch
from .waiting import ask_again, pauses

_monotonic = get_original("time", "monotonic")
_native_ident = get_original("_thread", "get_ident")
_main_thread = _native_ident()


def _sigtimedwait(sigset: Iterable[int], timeout: float) -> Any:
    """`signal.sigtimedwait()`: None where no signal came in `timeout` seconds."""
    if timeout < 0:
        raise ValueError("timeout must be non-negative")
    if not can_switch():
        return _original["sigtimedwait"](sigset, timeout)
    end = _monotonic() + timeout
    for pause in pauses():
        info = _original["sigtimedwait"](sigset, 0)
        left = end - _monotonic()
        if info is not None or left <= 0:
            return info
        gevent.sleep(min(pause, left))
    raise AssertionError  # the pauses have no end


def _sigwaitinfo(sigset: Iterable[int]) -> Any:
    if not can_switch():
        return _original["sigwaitinfo"](sigset)
    return _sigtimedwait(sigset, float("inf"))


def _sigwait(sigset: Iterable[int]) -> int:
    if not can_switch():
        return int(_original["sigwait"](sigset))
    wanted = set(sigset)
    return ask_again(
        lambda: int(_original["sigwait"](wanted)) if wanted & signal.sigpending() else None
    )


def _pthread_kill(thread_id: int, signalnum: int) -> None:
    """The number of a thread is that of its greenlet here, and C would take it for an address."""
    if thread_id == threading.get_ident():
        thread_id = _native_ident()
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


_mended = {
    "sigtimedwait": _sigtimedwait,
    "sigwaitinfo": _sigwaitinfo,
    "sigwait": _sigwait,
    "pause": _pause,
    "pthread_kill": _pthread_kill,
}
_original = {name: getattr(signal, name) for name in _mended if hasattr(signal, name)}


def patch_signals() -> None:
    for name in _original:
        patch_item(signal, name, _mended[name])
