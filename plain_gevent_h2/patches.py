"""What a worker process patches, and what has to be mended after it.

A worker's command line calls `patch()` before it imports anything else (see
`server.py`), so that `ssl`, `socket` and `threading` are patched before any module can
take a copy of them. Importing this module therefore imports nothing.

It ends with the mends in `FIRST`, for which the same holds: what they import imports little. Then
come those in `BEFORE_APP`, the app's own patch (`SERVER_GEVENT_PATCH`), the app, and
the mends in `AFTER_APP`. Each says what broke, how it is mended, and which test shows it. Their
first lines are what `plain server --help` and a worker's debug log list.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from gevent.threadpool import ThreadPool


def patch() -> None:
    """Make the standard library's blocking calls give way to other greenlets.

    Called once, first thing in a worker process. Ends it if `ssl` was imported before: its classes
    would then be patched only in part.
    """
    import signal
    import sys

    from .patching.standard_streams import open_standard_streams
    from .patching.warnings_lock import take_lock_of_warnings_at_forks

    open_standard_streams()
    take_lock_of_warnings_at_forks()

    # The arbiter sends these to every worker, and a new one would die of one before it has its
    # handler: their default is to end the process.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    if ssl_came_first():
        sys.exit("plain_gevent_h2: ssl was imported before gevent could patch it")

    import gevent
    from gevent import monkey

    from .patching.threads import lend_lock_to_gevent

    lend_lock_to_gevent()
    monkey.patch_all()

    for mend in FIRST:
        mend()
    # An app that patches by itself would put gevent's locks and queues back.
    for name in [name for name in vars(monkey) if name.startswith("patch_")]:
        if name not in ("patch_item", "patch_module"):
            setattr(monkey, name, _already_patched)
    # Which greenlet spawned which, and from where, is of no use here and costs 4 us a stream.
    gevent.config.track_greenlet_tree = False


def ssl_came_first() -> bool:
    """Whether `ssl` was imported before gevent patched it, so that others may have what it was.

    Modules stand in the order in which their import ended. Where gevent came first
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
    """What `gevent.monkey.patch_all()` and its like do in a worker. True, as they return."""
    return True


def mend_threads() -> None:
    """Let locks, queues and threads work between greenlets and native threads.

    What broke: gevent's locks and queues lose wake-ups between native threads, and a thread started
    in a native one was a greenlet that nobody ran. Requests hung for ever. Shown by
    `tests/server/test_native_threads.py::test_all_log_at_once`.
    """
    from .patching.threads import patch_threading

    patch_threading()


def mend_pipes() -> None:
    """Let other greenlets run while one waits for a pipe or for the lock of a file.

    What broke: `os.read()` of an empty pipe stopped every request, and so did `fcntl.flock()` of a
    file that another greenlet has locked. Shown by
    `tests/server/test_native_threads.py::test_a_wait_ends_from_every_kind_of_thread`.
    """
    from .patching.pipes import patch_pipes

    patch_pipes()


def mend_children() -> None:
    """Let every native thread start programs, and wait for them.

    What broke: `subprocess` raised TypeError outside the main thread, after the program had run.
    Shown by `tests/server/test_native_threads.py::test_a_call_in_every_kind_of_thread`.
    """
    from .patching.subprocesses import patch_children

    patch_children()


def mend_forks() -> None:
    """Give a forked child a hub of its own.

    What broke: a child ran the worker's hub as it waited, took connections and answered them, and
    ignored SIGTERM. Shown by
    `tests/server/test_native_threads.py::test_a_forked_child_is_no_worker`.
    """
    from .patching.forks import patch_forks

    patch_forks()


def mend_signals() -> None:
    """Let other greenlets run while one waits for a signal; refuse `signal.pause()`.

    What broke: `signal.sigwait()` and its like stopped every request. Shown by
    `tests/server/test_native_threads.py::test_a_call_in_every_kind_of_thread`.
    """
    from .patching.signals import patch_signals

    patch_signals()


def mend_sockets() -> None:
    """Let every native thread use a socket that another one opened.

    What broke: a client whose connections views and native threads share raised "Cannot switch to
    a different thread". Shown by
    `tests/server/test_native_threads.py::test_a_wait_ends_from_every_kind_of_thread`.
    """
    from .patching.sockets import patch_sockets

    patch_sockets()


def mend_reloader() -> None:
    """Run Plain's file watcher (`--reload`) in a native thread.

    What broke: the watcher is a `threading.Thread` that waits inside a Rust extension.
    Patched, that thread is a greenlet, and the wait stops every other greenlet of the
    worker. Shown by `tests/server/test_reload.py::test_watcher_does_not_block_the_hub`.
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


#: Iterations below which PBKDF2 takes less time than the way to a thread (0.1 ms).
_FEW_ITERATIONS = 500


def mend_hashing() -> None:
    """Hash passwords (hashlib, argon2-cffi, bcrypt) in native threads.

    What broke: a login of 100 ms stops every other greenlet for as long. The functions let go
    of the GIL, so in another thread they disturb nobody. The threads leave a core to the hub,
    and are not those of gevent's own pool: files and host names would wait for a burst of
    logins. Called before the app is imported, which may take names out of these modules. Shown
    by `tests/server/test_hub.py::TestHashing::test_others_run_meanwhile`.
    """
    import hashlib
    import importlib.util
    import os
    from functools import partial

    from gevent.threadpool import ThreadPool

    pool = ThreadPool(max(1, (os.process_cpu_count() or 1) - 1))
    in_thread = partial(in_native_thread, pool=pool)

    def is_short(_name: str, _salt: bytes = b"", *args: Any, **kwargs: Any) -> bool:
        iterations = kwargs.get("iterations", args[1] if len(args) > 1 else 0)
        return isinstance(iterations, int) and iterations < _FEW_ITERATIONS

    hashlib.pbkdf2_hmac = in_thread(hashlib.pbkdf2_hmac, unless=is_short)
    hashlib.scrypt = in_thread(hashlib.scrypt)
    if importlib.util.find_spec("argon2") is not None:
        from argon2 import _password_hasher, low_level

        for name in ("hash_secret", "hash_secret_raw", "verify_secret"):
            mended = vars(low_level)[name] = in_thread(vars(low_level)[name])
            if name in vars(_password_hasher):
                vars(_password_hasher)[name] = mended
    if importlib.util.find_spec("bcrypt") is not None:
        import bcrypt

        for name in ("hashpw", "checkpw", "kdf"):
            vars(bcrypt)[name] = in_thread(vars(bcrypt)[name])


def in_native_thread(
    function: Callable[..., Any],
    unless: Callable[..., bool] | None = None,
    pool: ThreadPool | None = None,
) -> Callable[..., Any]:
    """`function` in a thread of `pool` (or the hub's), while the calling greenlet waits.

    Called outside a greenlet (in the hub, an asyncio loop, a native thread) it is as it was.
    """
    import functools

    from gevent import Greenlet, get_hub, getcurrent

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not isinstance(getcurrent(), Greenlet) or (unless and unless(*args, **kwargs)):
            return function(*args, **kwargs)
        hub = get_hub()  # a greenlet of an asyncio thread has another one
        threads = pool if pool is not None and pool.hub is hub else hub.threadpool
        return _settle(*threads.apply(_outcome, (function, args, kwargs)))

    return call


def _outcome(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """What `function` returns, or what it raises, which a thread pool would print."""
    try:
        return function(*args, **kwargs), None
    except BaseException as exc:
        return None, exc


def _settle(result: Any, exc: BaseException | None) -> Any:
    if exc is not None:
        raise exc
    return result


def mend_asyncio_run() -> None:
    """Give each `asyncio.run()` and `Runner` of a blocking view a native thread.

    What broke: a running loop is known by its native thread, so of two greenlets that call
    `asyncio.run()` the second fails ("cannot be called from a running event loop"). In a thread
    of its own it is alone; its tasks are cancelled if the greenlet is stopped. Shown by
    `tests/server/test_hub.py::TestAsyncio::test_100_blocking_views_at_once`.
    """
    import asyncio
    import contextvars
    import functools

    from gevent import Greenlet, getcurrent
    from gevent.threadpool import ThreadPool

    from .patching.threads import leave_native_thread

    def cancel_tasks(loop: Any) -> None:
        for task in asyncio.all_tasks(loop):
            task.cancel()

    def in_thread_of_its_own(name: str) -> None:
        method = getattr(runner_class, name)

        @functools.wraps(method)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(getcurrent(), Greenlet):
                return method(self, *args, **kwargs)
            thread = vars(self).get("_native_thread")
            if thread is None:
                thread = self._native_thread = ThreadPool(1)
            context = contextvars.copy_context()
            running = True

            def work() -> tuple[Any, BaseException | None]:
                nonlocal running
                outcome = _outcome(context.run, (method, self, *args), kwargs)
                running = False
                if name == "close":
                    leave_native_thread()
                return outcome

            try:
                outcome = thread.apply(work)
            except BaseException:  # the greenlet is stopped: a deadline, say
                if name == "run" and running and (loop := self._loop) is not None:
                    loop.call_soon_threadsafe(lambda: cancel_tasks(loop) if running else None)
                raise
            finally:
                if name == "close":
                    thread.kill()
            return _settle(*outcome)

        setattr(runner_class, name, call)

    runner_class: Any = asyncio.Runner
    for name in ("_lazy_init", "run", "close"):
        in_thread_of_its_own(name)

    def run(main: Any, **options: Any) -> Any:
        """As asyncio's, which first refuses to run in the thread of another loop."""
        if not isinstance(getcurrent(), Greenlet):
            return original_run(main, **options)
        with asyncio.Runner(**options) as runner:
            return runner.run(main)

    original_run = asyncio.run
    asyncio.run = functools.wraps(original_run)(run)


def mend_asyncio_loops() -> None:
    """Give an event loop that a greenlet runs a native thread.

    What broke: a loop that runs is known by its native thread. One in a `threading.Thread` of a
    blocking view was that of all blocking views, and one of an async view failed beside the
    worker's own. Such a loop waits with the system's selector, which belongs to no thread: it may
    be made in one and run in another. Shown by
    `tests/server/test_native_threads.py::test_a_loop_in_the_background`.
    """
    import asyncio
    import functools

    from gevent import Greenlet, getcurrent
    from gevent.monkey import get_original
    from gevent.threadpool import ThreadPool

    from .patching.threads import leave_native_thread

    loop_class: Any = asyncio.BaseEventLoop
    run_forever = loop_class.run_forever

    def run_and_leave(loop: Any) -> tuple[Any, Any]:
        outcome = _outcome(run_forever, (loop,), {})
        leave_native_thread()
        return outcome

    @functools.wraps(run_forever)
    def run_in_thread_of_its_own(self: Any) -> None:
        if not isinstance(getcurrent(), Greenlet):
            run_forever(self)
            return
        thread = ThreadPool(1)
        try:
            outcome = thread.apply(run_and_leave, (self,))
        except BaseException:  # the greenlet is stopped
            self.call_soon_threadsafe(self.stop)
            raise
        finally:
            thread.kill()
        _settle(*outcome)

    loop_class.run_forever = run_in_thread_of_its_own

    selector_class = get_original("selectors", "DefaultSelector")
    selector_loop_class: Any = asyncio.SelectorEventLoop
    init = selector_loop_class.__init__

    @functools.wraps(init)
    def init_with_selector_of_the_system(self: Any, selector: Any = None) -> None:
        init(self, selector_class() if selector is None else selector)

    selector_loop_class.__init__ = init_with_selector_of_the_system


def mend_asyncio_threads() -> None:
    """Let `asyncio.to_thread()` and `run_in_executor()` use greenlets.

    What broke: from CPython 3.13.12 and 3.14.3 on they stall under gevent's patch (gevent issue
    2213): a 50 ms job took 3 s. In the thread of the async views' loop, an executor's threads are
    greenlets anyway. Other loops have native threads for it, as ever. Shown by
    `tests/server/test_hub.py::TestAsyncio::test_an_async_view_goes_to_threads_and_back`.
    """
    import asyncio

    from gevent import spawn
    from gevent.monkey import get_original

    from .patching.threads import shared_threads

    native_thread = get_original("_thread", "get_ident")

    def run_in_executor(self: Any, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        if native_thread() not in shared_threads:
            return original(self, executor, func, *args)
        future = self.create_future()

        def settle(how: Callable[[Any], None], value: Any) -> None:
            if not future.done():
                how(value)

        def work() -> None:
            try:
                # Not submitted in the loop's own greenlet, which must not wait for a thread.
                result = func(*args) if executor is None else executor.submit(func, *args).result()
            except BaseException as exc:
                self.call_soon_threadsafe(settle, future.set_exception, exc)
            else:
                self.call_soon_threadsafe(settle, future.set_result, result)

        spawn(work)
        return future

    loop_class: Any = asyncio.BaseEventLoop
    original = loop_class.run_in_executor
    loop_class.run_in_executor = run_in_executor


def mend_imports() -> None:
    """Let native threads import modules side by side.

    What broke: the lock of a module that is being imported is one of gevent's, and with
    several native threads waiting for one it does not wake them all: of ten views at once in
    `asyncio.run()`, whose client library imports as it goes, some hung for ever. Shown by
    `tests/server/test_hub.py::TestAsyncio::test_an_async_client_in_a_view`.
    """
    import types
    from importlib import _bootstrap  # type: ignore[attr-defined]

    from gevent.monkey import get_original

    from .patching.locks import Lock

    locks = {"allocate_lock": Lock, "RLock": get_original("_thread", "RLock")}
    bootstrap: Any = _bootstrap
    bootstrap._thread = types.SimpleNamespace(**(vars(bootstrap._thread) | locks))


def mend_multiprocessing() -> None:
    """Let other greenlets run while one waits for another process.

    What broke: a `multiprocessing.Pool` stopped the worker until the arbiter killed it, and so did
    a `Queue`, `Lock` or `Pipe` for as long as the other process took. Shown by
    `tests/server/test_native_threads.py::test_a_call_in_every_kind_of_thread`.
    """
    from .patching.multiprocess import patch_multiprocessing

    patch_multiprocessing()


def mend_parsers() -> None:
    """Bound what a request's head can make Plain's parsers do.

    What broke: some are quadratic, and run on the hub before any view. A Content-Type of 64 KB
    stopped every other greenlet for 2.9 s, a path of 45 KB for 0.1 s. Shown by
    `tests/unit/test_safe_parsers.py::test_time_grows_no_faster_than_the_input`. Others failed:
    `charset=hex` and `Accept: a;q=x` were a 500 each, and so was JSON that is no UTF-8. Shown by
    `tests/server/test_header_bytes.py`.
    """
    import json
    from functools import cached_property
    from types import SimpleNamespace

    from plain.http import multipartparser, request
    from plain.server.http import request as server_request
    from plain.utils import http

    from .app import safe_parsers as parsers

    vars(server_request)["_decode_path"] = parsers.decode_path
    vars(http)["_parseparam"] = parsers.split_parameters
    vars(http)["unquote"] = parsers.unquote_parameter
    vars(multipartparser)["parse_header_parameters"] = parsers.part_parameters
    vars(request)["codecs"] = SimpleNamespace(lookup=parsers.find_charset)
    vars(request)["json"] = SimpleNamespace(
        loads=parsers.load_json, JSONDecodeError=json.JSONDecodeError
    )
    request_class: Any = request.Request
    request_class.accepted_types = cached_property(parsers.accepted_types)
    request_class.accepted_types.__set_name__(request_class, "accepted_types")
    media_type: Any = request.MediaType
    media_type.quality = property(parsers.quality)


def mend_logs() -> None:
    """Escape in the log what clients send and is no text.

    What broke: a path with `%0a` started a line of its own, one with `%1b` was an escape sequence
    for the terminal, and a byte that is no UTF-8 in a user agent made the access log's line fail.
    Shown by `tests/server/test_log_lines.py::test_no_client_writes_a_line_of_its_own`.
    """
    from plain.logs import formatters

    from .app.log_escaping import format_value, safe_lines

    keyvalue: Any = formatters.KeyValueFormatter
    as_json: Any = formatters.JSONFormatter
    keyvalue._format_value = staticmethod(format_value)
    keyvalue.format = safe_lines(keyvalue.format)
    as_json.format = safe_lines(as_json.format, formatters._get_context)


def mend_websockets() -> None:
    """Bound what a WebSocket reads ahead of its view.

    What broke: Plain's reader takes 16 messages of up to 1 MiB that the view has not asked for: 20
    sockets of one connection held 395 MiB. Shown by
    `tests/server/test_unread.py::test_attack`.
    """
    from plain.server.http import websocket

    from .app.bounded_websocket import BoundedWebSocket

    vars(websocket)["WebSocket"] = BoundedWebSocket


def mend_psycopg() -> None:
    """Let psycopg 3 and its pool give back the connection of a greenlet that is stopped.

    What broke: stopped while it waits for a place in the pool, a greenlet is still handed the
    next connection, which is then lost to the pool; stopped in a query, it leaves the server
    at work. Both clean up, but only after the exceptions that stop a thread or a task. Called
    once the app is imported. Shown by
    `tests/server/test_postgres.py::test_a_deadline_in_a_query_gives_its_connection_back`.
    """
    import sys

    from gevent import GreenletExit, Timeout

    from .app.deadline import DeadlinePassed

    stops = (GreenletExit, Timeout, DeadlinePassed)
    for module, name in (
        ("psycopg.connection", "_INTERRUPTED"),
        ("psycopg_pool.pool", "CLIENT_EXCEPTIONS"),
    ):
        names = vars(sys.modules[module]) if module in sys.modules else {}
        if (known := names.get(name)) is not None:
            names[name] = (*(known if isinstance(known, tuple) else (known,)), *stops)


#: By `patch()`, right after gevent's.
FIRST = (mend_threads, mend_pipes, mend_children, mend_forks, mend_signals, mend_sockets)

#: Before the app's own patch and the app, in this order.
BEFORE_APP = (
    mend_reloader,
    mend_imports,
    mend_hashing,
    mend_asyncio_run,
    mend_asyncio_loops,
    mend_asyncio_threads,
    mend_multiprocessing,
    mend_parsers,
    mend_logs,
    mend_websockets,
)

#: Once the app is imported.
AFTER_APP = (mend_psycopg,)


def mends() -> list[str]:
    """What is mended beyond gevent's own patch, in a line each."""
    return [(mend.__doc__ or "").partition("\n")[0] for mend in (*FIRST, *BEFORE_APP, *AFTER_APP)]
