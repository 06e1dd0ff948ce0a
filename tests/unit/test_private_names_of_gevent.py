"""The private names of gevent and of the standard library that `patching/` uses are there.

A failure names the one that has changed, in milliseconds, before a server test fails for it.
"""

import _thread
import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.monkey
import gevent.socket
import pytest
from private_names import code_of, find

from plain_gevent_h2.patching.threads import ThreadHandle

#: Functions and classes by their parameters, without `self`.
PARAMETERS = {
    "_thread.start_joinable_thread": "function handle daemon",
    "argon2.low_level.hash_secret": (
        "secret salt time_cost memory_cost parallelism hash_len type version"
    ),
    "argon2.low_level.hash_secret_raw": (
        "secret salt time_cost memory_cost parallelism hash_len type version"
    ),
    "argon2.low_level.verify_secret": "hash secret type",
    "asyncio.BaseEventLoop.run_forever": "",
    "asyncio.BaseEventLoop.run_in_executor": "executor func args",
    "asyncio.SelectorEventLoop.__init__": "selector",
    "asyncio.events._get_running_loop": "",
    "bcrypt.checkpw": "password hashed_password",
    "bcrypt.hashpw": "password salt",
    "bcrypt.kdf": "password salt desired_key_bytes rounds ignore_few_rounds",
    "gevent._hub_local.get_hub_if_exists": "",
    "gevent._hub_local.set_hub": "hub",
    "gevent._hub_local.set_loop": "loop",
    "gevent._hub_primitives.wait_on_socket": "socket watcher timeout_exc",
    "gevent._hub_primitives.wait_on_watcher": "watcher timeout timeout_exc hub",
    "gevent._socketcommon.SocketMixin._drop_events_and_close": "closefd _cancel_wait_ex",
    "gevent._socketcommon.SocketMixin._wait": "socket watcher timeout_exc",
    "gevent._socketcommon.cancel_wait_ex": "",
    "gevent.hub.Hub.destroy": "destroy_loop",
    "gevent.hub.Hub.wait": "watcher",
    "gevent.hub.Waiter.clear": "",
    "gevent.hub.Waiter.get": "",
    "gevent.hub.Waiter.switch": "value",
    "gevent.monkey.api.get_original": "mod_name item_name",
    "gevent.monkey.api.patch_item": "module attr newitem",
    "gevent.os.close": "fd",
    "gevent.os.fork_gevent": "",
    "gevent.os.forkpty_gevent": "",
    "gevent.thread._ThreadHandle": "_args _kwargs",
    "gevent.thread.get_ident": "gr",
    "gevent.threadpool.ThreadPool": "maxsize hub idle_task_timeout",
    "gevent.threadpool.ThreadPool.apply": "func args kwds",
    "logging.Handler.createLock": "",
    "multiprocessing.connection.Connection._recv": "size read",
    "multiprocessing.connection.Connection._send": "buf write",
    "multiprocessing.connection.Pipe": "duplex",
    "multiprocessing.forkserver.read_signed": "fd",
    "multiprocessing.popen_fork.Popen.poll": "flag",
    "multiprocessing.popen_forkserver.Popen.poll": "flag",
    "multiprocessing.synchronize.SemLock.__enter__": "",
    "multiprocessing.synchronize.SemLock.__exit__": "args",
    "multiprocessing.synchronize.SemLock._make_methods": "",
    "sys._current_frames": "",
    "threading._start_joinable_thread": "function handle daemon",
}
if sys.version_info >= (3, 14):
    PARAMETERS |= {"_warnings._acquire_lock": "", "_warnings._release_lock": ""}
NEW_IN_314 = {"_acquire_lock", "_release_lock"}

#: Objects of a module by the class that they have.
OBJECTS = {
    "concurrent.futures.process._threads_wakeups": "WeakKeyDictionary",
    "concurrent.futures.thread._global_shutdown_lock": "lock",
    "concurrent.futures.thread._threads_queues": "WeakKeyDictionary",
    "gevent.config": "Config",
    "gevent.monkey.saved": "dict",
    "gevent.os._closing_fd_to_event": "dict",
    "importlib._bootstrap": "module",
    "importlib._bootstrap._thread": "module",
    "logging._handlerList": "list",
    "logging._lock": "RLock",
    "multiprocessing.synchronize.RECURSIVE_MUTEX": "int",
    "psycopg.connection._INTERRUPTED": "tuple",
    "psycopg_pool.pool.CLIENT_EXCEPTIONS": "type",
    "threading._active_limbo_lock": "RLock",
}

#: Modules by names that they have, and that the package replaces or reads.
NAMES = {
    "_queue": "Empty",
    "_thread": "LockType lock allocate_lock allocate start_new_thread start_new _ThreadHandle",
    "_warnings": "warn",
    "argon2._password_hasher": "hash_secret verify_secret",
    "gevent.monkey": "patch_all patch_item patch_module saved",
    "gevent.thread": "LockType lock allocate_lock",
    "gevent.threading": "Lock _allocate_lock",
    "os": "fork forkpty posix_spawn posix_spawnp wait wait3 wait4 waitid waitpid system",
    "queue": "Queue LifoQueue PriorityQueue SimpleQueue",
    "subprocess": "Popen",
    "threading": "Lock _allocate_lock Event _start_joinable_thread _ThreadHandle",
}

#: Functions of libraries by the names through which they reach what the package replaces.
USED_BY = {
    "argon2.PasswordHasher.hash": "hash_secret",
    "argon2.PasswordHasher.verify": "verify_secret",
    "asyncio.BaseEventLoop._check_running": "_get_running_loop",
    "asyncio.BaseEventLoop.run_until_complete": "run_forever",
    "asyncio.Runner.run": "_get_running_loop run_until_complete",
    "asyncio.run": "_get_running_loop Runner",
    "asyncio.to_thread": "run_in_executor",
    "gevent._socket3.socket._detach_socket": "_drop_events_and_close",
    "gevent._socketcommon.SocketMixin.recv_into": "_wait _read_event",
    "gevent._socketcommon.SocketMixin.send": "_wait _write_event",
    "importlib._bootstrap._ModuleLock.__init__": "_thread allocate_lock RLock",
    "logging.Handler.__init__": "createLock",
    "multiprocessing.connection.Connection._recv_bytes": "_recv",
    "multiprocessing.connection.Connection._send_bytes": "_send",
    "multiprocessing.popen_fork.Popen.__init__": "returncode",
    "multiprocessing.popen_fork.Popen._launch": "pid sentinel",
    "multiprocessing.popen_forkserver.Popen._launch": "open sentinel",
    "multiprocessing.popen_spawn_posix.Popen._launch": "open pid sentinel",
    "multiprocessing.synchronize.SemLock.__init__": "_make_methods _semlock",
    "multiprocessing.synchronize.SemLock.__setstate__": "_make_methods",
    "psycopg.Connection.wait": "_INTERRUPTED",
    "psycopg_pool.ConnectionPool._getconn_unchecked": "CLIENT_EXCEPTIONS",
    "threading.Condition.__init__": "_is_owned",
    "threading.Thread.start": "_start_joinable_thread",
}

#: What the package uses of the loop of a hub.
LOOP = "closing_fd io ref run_callback run_callback_threadsafe timer unref"


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters(name: str) -> None:
    names = inspect.signature(find(name)).parameters
    assert " ".join(n for n in names if n != "self") == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(OBJECTS))
def test_objects(name: str) -> None:
    assert type(find(name)).__name__ == OBJECTS[name]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_names(name: str) -> None:
    assert set(NAMES[name].split()) - set(dir(find(name))) == set()


@pytest.mark.parametrize("name", sorted(USED_BY))
def test_names_that_functions_use(name: str) -> None:
    assert set(USED_BY[name].split()) - names_in(find(name)) == set()


def names_in(found: Any) -> set[str]:
    """The names in the code of a call, and in the functions inside it."""
    codes = [code_of(found)]
    for code in codes:
        codes += [constant for constant in code.co_consts if hasattr(constant, "co_names")]
    return {name for code in codes for name in code.co_names}


@pytest.mark.parametrize("name", LOOP.split())
def test_the_loop_of_a_hub(name: str) -> None:
    assert callable(getattr(gevent.get_hub().loop, name))


def test_a_hub() -> None:
    assert gevent.get_hub().thread_ident == _thread.get_ident()


def test_a_socket() -> None:
    sock: Any = gevent.socket.socket()
    with sock:
        assert sock.hub is gevent.get_hub()
        for watcher in (sock._read_event, sock._write_event):
            assert watcher.callback is None
            assert watcher.events


def test_a_forked_child_can_make_a_loop() -> None:
    loop: Any = gevent.config.loop
    loop(flags=gevent.config.libev_backend, default=False).destroy()
    assert hasattr(gevent.config, "track_greenlet_tree")


def test_a_lock_can_be_made_anew() -> None:
    lock: Any = _thread.allocate_lock()
    lock.acquire()
    lock._at_fork_reinit()
    assert not lock.locked()


def test_a_thread_handle_has_what_threading_uses() -> None:
    used = {name for name in dir(_thread._ThreadHandle) if not name.startswith("__")}
    assert used <= set(dir(ThreadHandle))


def test_each_private_name_of_the_room_is_in_a_table() -> None:
    texts = [*PARAMETERS, *OBJECTS, *NAMES, *NAMES.values(), *USED_BY.values()]
    listed = set(" ".join(texts).replace(".", " ").split())
    files = Path(find("plain_gevent_h2.patching").__file__).parent.glob("*.py")
    trees = [ast.parse(file.read_text()) for file in files]
    own = {name for tree in trees for name in defined(tree)}
    used = {name for tree in trees for name in private(tree)}
    assert used - own - listed - NEW_IN_314 == set()


def private(tree: ast.AST) -> Iterator[str]:
    """The names with an underscore that are imported, read as attributes, or stand in a string."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.alias(name=name) | ast.Constant(value=str(name)):
                if re.fullmatch(r"_[a-zA-Z]\w*", name):
                    yield name


def defined(tree: ast.AST) -> Iterator[str]:
    """The functions, variables and attributes of a module of ours."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(attr=name, value=ast.Name(id="self"), ctx=ast.Store()):
                yield name
