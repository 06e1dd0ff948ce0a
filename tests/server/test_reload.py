"""`plain server --reload`: new code, broken code, and a hub that the watcher does not block."""

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from harness import Server, wait_for
from load_client import NO_ERROR, Http2Client

Serve = Callable[..., Server]

SETTINGS = """
SECRET_KEY = "only-for-tests"
URLS_ROUTER = "app.urls.AppRouter"
INSTALLED_PACKAGES = ["plain_gevent_h2"]
MIDDLEWARE = ["app.middleware.Nothing"]
HTTPS_REDIRECT_ENABLED = False
SERVER_WORKERS = 1
"""

URLS = """
from plain.urls import Router, path

from . import views


class AppRouter(Router):
    namespace = ""
    urls = (path("", views.Version), path("gate", views.Gate))
"""

VIEWS = """
import time
from pathlib import Path

from plain.http import Response, StreamingResponse
from plain.views import View


class Version(View):
    def get(self):
        return Response("VERSION", content_type="text/plain")


class Gate(View):
    def get(self):
        gate = Path(self.request.query_params["gate"])

        def body():
            yield b"VERSION"
            while not gate.exists():
                time.sleep(0.02)
            yield b" to the end"

        return StreamingResponse(body(), content_type="text/plain")
"""


MIDDLEWARE = """
from plain.http import HttpMiddleware


class Nothing(HttpMiddleware):
    pass
"""


class Project:
    """A Plain app of four files, served with `--reload`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.app = folder / "app"
        self.app.mkdir(parents=True)
        (self.app / "settings.py").write_text(SETTINGS)
        (self.app / "urls.py").write_text(URLS)
        (self.app / "middleware.py").write_text(MIDDLEWARE)
        self.save("one")

    def save(self, version: str) -> None:
        self.write("views.py", VIEWS.replace("VERSION", version))

    def write(self, name: str, text: str) -> Path:
        """At once: a reload in the middle would see half of it."""
        new = self.folder.with_suffix(".new")  # not where the watcher sees it
        new.write_text(text)
        return new.replace(self.app / name)

    def wait_watched(self, pid: int) -> None:
        """Return once process `pid` watches the app's folder."""
        entry = f"ino:{self.app.stat().st_ino:x} "

        def watches() -> bool:
            fds = Path(f"/proc/{pid}/fdinfo").iterdir()
            with contextlib.suppress(OSError):  # one was closed meanwhile
                return any(entry in fd.read_text() for fd in fds)
            return False

        wait_for(watches, "watch on the app's folder")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


@pytest.fixture
def reloading(serve: Serve, project: Project) -> Server:
    # Python knows what it has compiled by the size and the second: "one" and "two" may have both.
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    server = serve("--reload", project=project.folder, env=env)
    project.wait_watched(server.worker().pid)
    return server


def answer(server: Server) -> bytes:
    with Http2Client(server) as client:
        return bytes(client.get("/").body)


def test_changed_view_is_served_and_open_streams_end_with_the_old_one(
    reloading: Server, project: Project, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    old_pid = reloading.worker().pid
    with Http2Client(reloading) as busy, Http2Client(reloading) as idle:
        assert idle.get("/").body == b"one"
        stream_id = busy.open(f"/gate?gate={gate}")
        busy.until(lambda: busy.answers[stream_id].body, "first chunk")
        project.save("two")
        busy.until(lambda: busy.goaways, "GOAWAY")
        idle.until(lambda: idle.goaways, "GOAWAY")
        assert busy.goaways[0].error_code == idle.goaways[0].error_code == NO_ERROR
        idle.until_closed()
        assert idle.end == "clean"
        idle.close()
        gate.touch()
        assert busy.answer(stream_id).body == b"one to the end"
        busy.until_closed()
        assert busy.end == "clean"
    # A connection now waits for the new worker, and is served by it.
    assert answer(reloading) == b"two"

    new_pid = reloading.worker().pid
    assert new_pid != old_pid
    project.wait_watched(new_pid)
    project.save("three")
    reloading.wait_log(f"exiting (pid: {new_pid})")
    assert answer(reloading) == b"three"
    reloading.signal(signal.SIGTERM)
    assert reloading.wait() == 0
    assert "Traceback" not in reloading.log()


def get(server: Server, accept: str = "*/*") -> httpx.Response:
    with httpx.Client(http2=True, verify=server.tls_context(), timeout=30) as client:
        return client.get(server.url, headers={"Accept": accept})


def test_app_that_does_not_import_shows_its_traceback_until_it_is_fixed(
    reloading: Server, project: Project
) -> None:
    """A middleware is imported when a worker starts."""
    workers = [reloading.worker().pid]
    assert get(reloading).text == "one"

    broken = project.write("middleware.py", MIDDLEWARE + "\nclass Broken(\n")
    reloading.wait_log("Worker failed to boot")
    page = get(reloading)
    assert page.status_code == 500
    assert page.headers["content-type"].startswith("text/plain")
    assert "Traceback (most recent call last)" in page.text
    assert "SyntaxError" in page.text
    assert f'File "{broken}", line 8' in page.text
    html = get(reloading, "text/html")
    assert html.status_code == 500
    assert "SyntaxError" in html.text
    assert "<meta http-equiv" in html.text

    # Another mistake: a new attempt, and its traceback.
    workers.append(reloading.worker().pid)
    project.wait_watched(workers[-1])
    project.write("middleware.py", "raise RuntimeError('on purpose')\n")
    reloading.wait_log("RuntimeError: on purpose")
    page = get(reloading)
    assert page.status_code == 500
    assert "RuntimeError: on purpose" in page.text

    workers.append(reloading.worker().pid)
    project.wait_watched(workers[-1])
    project.write("middleware.py", MIDDLEWARE)
    wait_for(lambda: reloading.log().count("Server worker started") == 2, "start of a worker")
    assert answer(reloading) == b"one"
    assert len({*workers, reloading.worker().pid}) == 4


def test_view_that_does_not_import_is_a_500_until_it_is_fixed(
    reloading: Server, project: Project
) -> None:
    """Views are imported by the first request, in a worker that serves."""
    old = reloading.worker().pid
    broken = project.write("views.py", VIEWS + "\nclass Broken(\n")
    reloading.wait_log(f"exiting (pid: {old})")
    page = get(reloading)
    assert page.status_code == 500
    assert "SyntaxError" in reloading.log()
    assert str(broken) in reloading.log()
    worker = reloading.worker().pid
    project.wait_watched(worker)
    project.save("fixed")
    reloading.wait_log(f"exiting (pid: {worker})")
    assert answer(reloading) == b"fixed"


def test_watcher_does_not_block_the_hub(reloading: Server) -> None:
    """The watcher waits for a second at a time; requests do not wait with it."""
    with Http2Client(reloading) as client:
        assert client.get("/").body == b"one"
        started = time.monotonic()
        for _ in range(50):
            assert client.get("/").body == b"one"
        assert time.monotonic() - started < 10
    assert "WORKER TIMEOUT" not in reloading.log()
