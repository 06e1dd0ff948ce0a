"""A fork takes the lock of `warnings`, which is new in Python 3.14.

Where another native thread had it at that moment, the child waited for ever: gevent's `os.fork()`
takes it there. CPython has the same fault, for children that warn.

Imported before anything is patched.
"""

import _warnings
import os
from contextlib import suppress
from typing import Any


def take_lock_of_warnings_at_forks() -> None:
    """Called before others, such as `logging`, say what to do at a fork.

    What is said first is done last: who has the lock of `logging` may want that of `warnings`, so
    it must be the last that is taken.
    """
    lock: Any = _warnings
    if not hasattr(lock, "_acquire_lock"):
        return

    def release_in_child() -> None:
        with suppress(RuntimeError):  # also those of greenlets that were about to fork
            while True:
                lock._release_lock()

    os.register_at_fork(
        before=lock._acquire_lock,
        after_in_parent=lock._release_lock,
        after_in_child=release_in_child,
    )
