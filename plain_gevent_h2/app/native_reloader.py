"""Plain's file watcher (`--reload`) in a native thread: it waits inside a Rust extension."""

from gevent.monkey import get_original

from .plain_internals import Reloader, replace_reloader

_start_new_thread = get_original("_thread", "start_new_thread")


class NativeReloader(Reloader):
    """A `Reloader` whose thread is a native one, whatever `threading.Thread` is."""

    def start(self) -> None:
        _start_new_thread(self.run, ())


def patch_reloader() -> None:
    """Have Plain's workers, and its page for a boot failure, use a `NativeReloader`."""
    replace_reloader(NativeReloader)
