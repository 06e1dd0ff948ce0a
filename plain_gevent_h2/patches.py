"""What a worker process patches: gevent's own patch, and the workarounds that it needs.

A worker's command line calls `patch()` before it imports anything else (see
`process/arbiter.py`), so that `ssl`, `socket` and `threading` are patched before any module can
take a copy of them. Importing this module therefore imports nothing.

Workarounds come in three stages. `patch()` ends with those in `FIRST`. Those in `BEFORE_APP` come
before the app's own patch (`SERVER_GEVENT_PATCH`) and the app, and those in `AFTER_APP` once the
app is imported. Each says what it does, what broke without it, and which test shows it; its code
is in `patching/`, or in `app/` where it is about Plain. The first lines of their docstrings are
what `plain server --help` and a worker's debug log list.
"""


def patch() -> None:
    """Make the standard library's blocking calls let other greenlets run.

    Called once, first thing in a worker process. Ends it if `ssl` was imported before: its classes
    would then be patched only in part.
    """
    import signal
    import sys

    from .patching.standard_streams import open_standard_streams
    from .patching.warnings_lock import take_lock_of_warnings_at_forks

    open_standard_streams()
    take_lock_of_warnings_at_forks()

    # The arbiter sends these to every worker. Their default action ends the process, and a new
    # worker has no handler yet.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if ssl_came_first():
        sys.exit("plain_gevent_h2: ssl was imported before gevent could patch it")

    import gevent
    from gevent import monkey

    from .patching.entry_points import read_once
    from .patching.threads import give_gevent_our_lock

    give_gevent_our_lock()
    with read_once():
        monkey.patch_all()

    for workaround in FIRST:
        workaround()
    # An app that patches by itself would put gevent's locks and queues back.
    for name in [name for name in vars(monkey) if name.startswith("patch_")]:
        if name not in ("patch_item", "patch_module"):
            setattr(monkey, name, _already_patched)
    # Which greenlet spawned which, and from where, is of no use here and costs 4 us a stream.
    gevent.config.track_greenlet_tree = False


def ssl_came_first() -> bool:
    """Whether `ssl` was imported before gevent patched it, so that others may have copies of it.

    `sys.modules` has modules in the order in which their import ended. Where gevent came first
    (`OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH`), it has imported `ssl` itself.
    """
    import sys

    names = list(sys.modules)
    if "ssl" not in names:
        return False
    monkey = sys.modules.get("gevent.monkey")
    patched = monkey is not None and all(map(monkey.is_module_patched, ("socket", "ssl")))
    return not patched or names[names.index("ssl") + 1] != "gevent.ssl"


def _already_patched(*_args: object, **_options: object) -> bool:
    """Stands in for `gevent.monkey.patch_all()` and its like. They return True, too."""
    return True


def patch_threads() -> None:
    """Let locks, queues and threads work between greenlets and native threads.

    What broke: gevent's locks and queues lose wake-ups between native threads, and a thread that
    a native thread started was a greenlet that never ran. Requests hung for ever. Shown by
    `tests/server/test_native_threads.py::test_all_log_at_once`.
    """
    from .patching.threads import patch_threading

    patch_threading()


def patch_pipes() -> None:
    """Let other greenlets run while one waits for a pipe or for the lock of a file.

    What broke: `os.read()` of an empty pipe stopped every request, and so did `fcntl.flock()` of a
    file that another greenlet has locked. Shown by
    `tests/server/test_native_threads.py::test_a_wait_ends_from_every_kind_of_thread`.
    """
    from .patching import pipes

    pipes.patch_pipes()


def patch_children() -> None:
    """Let every native thread start programs, and wait for them.

    What broke: `subprocess` raised TypeError outside the main thread, after the program had run.
    Shown by `tests/server/test_native_threads.py::test_a_call_in_every_kind_of_thread`.
    """
    from .patching import subprocesses

    subprocesses.patch_children()


def patch_forks() -> None:
    """Give a forked child a hub of its own.

    What broke: a child ran the worker's hub as it waited, took connections and answered them, and
    ignored SIGTERM. Shown by
    `tests/server/test_native_threads.py::test_a_forked_child_is_no_worker`.
    """
    from .patching import forks

    forks.patch_forks()


def patch_signals() -> None:
    """Let other greenlets run while one waits for a signal; refuse `signal.pause()`.

    What broke: `signal.sigwait()` and its like stopped every request. Shown by
    `tests/server/test_native_threads.py::test_a_call_in_every_kind_of_thread`.
    """
    from .patching import signals

    signals.patch_signals()


def patch_sockets() -> None:
    """Let every native thread use a socket that another one opened.

    What broke: a client whose connections views and native threads share raised "Cannot switch to
    a different thread". Shown by
    `tests/server/test_native_threads.py::test_a_wait_ends_from_every_kind_of_thread`.
    """
    from .patching import sockets

    sockets.patch_sockets()


def patch_imports() -> None:
    """Let native threads import modules side by side.

    What broke: the lock of a module that is being imported is one of gevent's, which does not wake
    all native threads that wait for it. Of ten views at once in `asyncio.run()`, whose client
    library imports as it goes, some hung for ever. Shown by
    `tests/server/test_hub.py::TestAsyncio::test_an_async_client_in_a_view`.
    """
    from .patching import imports

    imports.patch_imports()


def patch_hashing() -> None:
    """Hash passwords (hashlib, argon2-cffi, bcrypt) in native threads.

    What broke: a login of 100 ms stops every other greenlet for as long. Before the app, which may
    import these functions by name. Shown by
    `tests/server/test_hub.py::TestHashing::test_others_run_meanwhile`.
    """
    from .patching import hashing

    hashing.patch_hashing()


def patch_asyncio_loops() -> None:
    """Give an event loop that blocking code runs (`asyncio.run()`) a native thread.

    What broke: asyncio knows a running loop by its native thread. Of two views that called
    `asyncio.run()` the second failed ("cannot be called from a running event loop"), and a loop in
    a `threading.Thread` of one view was the running loop of all. Shown by
    `tests/server/test_hub.py::TestAsyncio::test_100_blocking_views_at_once` and
    `tests/server/test_native_threads.py::test_a_loop_in_the_background`.
    """
    from .patching import asyncio_loops

    asyncio_loops.patch_loops()


def patch_asyncio_threads() -> None:
    """Let `asyncio.to_thread()` and `run_in_executor()` use greenlets.

    What broke: from CPython 3.13.12 and 3.14.3 on they stall under gevent's patch (gevent issue
    2213): a 50 ms job took 3 s. In the thread of the async views' loop, an executor's threads are
    greenlets anyway. Every other loop keeps its native threads. Shown by
    `tests/server/test_hub.py::TestAsyncio::test_an_async_view_goes_to_threads_and_back`.
    """
    from .patching import asyncio_loops

    asyncio_loops.patch_executors()


def patch_multiprocessing() -> None:
    """Let other greenlets run while one waits for another process.

    What broke: a `multiprocessing.Pool` stopped the worker until the arbiter killed it, and a
    `Queue`, `Lock` or `Pipe` stopped it for as long as the other process took. Shown by
    `tests/server/test_native_threads.py::test_a_call_in_every_kind_of_thread`.
    """
    from .patching import multiprocess

    multiprocess.patch_multiprocessing()


def patch_reloader() -> None:
    """Run Plain's file watcher (`--reload`) in a native thread.

    What broke: the watcher is a `threading.Thread` that waits inside a Rust extension. Under the
    patch that thread is a greenlet, and its wait stops every other greenlet of the worker. Shown
    by `tests/server/test_reload.py::test_watcher_does_not_block_the_hub`.
    """
    from .app import native_reloader

    native_reloader.patch_reloader()


def patch_parsers() -> None:
    """Limit the work that the head of a request can give to Plain's parsers.

    What broke: some are quadratic, and run on the hub before any view. A Content-Type of 64 KB
    stopped every other greenlet for 2.9 s, a path of 45 KB for 0.1 s. Shown by
    `tests/unit/test_safe_parsers.py::test_time_grows_no_faster_than_the_input`. Others failed:
    `charset=hex` and `Accept: a;q=x` were a 500 each, and so was JSON that is no UTF-8. Shown by
    `tests/protocol/test_header_bytes.py`.
    """
    from .app import safe_parsers

    safe_parsers.patch_parsers()


def patch_logs() -> None:
    """Escape in the log what comes from clients and is not text.

    What broke: a path with `%0a` started a line of its own, one with `%1b` was an escape sequence
    for the terminal, and a byte that is no UTF-8 in a user agent made the access log's line fail.
    Shown by `tests/server/test_log_lines.py::test_no_client_writes_a_line_of_its_own`.
    """
    from .app import log_escaping

    log_escaping.patch_formatters()


def patch_websockets() -> None:
    """Limit what a WebSocket reads ahead of its view.

    What broke: Plain's reader takes 16 messages of up to 1 MiB that the view has not asked for: 20
    sockets of one connection held 395 MiB. Shown by
    `tests/server/test_websocket_unread.py::test_attack`.
    """
    from .app import bounded_websocket

    bounded_websocket.patch_websocket()


def patch_psycopg() -> None:
    """Let psycopg 3 and its pool give back the connection of a greenlet that is stopped.

    What broke: a greenlet that was stopped while it waited for the pool was still given the next
    connection, which the pool then lost. One that was stopped in a query left it running in the
    database. Both clean up, but only after the exceptions that stop a thread or a task. Shown by
    `tests/server/test_postgres.py::test_a_deadline_in_a_query_gives_its_connection_back`.
    """
    from gevent import GreenletExit, Timeout

    from .app.deadline import DeadlinePassed
    from .patching.psycopg_cleanup import clean_up_after

    clean_up_after((GreenletExit, Timeout, DeadlinePassed))


#: By `patch()`, right after gevent's.
FIRST = (patch_threads, patch_pipes, patch_children, patch_forks, patch_signals, patch_sockets)

#: Before the app's own patch and the app, in this order.
BEFORE_APP = (
    patch_imports,
    patch_hashing,
    patch_asyncio_loops,
    patch_asyncio_threads,
    patch_multiprocessing,
    patch_reloader,
    patch_parsers,
    patch_logs,
    patch_websockets,
)

#: Once the app is imported.
AFTER_APP = (patch_psycopg,)


def workarounds() -> list[str]:
    """What is patched beyond gevent's own patch, in a line each."""
    return [
        (workaround.__doc__ or "").partition("\n")[0]
        for workaround in (*FIRST, *BEFORE_APP, *AFTER_APP)
    ]
