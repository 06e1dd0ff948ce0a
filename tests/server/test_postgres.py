"""`plain.postgres` with a real PostgreSQL: its pool, its transactions, its end, LISTEN/NOTIFY."""

import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2client import Answer, Client
from harness import Server, wait_for
from postgres import OF_DBAPP, Postgres

CONNECTIONS = 5
STREAMS = 100
POOL = 20  # connections that Plain's pool has by default

Serve = Callable[..., Server]


@contextmanager
def clients(server: Server, n: int = CONNECTIONS) -> Iterator[list[Client]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Client(server)) for _ in range(n)]


def bodies_of(answers: list[Answer]) -> list[Any]:
    for answer in answers:
        assert answer.status == 200, bytes(answer.body)
    return [json.loads(answer.body) for answer in answers]


def used(postgres: Postgres) -> list[tuple[Any, ...]]:
    """What the app's connections do, other than nothing."""
    return postgres.query(
        "SELECT pid, state, query FROM pg_stat_activity"
        " WHERE datname = 'app' AND backend_type = 'client backend' AND state <> 'idle'"
    )


def expect_clean_pool(server: Server, postgres: Postgres) -> None:
    """No connection is lost, at work or in a transaction, and all can be had at once."""
    with Client(server) as client:

        def is_full() -> bool:
            stats = json.loads(client.get("/pool").body)
            return bool(stats["pool_available"] == stats["pool_size"])

        wait_for(is_full, "return of all connections to the pool")
        wait_for(lambda: not used(postgres), "end of all queries")
        streams = [client.send(f"/together?n={POOL}") for _ in range(POOL)]
        assert len(set(bodies_of(client.finish(*streams)))) == POOL
        wait_for(is_full, "return of all connections to the pool")
        assert json.loads(client.get("/pool").body)["requests_waiting"] == 0
        assert not used(postgres)


@pytest.mark.parametrize("path", ["queries", "async-queries", "both"])
def test_500_streams_share_a_pool_of_20(db_server: Server, postgres: Postgres, path: str) -> None:
    paths = ["queries", "async-queries"] if path == "both" else [path]
    with clients(db_server) as connections:
        opened = [
            [client.send(f"/{paths[i % len(paths)]}?stream={path}-{n}-{i}") for i in range(STREAMS)]
            for n, client in enumerate(connections)
        ]
        for n, (client, streams) in enumerate(zip(connections, opened, strict=True)):
            for i, answer in enumerate(bodies_of(client.finish(*streams))):
                name = f"{path}-{n}-{i}"
                assert answer == {"stream": name, "texts": [f"text of {name}"]}
    (count,) = postgres.query(
        "SELECT count(*) FROM notes_note WHERE stream LIKE %s", f"{path}-%", database="app"
    )[0]
    assert count == CONNECTIONS * STREAMS
    expect_clean_pool(db_server, postgres)


def test_transactions_never_mix(db_server: Server, postgres: Postgres) -> None:
    """Each sees one connection, one transaction and its own row throughout; half roll back."""
    with clients(db_server) as connections:
        opened = [
            [
                client.send(f"/transaction?stream=tx-{n}-{i}&end={'rollback' if i % 2 else ''}")
                for i in range(40)
            ]
            for n, client in enumerate(connections)
        ]
        transactions = []
        for n, (client, streams) in enumerate(zip(connections, opened, strict=True)):
            for i, seen in enumerate(bodies_of(client.finish(*streams))):
                assert seen[0][2:] == [f"tx-{n}-{i}", 1]
                assert seen[1:] == seen[:1] * 2
                transactions.append(seen[0][1])
    assert len(set(transactions)) == CONNECTIONS * 40
    rows = postgres.query("SELECT stream FROM notes_note WHERE stream LIKE 'tx-%%'", database="app")
    expected = Counter((f"tx-{n}-{i}",) for n in range(CONNECTIONS) for i in range(0, 40, 2))
    assert Counter(rows) == expected
    expect_clean_pool(db_server, postgres)


def test_streams_reset_at_random_leave_a_clean_pool(db_server: Server, postgres: Postgres) -> None:
    """While they wait for the pool, in a query, in a transaction, in a body that runs queries."""
    paths = [
        "/queries?stream=reset&s=0.1",
        "/transaction?stream=reset&end=rollback",
        "/sleep?s=0.3&in=transaction",
        "/rows?s=0.1",
        "/rows?s=20",  # stopped in its query
    ]
    chance = random.Random(1)
    with clients(db_server) as connections:
        for _round in range(4):
            opened = [(client, client.send(chance.choice(paths))) for client in connections * 20]
            chance.shuffle(opened)
            for client, stream in opened:
                if chance.random() < 0.3:
                    time.sleep(0.01)  # resets all through their lives; nothing is waited for
                client.h2.reset_stream(stream, ErrorCodes.CANCEL)
                client.flush()
        for client in connections:
            assert client.get("/pid").status == 200
    expect_clean_pool(db_server, postgres)


def test_connections_lost_in_queries_leave_a_clean_pool(
    db_server: Server, postgres: Postgres
) -> None:
    with clients(db_server) as connections:
        for client in connections:
            for path in ["/rows?s=20", "/rows?s=0.05", "/sleep?s=0.5&in=transaction"] * 10:
                client.send(path)
        wait_for(lambda: len(used(postgres)) == POOL, "queries on all connections")
    expect_clean_pool(db_server, postgres)


def test_a_deadline_in_a_query_gives_its_connection_back(
    db_server: Server, postgres: Postgres
) -> None:
    """Those beyond the pool reach theirs while they wait for a connection."""
    with Client(db_server) as client:
        for how in ("", "&in=transaction"):
            streams = [client.send(f"/sleep-briefly?s=20{how}") for _ in range(3 * POOL)]
            assert {answer.status for answer in client.finish(*streams)} == {503}
    expect_clean_pool(db_server, postgres)


class TestExhaustion:
    def test_it_is_an_error_that_the_log_explains(
        self, serve: Serve, database: str, postgres: Postgres
    ) -> None:
        environment = {
            "PLAIN_POSTGRES_URL": database,
            "PLAIN_POSTGRES_POOL_MIN_SIZE": "2",
            "PLAIN_POSTGRES_POOL_MAX_SIZE": "2",
            "PLAIN_POSTGRES_POOL_TIMEOUT": "0.5",
        }
        server = serve(**OF_DBAPP, env=environment)
        worker = server.worker().pid
        with Client(server) as client:
            holders = [client.send("/rows?s=0.1") for _ in range(2)]
            wait_for(lambda: len(used(postgres)) == 2, "queries on both connections")
            others = client.finish(*[client.send("/queries?stream=more") for _ in range(10)])
            assert [answer.status for answer in others] == [500] * 10
            assert client.get("/pid").body == str(worker).encode()
            assert "PoolTimeout: couldn't get a connection after 0.50 sec" in server.log()
            for stream in holders:
                client.h2.reset_stream(stream, ErrorCodes.CANCEL)
            client.flush()
            wait_for(lambda: client.get("/queries?stream=after").status == 200, "a free connection")


class TestRestart:
    def test_it_is_survived_under_load(
        self, serve: Serve, database: str, postgres: Postgres
    ) -> None:
        environment = {"PLAIN_POSTGRES_URL": database, "PLAIN_POSTGRES_POOL_TIMEOUT": "5.0"}
        server = serve(**OF_DBAPP, env=environment)
        worker = server.worker().pid
        statuses: list[int] = []
        over = threading.Event()

        def ask_on() -> None:
            with Client(server) as client:
                while not over.is_set():
                    streams = [client.send("/queries?stream=load&s=0.02") for _ in range(20)]
                    statuses.extend(answer.status for answer in client.finish(*streams))

        def wait_for_new(status: int) -> None:
            seen = len(statuses)
            wait_for(lambda: status in statuses[seen:], f"{status} under load")

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(ask_on) for _ in range(3)]
            try:
                wait_for_new(200)
                postgres.stop()
                try:
                    wait_for_new(500)
                finally:
                    postgres.start()
                wait_for_new(200)
            finally:
                over.set()
        for future in asking:
            future.result()
        assert set(statuses) == {200, 500}  # every stream was answered
        expect_clean_pool(server, postgres)
        with clients(server) as connections:
            for client in connections:
                streams = [client.send("/queries?stream=after") for _ in range(20)]
                assert {answer.status for answer in client.finish(*streams)} == {200}
            assert connections[0].get("/pid").body == str(worker).encode()


class TestListen:
    """A blocking event stream that waits for the database, with a connection of its own."""

    LISTENERS = 30  # more than the pool has connections: it needs none of them

    def test_notifications_reach_every_client(self, db_server: Server, postgres: Postgres) -> None:
        with Client(db_server) as other:
            with Client(db_server) as client:
                streams = [client.send("/listen") for _ in range(self.LISTENERS)]
                answers = [client.answers[stream] for stream in streams]
                client.until(lambda: all(b"open" in a.body for a in answers), "all listeners")
                for text in ("one", "two"):
                    assert other.get(f"/notify?text={text}").body == b"sent"
                    client.until(
                        lambda text=text: all(text.encode() in a.body for a in answers), text
                    )
                for answer in answers:
                    assert re.findall(rb"data: (\w+)\n\n", bytes(answer.body)) == [b"one", b"two"]
                client.h2.reset_stream(streams[0], ErrorCodes.CANCEL)
                client.flush()
                self.expect_listeners(other, postgres, self.LISTENERS - 1)
            # The client is gone, with nothing to be notified of.
            self.expect_listeners(other, postgres, 0)
        expect_clean_pool(db_server, postgres)

    def expect_listeners(self, client: Client, postgres: Postgres, n: int) -> None:
        count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'listener'"
        wait_for(lambda: postgres.query(count) == [(n,)], f"{n} connections that listen")
        wait_for(lambda: json.loads(client.get("/listening").body) == n, f"{n} views")

    def test_a_server_that_goes_down_ends_the_stream(
        self, serve: Serve, database: str, postgres: Postgres
    ) -> None:
        server = serve(**OF_DBAPP, env={"PLAIN_POSTGRES_URL": database})
        with Client(server) as client:
            stream = client.send("/listen")
            client.until(lambda: b"open" in client.answers[stream].body, "the listener")
            postgres.stop()
            postgres.start()
            assert client.finish(stream)[0].reset is not None
            assert json.loads(client.get("/listening").body) == 0
