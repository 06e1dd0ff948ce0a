"""The example's page in a real browser, against the running server."""

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from browser import Browser
from harness import TESTS, Server, wait_for

EXAMPLE = TESTS.parent / "example"


@pytest.fixture(scope="module")
def example(tls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tls, project=EXAMPLE, tmp=tmp_path_factory.mktemp("example")) as running:
        yield running


@pytest.fixture(scope="module")
def page(example: Server, browser: Browser) -> Browser:
    """The example's page, after the run that it starts by itself."""
    run_page(browser, example)
    return browser


def run_page(browser: Browser, example: Server) -> None:
    browser.open(f"https://localhost:{example.port}/")
    wait_for(lambda: browser.data().get("done") or browser.data().get("error"), "end of the run")
    assert "error" not in browser.data(), browser.data()["error"]


class TestExamplePage:
    def test_comes_over_http2(self, page: Browser) -> None:
        navigation = "performance.getEntriesByType('navigation')[0].nextHopProtocol"
        assert page.evaluate(navigation) == "h2"
        assert page.data()["protocol"] == page.text("protocol") == "h2"

    def test_100_slow_requests_run_at_once_on_the_connection_of_the_page(
        self, page: Browser, example: Server
    ) -> None:
        assert page.data()["answered"] == "100"
        assert page.evaluate("document.querySelectorAll('#grid i.done').length") == 100
        assert page.data()["connections"] == "0"
        assert len([line for line in example.log().splitlines() if "/slow?n=" in line]) >= 100
        # As the views counted themselves: one after another, it would say 1. On a busy machine some
        # may end before the last are there. Then they are sent again.
        for _ in range(20):
            if int(page.data()["atOnce"]) > 50:
                break
            run_page(page, example)
        assert int(page.data()["atOnce"]) > 50

    def test_shows_a_streaming_response_as_it_arrives(self, page: Browser) -> None:
        words = page.text("words")
        assert words.startswith("Each word leaves")
        assert words.rstrip().endswith("everybody else.")
        # Kept back until the end, it would come as one chunk.
        assert int(page.data()["chunks"]) > 5

    def test_uploads_a_file_unharmed(self, page: Browser) -> None:
        assert page.data()["uploaded"] == str(8 * 1024 * 1024)
        assert page.data()["uploadSame"] == "true"

    def test_uploads_the_file_that_is_chosen(self, page: Browser, tmp_path: Path) -> None:
        content = os.urandom(3_000_001)
        (tmp_path / "chosen.bin").write_bytes(content)
        page.choose_file("file", tmp_path / "chosen.bin")
        digest = hashlib.sha256(content).hexdigest()
        wait_for(lambda: page.text("sha") == digest, "SHA-256 of the chosen file")
        assert page.text("same") == "yes"

    def test_runs_again_at_a_click(self, page: Browser) -> None:
        page.evaluate("delete document.documentElement.dataset.answered")
        page.evaluate("document.getElementById('run').click()")
        wait_for(lambda: page.data().get("answered") == "100", "another 100 answers")
        assert page.data()["connections"] == "0"
        assert "error" not in page.data()

    def test_names_the_project_and_says_who_serves_it(self, page: Browser) -> None:
        assert page.text("worker") == "gevent-h2"
        assert "each in a greenlet of its own" in page.text("served-by")
        assert "over HTTP/2" in page.text("served-by")
        link = "document.querySelector('a[href=\"/readme\"]').textContent"
        assert page.evaluate(link) == "plain-gevent-h2"

    def test_a_failure_is_shown_as_one(self, page: Browser) -> None:
        page.evaluate("""
            window.asked = 0;
            window.served = window.fetch;
            window.fetch = (url, options) => served(++asked % 4 ? url : '/nowhere', options);
            delete document.documentElement.dataset.failed;
            document.getElementById('run').click();
        """)
        wait_for(lambda: page.data().get("failed") == "25", "25 failures")
        assert (page.text("answered"), page.text("failed")) == ("75", "25")
        assert page.text("verdict") == "25 of 100 requests failed"
        wait_for(lambda: page.text("requests-error").endswith(": HTTP 404"), "reason")


def test_the_page_does_not_say_of_plains_own_worker_what_is_ours(
    tls: tuple[Path, Path], tmp_path: Path, browser: Browser
) -> None:
    with Server(tls, "--threads", "100", project=EXAMPLE, worker="asyncio", tmp=tmp_path) as server:
        browser.open(f"https://localhost:{server.port}/")
        wait_for(lambda: browser.data().get("answered") == "100", "100 answers")
        assert browser.text("worker") == "asyncio"
        assert "as it has threads. This page came over HTTP/2." in browser.text("served-by")
        assert "greenlet" not in browser.text("served-by")
        # Nobody answers any more: that is quick, and is not said to be fast.
        server.kill()
        browser.evaluate("document.getElementById('run').click()")
        wait_for(lambda: browser.data().get("failed") == "100", "100 failures")
        assert browser.text("verdict") == "100 of 100 requests failed"


def test_page_events_requests_and_websocket_on_one_connection(
    serve: Callable[..., Server], browser: Browser
) -> None:
    """RFC 8441, as Chromium does it: the worker has one TCP connection, with all of them open.

    Chromium sometimes opens a second one, should the first be slow, and never uses it.
    """
    server = serve(env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "2"})
    browser.open(f"https://localhost:{server.port}/")
    wait_for(lambda: browser.evaluate("document.body?.textContent") == "hello", "page")
    browser.evaluate("""
        window.events = window.echoed = window.fetched = 0;
        window.source = new EventSource('/ws/clock');
        source.onmessage = () => { events += 1; };
        window.socket = new WebSocket(`wss://${location.host}/ws/echo`);
        socket.onopen = () => socket.send('1');
        socket.onmessage = event => { echoed += 1; socket.send(event.data); };
        const again = () => fetch('/sleep?s=0.02').then(r => r.text()).then(text => {
            fetched += text === 'slept';
            again();
        });
        again();
    """)
    for name in ("events", "echoed", "fetched"):
        wait_for(partial(browser.evaluate, f"{name} > 10"), name)
    worker = server.worker()

    def connections() -> int:
        return sum(
            connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == server.port
            for connection in worker.net_connections("tcp")
        )

    wait_for(lambda: connections() == 1, "one connection")
    assert browser.evaluate("socket.readyState") == 1
    browser.evaluate("""
        socket.onclose = event => { window.code = event.code; };
        source.close();
        socket.close(4001, 'bye');
    """)
    wait_for(lambda: browser.evaluate("window.code") == 4001, "close of the socket")
