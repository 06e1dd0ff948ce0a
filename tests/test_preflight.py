"""What `plain check` and the log of a worker say of apps that do and do not cooperate."""

import json
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

GEVENT = 'SERVER_WORKER = "gevent-h2"'

#: What an app imports or sets, and the identifier of the warning that it gets.
OBSTACLES = {
    "psycopg2": ("import psycopg2.extensions", "", "psycopg2"),
    "mysqlclient": ("import MySQLdb", "", "mysqlclient"),
    "grpc": ("import grpc", "", "grpc"),
    "uvloop": ("import uvloop", "", "uvloop"),
    "sqlite": ("import sqlite3", "", "sqlite"),
    "sqlite by name": ("from sqlite3 import connect", "", "sqlite"),
    "threads": ("", "SERVER_THREADS = 8", "threads"),
    "patched by the app": ("import gevent.monkey; gevent.monkey.patch_all()", "", "patched_by_app"),
    "small pool": (
        "",
        "SERVER_MAX_RUNNING_STREAMS = 500\nINSTALLED_PACKAGES = ['plain_gevent_h2', 'pool']",
        "small_pool",
    ),
}

#: What is fine: libraries with their cure, or that the app does not use itself.
FINE = {
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
        (app / "settings.py").write_text(SETTINGS.format(settings=settings))
        # Stand-ins: for a library that needs a C compiler and headers, and for the setting of
        # plain.postgres, which does not let `plain preflight` run in an app without it.
        (app.parent / "MySQLdb.py").write_text("")
        (app.parent / "pool").mkdir()
        (app.parent / "pool" / "__init__.py").write_text("")
        (app.parent / "pool" / "default_settings.py").write_text("POSTGRES_POOL_MAX_SIZE: int = 20")
        return app.parent

    return make


def checked(project: Path) -> set[str]:
    """The identifiers of what `plain check` has found of ours."""
    command = [str(PLAIN), "preflight", "--format", "json"]
    done = subprocess.run(
        command, cwd=project, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout[done.stdout.index("{") :])
    return {
        issue["id"].removeprefix("gevent_h2.")
        for check in found["checks"]
        for issue in check["issues"]
        if issue["id"].startswith("gevent_h2.")
    }


@pytest.mark.parametrize("name", OBSTACLES)
def test_an_obstacle_is_found(make_app: Callable[..., Path], name: str) -> None:
    imports, settings, wanted = OBSTACLES[name]
    assert checked(make_app(imports, f"{GEVENT}\n{settings}")) == {wanted}


@pytest.mark.parametrize("name", FINE)
def test_a_clean_app_gets_no_warning(make_app: Callable[..., Path], name: str) -> None:
    imports, settings = FINE[name]
    assert checked(make_app(imports, f"{GEVENT}\n{settings}")) == set()


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
