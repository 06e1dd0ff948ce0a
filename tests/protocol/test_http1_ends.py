"""How an HTTP/1.1 connection ends, and what a request that waits for its slot does meanwhile."""

import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest
from http1client import Client, request
from memory_server import Cleartext, MemoryServer
from raw import RawClient, request_fields
from virtual_time import advance, now
from ws import Http1Socket

from plain_gevent_h2.app.plain_internals import DRAIN_MIN_RECV, RECV_PROGRESS_TIMEOUT
from plain_gevent_h2.http1.connection import Http1Connection
from plain_gevent_h2.http1.stream import Http1Stream
from plain_gevent_h2.net.fairness import SWEEP_INTERVAL
from plain_gevent_h2.net.tls_socket import RecordFlood

Serve = Callable[..., MemoryServer]


def connection_of(server: MemoryServer) -> Http1Connection:
    """The one HTTP/1.1 connection."""
    advance(0.01)  # it is accepted
    (found,) = (c for c in server.worker._connections if isinstance(c, Http1Connection))
    return found


LINGER = (socket.SOL_SOCKET, socket.SO_LINGER)


class ServersEnd:
    """The server's socket by another descriptor, which is still open when the server closes its."""

    def __init__(self, server: MemoryServer) -> None:
        self._sock = socket.socket(fileno=os.dup(connection_of(server)._sock.fileno()))

    def resets(self) -> bool:
        """Whether the close is a TCP reset, to a client over TCP."""
        return bool(struct.unpack("ii", self._sock.getsockopt(*LINGER, 8))[0])

    def close(self) -> None:
        self._sock.close()


@pytest.fixture
def client(either: MemoryServer) -> Iterator[Client]:
    with Client(either.connect("http/1.1")) as connected:
        yield connected


@pytest.fixture
def end(either: MemoryServer, client: Client) -> Iterator[ServersEnd]:
    of = ServersEnd(either)
    yield of
    of.close()


class TestReset:
    """A response that is cut must not look whole (RFC 9112 section 8)."""

    @pytest.mark.parametrize(
        ("path", "version", "resets"),
        [
            # Nothing but the end of the connection tells that of the body.
            ("/endless?name=ends&wait=1", "1.0", True),
            ("/endless?name=ends&wait=1", "1.1", False),  # the last chunk does
            ("/bytes?n=50000000", "1.0", False),  # Content-Length does
        ],
    )
    def test_while_a_body_is_under_way(
        self, client: Client, end: ServersEnd, path: str, version: str, resets: bool
    ) -> None:
        """Also if the whole process ends."""
        assert not end.resets()
        client.send(request(path, version=version))
        client.read_head()
        assert end.resets() == resets

    def test_not_once_the_body_is_whole(self, client: Client, end: ServersEnd) -> None:
        client.send(request("/chunks?n=3&size=2&wait=1", version="1.0"))
        client.read_head()
        assert end.resets()
        assert client._file.read() == b"aabbcc"
        assert not end.resets()

    def test_not_for_a_websocket(self, either: MemoryServer) -> None:
        """Its frames have lengths."""
        with Http1Socket(either, "/ws/echo") as sock:
            end = ServersEnd(either)
            sock.send("x")
            assert sock.recv() == "x"
            assert not end.resets()
            sock.close()
            sock.until_closed()
            assert not end.resets()
            end.close()

    @pytest.mark.parametrize("half_closed", [False, True])
    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    def test_of_a_body_that_fails(
        self, client: Client, end: ServersEnd, version: str, half_closed: bool
    ) -> None:
        """A client that has closed its side may take any end of the connection for a whole body."""
        client.send(request("/failing-body?after=2", version=version))
        if half_closed:
            client.sock.shutdown(socket.SHUT_WR)
        client.read_head()
        advance(0.1)  # the server has closed it
        assert end.resets() == (half_closed or version == "1.0")

    @pytest.mark.parametrize("half_closed", [False, True])
    def test_not_without_a_response(self, serve: Serve, half_closed: bool) -> None:
        """The worker has waited for its view for long enough."""
        server = serve(env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": "3"})
        with Client(server.connect("http/1.1")) as client:
            end = ServersEnd(server)
            client.send(request("/sleep?s=60"))
            if half_closed:
                client.sock.shutdown(socket.SHUT_WR)
            advance(1)
            server.drain()
            advance(5)
            assert server.has_ended()
            assert not end.resets()
            end.close()

    def test_a_body_is_cut_in_time_when_the_worker_ends(self, serve: Serve) -> None:
        """Though it waits for something else."""
        server = serve(env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": "3"})
        with Client(server.connect("http/1.1")) as client:
            client.send(request("/endless?name=cut1&block=1"))
            client.read_head()
            server.drain()
            advance(10)
            assert server.has_ended()
            assert "Worker stops before its requests have ended" not in server.log()

    def test_when_the_client_has_left(self, either: MemoryServer) -> None:
        """There is nobody to take what would still be sent."""
        with Client(either.connect("http/1.1")) as client:
            end = ServersEnd(either)
            client.send(request("/sleep?s=5"))
            advance(1)
        assert not end.resets()
        advance(2 * SWEEP_INTERVAL)
        assert end.resets()
        assert "connections" not in either.worker.left()  # though its view still runs
        end.close()


class TestEviction:
    def test_the_end_is_sent(self, serve: Serve) -> None:
        """It does not wait for the last descriptor to be closed: a child process may have one."""
        server = serve(env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "5"})
        with Client(server.connect("http/1.1")) as client:
            end = ServersEnd(server)
            assert client.closed()
            assert not end.resets()
            end.close()

    def test_one_is_closed_when_idle_for_longer(self, server: MemoryServer) -> None:
        """And not by an earlier sweep."""
        keepalive = server.worker.rules.keepalive_timeout
        with Client(server.connect("http/1.1")) as client:
            connection = connection_of(server)
            assert client.get().body == b"hello"
            since = connection._idle_since
            assert since is not None
            client.sock.settimeout(0.0)
            connection.sweep(since + keepalive)
            with pytest.raises(BlockingIOError):
                client.sock.recv(1)
            connection.sweep(since + keepalive + 0.1)
            assert client.sock.recv(1) == b""

    @pytest.mark.parametrize(
        ("graceful", "grace"), [(4, DRAIN_MIN_RECV), (12, 1.5), (40, RECV_PROGRESS_TIMEOUT)]
    )
    def test_in_a_drain_by_the_time_that_it_leaves(
        self, serve: Serve, graceful: int, grace: float
    ) -> None:
        """An idle one is closed once it has waited as long as is left to read requests in."""
        server = serve(env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": str(graceful)})
        with Client(server.connect("http/1.1")) as client:
            assert client.get().body == b"hello"
            server.drain()
            began = now()
            assert client.closed()
            assert grace <= now() - began < grace + 0.3


class TestWebSocket:
    def test_the_connection_waits_for_its_view(self, either: MemoryServer) -> None:
        """Its client has closed its side alone, and may still read."""
        with Http1Socket(either, "/ws/deaf") as sock:
            stream = connection_of(either)._stream
            assert isinstance(stream, Http1Stream)
            sock.send_bytes(b"", end=True)
            turns = 0
            while not stream.greenlet_done:
                assert either.worker.left()["connections"] == 1
                advance(0.05)
                turns += 1
            assert turns > 10
            sock.until_closed()

    def test_a_flood_of_records_is_told(
        self,
        server: MemoryServer,
        caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        with Http1Socket(server, "/ws/ticks?name=flooded") as sock:
            assert sock.recv() == "tick"

            def flooded(_sock: Cleartext, _size: int) -> bytes:
                raise RecordFlood("TLS records without data")

            monkeypatch.setattr(Cleartext, "recv", flooded)
            sock.send("x")
            sock.send("y")
            advance(1)
        (line,) = (r for r in caplog.records if r.getMessage() == "Connection closed for abuse")
        assert line.levelno == logging.WARNING
        assert line.error == "TLS records without data"  # type: ignore[attr-defined]
        assert line.client[0] == "127.0.0.1"  # type: ignore[attr-defined]


class TestWaitingForASlot:
    LONG = tuple(f"X-{i}: {'y' * 4000}" for i in range(4))

    @pytest.fixture
    def small(self, serve: Serve) -> MemoryServer:
        """A server with one slot."""
        return serve(env={"PLAIN_SERVER_MAX_RUNNING_STREAMS": "1"})

    @staticmethod
    def held(server: MemoryServer) -> tuple[int, int]:
        """Bytes of header fields, and of bodies."""
        left = server.worker.left()
        return left.get("bytes of headers", 0), left.get("bytes of bodies", 0)

    def send(self, client: Client, server: MemoryServer) -> None:
        """A request that waits, with what it holds meanwhile."""
        fields = ("Content-Length: 1000", *self.LONG)
        client.send(request("/echo", *fields, method="POST") + bytes(1000))
        advance(0.1)
        size_of_headers, size_of_body = self.held(server)
        assert size_of_headers > 10_000
        assert size_of_body == 1000

    @pytest.mark.parametrize("half_closed", [False, True])
    def test_it_is_served_when_there_is_one(self, small: MemoryServer, half_closed: bool) -> None:
        """A client that only closes its side may still read."""
        with RawClient(small) as other, Client(small.connect("http/1.1")) as client:
            other.open(request_fields("/sleep?s=20"))
            other.expect_alive()
            self.send(client, small)
            if half_closed:
                client.sock.shutdown(socket.SHUT_WR)
            began = now()
            assert json.loads(client.read().body)["length"] == 1000
            assert now() - began == pytest.approx(20, abs=0.5)
            assert self.held(small) == (0, 0)
            assert not small.worker.limits.headers._held
            if not half_closed:
                assert client.get().body == b"hello"

    def test_one_whose_client_has_left_is_given_up(self, small: MemoryServer) -> None:
        with RawClient(small) as other:
            stream_id = other.open(request_fields("/sleep?s=20"))
            other.expect_alive()
            with Client(small.connect("http/1.1")) as client:
                self.send(client, small)
            advance(2 * SWEEP_INTERVAL)
            assert self.held(small) == (0, 0)
            assert small.worker.left()["connections"] == 1
            assert not small.worker.limits.slots._waiting
            assert other.finish(stream_id).body == b"slept"
            assert other.request("/").body == b"hello"

    def test_it_is_a_503_when_those_that_run_have_no_clients(self, small: MemoryServer) -> None:
        """These may take any time. What waits for them is given back, and so is the connection."""
        for _ in range(2):  # the second one keeps its slot
            with RawClient(small) as leaving:
                leaving.open(request_fields("/sleep?s=60"))
                leaving.expect_alive()
            advance(0.1)
        with Client(small.connect("http/1.1")) as client:
            self.send(client, small)
            began = now()
            answer = client.read()
            assert (answer.status, answer.all("retry-after")) == (503, ["1"])
            assert answer.all("connection") == ["close"]
            assert now() - began <= 2 * SWEEP_INTERVAL
            assert self.held(small) == (0, 0)
            assert client.closed()
        advance(1)
        assert "connections" not in small.worker.left()
        slots = small.worker.limits.slots
        assert (slots.running, slots.clientless) == (1, 2)


class TestBody:
    def test_how_long_it_took_is_known(self, server: MemoryServer) -> None:
        """Plain has it in the request's span."""
        with Client(server.connect("http/1.1")) as client:
            client.send(request("/sleep?s=5", "Content-Length: 4", method="POST") + b"bo")
            advance(3)
            client.send(b"dy")
            advance(1)
            stream = connection_of(server)._stream
            assert stream is not None
            assert stream._ingest_seconds == pytest.approx(3, abs=0.1)
            assert client.read().body == b"slept"

    def test_one_that_is_refused_has_its_time_in_the_access_log(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_MAX_INFLIGHT_BODY_SIZE": "1000"})
        with Client(server.connect("http/1.1")) as client:
            client.send(request("/echo", "Content-Length: 2000", method="POST") + bytes(500))
            advance(3)
            client.send(bytes(1500))
            answer = client.read()
            assert (answer.status, answer.all("retry-after")) == (503, ["1"])
            assert b"1000" in answer.body
            assert client.closed()
        (line,) = (line for line in server.log().splitlines() if " status=503 " in line)
        duration = int(line.partition("duration_ms=")[2].split()[0])
        assert 3000 <= duration < 3100
