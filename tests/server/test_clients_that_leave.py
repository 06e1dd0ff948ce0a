"""Clients that leave: async views are cancelled, blocking ones run on and keep nobody out."""

import signal
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import Server, wait_for
from raw import RawClient, request_fields, rst_stream

Serve = Callable[..., Server]


def count(server: Server, line: str) -> int:
    """How many views have said `line`."""
    return server.log().count(f"{line}.")


def wait_count(server: Server, line: str, number: int) -> None:
    wait_for(lambda: count(server, line) >= number, f"{number} times {line!r} in the log")


def open_streams(client: RawClient, number: int, path: str) -> list[int]:
    return [client.open(request_fields(path)) for _ in range(number)]


def reset(client: RawClient, streams: Iterable[int]) -> None:
    client.send(*map(rst_stream, streams))


def leave_views(server: Server, client: RawClient, number: int, path: str, started: int) -> None:
    """Start so many views, `started` of them with those before, and reset their streams."""
    streams = open_streams(client, number, path)
    name = path.partition("name=")[2].partition("&")[0]
    wait_count(server, f"{name} started", started)
    reset(client, streams)
    client.expect_alive()


def refuses(server: Server) -> bool:
    """Whether it takes no new connections."""
    try:
        server.connect_tcp().close()
    except ConnectionRefusedError:
        return True
    return False


def get(path: str, version: str = "1.1") -> bytes:
    return f"GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode()


def is_served(server: Server) -> bool:
    """Whether a connection of its own is, and is not turned away."""
    with server.connect() as sock:
        sock.sendall(get("/"))
        return sock.recv(65536).startswith(b"HTTP/1.1 200 ")


def reset_connection(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class TestAsyncViews:
    def test_100_that_are_reset(self, server: Server) -> None:
        with RawClient(server) as client:
            leave_views(server, client, 100, "/left/async?name=hundred", 100)
            assert client.request("/").body == b"hello"
            wait_count(server, "hundred cleaned up", 100)
        wait_for(lambda: server.log().count("status=499") == 100, "lines of the access log")

    def test_those_that_have_not_started(self, server: Server) -> None:
        """Most are reset before their turn comes, some while their coroutine is on its way."""
        with RawClient(server) as client:
            for _ in range(3):
                reset(client, open_streams(client, 100, "/left/async?name=early"))
            assert client.request("/").body == b"hello"
        wait_for(
            lambda: count(server, "early started") == count(server, "early cleaned up"),
            "end of the views",
        )

    def test_they_keep_no_place_of_the_worker(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_MAX_RUNNING_STREAMS": "50"})
        with RawClient(server) as client, RawClient(server) as other:
            leave_views(server, client, 50, "/left/async?name=async", 50)
            assert other.request("/").body == b"hello"
            assert client.request("/").body == b"hello"

    def test_a_connection_that_ends(self, server: Server) -> None:
        with RawClient(server) as client:
            open_streams(client, 10, "/left/async?name=ends")
            wait_count(server, "ends started", 10)
        wait_count(server, "ends cleaned up", 10)

    def test_one_that_goes_on_is_let_finish(self, server: Server) -> None:
        with RawClient(server) as client:
            leave_views(server, client, 1, "/left/stubborn?name=stubborn", 1)
            assert client.request("/").body == b"hello"
        wait_count(server, "stubborn went on", 1)
        assert "Traceback" not in server.log()

    def test_a_drain_does_not_wait_for_them(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": "300"})
        with RawClient(server) as client:
            leave_views(server, client, 50, "/left/async?name=async", 50)
            server.signal(signal.SIGTERM)
            assert server.wait() == 0
        assert count(server, "async cleaned up") == 50


class TestHttp1:
    """A client that closes is told from one that only closes its sending side."""

    @pytest.mark.parametrize("view", ["async", "silent"])
    def test_a_reset(self, either: Server, view: str) -> None:
        sock = either.connect("http/1.1")
        sock.sendall(get(f"/left/{view}?name=resets-{view}"))
        wait_count(either, f"resets-{view} started", 1)
        reset_connection(sock)
        wait_count(either, f"resets-{view} cleaned up", 1)

    def test_a_close_shows_when_the_client_is_asked(self, plaintext: Server) -> None:
        with plaintext.connect() as sock:
            sock.sendall(get("/left/async?name=closes"))
            wait_count(plaintext, "closes started", 1)
        wait_count(plaintext, "closes cleaned up", 1)

    def test_a_close_shows_when_its_system_has_forgotten_the_connection(
        self, plaintext: Server
    ) -> None:
        """HTTP/1.0 has nothing to ask with. Here it is forgotten after a second."""
        with plaintext.connect() as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, 1)
            sock.sendall(get("/left/async?name=forgotten", "1.0"))
            wait_count(plaintext, "forgotten started", 1)
        wait_count(plaintext, "forgotten cleaned up", 1)

    def test_who_has_only_closed_its_sending_side_is_served(
        self, plaintext: Server, tmp_path: Path
    ) -> None:
        gate = tmp_path / "gate"
        with plaintext.connect() as old, plaintext.connect() as sock:
            for client, version in ((old, "1.0"), (sock, "1.1")):
                client.sendall(get(f"/left/async?name=stays&gate={gate}", version))
                client.shutdown(socket.SHUT_WR)
            assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
            gate.touch()
            for client in (old, sock):
                with client.makefile("rb") as file:
                    answer = file.read()
                assert answer[8:].startswith(b" 200 ")
                assert answer.endswith(b"waited")

    def test_their_blocking_views_take_up_no_connection(self, serve: Serve, tmp_path: Path) -> None:
        server = serve(plaintext=True, env={"PLAIN_SERVER_CONNECTIONS": "5"})
        gate = tmp_path / "gate"
        leaving = [server.connect() for _ in range(5)]
        for sock in leaving:
            sock.sendall(get(f"/left/blocking?name=left&gate={gate}"))
        wait_count(server, "left started", 5)
        for sock in leaving:
            reset_connection(sock)
        wait_for(lambda: is_served(server), "room for a connection")
        assert count(server, "left finished") == 0
        gate.touch()
        wait_count(server, "left finished", 5)


class TestBlockingViews:
    def test_a_connection_may_leave_as_many_as_it_may_have(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        """Past these it gets an answer, and others do not notice."""
        server = serve(env={"PLAIN_SERVER_H2_MAX_CONCURRENT_STREAMS": "20"})
        gate = tmp_path / "gate"
        path = f"/left/blocking?name=left&gate={gate}"
        with RawClient(server) as client, RawClient(server) as other:
            leave_views(server, client, 20, path, 20)
            assert client.request("/").body == b"hello"
            leave_views(server, client, 20, path, 40)
            refused = client.request("/")
            assert refused.status == 503
            assert dict(refused.headers)["retry-after"] == "1"
            assert other.request("/").body == b"hello"
            gate.touch()
            wait_count(server, "left finished", 40)
            wait_for(lambda: client.request("/").status == 200, "places")
        assert "Traceback" not in server.log()

    def test_a_worker_may_have_as_many_as_it_has_places(self, serve: Serve, tmp_path: Path) -> None:
        server = serve(
            "--no-access-log",
            env={
                "PLAIN_SERVER_MAX_RUNNING_STREAMS": "10",
                "PLAIN_SERVER_H2_MAX_CONCURRENT_STREAMS": "5",
            },
        )
        gate = tmp_path / "gate"
        left = f"/left/blocking?name=left&gate={gate}"
        with ExitStack() as stack, RawClient(server) as other:
            for started in (5, 10, 15):  # the last five keep their places
                client = stack.enter_context(RawClient(server))
                leave_views(server, client, 5, left, started)
                assert other.request("/").body == b"hello"
            waiting = stack.enter_context(RawClient(server))
            stays = open_streams(waiting, 5, f"/left/blocking?name=stays&gate={gate}")
            wait_count(server, "stays started", 5)
            refused = other.request("/")
            assert refused.status == 503
            assert dict(refused.headers)["retry-after"] == "1"
            with server.connect("http/1.1") as old:
                old.sendall(get("/"))
                answer = old.recv(65536)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nRetry-After: 1\r\n" in answer
            gate.touch()
            for stream in stays:
                assert waiting.finish(stream).body == b"waited"
            wait_count(server, "left finished", 15)
            assert other.request("/").body == b"hello"
        assert server.log().count("Too many requests run on without their clients") == 1

    def test_a_drain_lets_them_finish(self, serve: Serve, tmp_path: Path) -> None:
        server = serve()
        gate = tmp_path / "gate"
        with RawClient(server) as client:
            leave_views(server, client, 5, f"/left/blocking?name=left&gate={gate}", 5)
        server.signal(signal.SIGTERM)
        wait_for(lambda: refuses(server), "start of the drain")
        gate.touch()
        assert server.wait() == 0
        assert count(server, "left finished") == 5

    def test_a_drain_ends_them_in_time(self, serve: Serve, tmp_path: Path) -> None:
        server = serve(env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": "2"})
        with RawClient(server) as client:
            leave_views(server, client, 5, f"/left/blocking?name=left&gate={tmp_path}/none", 5)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert count(server, "left finished") == 0


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_what_the_end_of_the_worker_cuts_is_cleaned_up_and_in_the_log(
    serve: Serve, protocol: str
) -> None:
    """Clients that stay longer than the graceful time."""
    server = serve(env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": "4"})
    paths = ["/left/async?name=view", "/left/silent?name=stream"]
    with ExitStack() as stack:
        if protocol == "h2":
            client = stack.enter_context(RawClient(server))
            for path in paths:
                client.open(request_fields(path))
        else:
            for path in paths:
                stack.enter_context(server.connect("http/1.1")).sendall(get(path))
        wait_count(server, "view started", 1)
        wait_count(server, "stream started", 1)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert count(server, "view cleaned up") == count(server, "stream cleaned up") == 1
    assert server.log().count("Request method=GET") == 2
    assert "before its requests have ended" not in server.log()


def test_the_log_tells_how_many_blocking_views_the_end_of_the_worker_cuts(
    serve: Serve, tmp_path: Path
) -> None:
    server = serve(env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": "2"})
    with RawClient(server) as client:
        open_streams(client, 3, f"/left/blocking?name=view&gate={tmp_path}/gate")
        wait_count(server, "view started", 3)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    assert "Worker stops before its requests have ended count=3" in server.log()
