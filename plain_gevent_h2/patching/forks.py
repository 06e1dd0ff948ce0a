"""The state of a forked child: a hub, threads and signals of its own.

A forked child inherits the worker's hub, with every greenlet and every socket in it. Its first wait
ran that hub: the child answered requests, and took connections that the worker waits for. It also
ignored SIGTERM, so that a `multiprocessing.Pool` never ended. Here a child has one thread of
control, as after a fork of native threads: the one that forked.
"""

import os
import signal
from typing import Any

from gevent import config
from gevent._hub_local import set_hub, set_loop

from . import native
from .threads import forget_threads

#: Signals for which the worker has handlers.
_SIGNALS = (
    signal.SIGTERM,
    signal.SIGQUIT,
    signal.SIGABRT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)


#: For each native thread that forks now: the signals that it had blocked, and the number of its
#: greenlets that fork. One of them may wait in a later hook, for the lock of `logging` say, and let
#: another one begin.
_blocked: dict[int, tuple[set[int], int]] = {}


def _block_signals() -> None:
    """Keep signals pending until the child has handlers of its own."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    mask, greenlets = _blocked.get(native.get_ident(), (before, 0))
    _blocked[native.get_ident()] = mask, greenlets + 1


def _unblock_signals() -> None:
    mask, greenlets = _blocked.pop(native.get_ident())
    if greenlets > 1:
        _blocked[native.get_ident()] = mask, greenlets - 1
    else:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start_anew() -> None:
    """Called in the child, in the thread that forked."""
    forget_hub: Any = set_hub
    forget_hub(None)
    # The next hub takes this loop. Its default would be the worker's loop.
    new_loop: Any = config.loop
    set_loop(new_loop(flags=config.libev_backend, default=False))
    forget_threads()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_DFL)
    _blocked.clear()
    # Not the mask from before the fork. A native thread may have inherited the block above: one
    # that a greenlet started while another greenlet of the same thread waited to fork. A child
    # with SIGTERM blocked keeps its `Pool` for ever.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def patch_forks() -> None:
    os.register_at_fork(
        before=_block_signals, after_in_parent=_unblock_signals, after_in_child=_start_anew
    )
