"""The worker is patched before anything else is imported, and the arbiter is not."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from h2client import Client
from harness import PLAIN, TESTS, Server, wait_for

from plain_gevent_h2 import patches

Serve = Callable[..., Server]

#: An app with a patch of its own, which notes what was there when it was called.
APP = {
    "settings.py": """
SECRET_KEY = "only-for-tests"
URLS_ROUTER = "app.urls.AppRouter"
INSTALLED_PACKAGES = ["plain_gevent_h2"]
SERVER_WORKERS = 1
SERVER_GEVENT_PATCH = "app.patches.patch"
""",
    "patches.py": """
import hashlib, ssl, sys, threading

seen = []

def patch():
    seen.append({
        "app": sorted(m for m in sys.modules if m.startswith("app.") and m != __name__),
        "ssl": ssl.SSLContext.__module__,
        "in_greenlets": type(threading.current_thread()).__module__,
        "scrypt": hashlib.scrypt.__module__,
        "settings": "plain.runtime.global_settings" in sys.modules,
    })
    hashlib.new = lambda name: f"{name} of the app"
""",
    "urls.py": """
from hashlib import new
from plain.http import JsonResponse
from plain.urls import Router, path
from plain.views import View
from .patches import seen

class Seen(View):
    def get(self):
        return JsonResponse({"seen": seen, "new": str(new("md5"))})

class AppRouter(Router):
    namespace = ""
    urls = (path("", Seen),)
""",
}


@pytest.fixture
def make_app(tmp_path: Path) -> Callable[..., Path]:
    """Write `APP` with changes, `{name: text}`; the folder to start the server in."""

    def make(**changes: str) -> Path:
        app = tmp_path / "project" / "app"
        app.mkdir(parents=True)
        for name, text in APP.items():
            (app / name).write_text(changes.get(name.removesuffix(".py"), text))
        return app.parent

    return make


def test_the_patches_can_be_imported_before_anything_else() -> None:
    code = "import sys; before = {*sys.modules}; import plain_gevent_h2.patches; "
    command = [sys.executable, "-c", code + "print(*sorted({*sys.modules} - before))"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["plain_gevent_h2", "plain_gevent_h2.patches"]


def test_the_worker_is_patched(server: Server) -> None:
    with Client(server) as client:
        answer = json.loads(client.get("/patched").body)
    wanted = {"ssl", "socket", "threading", "select", "subprocess", "queue", "signal"}
    assert wanted <= set(answer["patched"])
    assert answer["classes"] == {
        "ssl.SSLSocket": "gevent.ssl",
        "socket.socket": "gevent._socket3",
        "threading.Lock": "plain_gevent_h2.patching.locks",
        "subprocess.Popen": "plain_gevent_h2.patching.subprocesses",
        "queue.SimpleQueue": "plain_gevent_h2.patching.locks",
    }
    assert set(answer["parsers"]) == {"plain_gevent_h2.app.safe_parsers"}
    assert "MonkeyPatchWarning" not in server.log()


def test_plain_s_own_worker_is_not(serve) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    with Client(serve(worker=None)) as client:
        assert json.loads(client.get("/patched").body)["patched"] == []


def test_the_arbiter_is_not_patched(server: Server) -> None:
    """gevent's hub would show as an epoll of the process; the arbiter waits in a lock."""
    worker = server.worker().pid

    def polls(pid: int) -> bool:
        from pathlib import Path

        links = [link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()]
        return any("eventpoll" in link for link in links)

    assert polls(worker)
    assert not polls(server.pid)


class TestPatchOfTheApp:
    """`SERVER_GEVENT_PATCH`"""

    def test_it_is_called_once_all_is_patched_and_nothing_of_the_app_imported(
        self, make_app: Callable[..., Path], serve: Serve
    ) -> None:
        with Client(serve(project=make_app())) as client:
            answer = json.loads(client.get("/").body)
        (seen,) = answer["seen"]
        assert seen["app"] == []
        assert seen["ssl"].startswith("gevent")
        # The app has imported the function that its patch put there.
        assert answer["new"] == "md5 of the app"

    def test_the_other_worker_does_not_call_it(
        self, make_app: Callable[..., Path], serve: Serve
    ) -> None:
        with Client(serve(project=make_app(), worker=None)) as client:
            assert json.loads(client.get("/").body)["seen"] == []

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("def patch(): raise ValueError('no such library')", "no such library"),
            ("raise ValueError('not even here')", "not even here"),
            ("", 'does not define a "patch"'),
        ],
    )
    def test_one_that_fails_ends_the_server_and_is_named(
        self,
        make_app: Callable[..., Path],
        tls: tuple[Path, Path],
        tmp_path: Path,
        text: str,
        error: str,
    ) -> None:
        server = Server(tls, "--workers", "2", project=make_app(patches=text), tmp=tmp_path)
        server.start()
        try:
            assert server.wait() != 0
        finally:
            server.kill()
        (line,) = [x for x in server.log().splitlines() if "SERVER_GEVENT_PATCH" in x]
        assert "app.patches.patch failed: " in line
        assert error in line.replace("\\", "")
        assert "Traceback" not in server.log()


class TestWhatIsPatchedIsSeen:
    def test_in_the_log(self, make_app: Callable[..., Path], serve: Serve) -> None:
        server = serve(project=make_app(), env={"PLAIN_FRAMEWORK_LOG_LEVEL": "DEBUG"})
        wait_for(lambda: "Patched by the app: app.patches.patch" in server.log(), "log line")
        modules = re.findall(r"Patched by gevent: (.*)", server.log())[0].split(", ")
        assert {"ssl", "socket", "threading", "select"} <= set(modules)
        assert all(f"Workaround: {line}" in server.log() for line in patches.workarounds())

    def test_in_the_help(self) -> None:
        command = [str(PLAIN), "server", "--help"]
        done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=True)
        assert "monkey.patch_all()" in done.stdout
        assert all(f"- {line}" in done.stdout for line in patches.workarounds())


def test_each_workaround_names_a_test_that_is_there() -> None:
    for workaround in (*patches.FIRST, *patches.BEFORE_APP, *patches.AFTER_APP):
        assert workaround.__doc__ is not None
        assert "What broke: " in workaround.__doc__
        named = re.findall(r"`tests/([\w/]+\.py)::(?:(\w+)::)?(\w+)`", workaround.__doc__)
        assert named, workaround.__name__
        for file, group, test in named:
            text = (TESTS / file).read_text()
            assert f"def {test}(" in text
            assert not group or f"class {group}:" in text
