"""`docs/migrating.md`: an app in the old shape, and the same app after following it.

`migrating/old` is a Flask app with a gunicorn.conf.py, served by `gunicorn`; `migrating/new`
is what the guide makes of it, served by `plain server`. Both get the same requests.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import TESTS, WAIT, Server, free_port, wait_for

NEW = TESTS / "migrating" / "new"
OLD = TESTS / "migrating" / "old"


class Shop:
    """One of the two, as it runs: where it is, its process, what its hooks noted."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], notes: Path) -> None:
        self.url = url
        self.process = process
        self.notes = notes

    def client(self, *, http2: bool = False) -> httpx.Client:
        return httpx.Client(base_url=self.url, verify=False, timeout=WAIT, http2=http2)

    def noted(self) -> list[str]:
        return self.notes.read_text().splitlines() if self.notes.exists() else []


@pytest.fixture
def new(tls: tuple[Path, Path], tmp_path: Path) -> Iterator[Shop]:
    notes = tmp_path / "new-notes"
    env = {"NOTES": str(notes)}
    with Server(tls, project=NEW, worker=None, env=env, tmp=tmp_path) as server:
        yield Shop(server.url, server.running, notes)


@pytest.fixture
def old(tls: tuple[Path, Path], tmp_path: Path) -> Iterator[Shop]:
    notes, bind = tmp_path / "old-notes", f"127.0.0.1:{free_port()}"
    env = {"NOTES": str(notes), "BIND": bind, "CERTFILE": str(tls[0]), "KEYFILE": str(tls[1])}
    command = [str(Path(sys.executable).parent / "gunicorn"), "shop:app"]
    with (tmp_path / "gunicorn.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=OLD, env=os.environ | env, stdout=log, stderr=log, start_new_session=True
        )
    shop = Shop(f"https://{bind}", process, notes)
    try:
        wait_for(lambda: "worker ready" in shop.noted() or process.poll() is not None, "gunicorn")
        yield shop
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


Answer = tuple[int, dict[str, str], bytes]

#: Header fields that both apps set, and that a client may rely on.
FIELDS = ("content-type", "content-length", "location", "set-cookie", "x-shop")


def answer(response: httpx.Response) -> Answer:
    fields = {name: response.headers[name] for name in FIELDS if name in response.headers}
    if not response.is_success:  # each framework has its own pages
        kept = ("location", "set-cookie", "x-shop")
        return response.status_code, {name: fields.get(name, "") for name in kept}, b""
    fields["content-type"] = fields["content-type"].partition(";")[0]
    if "json" in fields["content-type"]:  # each has its own spaces and order
        fields.pop("content-length")
        return response.status_code, fields, json.dumps(response.json(), sort_keys=True).encode()
    return response.status_code, fields, response.content


#: Method, path, and what else the request has.
REQUESTS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/", {}),
    ("HEAD", "/", {}),
    ("GET", "/items/7?currency=JPY", {"headers": {"X-Visitor": "Ann"}}),
    ("GET", "/items/101", {}),
    ("GET", "/items/seven", {}),
    ("GET", "/nothing", {}),
    ("DELETE", "/items/7", {}),
    ("POST", "/items", {"data": {"name": "saw"}}),
    ("POST", "/items", {"data": {"title": "saw"}}),
    ("GET", "/last", {"headers": {"Cookie": "last=saw"}}),
    ("POST", "/orders", {"json": {"items": [1, 2, 3]}}),
    ("PUT", "/picture", {"content": b"x" * 2_000_000}),
    ("GET", "/export", {}),
    ("GET", "/wait?s=0.1", {}),
    ("GET", "/fails", {}),
]


def answers(shop: Shop, *, http2: bool = False) -> list[Answer]:
    with shop.client(http2=http2) as client:
        return [answer(client.request(method, path, **rest)) for method, path, rest in REQUESTS]


@pytest.mark.parametrize("http2", [False, True])
def test_both_give_the_same_answers_and_call_the_same_hooks(
    old: Shop, new: Shop, http2: bool
) -> None:
    news = answers(new, http2=http2)
    for request, before, after in zip(REQUESTS, answers(old), news, strict=True):
        assert (request, after) == (request, before)
    # gunicorn's post_request comes after the answer.
    wait_for(lambda: len(old.noted()) == 1 + 2 * len(REQUESTS), "the last note")
    assert new.noted() == old.noted()


@pytest.mark.parametrize("name", ["old", "new"])
def test_requests_run_at_once_and_end_before_the_server(
    name: str, request: pytest.FixtureRequest
) -> None:
    shop: Shop = request.getfixturevalue(name)

    def wait(_: int) -> str:
        with shop.client() as client:
            return client.get("/wait?s=5").text

    def begun() -> bool:
        return sum(line.startswith("request GET /wait") for line in shop.noted()) == 10

    with ThreadPoolExecutor(10) as pool:
        waiting = [pool.submit(wait, n) for n in range(10)]
        wait_for(begun, "10 requests at once")
        shop.process.send_signal(signal.SIGTERM)
        assert [future.result() for future in waiting] == ["waited"] * 10
    assert shop.process.wait(WAIT) == 0
    noted = shop.noted()
    assert all(line.startswith("request GET /wait") for line in noted[1:11])
    assert noted[-1] == "worker exit"
