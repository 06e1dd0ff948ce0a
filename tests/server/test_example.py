"""The example app over HTTP/2, and the script that serves it on a newcomer's machine."""

import asyncio
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from harness import TESTS, Server, free_port, wait_for
from tools import need, need_curl

EXAMPLE = TESTS.parent / "example"
DEMO = TESTS.parent / "scripts" / "demo"

#: Seconds for a first run of scripts/demo, which installs the package.
SETUP = 300.0


@pytest.fixture(scope="module")
def example(tls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tls, project=EXAMPLE, tmp=tmp_path_factory.mktemp("example")) as running:
        yield running


@pytest.fixture
def client(example: Server) -> Iterator[httpx.Client]:
    context = example.tls_context()
    with httpx.Client(http2=True, verify=context, base_url=example.url, timeout=30) as client:
        yield client


class TestViews:
    def test_page(self, client: httpx.Client) -> None:
        response = client.get("/")
        assert response.http_version == "HTTP/2"
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        assert response.text == (EXAMPLE / "app" / "page.html").read_text(encoding="utf-8")

    def test_the_page_links_to_the_readme(self, client: httpx.Client) -> None:
        assert 'href="/readme">plain-gevent-h2</a>' in client.get("/").text
        readme = client.get("/readme")
        assert readme.headers["content-type"] == "text/plain; charset=utf-8"
        assert readme.text == (EXAMPLE.parent / "README.md").read_text(encoding="utf-8")

    @pytest.mark.parametrize("worker", ["gevent-h2", "asyncio"])
    def test_the_page_knows_its_worker(
        self, tls: tuple[Path, Path], tmp_path: Path, worker: str
    ) -> None:
        with Server(tls, project=EXAMPLE, worker=worker, tmp=tmp_path) as server:
            answer = httpx.get(server.url, verify=server.tls_context(), timeout=30)
        assert answer.headers["server-timing"] == f'worker;desc="{worker}"'

    def test_100_slow_requests_run_at_once_on_one_connection(self, example: Server) -> None:
        async def run() -> list[httpx.Response]:
            async with httpx.AsyncClient(
                http2=True,
                verify=example.tls_context(),
                base_url=example.url,
                limits=httpx.Limits(max_connections=1),
                timeout=60,
            ) as client:
                # The client opens up to 100 streams once it has seen the server's SETTINGS.
                await client.get("/")
                return await asyncio.gather(*(client.get("/slow") for _ in range(100)))

        def at_once() -> int:
            responses = asyncio.run(run())
            assert {(r.status_code, r.http_version) for r in responses} == {(200, "HTTP/2")}
            return max(int(r.json()["at_once"]) for r in responses)

        # On a busy machine some may end before the last are there. Then they are sent again.
        wait_for(lambda: at_once() > 50, "more than half of them at once")

    def test_words_arrive_one_by_one(self, client: httpx.Client) -> None:
        with client.stream("GET", "/words") as response:
            assert response.http_version == "HTTP/2"
            chunks = list(response.iter_text())
        assert "".join(chunks).startswith("Each word leaves the server ")
        assert len(chunks) > 5

    def test_upload_larger_than_the_default_limit(self, client: httpx.Client) -> None:
        content = os.urandom(11 * 1024 * 1024)
        response = client.post("/upload", files={"file": ("x.bin", content)})
        assert response.status_code == 200
        assert response.json() == {
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    def test_upload_without_a_file(self, client: httpx.Client) -> None:
        assert client.post("/upload", data={"file": "not a file"}).status_code == 400


class TestDemo:
    """`scripts/demo`, which keeps the environment it made for the next run."""

    def test_serves_http2_until_it_is_told_to_stop(self, tmp_path: Path) -> None:
        curl = need_curl()
        need("bash")
        port = free_port()
        env = {**os.environ, "PORT": str(port), "PYTHON": sys.executable}
        logfile = tmp_path / "demo.log"
        with logfile.open("wb") as log:
            # From another folder: the script must find its own.
            demo = subprocess.Popen([DEMO], cwd=tmp_path, env=env, stdout=log, stderr=log)
        try:
            wait_for(
                lambda: b"Server worker started" in logfile.read_bytes() or demo.poll() is not None,
                "start of the demo",
                SETUP,
            )
            url = f"https://localhost:{port}/"
            assert url in logfile.read_text(), logfile.read_text()
            page = tmp_path / "page.html"
            answer = subprocess.run(
                [curl, "-sSk", "--http2", "-o", page, "-w", "%{http_version} %{http_code}", url],
                capture_output=True,
                text=True,
                check=True,
            )
            assert answer.stdout == "2 200"
            assert page.read_bytes() == (EXAMPLE / "app" / "page.html").read_bytes()

            family = psutil.Process(demo.pid).children(recursive=True)
            demo.send_signal(signal.SIGTERM)
            assert demo.wait(30) == 0, logfile.read_text()
            _, left = psutil.wait_procs(family, timeout=10)
            assert left == []
        finally:
            if demo.poll() is None:
                demo.terminate()
                demo.wait(30)

    def test_says_so_if_the_port_is_taken(self) -> None:
        need("bash")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = str(taken.getsockname()[1])
            env = {**os.environ, "PYTHON": sys.executable}
            demo = subprocess.run(
                [DEMO, port], env=env, capture_output=True, text=True, timeout=SETUP, check=False
            )
        assert demo.returncode == 1
        assert f"port {port} cannot be used" in demo.stderr
