"""The lock of `warnings`, which Python 3.14 brought, around a fork.

If another native thread holds it at that moment, the child waits for it for ever: gevent's
`os.fork()` takes it in the child. (In CPython, a child that warns does.) So it is taken before
a fork and released after it. Imported before anything is patched.
"""

import _warnings
import os
from contextlib import suppress
from typing import Any


def take_lock_of_warnings_at_forks() -> None:
    """Called before `logging` and others register what they do at a fork.

    Hooks run in the reverse order. A thread that holds the lock of `logging` may wait for that of
    `warnings`, so this lock must be taken last.
    """
    lock: Any = _warnings
    if not hasattr(lock, "_acquire_lock"):
        return

    def release_in_child() -> None:
        with suppress(RuntimeError):  # also what greenlets that were about to fork took
            while True:
                lock._release_lock()

    os.register_at_fork(
        before=lock._acquire_lock,
        after_in_parent=lock._release_lock,
        after_in_child=release_in_child,
    )
