"""Compatibility checks: libraries and settings of the app that would block a worker, and fixes.

`plain check` reports them, and so does a worker in its log as it starts. A check is about what the
app has imported or set, not about what is installed: a clean app gets no warning.
"""

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import spawn
from types import ModuleType
from typing import Any, NamedTuple

from gevent import monkey
from plain.urls import get_resolver

from plain_gevent_h2.patches import ssl_came_first


class Incompatibility(NamedTuple):
    """Something that would block the worker. `id` is that of the preflight result."""

    id: str
    fix: str


def incompatibilities(settings: Any, *, in_worker: bool) -> list[Incompatibility]:
    """Run the checks in this process. Imports the app's views.

    `in_worker`: a worker is patched by gevent, `plain check` is not.
    """
    with suppress(Exception):  # the first request reports it, or Plain's own check
        get_resolver()  # imports the views
    checks = (*_CHECKS, *(_CHECKS_IN_WORKER if in_worker else _CHECKS_OUTSIDE))
    return [found for check in checks if (found := check(settings)) is not None]


def _imported(name: str) -> ModuleType | None:
    return sys.modules.get(name)


def _psycopg2(_settings: Any) -> Incompatibility | None:
    extensions = _imported("psycopg2.extensions")
    if extensions is None or extensions.get_wait_callback() is not None:
        return None
    return Incompatibility(
        "psycopg2",
        "psycopg2 waits for the database in C and blocks every stream of the worker. Use psycopg 3 "
        "(plain.postgres does), or give it a wait callback (psycogreen.gevent.patch_psycopg()).",
    )


def _mysqlclient(_settings: Any) -> Incompatibility | None:
    module = _imported("MySQLdb")
    if module is None or module.__name__ != "MySQLdb":  # PyMySQL can take its name
        return None
    return Incompatibility(
        "mysqlclient",
        "mysqlclient (MySQLdb) waits for the database in C and blocks every stream of the worker. "
        "Use PyMySQL, which is written in Python: gevent patches its sockets.",
    )


def _grpc_client(_settings: Any) -> Incompatibility | None:
    if _imported("grpc") is None or _imported("grpc.experimental.gevent") is not None:
        return None
    return Incompatibility(
        "grpc",
        "A grpcio client waits in C and blocks every stream of the worker. Call "
        "grpc.experimental.gevent.init_gevent() before the first channel is made.",
    )


def _uvloop(_settings: Any) -> Incompatibility | None:
    if _imported("uvloop") is None:
        return None
    return Incompatibility(
        "uvloop",
        "uvloop does its own I/O in C, which gevent cannot patch: asyncio code of the app may "
        "hang. Remove uvloop; the worker has a loop of its own.",
    )


def _sqlite(_settings: Any) -> Incompatibility | None:
    used = _imported("sqlite3") is not None and _used_by_the_app("sqlite3")
    if not used and _imported("sqlalchemy.dialects.sqlite.pysqlite") is None:
        return None
    return Incompatibility(
        "sqlite",
        "sqlite3 does its work in C and blocks every stream of the worker for as long. Keep its "
        "queries short, or run them with gevent.get_hub().threadpool.apply().",
    )


def _signal_pause(_settings: Any) -> Incompatibility | None:
    if not any(_calls(module, "signal", "pause") for module in _modules_of_the_app()):
        return None
    return Incompatibility(
        "signal_pause",
        "signal.pause() raises RuntimeError in a worker: it would stop every request. Wait for a "
        "threading.Event that your handler sets.",
    )


def _epoll(_settings: Any) -> Incompatibility | None:
    names = ("epoll", "kqueue")
    if not any(_calls(m, "select", name) for m in _modules_of_the_app() for name in names):
        return None
    return Incompatibility(
        "epoll",
        "select.epoll and select.kqueue do not exist in a worker: they would stop every request. "
        "Use selectors.DefaultSelector.",
    )


def _calls(module: ModuleType, library: str, name: str) -> bool:
    """Whether the source of `module` has `library.name`, or imports the name from `library`."""
    try:
        source = inspect.getsource(module)
    except (OSError, TypeError):  # it has none
        return False
    if name not in source or library not in source:
        return False
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id=module_name), attr=attribute):
                found = (module_name, attribute) == (library, name)
            case ast.ImportFrom(module=module_name):
                found = module_name == library and name in {alias.name for alias in node.names}
            case _:
                continue
        if found:
            return True
    return False


def _used_by_the_app(name: str) -> bool:
    """Whether a module of the app has this module, or something from it, among its names.

    That it is imported is not enough: many libraries import it and hardly use it.
    """
    for module in _modules_of_the_app():
        for value in list(vars(module).values()):
            if value is sys.modules[name] or getattr(value, "__module__", "") in (name, f"_{name}"):
                return True
    return False


def _modules_of_the_app() -> Iterator[ModuleType]:
    from plain.runtime import APP_PATH

    folder = f"{APP_PATH}{os.sep}"
    for module in list(sys.modules.values()):
        if (getattr(module, "__file__", None) or "").startswith(folder):
            yield module


def _small_pool(settings: Any) -> Incompatibility | None:
    """Only where the app sets the concurrency: no pool is as large as the default."""
    known = dict(settings.get_settings())
    streams, pool = known.get("SERVER_MAX_RUNNING_STREAMS"), known.get("POSTGRES_POOL_MAX_SIZE")
    if streams is None or pool is None or streams.source == "default":
        return None
    if streams.value <= pool.value:
        return None
    return Incompatibility(
        "small_pool",
        f"{streams.value} streams may run at once (SERVER_MAX_RUNNING_STREAMS) and share "
        f"{pool.value} database connections (POSTGRES_POOL_MAX_SIZE): the others wait for one, up "
        "to POSTGRES_POOL_TIMEOUT. Raise the size of the pool, or lower the number of streams.",
    )


def _threads(settings: Any) -> Incompatibility | None:
    if dict(settings.get_settings())["SERVER_THREADS"].source == "default":
        return None
    return Incompatibility(
        "threads",
        "SERVER_THREADS (--threads) has no effect with the gevent-h2 worker: every stream has a "
        "greenlet of its own. Remove it.",
    )


def _patched_by_the_app(_settings: Any) -> Incompatibility | None:
    if not (monkey.is_module_patched("socket") and ssl_came_first()):
        return None
    return Incompatibility(
        "patched_by_app",
        "The app calls gevent.monkey.patch_all() itself, after other modules were imported. Remove "
        "the call: a worker is patched before it imports anything.",
    )


def patched_late(_settings: Any) -> Incompatibility | None:
    """Start a fresh interpreter: what it imports by itself comes before any patch."""
    code = 3
    program = (
        "import sys; from plain_gevent_h2.patches import ssl_came_first; "
        f"sys.exit({code} if ssl_came_first() else 0)"
    )
    of_worker = spawn.get_command_line()  # its options
    command = [*of_worker[: of_worker.index("-c")], "-c", program]
    if subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode != code:
        return None
    return Incompatibility(
        "patched_late",
        "ssl is imported as the interpreter starts, before gevent can patch it: a worker will not "
        "start. Find what imports it (a .pth file, sitecustomize) with python -X importtime -c ''.",
    )


def _psycopg_waits_in_c(_settings: Any) -> Incompatibility | None:
    """In a worker. Outside of one psycopg always does, unless `PSYCOPG_WAIT_FUNC` is set."""
    waiting = _imported("psycopg.waiting")
    in_c = getattr(waiting, "wait_c", None)
    if waiting is None or in_c is None or waiting.wait is not in_c:
        return None
    return Incompatibility(
        "psycopg_waits_in_c",
        "psycopg waits in C and blocks every stream of the worker: it was imported before gevent "
        "patched select, or PSYCOPG_WAIT_FUNC=wait_c is set. Unset that, and find what imports "
        "psycopg as the interpreter starts (a .pth file, sitecustomize).",
    )


def _psycopg_set_to_wait_in_c(settings: Any) -> Incompatibility | None:
    is_set = os.environ.get("PSYCOPG_WAIT_FUNC") == "wait_c"
    return _psycopg_waits_in_c(settings) if is_set else None


_CHECKS: tuple[Callable[[Any], Incompatibility | None], ...] = (
    _psycopg2,
    _mysqlclient,
    _grpc_client,
    _uvloop,
    _sqlite,
    _small_pool,
    _signal_pause,
    _epoll,
)
#: The command line has a warning of its own about threads.
_CHECKS_OUTSIDE = (_threads, _patched_by_the_app, patched_late, _psycopg_set_to_wait_in_c)
_CHECKS_IN_WORKER = (_psycopg_waits_in_c,)
