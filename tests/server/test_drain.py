"""Going away without losing a request: SIGTERM, the client's GOAWAY, and recycling."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
from harness import WAIT, Server, wait_for
from hyperframe.frame import GoAwayFrame, PingFrame
from load_client import (
    MAX_STREAM_ID,
    NO_ERROR,
    REFUSED_STREAM,
    Answer,
    Http1Client,
    Http2Client,
    Load,
)

Serve = Callable[..., Server]

EXITING = "Server worker exiting"


@contextmanager
def open_gate(client: Http2Client, gate: Path) -> Iterator[int]:
    """A stream whose view runs, and ends after the block."""
    stream_id = client.open(f"/life/gate?gate={gate}&n=5")
    wait_for(gate.with_suffix(".reached").exists, "start of the view")
    yield stream_id
    gate.touch()


def end_well(server: Server, *clients: Http2Client) -> None:
    """The connections close cleanly after a GOAWAY, and the server exits with 0."""
    for client in clients:
        client.until_closed()
        assert client.end == "clean"
        assert client.goaways[-1].error_code == NO_ERROR
        client.close()
    assert server.wait() == 0


def refused_or_ignored(client: Http2Client, stream_id: int) -> bool:
    answer = client.answers[stream_id]
    assert not answer.headers
    return answer.reset == REFUSED_STREAM or client.goaways[-1].last_stream_id < stream_id


class TestSigterm:
    @pytest.mark.parametrize("acknowledged", [True, False], ids=["ack", "no-ack"])
    def test_two_goaways(self, serve: Serve, tmp_path: Path, acknowledged: bool) -> None:
        """The last stream is named only when the PING came back, or had its time to."""
        server = serve()
        with Http2Client(server, ack_pings=False) as client:
            with open_gate(client, tmp_path / "gate") as slow:
                server.signal(signal.SIGTERM)
                client.until(lambda: client.pings, "PING")
                (first,) = client.goaways
                assert first.last_stream_id == MAX_STREAM_ID
                assert first.error_code == NO_ERROR
                # On its way when the GOAWAY was sent, so it is served.
                crossing = client.open("/")
                assert client.answer(crossing).body == b"hello"
                if acknowledged:
                    client.ack_ping(client.pings[0])
                client.until(lambda: len(client.goaways) == 2, "second GOAWAY")
                assert client.goaways[1].last_stream_id == crossing
                assert client.goaways[1].error_code == NO_ERROR
                late = client.open("/")
                client.round_trip()
                assert refused_or_ignored(client, late)
                assert not client.end
            assert client.answer(slow).body == b"xxxxx"
            end_well(server, client)
            assert len(client.goaways) == 2
            kinds = [type(f) for f in client.frames if isinstance(f, GoAwayFrame | PingFrame)]
            assert kinds[:3] == [GoAwayFrame, PingFrame, GoAwayFrame]

    def test_responses_in_flight_end_with_their_last_byte(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        server = serve()
        gate = tmp_path / "gate"
        size = 300_000
        with Http2Client(server) as client, Http2Client(server, give_window=False) as reader:
            with open_gate(client, gate) as slow:
                streaming = client.open(f"/life/gate-in-body?gate={gate}")
                client.until(lambda: client.answers[streaming].body, "first chunk")
                chunks = client.open("/chunks?n=20&size=1000&wait=0.05")
                # The client takes nothing past its first window until the server drains.
                big = reader.open(f"/bytes?n={size}")
                reader.until(lambda: len(reader.answers[big].body) == 65535, "first window")
                server.signal(signal.SIGTERM)
                client.until(lambda: len(client.goaways) == 2, "both GOAWAYs")
                reader.until(lambda: len(reader.goaways) == 2, "both GOAWAYs")
            assert client.answer(slow).body == b"xxxxx"
            assert client.answer(streaming).body == b"firstlast"
            assert len(client.answer(chunks).body) == 20_000

            def has_got(size: int) -> bool:
                return len(reader.answers[big].body) == size

            while len(reader.answers[big].body) < size:
                got = len(reader.answers[big].body)
                step = min(20_000, size - got)
                reader.open_window(0, step)
                reader.open_window(big, step)
                reader.until(partial(has_got, got + step), "more")
            assert reader.answer(big).ended
            end_well(server, client, reader)

    def test_stream_that_never_ends_is_cut_in_time(self, serve: Serve, tmp_path: Path) -> None:
        server = serve(env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": "2"})
        with Http2Client(server) as client, Http1Client(server) as old:
            endless = client.open("/life/endless")
            client.until(lambda: client.answers[endless].body, "first chunk")
            old.send(f"/life/gate?gate={tmp_path}/gate")
            wait_for((tmp_path / "gate.reached").exists, "start of the view")
            worker = server.worker()
            started = time.monotonic()
            server.signal(signal.SIGTERM)
            client.until_closed()
            assert not client.answers[endless].ended
            assert server.wait() == 0
            # Within the timeout, or the arbiter had to kill the worker; and some seconds
            # for a slow machine.
            assert time.monotonic() - started < 2 + 3
            assert not worker.is_running()
            assert "SIGKILL" not in server.log()

    def test_idle_connections(self, serve: Serve) -> None:
        server = serve()
        with Http2Client(server) as used, Http2Client(server) as unused:
            assert used.get("/").body == b"hello"
            unused.round_trip()
            server.signal(signal.SIGTERM)
            end_well(server, used, unused)
            assert used.goaways[-1].last_stream_id == 1
            assert unused.goaways[-1].last_stream_id == 0

    def test_handshake_under_way_is_finished_and_its_request_answered(self, serve: Serve) -> None:
        """A connection that was accepted before the SIGTERM is no different from others."""
        server = serve()
        raw = socket.create_connection(("127.0.0.1", server.port), WAIT)
        worker = server.worker()
        wait_for(lambda: len(worker.net_connections("tcp")) > 1, "accept of the connection")
        server.signal(signal.SIGTERM)
        wait_for(lambda: not listens(server), "end of listening")
        sock = server.tls_context("h2").wrap_socket(raw, server_hostname="localhost")
        with Http2Client(server, sock=sock) as client:
            answer = client.get("/")
            assert answer.body == b"hello"
            end_well(server, client)

    def test_http1_in_flight_gets_connection_close(self, serve: Serve, tmp_path: Path) -> None:
        server = serve()
        gate = tmp_path / "gate"
        with Http1Client(server) as busy, Http1Client(server) as idle, Http1Client(server) as late:
            for client in (idle, late):
                assert client.get("/").headers.get("connection") != "close"
            busy.send(f"/life/gate?gate={gate}&n=5")
            wait_for(gate.with_suffix(".reached").exists, "start of the view")
            server.signal(signal.SIGTERM)
            wait_for(lambda: not listens(server), "start of the drain")
            # Within the grace for a request that was on its way.
            self.check_last(late, late.get("/"), b"hello")
            assert idle.receive() is None
            assert idle.end == "clean"
            gate.touch()
            answer = busy.receive()
            assert answer is not None
            self.check_last(busy, answer, b"xxxxx")
        assert server.wait() == 0

    @staticmethod
    def check_last(client: Http1Client, answer: Answer, body: bytes) -> None:
        """The response says that it is the connection's last, and so it is."""
        assert answer.status == 200
        assert answer.body == body
        assert answer.headers["connection"].lower() == "close"
        assert client.receive() is None
        assert client.end == "clean"

    def test_http1_streaming_body_in_flight(self, serve: Serve, tmp_path: Path) -> None:
        server = serve(plaintext=True)
        gate = tmp_path / "gate"
        with Http1Client(server) as client:
            client.send(f"/life/gate-in-body?gate={gate}")
            wait_for(gate.with_suffix(".reached").exists, "first chunk")
            server.signal(signal.SIGTERM)
            wait_for(lambda: not listens(server), "start of the drain")
            gate.touch()
            answer = client.receive()
            assert answer is not None
            assert answer.body == b"firstlast"
            assert client.receive() is None
        assert server.wait() == 0

    @pytest.mark.parametrize("plaintext", [False, True], ids=["tls", "plaintext"])
    def test_http1_uploads_are_given_up_in_time(self, serve: Serve, plaintext: bool) -> None:
        """A client that has not sent all after a quarter of the time hears of it, before a cut."""
        server = serve(plaintext=plaintext, env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": "8"})
        with ExitStack() as stack:
            uploads = []
            for framing, half in (
                ("Content-Length: 100", b"half"),
                ("Transfer-Encoding: chunked", b"4\r\nhalf\r\n"),
                ("Transfer-Encoding: chunked", b"ff\r\nhalf"),
                ("Content-Length: 100", b""),
            ):
                client = stack.enter_context(Http1Client(server))
                head = (
                    f"POST /echo HTTP/1.1\r\nHost: x\r\n{framing}\r\nExpect: 100-continue\r\n\r\n"
                )
                client.sock.sendall(head.encode())
                interim = client.sock.recv(100)
                assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
                client.sock.sendall(half)
                uploads.append(client)
            server.signal(signal.SIGTERM)
            for client in uploads:
                answer = client.receive()
                assert answer is not None
                assert (answer.status, answer.headers["connection"]) == (408, "close")
                assert client.receive() is None
                assert client.end == "clean"
        assert server.wait() == 0


def listens(server: Server) -> bool:
    """Whether any process of the server still listens."""
    return any(
        connection.status == "LISTEN"
        for process in server.workers()
        for connection in process.net_connections("tcp")
    )


class TestSlowReader:
    def test_its_response_is_sent_to_the_last_byte(self, serve: Serve) -> None:
        """Everything is framed at once; the kernel still holds it when the drain begins."""
        server = serve()
        size = 1_500_000
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        raw.connect(("127.0.0.1", server.port))
        sock = server.tls_context("h2").wrap_socket(raw, server_hostname="localhost")
        with Http2Client(server, sock=sock, give_window=False, initial_window=size) as client:
            client.open_window(0, size)
            stream_id = client.open(f"/bytes?n={size}")
            client.until(lambda: client.answers[stream_id].body, "first bytes")
            server.signal(signal.SIGTERM)
            until = time.monotonic() + 5  # longer than the server lingers without progress
            while time.monotonic() < until and not client.answers[stream_id].over:
                client.read()
                time.sleep(0.05)  # the slow reader
            assert len(client.answer(stream_id).body) == size
        assert server.wait() == 0


class TestClientsGoaway:
    def test_streams_that_the_client_waits_for_are_served(
        self, server: Server, tmp_path: Path
    ) -> None:
        gate = tmp_path / "gate"
        size = 300_000
        with Http2Client(server) as client, Http2Client(server, give_window=False) as reader:
            with open_gate(client, gate) as slow:
                streaming = client.open(f"/life/gate-in-body?gate={gate}")
                client.until(lambda: client.answers[streaming].body, "first chunk")
                big = reader.open(f"/bytes?n={size}")
                reader.until(lambda: len(reader.answers[big].body) == 65535, "first window")
                for going in (client, reader):
                    going.send(GoAwayFrame(last_stream_id=0, error_code=NO_ERROR))
                    going.round_trip()
            assert client.answer(slow).body == b"xxxxx"
            assert client.answer(streaming).body == b"firstlast"
            reader.open_window(0, size)
            reader.open_window(big, size)
            assert len(reader.answer(big).body) == size
            for going in (client, reader):
                going.until_closed()
                assert going.end == "clean"

    def test_stream_too_many_is_refused_alone(self, serve: Serve, tmp_path: Path) -> None:
        server = serve(env={"PLAIN_SERVER_H2_MAX_CONCURRENT_STREAMS": "2"})
        gate = tmp_path / "gate"
        with Http2Client(server) as client:
            streams = [client.open(f"/life/gate?gate={gate}&n=5") for _ in range(3)]
            refused = client.answer(streams[2])
            assert refused.reset == REFUSED_STREAM
            assert not refused.headers
            gate.touch()
            for stream_id in streams[:2]:
                assert client.answer(stream_id).body == b"xxxxx"
            assert client.get("/").body == b"hello"
            assert client.goaways == []


class TestRecycling:
    """`SERVER_MAX_REQUESTS`, with a load that never stops."""

    @staticmethod
    def retired(server: Server) -> int:
        """Workers that have ended, each of which retired."""
        return server.log().count(EXITING)

    def run(self, server: Server, load: Load, retirements: int) -> None:
        """Across the retirements, then a SIGTERM, not one request fails."""
        wait_for(
            lambda: load.failures or self.retired(server) >= retirements,
            f"{retirements} retirements",
            timeout=3 * WAIT,  # each starts a new worker
        )
        assert load.failures == [], load.summary()
        before = load.answered
        wait_for(lambda: load.failures or load.answered > before + 100, "answers")
        load.server_is_stopping = True
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        load.stop()
        assert load.failures == [], load.summary()
        log = server.log()
        assert log.count("Worker reached max requests") >= retirements
        assert len(load.bodies) > retirements, "pids of all the workers that answered"
        assert "Traceback" not in log
        assert "WORKER TIMEOUT" not in log
        print(load.summary())

    def test_load_of_both_protocols(self, serve: Serve) -> None:
        server = serve("--no-access-log", env={"TEST_MAX_REQUESTS": "300"})
        load = Load(server, "/life/pid")
        load.start_http2(connections=4, streams=8)
        load.start_http1(connections=4)
        self.run(server, load, 3)

    def test_load_of_views_that_wait_on_two_workers(self, serve: Serve) -> None:
        server = serve("--no-access-log", "--workers", "2", env={"TEST_MAX_REQUESTS": "300"})
        load = Load(server, "/life/pid?s=0.05")
        load.start_http2(connections=4, streams=8)
        load.start_http1(connections=4)
        self.run(server, load, 3)

    def test_httpx_does_not_notice(self, serve: Serve) -> None:
        server = serve("--no-access-log", env={"TEST_MAX_REQUESTS": "300"})
        pids: set[str] = set()
        deadline = time.monotonic() + 3 * WAIT
        with httpx.Client(
            http2=True, verify=server.tls_context(), base_url=server.url, timeout=WAIT
        ) as client:
            while self.retired(server) < 1 or len(pids) < 2:
                response = client.get("/life/pid")
                assert response.status_code == 200
                assert response.http_version == "HTTP/2"
                pids.add(response.text)
                assert time.monotonic() < deadline, f"only {self.retired(server)} retirements"
        assert "Worker reached max requests" in server.log()
