"""Sockets that are used in another native thread than the one that opened them.

A socket of gevent waits in the hub of the thread that opened it. In another thread (views and
native threads may share a client's pool of connections) it raised "Cannot switch to a different
thread", or ValueError once the first thread had ended. Here it waits in the caller's hub.
"""

from typing import Any

from gevent import get_hub
from gevent._hub_primitives import wait_on_socket, wait_on_watcher
from gevent._socketcommon import (  # type: ignore[import-not-found]
    SocketMixin,
    cancel_wait_ex,
)

_drop_events_and_close = SocketMixin._drop_events_and_close


def _wait(self: Any, watcher: Any, timeout_exc: Any = None) -> None:
    hub = get_hub()
    if self.hub is hub or watcher is None:
        wait_on_socket(self, watcher, timeout_exc)
        return
    options = {} if timeout_exc is None else {"timeout_exc": timeout_exc}
    loop: Any = hub.loop
    with loop.io(self.fileno(), watcher.events) as here:
        wait_on_watcher(here, self.timeout, hub=hub, **options)


def _close(self: Any, closefd: bool = True, _cancel_wait_ex: Any = cancel_wait_ex) -> None:
    hub = get_hub()
    if self.hub is not hub:
        watchers = (self._read_event, self._write_event)
        if any(watcher.callback is not None for watcher in watchers):
            # A greenlet waits in that hub. Only its own thread may end the wait.
            self.hub.loop.run_callback_threadsafe(_drop_events_and_close, self, closefd)
            return
        self.hub = hub
    _drop_events_and_close(self, closefd, _cancel_wait_ex)


def patch_sockets() -> None:
    """Let every native thread use every socket."""
    SocketMixin._wait = _wait
    SocketMixin._drop_events_and_close = _close
