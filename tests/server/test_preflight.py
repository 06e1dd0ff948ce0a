"""The incompatibilities of an app that `plain check` and the log of a worker report."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import PLAIN, Server, wait_for

URLS = """
from plain.http import Response
from plain.urls import Router, path
from plain.views import View

{imports}

class Hello(View):
    def get(self):
        return Response("hello")

class AppRouter(Router):
    namespace = ""
    urls = (path("", Hello),)
"""

SETTINGS = """
SECRET_KEY = "only-for-tests"
URLS_ROUTER = "app.urls.AppRouter"
INSTALLED_PACKAGES = ["plain_gevent_h2"]
SERVER_WORKERS = 1
{settings}
"""

#: Where plain.postgres is installed, its checks run in every app, and need a database.
ONLY_OURS = """
from plain.preflight.registry import checks_registry

for name in list(checks_registry.checks):
    if not name.startswith("gevent_h2."):
        del checks_registry.checks[name]
"""

GEVENT = 'SERVER_WORKER = "gevent-h2"'

#: What an app imports or sets, and the identifier of the warning that it gets.
INCOMPATIBLE = {
    "psycopg2": ("import psycopg2.extensions", "", "psycopg2"),
    "mysqlclient": ("import MySQLdb", "", "mysqlclient"),
    "grpc": ("import grpc", "", "grpc"),
    "uvloop": ("import uvloop", "", "uvloop"),
    "sqlite": ("import sqlite3", "", "sqlite"),
    "sqlite by name": ("from sqlite3 import connect", "", "sqlite"),
    "threads": ("", "SERVER_THREADS = 8", "threads"),
    "signal.pause": ("import signal\ndef wait(): signal.pause()", "", "signal_pause"),
    "epoll": ("import select\ndef wait(): return select.epoll()", "", "epoll"),
    "pause": ("from signal import pause", "", "signal_pause"),
    "patched by the app": ("import gevent.monkey; gevent.monkey.patch_all()", "", "patched_by_app"),
    "small pool": (
        "",
        "SERVER_MAX_RUNNING_STREAMS = 500\nINSTALLED_PACKAGES = ['plain_gevent_h2', 'pool']",
        "small_pool",
    ),
}

#: What is fine: libraries with their fix, or that the app does not use itself.
COMPATIBLE = {
    "nothing": ("", ""),
    "psycopg2 with a callback": (
        "from psycopg2 import extensions\nextensions.set_wait_callback(lambda connection: None)",
        "",
    ),
    "grpc for gevent": (
        "import grpc, grpc.experimental.gevent\ngrpc.experimental.gevent.init_gevent()",
        "",
    ),
    "sqlite of a library": ("import dbm.sqlite3", ""),
    "sqlite of a library beside the app": (
        "import sys; sys.path.append('app-libraries'); import library",
        "",
    ),
    "PyMySQL in place of mysqlclient": (
        "import sys, json as pymysql; sys.modules['MySQLdb'] = pymysql",
        "",
    ),
    "clients that wait in Python": (
        "import httpx, psycopg, redis, requests, subprocess, urllib3",
        "",
    ),
    "a pool, and as many streams as by default": (
        "import psycopg",
        "INSTALLED_PACKAGES = ['plain_gevent_h2', 'pool']",
    ),
    "a pool that is large enough": (
        "",
        "SERVER_MAX_RUNNING_STREAMS = 20\nINSTALLED_PACKAGES = ['plain_gevent_h2', 'pool']",
    ),
}


@pytest.fixture
def make_app(tmp_path: Path) -> Callable[..., Path]:
    def make(imports: str, settings: str) -> Path:
        app = tmp_path / "project" / "app"
        app.mkdir(parents=True)
        (app / "urls.py").write_text(URLS.format(imports=imports))
        (app / "preflight.py").write_text(ONLY_OURS)
        (app / "settings.py").write_text(SETTINGS.format(settings=settings))
        # Stand-ins: for a library that needs a C compiler and headers, and for the setting of
        # plain.postgres, which does not let `plain preflight` run in an app without it.
        (app.parent / "MySQLdb.py").write_text("")
        (app.parent / "app-libraries").mkdir()
        (app.parent / "app-libraries" / "library.py").write_text("import sqlite3")
        (app.parent / "pool").mkdir()
        (app.parent / "pool" / "__init__.py").write_text("")
        (app.parent / "pool" / "default_settings.py").write_text("POSTGRES_POOL_MAX_SIZE: int = 20")
        return app.parent

    return make


def checked(project: Path, **env: str) -> set[str]:
    """The identifiers of what `plain check` has found of ours."""
    command = [str(PLAIN), "preflight", "--format", "json"]
    done = subprocess.run(
        command,
        cwd=project,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout[done.stdout.index("{") :])
    return {
        issue["id"].removeprefix("gevent_h2.")
        for check in found["checks"]
        for issue in check["issues"]
        if issue["id"].startswith("gevent_h2.")
    }


@pytest.mark.parametrize("name", INCOMPATIBLE)
def test_an_incompatibility_is_found(make_app: Callable[..., Path], name: str) -> None:
    imports, settings, wanted = INCOMPATIBLE[name]
    assert checked(make_app(imports, f"{GEVENT}\n{settings}")) == {wanted}


@pytest.mark.parametrize("name", COMPATIBLE)
def test_a_clean_app_gets_no_warning(make_app: Callable[..., Path], name: str) -> None:
    imports, settings = COMPATIBLE[name]
    assert checked(make_app(imports, f"{GEVENT}\n{settings}")) == set()


def test_what_comes_before_the_patch_is_found(
    make_app: Callable[..., Path], tls: tuple[Path, Path], tmp_path: Path
) -> None:
    """psycopg imported as the interpreter starts, and with it ssl: a worker would not start."""
    (tmp_path / "sitecustomize.py").write_text("import psycopg")
    env = {"PYTHONPATH": str(tmp_path)}
    project = make_app("", GEVENT)
    assert checked(project, **env) == {"patched_late"}
    server = Server(tls, project=project, env=env, tmp=tmp_path)
    server.start()
    try:
        assert server.wait() != 0
        assert "ssl is imported as the interpreter starts" in server.log()
    finally:
        server.kill()


def test_psycopg_that_waits_in_c_is_found(
    make_app: Callable[..., Path], serve: Callable[..., Server]
) -> None:
    env = {"PSYCOPG_WAIT_FUNC": "wait_c"}
    project = make_app("import psycopg", GEVENT)
    assert checked(project, **env) == {"psycopg_waits_in_c"}
    server = serve(project=project, env=env)
    wait_for(lambda: "gevent_h2.psycopg_waits_in_c" in server.log(), "warning")


def test_nothing_is_said_about_another_worker(make_app: Callable[..., Path]) -> None:
    assert checked(make_app("import uvloop, sqlite3", "SERVER_THREADS = 8")) == set()


def test_a_worker_chosen_on_the_command_line_says_it_in_its_log(
    make_app: Callable[..., Path], serve: Callable[..., Server]
) -> None:
    server = serve(project=make_app("import sqlite3, MySQLdb", ""))
    wait_for(lambda: "gevent_h2.sqlite" in server.log(), "warning")
    wait_for(lambda: "gevent_h2.mysqlclient" in server.log(), "warning")
    assert server.log().count("gevent_h2.") == 2


def test_a_clean_worker_says_nothing(
    make_app: Callable[..., Path], serve: Callable[..., Server]
) -> None:
    server = serve(project=make_app("import psycopg", ""))
    with server.connect("http/1.1") as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
    assert "gevent_h2." not in server.log()
