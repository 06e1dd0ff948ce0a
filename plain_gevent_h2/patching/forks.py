"""What a process that the app forks must not take along.

A forked child has the worker's hub, with every greenlet and every socket in it. Its first wait ran
that hub: the child answered requests, and took connections that the worker waits for. It also
ignored SIGTERM, so that a `multiprocessing.Pool` never ended. After a fork there is one thread of
control, as there is with native threads: the one that forked.

Imported while the worker is patched: nothing here may import what is to be patched.
"""

import os
import signal
from typing import Any

from gevent import config
from gevent._hub_local import set_hub, set_loop
from gevent.monkey import get_original

from .threads import forget_threads

_native_ident = get_original("_thread", "get_ident")

#: What the worker handles in ways of its own.
_SIGNALS = (
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGABRT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)


#: What the threads that fork right now had blocked, and how many greenlets of each are at it:
#: one may let another run before it forks, in a hook that takes a lock (that of `logging`).
_blocked: dict[int, tuple[set[int], int]] = {}


def _block_signals() -> None:
    """A signal that comes before the child has its own handlers has to wait for them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    mask, greenlets = _blocked.get(_native_ident(), (before, 0))
    _blocked[_native_ident()] = mask, greenlets + 1


def _unblock_signals() -> None:
    mask, greenlets = _blocked.pop(_native_ident())
    if greenlets > 1:
        _blocked[_native_ident()] = mask, greenlets - 1
    else:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_anew() -> None:
    """Called in the child, in the thread that forked."""
    forget_hub: Any = set_hub
    forget_hub(None)
    # The next hub takes this loop. It would else be the worker's: there is one default loop.
    new_loop: Any = config.loop
    set_loop(new_loop(flags=config.libev_backend, default=False))
    forget_threads()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    _blocked.clear()
    # Not what was blocked before. A native thread that another greenlet started while its own
    # waited to fork has inherited that; a child that cannot be terminated keeps a `Pool` for ever.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def patch_forks() -> None:
    os.register_at_fork(
        before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_start_anew
    )
