"""Parts of Plain and libraries of Python that an app's views use, many at once over HTTP/2."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from h2client import Answer, Client
from harness import PLAIN_WITH_POSTGRES, WAIT, Server, free_port, wait_for
from postgres import DBAPP, OF_DBAPP, Postgres
from tools import need

N = 50


def ask(client: Client, path: str, n: int = N) -> list[Answer]:
    """The answers of `n` streams at once, each with its own `id`."""
    mark = "&" if "?" in path else "?"
    return client.finish(*[client.send(f"{path}{mark}id={i}&n={n}") for i in range(n)])


class TestAuth:
    USERS = 8

    def test_users_sign_up_and_in_and_out_at_once(self, db_server: Server) -> None:
        with ThreadPoolExecutor(self.USERS) as pool:
            list(pool.map(lambda i: self.one_user(db_server, i), range(self.USERS)))

    def one_user(self, server: Server, i: int) -> None:
        email, password = f"user-{i}@example.com", f"correct horse {i}"
        with http2_client(server) as browser:
            assert browser.get("/me").headers["location"].startswith("/login")
            sign_up = {"email": email, "password": password, "confirm_password": password}
            assert browser.post("/signup", data=sign_up).status_code == 302
            wrong = browser.post("/login", data={"email": email, "password": "wrong"})
            assert "correct email and password" in wrong.text
            assert "sessionid" not in browser.cookies
            right = browser.post("/login", data={"email": email, "password": password})
            assert right.status_code == 302
            for visit in range(1, 4):
                assert browser.get("/me").text == f"{email} {visit}"
            browser.post("/logout")
            assert browser.get("/me").status_code == 302


def http2_client(server: Server) -> httpx.Client:
    context = server.tls_context()
    return httpx.Client(base_url=server.url, http2=True, verify=context, timeout=WAIT)


def test_forms_with_files(db_server: Server) -> None:
    """Each from a client of its own: httpx's HTTP/2 connections are not safe to share."""

    def upload(i: int) -> None:
        content = os.urandom(1) * (i * 300_000 + 1)  # up to 5.7 MB: in memory and on disk
        files = {"file": (f"{i}.bin", content, "application/octet-stream")}
        with http2_client(db_server) as client:
            answer = client.post("/upload", data={"title": f"Title {i}"}, files=files)
        assert answer.http_version == "HTTP/2"
        digest = hashlib.sha256(content).hexdigest()
        assert answer.json() == [f"Title {i}", f"{i}.bin", len(content), digest]

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(upload, range(20)))
    with http2_client(db_server) as client:
        missing = client.post("/upload", data={"title": "Title"})
    assert missing.status_code == 400
    assert "file" in missing.json()


def test_jobs_are_enqueued_and_a_worker_runs_them(
    db_server: Server, database: str, postgres: Postgres, tmp_path: Path
) -> None:
    with Client(db_server) as client:
        streams = [client.send(f"/enqueue?name=job-{i}") for i in range(N)]
        assert {bytes(answer.body) for answer in client.finish(*streams)} == {b"enqueued"}
    requests = "SELECT count(*) FROM plainjobs_jobrequest"
    assert postgres.query(requests, database="app") == [(N,)]
    command = [str(PLAIN_WITH_POSTGRES), "jobs", "worker", "--max-processes", "1"]
    environment = {**os.environ, "PLAIN_POSTGRES_URL": database}
    with (tmp_path / "jobs.log").open("w") as log:
        worker = subprocess.Popen(command, cwd=DBAPP, env=environment, stdout=log, stderr=log)
    try:
        written = "SELECT DISTINCT stream FROM notes_note WHERE text = 'written by a job'"
        wait_for(
            lambda: (
                {name for (name,) in postgres.query(written, database="app")}
                == {f"job-{i}" for i in range(N)}
            ),
            "jobs that are done",
            3 * WAIT,
        )
    finally:
        worker.terminate()
        worker.wait(WAIT)


def test_the_cache_counts_every_stream(db_server: Server) -> None:
    with Client(db_server) as client:
        streams = [client.send(f"/cache?name={i}") for i in range(N)]
        answers = [json.loads(answer.body) for answer in client.finish(*streams)]
    assert [own for own, _, _ in answers] == [{"name": str(i)} for i in range(N)]
    assert sorted(total for _, total, _ in answers) == list(range(1, N + 1))
    assert {common for _, _, common in answers} == {"made once"}


@pytest.mark.parametrize("library", ["requests", "urllib3", "httpx", "httpx-h2"])
def test_http_clients_in_views_wait_side_by_side(db_server: Server, library: str) -> None:
    with Client(db_server) as client:
        for i, answer in enumerate(ask(client, f"/ask?client={library}")):
            assert answer.body == str(i).encode()


def test_views_run_programs_side_by_side(db_server: Server) -> None:
    with Client(db_server) as client:
        for i, answer in enumerate(ask(client, "/subprocess", 20)):
            assert json.loads(answer.body) == [str(i), "done\n", 3, "TimeoutExpired"]


def test_views_use_threads_side_by_side(db_server: Server) -> None:
    with Client(db_server) as client:
        answers = [json.loads(answer.body) for answer in ask(client, "/threads")]
    for i, (_count, doubled, squares, *names) in enumerate(answers):
        assert doubled == 90
        assert squares == [0, 1, 4, 9]
        assert names == [str(i)] * 3
    assert sorted(count for count, *_ in answers) == list(range(1, N + 1))


class TestRedis:
    @pytest.fixture
    def redis_url(self, tmp_path: Path) -> Iterator[str]:
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
        log = tmp_path / "redis.log"
        program = need("redis-server")
        process = subprocess.Popen([program, *options, "--logfile", str(log)])
        try:
            ready = "Ready to accept connections"
            wait_for(lambda: log.exists() and ready in log.read_text(), "start of redis-server")
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(WAIT)

    def test_views_wait_side_by_side(
        self, tls: tuple[Path, Path], database: str, redis_url: str, tmp_path: Path
    ) -> None:
        environment = {"PLAIN_POSTGRES_URL": database, "TEST_REDIS": redis_url}
        server = Server(tls, **OF_DBAPP, env=environment, tmp=tmp_path)
        with server, Client(server) as client:
            answers = [json.loads(answer.body) for answer in ask(client, "/redis")]
        assert [before for before, _, _ in answers] == [N - 1, *range(N - 1)]
        assert [own for _, own, _ in answers] == list(range(N))
        assert sorted(total for _, _, total in answers) == list(range(1, N + 1))
