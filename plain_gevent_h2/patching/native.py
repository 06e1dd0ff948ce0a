"""Native threads: the functions that gevent replaces, and whether one has greenlets to run."""

from typing import Any

from gevent import GreenletExit, getcurrent
from gevent._hub_local import get_hub_if_exists
from gevent.monkey import get_original

allocate_lock = get_original("_thread", "allocate_lock")
get_ident = get_original("_thread", "get_ident")
start_new_thread = get_original("_thread", "start_new_thread")
RLock: Any = get_original("_thread", "RLock")


def can_switch() -> bool:
    """Whether other greenlets of this native thread can run while the caller waits."""
    hub = get_hub_if_exists()
    return hub is not None and getcurrent() is not hub


def destroy_hub() -> None:
    """Destroy the hub of the current native thread, if it has one. The thread ends after this."""
    hub: Any = get_hub_if_exists()
    if hub is None:
        return
    hub.destroy(destroy_loop=True)
    # The hub's greenlet stays in its last switch: 12 KB that outlive the thread.
    if not hub.dead:
        hub.throw(GreenletExit)
