"""Clients that are slow on purpose: each is given up in time, and delays nobody else."""

import json
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from attacks import rapid_reset
from h2.errors import ErrorCodes
from h2client import Client
from harness import WAIT, Server, wait_for
from hpack import Encoder
from hyperframe.frame import DataFrame, RstStreamFrame
from load_client import Http1Client
from raw import (
    PREFACE,
    WINDOW,
    RawClient,
    continuation,
    data,
    headers,
    request_fields,
    rst_stream,
    settings,
    window_update,
)

from plain_gevent_h2.limits.unsent import MAX_UNSENT

Serve = Callable[..., Server]


#: Bytes that a stalled stream may cost the worker: what of its body waits to be sent, its
#: greenlet and its view.
STALLED_STREAM = 256 * 1024


def client_hello() -> bytes:
    """What a client sends first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


class Dripping:
    """A connection that sends a byte now and then, until it is closed."""

    def __init__(self, sock: socket.socket, drip: Iterator[bytes]) -> None:
        self._sock = sock
        self._drip = drip
        self._sock.setblocking(False)

    def is_closed(self) -> bool:
        """Send the next bytes, read what has come; True once the server has closed."""
        try:
            if piece := next(self._drip, b""):
                self._sock.sendall(piece)
            while self._sock.recv(65536):
                pass
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            pass
        self._sock.close()
        return True


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    for i in range(len(data)):
        yield data[i : i + 1]


def half_a_frame() -> bytes:
    return PREFACE + settings() + headers(1, b"\x82" * 50)[:20]


def endless_header_block() -> Iterator[bytes]:
    client_block = b"\x82"
    yield PREFACE + settings() + headers(1, client_block, end_headers=False)
    while True:
        yield b""  # most turns nothing: the budget of CONTINUATION is another test's
        for _ in range(40):
            yield b""
        yield continuation(1, b"\x84", end_headers=False)


#: Each with what it sends. All are opened at once.
SLOW: dict[str, Callable[[Server], Dripping]] = {
    "no handshake": lambda s: Dripping(s.connect_tcp(), iter(())),
    "handshake, a byte at a time": lambda s: Dripping(
        s.connect_tcp(), byte_by_byte(client_hello())
    ),
    "handshake that never ends": lambda s: Dripping(s.connect_tcp(), iter([client_hello()])),
    "no preface": lambda s: Dripping(s.connect("h2"), iter(())),
    "preface, a byte at a time": lambda s: Dripping(s.connect("h2"), byte_by_byte(PREFACE * 9)),
    "preface without SETTINGS": lambda s: Dripping(s.connect("h2"), iter([PREFACE])),
    "half a frame": lambda s: Dripping(s.connect("h2"), iter([half_a_frame()])),
    "header block that never ends": lambda s: Dripping(s.connect("h2"), endless_header_block()),
    "slowloris": lambda s: Dripping(
        s.connect("http/1.1"), byte_by_byte(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 9999)
    ),
    "line breaks": lambda s: Dripping(s.connect("http/1.1"), byte_by_byte(b"\r\n" * 9999)),
    "half a request": lambda s: Dripping(s.connect("http/1.1"), iter([b"GET / HT"])),
}


def test_slow_connections_are_closed(serve: Serve) -> None:
    """Twenty of each kind at once, while others are served."""
    server = serve(env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "5"})
    worker = server.worker()
    with Client(server) as client:
        assert client.get("/").body == b"hello"
        files = worker.num_fds()
    opened = {f"{name} {i}": kind(server) for name, kind in SLOW.items() for i in range(20)}

    def left() -> dict[str, Dripping]:
        for name in list(opened):
            if opened[name].is_closed():
                del opened[name]
        return opened

    def all_closed() -> bool:
        with Client(server) as client:
            assert client.get("/").body == b"hello"
        return not left()

    try:
        wait_for(all_closed, "end of all connections", 60)
    except AssertionError as exc:
        exc.add_note(f"still open: {sorted(opened)}")
        raise
    wait_for(lambda: worker.num_fds() <= files, "end of the connections")
    assert "Unexpected" not in server.log()


def test_a_preface_has_a_timeout_of_its_own(serve: Serve) -> None:
    """Not that of a keep-alive, which may be much longer."""
    server = serve(env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "600"})
    opened = {
        name: kind(server) for name, kind in SLOW.items() if "preface" in name or "hand" in name
    }

    def all_closed() -> bool:
        for name in list(opened):
            if opened[name].is_closed():
                del opened[name]
        return not opened

    wait_for(all_closed, "end of all connections", 60)


class TestWindows:
    """CVE-2019-9511, -9517: responses that their client asks for and does not take.

    More of them, to the second, are in `protocol/test_timeouts.py`.
    """

    @pytest.fixture
    def impatient(self, serve: Serve) -> Server:
        return serve(env={"PLAIN_SERVER_SEND_TIMEOUT": "2"})

    @pytest.fixture(params=["tls", "plaintext"])
    def hogged(self, serve: Serve, request: pytest.FixtureRequest) -> Server:
        """A server with one place."""
        env = {"PLAIN_SERVER_MAX_RUNNING_STREAMS": "1"}
        return serve(env=env, plaintext=request.param == "plaintext")

    @pytest.mark.parametrize("window", [0, 1])
    def test_100_streams_that_nobody_reads(self, impatient: Server, window: int) -> None:
        worker = impatient.worker()
        with Client(impatient) as other, RawClient(impatient, {WINDOW: window}) as client:
            assert other.get("/").body == b"hello"
            memory = worker.memory_info().rss
            paths = ["/bytes?n=100000", "/chunks?n=1000&size=1000"]
            streams = [client.open(request_fields(paths[i % 2])) for i in range(100)]
            for _ in range(50):
                assert other.get("/").body == b"hello"
            assert worker.memory_info().rss < memory + 100 * STALLED_STREAM
            for stream in streams:
                response = client.finish(stream)
                assert response.reset == ErrorCodes.CANCEL
                assert len(response.body) == window
            client.expect_alive()

    @pytest.mark.parametrize("size", [1, 16_000, 70_000])
    def test_10000_whole_responses_that_nobody_reads(self, serve: Serve, size: int) -> None:
        server = serve()
        worker = server.worker()
        block = Encoder().encode(request_fields(f"/bytes?n={size}"))
        with ExitStack() as stack, Client(server) as other:
            for _ in range(200):
                assert other.get("/").body == b"hello"
            memory = worker.memory_info().rss
            for _ in range(100):
                client = stack.enter_context(RawClient(server, {WINDOW: 1}))
                client.send(*(headers(stream, block) for stream in range(1, 201, 2)))
                client.expect(DataFrame)
                assert other.get("/").body == b"hello"
            # Who takes what it asks for is not held up.
            assert len(other.get("/bytes?n=1000000").body) == 1_000_000
            assert worker.memory_info().rss < memory + 64 * 1024 * 1024
            wait_for(lambda: server.log().count('path="/bytes"') > 100, "log of responses made")

    @pytest.mark.parametrize("connections", [1, 100])
    def test_large_responses_that_nobody_takes(self, serve: Serve, connections: int) -> None:
        server = serve()
        worker = server.worker()
        block = Encoder().encode(request_fields("/bytes?n=1000000"))
        with ExitStack() as stack, Client(server) as other, RawClient(server) as slow:
            for _ in range(200):
                assert other.get("/").body == b"hello"
            memory = worker.memory_info().rss
            slowly = slow.open(request_fields("/bytes?n=100000"))
            first = slow.expect(DataFrame, slowly).data
            for _ in range(connections):
                client = stack.enter_context(RawClient(server, {WINDOW: 1}))
                client.send(*(headers(stream, block) for stream in range(1, 201, 2)))
                assert other.get("/").body == b"hello"
            server.wait_log("responses that are not taken")
            # Who leaves less than the others is not closed for them.
            slow.send(window_update(0, 100_000), window_update(slowly, 100_000))
            assert len(first + slow.finish(slowly).body) == 100_000
            assert len(other.get("/bytes?n=1000000").body) == 1_000_000
            assert worker.memory_info().rss < memory + 64 * 1024 * 1024

    def test_a_whole_response_waits_for_its_window(self, shared: Serve) -> None:
        """Its view has returned, and what is linked to its greenlet has run."""
        server = shared(env={})
        with RawClient(server, {WINDOW: 0}) as client, Client(server) as other:
            stream = client.open(request_fields("/bytes?n=300000"))
            server.wait_log('path="/bytes"')
            assert other.get("/bytes?n=300000").body == b"x" * 300_000
            client.send(window_update(0, 2**20), window_update(stream, 2**20))
            assert client.finish(stream).body == b"x" * 300_000

    def test_5000_streams_that_nobody_reads(self, serve: Serve) -> None:
        server = serve()
        worker = server.worker()
        with ExitStack() as stack, Client(server) as other:
            assert other.get("/").body == b"hello"
            memory = worker.memory_info().rss
            for _ in range(50):
                client = stack.enter_context(RawClient(server, {WINDOW: 1}))
                path = request_fields("/chunks?n=1000&size=10000")
                streams = [client.open(path) for _ in range(100)]
                for stream in streams:
                    client.expect(DataFrame, stream)
            # What of all bodies may wait, and for each stream a chunk, its greenlet and its view.
            assert worker.memory_info().rss < memory + MAX_UNSENT + 5000 * 40 * 1024
            assert other.get("/").body == b"hello"
        # Once they are gone, what they took comes back, but for 16 KiB each.
        wait_for(
            lambda: worker.memory_info().rss < memory + 5000 * 16 * 1024, "memory of before", 90
        )

    def test_a_client_that_does_not_read_its_connection(self, impatient: Server) -> None:
        with RawClient(impatient, {WINDOW: 2**31 - 1}) as client, Client(impatient) as other:
            client.send(window_update(0, 2**30))
            for _ in range(10):
                client.open(request_fields("/endless?name=unread&wait=0&size=100000"))
            wait_for(
                lambda: other.get("/watched").body.count(b"unread") >= 20,
                "end of the responses",
            )

    def test_a_slow_reader_of_http1_is_not_cut(self, serve: Serve) -> None:
        """It takes longer than the time limit for all of its response, but goes on reading."""
        server = serve(env={"PLAIN_SERVER_SEND_TIMEOUT": "4"}, plaintext=True)
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        raw.connect(("127.0.0.1", server.port))
        with raw:
            raw.sendall(b"GET /bytes?n=20000000 HTTP/1.1\r\nHost: x\r\n\r\n")
            received = 0
            while received < 20_000_000:
                piece = raw.recv(200_000)
                assert piece, f"cut after {received} bytes"
                received += len(piece)
                time.sleep(len(piece) / 2_500_000)  # the slow client: 8 s for all

    def test_who_reads_slowly_keeps_its_streams_when_places_are_short(self, serve: Serve) -> None:
        """Each of 60 waits for its turn longer than who does not read may wait at all."""
        server = serve(env={"PLAIN_SERVER_MAX_RUNNING_STREAMS": "60"})
        with RawClient(server, {WINDOW: 2**24}) as client:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
            client.send(window_update(0, 2**25))
            for _ in range(80):
                # All together stay below what unread_responses.py grants who takes nothing: this
                # client may not be scheduled for seconds.
                client.open(request_fields("/bytes?n=300000"))
            received = 0
            while received < 7_000_000:
                piece = client.expect(DataFrame).data
                received += len(piece)
                time.sleep(len(piece) / 700_000)  # the slow client
            assert not client.received(RstStreamFrame)

    def test_who_does_not_read_http1_gives_way_when_places_are_short(self, hogged: Server) -> None:
        with hog(hogged, "/endless?name=hog&wait=0&size=100000") as sock:
            with hogged.connect("http/1.1") as other:
                get(other, "/")  # waits for the place
                assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert ends_in_reset(sock)

    def test_a_websocket_that_is_not_read_gives_way_when_places_are_short(
        self, hogged: Server
    ) -> None:
        upgrade = (
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        )
        with hog(hogged, "/ws/flood?name=hog", *upgrade) as sock:
            with hogged.connect("http/1.1") as other:
                get(other, "/")
                assert other.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert ends_in_reset(sock)

    def test_who_reads_http1_slowly_keeps_its_place_when_they_are_short(
        self, hogged: Server
    ) -> None:
        size = 6_000_000
        with hog(hogged, f"/bytes?n={size}") as sock, hogged.connect("http/1.1") as other:
            get(other, "/")
            received = 0
            while received < size:
                piece = sock.recv(16384)
                assert piece, f"cut after {received} bytes"
                received += len(piece)
                time.sleep(len(piece) / 1_000_000)  # the slow client: 6 s for all
            assert other.recv(65536).startswith(b"HTTP/1.1 200 ")

    def test_a_response_that_is_not_read_in_time_ends_in_a_reset(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_SEND_TIMEOUT": "2"}, plaintext=True)
        with hog(server, "/endless?name=late&wait=0&size=100000") as sock:
            with Http1Client(server) as other:
                wait_for(
                    lambda: "late" in json.loads(other.get("/watched").body)["ended"],
                    "end of the response",
                )
            assert ends_in_reset(sock)


def get(sock: socket.socket, path: str, *fields: str) -> None:
    """Send an HTTP/1.1 request."""
    sock.sendall("\r\n".join((f"GET {path} HTTP/1.1", "Host: localhost", *fields, "\r\n")).encode())


@contextmanager
def hog(server: Server, path: str, *fields: str) -> Iterator[socket.socket]:
    """An HTTP/1.1 connection of little room whose response has begun, and is not read."""
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        raw.settimeout(WAIT)
        raw.connect(("127.0.0.1", server.port))
        context = server.tls_context("http/1.1") if server.tls else None
        sock = context.wrap_socket(raw, server_hostname="localhost") if context else raw
        with sock:
            get(sock, path, *fields)
            assert sock.recv(9) == b"HTTP/1.1 "
            yield sock


def ends_in_reset(sock: socket.socket) -> bool:
    """Whether a connection that is read at last breaks off."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


class TestQueue:
    """Requests over HTTP/1.1 that wait for a place."""

    def test_who_resets_the_connection_leaves_and_who_half_closes_it_stays(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        server = serve(env={"PLAIN_SERVER_MAX_RUNNING_STREAMS": "1"}, plaintext=True)
        worker, gate = server.worker(), tmp_path / "gate"
        with ExitStack() as stack:
            running = stack.enter_context(server.connect())
            get(running, f"/life/gate?gate={gate}")
            wait_for(gate.with_suffix(".reached").exists, "start of the view")
            # Counted by descriptors: a socket that was reset is no connection for psutil.
            files = worker.num_fds() + 1
            waiting = stack.enter_context(server.connect())
            get(waiting, "/")
            waiting.shutdown(socket.SHUT_WR)
            wait_for(lambda: worker.num_fds() == files, "the worker's connection")
            for _ in range(5):
                leaving = server.connect()
                get(leaving, "/")
                wait_for(lambda: worker.num_fds() > files, "the worker's connection")
                linger = struct.pack("ii", 1, 0)
                leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                leaving.close()
                wait_for(lambda: worker.num_fds() <= files, "end of the connection")
            gate.touch()
            assert waiting.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert running.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_many_slow_uploads_delay_nobody(shared: Serve) -> None:
    """Each below the rate floor, each a 408, on 10 connections of 100."""
    server = shared(env={})
    with ExitStack() as stack, Client(server) as other:
        clients = [stack.enter_context(RawClient(server)) for _ in range(10)]
        for client in clients:
            for _ in range(100):
                client.open(request_fields("/echo", "POST"), end_stream=False)
        for _ in range(50):
            assert other.get("/").body == b"hello"
        for client in clients:
            for stream in range(1, 200, 2):
                assert client.finish(stream).status == 408


def test_a_client_that_resets_and_leaves(serve: Serve) -> None:
    """100 connections that each start 100 views and are gone: all greenlets end."""
    server = serve()
    worker = server.worker()
    with Client(server) as other:
        assert other.get("/").body == b"hello"
        files = worker.num_fds()
        attack = rapid_reset("/sleep?s=0.2")
        first = b"".join(next(attack) for _ in range(100))
        for _ in range(100):
            with RawClient(server) as client:
                client.send_bytes(first)
            assert other.get("/").body == b"hello"
        wait_for(lambda: worker.num_fds() <= files, "end of the connections")


def test_a_stream_that_never_ends_its_whole_body_is_a_408(shared: Serve) -> None:
    """Nothing is missing but END_STREAM: no rate floor would see it."""
    with RawClient(shared(env={})) as client:
        empty = client.open(
            request_fields("/echo", "POST", ("content-length", "0")), end_stream=False
        )
        whole = client.open(
            request_fields("/echo", "POST", ("content-length", "4")), end_stream=False
        )
        client.send(data(whole, b"body", end=False))
        for stream in (empty, whole):
            assert client.finish(stream, 60).status == 408


def test_places_that_become_free_among_many_resets(shared: Serve) -> None:
    """1,200 streams wait for the one place of the worker; half of them are reset meanwhile."""
    server = shared(env={"PLAIN_SERVER_MAX_RUNNING_STREAMS": "1"})
    with ExitStack() as stack:
        first = stack.enter_context(Client(server))
        running = first.send("/sleep?s=2")
        clients = [stack.enter_context(RawClient(server)) for _ in range(6)]
        for client in clients:
            for _ in range(2):
                streams = [client.open(request_fields("/")) for _ in range(100)]
                client.expect_alive()
                if client.next_stream_id < 300:
                    client.send(*(rst_stream(stream) for stream in streams))
        assert first.finish(running)[0].body == b"slept"
        for client in clients:
            for stream in range(201, 400, 2):
                assert client.finish(stream).body == b"hello"
        assert first.get("/").body == b"hello"


def test_requests_reset_at_an_empty_connection_window_are_forgotten(serve: Serve) -> None:
    server = serve()
    worker = server.worker()
    with RawClient(server) as client, Client(server) as other:
        # All of the connection's window is for this one.
        assert other.get("/").body == b"hello"
        client.open(request_fields("/bytes?n=65535"))
        client.expect_data(1, 65535)
        for _ in range(20):
            client.expect_alive()
        memory = worker.memory_info().rss
        for _ in range(30):
            streams = [client.open(request_fields("/bytes?n=1000")) for _ in range(30)]
            client.expect_alive()
            client.send(*(rst_stream(stream) for stream in streams))
        client.expect_alive()
        assert worker.memory_info().rss < memory + 4 * 1024 * 1024
