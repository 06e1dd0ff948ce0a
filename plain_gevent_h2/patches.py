"""What a worker process patches, and what has to be mended after it.

A worker's command line calls `patch()` before it imports anything else (see
`server.py`), so that `ssl`, `socket` and `threading` are patched before any module can
take a copy of them. Importing this module therefore imports nothing.
"""


def patch() -> None:
    """Make the standard library's blocking calls give way to other greenlets.

    Called once, first thing in a worker process. Raises `RuntimeError` if `ssl` was
    imported before: its classes would then be patched only in part.
    """
    import signal
    import sys

    # The arbiter sends it to every worker, and a new one would die of it before it has its
    # handler: the signal's default is to end the process.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if "ssl" in sys.modules:
        raise RuntimeError("plain_gevent_h2: ssl was imported before gevent could patch it")

    import gevent
    from gevent import monkey

    monkey.patch_all()
    # Which greenlet spawned which, and from where, is of no use here and costs 4 us a stream.
    gevent.config.track_greenlet_tree = False


def mend_reloader() -> None:
    """Run Plain's file watcher (`--reload`) in a native thread.

    What broke: the watcher is a `threading.Thread` that waits inside a Rust extension.
    Patched, that thread is a greenlet, and the wait stops every other greenlet of the
    worker. Shown by `tests/test_reload.py`.
    """
    from gevent.monkey import get_original
    from plain.internal.reloader import Reloader
    from plain.server.workers import boot_failure, worker

    start_new_thread = get_original("_thread", "start_new_thread")

    class NativeReloader(Reloader):
        def start(self) -> None:
            start_new_thread(self.run, ())

    for module in (worker, boot_failure):
        vars(module)["Reloader"] = NativeReloader
