"""Workers that do not start: the first ends the server, a later one is tried again.

More of it: certificates that do not load in `test_tls.py`, bad settings in `test_cli.py`.
"""

import os
import re
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from certificate import make_certificate
from harness import WAIT_FOR_START, Server, wait_for
from load_client import Http2Client

Serve = Callable[..., Server]

FAILED = "Worker failed to start"

SETTINGS = """
SECRET_KEY = "only-for-tests"
URLS_ROUTER = "app.urls.AppRouter"
INSTALLED_PACKAGES = ["plain_gevent_h2", "app"]
HTTPS_REDIRECT_ENABLED = False
SERVER_WORKERS = 1
SERVER_MAX_REQUESTS = 3
SERVER_MAX_REQUESTS_JITTER = 0
"""

URLS = """
import os
from plain.http import Response
from plain.urls import Router, path
from plain.views import View


class Pid(View):
    def get(self):
        return Response(str(os.getpid()), content_type="text/plain")


class AppRouter(Router):
    namespace = ""
    urls = (path("", Pid),)
"""

#: `ready()` runs in the arbiter, too, which is to start.
CONFIG = """
import errno, os, sys
from pathlib import Path
from plain.packages import PackageConfig, register_config


@register_config
class Config(PackageConfig):
    package_label = "app"

    def ready(self):
        if "--multiprocessing-fork" in sys.orig_argv and Path("away").exists():
            raise {error}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    app = tmp_path / "project" / "app"
    app.mkdir(parents=True)
    (app / "settings.py").write_text(SETTINGS)
    (app / "urls.py").write_text(URLS)
    return app.parent


def pids(server: Server, n: int = 1) -> set[int]:
    found = set()
    for _ in range(n):
        with Http2Client(server) as client:
            found.add(int(client.get("/").body))
    return found


@contextmanager
def failing(server: Server, pauses: tuple[int, ...] = (1,)) -> Iterator[str]:
    """Have the one worker recycled, and expect that it serves on while no other starts.

    The block fixes what is wrong, with the line that reports it.
    """
    (old,) = pids(server, 4)
    count = len(pauses)
    wait_for(lambda: server.log().count(FAILED) >= count, "failures", count * WAIT_FOR_START)
    assert pids(server) == {old}
    lines = [line for line in server.log().splitlines() if FAILED in line]
    found = [int(pause) for line in lines for pause in re.findall(r"retry_seconds=(\d+)", line)]
    assert tuple(found[:count]) == pauses
    assert "Traceback" not in server.log()
    yield lines[0]
    wait_for(lambda: pids(server) != {old}, "replacement", WAIT_FOR_START)
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_a_certificate_whose_key_is_renewed_later(project: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    mine, new = make_certificate(tmp_path), make_certificate(tmp_path / "new")
    with Server(mine, project=project, tmp=tmp_path) as server:
        server.certfile = tmp_path / "both.pem"
        server.certfile.write_bytes(mine[0].read_bytes() + new[0].read_bytes())
        shutil.copy(new[0], mine[0])
        with failing(server, pauses=(1, 2)) as line:
            assert f"--keyfile {mine[1]}: the private key does not belong" in line
            shutil.copy(new[1], mine[1])


def test_no_descriptors(serve: Serve, project: Path) -> None:
    server = serve(project=project)
    limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    few = (len(os.listdir(f"/proc/{server.pid}/fd")), limits[1])
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, few)
    with failing(server) as line:
        assert "Too many open files" in line
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    "error", ["ConnectionRefusedError(errno.ECONNREFUSED, 'no\\nway')", "SystemExit(1)"]
)
def test_a_database_that_is_away(serve: Serve, project: Path, error: str) -> None:
    (project / "app" / "config.py").write_text(CONFIG.format(error=error))
    server = serve(project=project)
    (project / "away").touch()
    with failing(server) as line:
        assert re.search(r"no way \(.*config\.py, line 13\)|exited with code 1", line)
        (project / "away").unlink()


def end_of(server: Server) -> list[str]:
    """The lines of a server that is expected to end by itself."""
    server.start()
    try:
        assert server.wait(WAIT_FOR_START) != 0
    finally:
        server.kill()
    log = server.log()
    start = max(log.find("[INFO] Plain server started"), log.find("Error: "), 0)
    return [line for line in log[start:].splitlines() if not line.startswith("[INFO]")]


def test_a_first_start_that_fails_ends_the_server(
    project: Path, tls: tuple[Path, Path], tmp_path: Path
) -> None:
    error = "ImproperlyConfigured('on purpose')"
    config = CONFIG.replace("import errno", "from plain.exceptions import *\nimport errno")
    (project / "app" / "config.py").write_text(config.format(error=error))
    (project / "away").touch()
    lines = end_of(Server(tls, "--workers", "2", project=project, tmp=tmp_path))
    assert [line for line in lines if "on purpose" in line] == [
        '[ERROR] Server ends: no worker can start error="on purpose"'
    ]
    assert not [line for line in lines if "Traceback" in line]


class TestImportedAsTheInterpreterStarts:
    def test_ssl_ends_the_server_in_one_line(
        self, project: Path, tls: tuple[Path, Path], tmp_path: Path
    ) -> None:
        (tmp_path / "sitecustomize.py").write_text("import ssl")
        env = {"PYTHONPATH": str(tmp_path)}
        server = Server(tls, "--workers", "2", project=project, env=env, tmp=tmp_path)
        (line,) = end_of(server)
        assert line.startswith("Error: ssl is imported as the interpreter starts")
        assert "Server worker started" not in server.log()

    def test_ssl_after_gevent_s_patch_is_served(
        self, serve: Serve, project: Path, tmp_path: Path
    ) -> None:
        """What OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH=patch_all does."""
        text = "from gevent import monkey; monkey.patch_all(); import ssl, asyncio, urllib.request"
        (tmp_path / "sitecustomize.py").write_text(text)
        server = serve(project=project, env={"PYTHONPATH": str(tmp_path)})
        (old,) = pids(server, 4)  # and the arbiter does what it is for
        wait_for(lambda: pids(server) != {old}, "replacement", WAIT_FOR_START)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Traceback" not in server.log()

    def test_ssl_between_gevent_and_its_patch_is_too_early(
        self, project: Path, tls: tuple[Path, Path], tmp_path: Path
    ) -> None:
        text = "import gevent, urllib.request; from gevent import monkey; monkey.patch_all()"
        (tmp_path / "sitecustomize.py").write_text(text)
        env = {"PYTHONPATH": str(tmp_path)}
        lines = end_of(Server(tls, project=project, env=env, tmp=tmp_path))
        assert lines[-1].startswith("Error: ssl is imported as the interpreter starts")
