"""WebSockets over HTTP/1.1 and HTTP/2, over TLS to a worker with threads and memory of its own.

Over HTTP/1.1 the client is the `websockets` library. `protocol/test_websocket.py` has the rules.
"""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from h2client import Client
from harness import Server, wait_for
from raw import RawClient
from websockets.exceptions import ConnectionClosed, InvalidStatus
from ws import Http2Socket, connect_fields, http1

protocols = pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
Serve = Callable[..., Server]


@contextmanager
def socket(server: Server, protocol: str, path: str) -> Iterator[Any]:
    """A socket with `send`, `recv` and `close`, over either protocol."""
    if protocol == "h2":
        with RawClient(server) as client, Http2Socket(client, path) as sock:
            assert sock.status == 200
            yield sock
    else:
        with http1(server, path) as sock:
            yield sock


def close_code(sock: Any) -> int:
    if isinstance(sock, Http2Socket):
        code = sock.until_closed()
        assert code is not None
        return code
    with suppress(ConnectionClosed):
        while True:
            sock.recv()
    assert sock.close_code is not None
    return int(sock.close_code)


def events(server: Server, name: str) -> list[str]:
    with Client(server) as client:
        found: list[str] = json.loads(client.get(f"/ws/events?name={name}").body)["events"]
    return found


@protocols
class TestMessages:
    def test_text_and_binary_of_every_size(self, server: Server, protocol: str) -> None:
        with socket(server, protocol, "/ws/echo") as sock:
            for size in (0, 1, 125, 126, 65535, 65536, 3_000_000):
                sock.send("x" * size)
                assert sock.recv() == "x" * size
                sock.send(b"\xff" * size)
                assert sock.recv() == b"\xff" * size

    def test_the_client_closes(self, server: Server, protocol: str) -> None:
        name = f"bye-{protocol[0:2]}"
        with socket(server, protocol, f"/ws/echo?name={name}") as sock:
            sock.send("one")
            assert sock.recv() == "one"
            sock.close(4321)
            if protocol == "h2":
                assert sock.until_closed() == 4321
                sock.client.expect_alive()
        wait_for(lambda: "closed 4321" in events(server, name), "end of the view")

    def test_a_client_that_vanishes(self, server: Server, protocol: str) -> None:
        name = f"vanish-{protocol[0:2]}"
        if protocol == "h2":
            with RawClient(server) as client, Http2Socket(client, f"/ws/echo?name={name}"):
                pass  # the connection is closed under it
        else:
            sock = http1(server, f"/ws/echo?name={name}")
            sock.socket.close()
        wait_for(lambda: "closed 1006" in events(server, name), "end of the view")

    def test_a_view_that_works_on_is_cancelled(self, server: Server, protocol: str) -> None:
        name = f"ticks-{protocol[0:2]}"
        with socket(server, protocol, f"/ws/ticks?name={name}") as sock:
            assert [sock.recv() for _ in range(3)] == ["tick"] * 3
        wait_for(lambda: "cleaned up" in events(server, name), "end of the view")

    def test_what_the_client_does_not_read_blocks_the_view(
        self, server: Server, protocol: str
    ) -> None:
        name = f"flood-{protocol[0:2]}"
        with ExitStack() as stack:
            if protocol == "h2":
                client = stack.enter_context(RawClient(server))
                stack.enter_context(Http2Socket(client, f"/ws/flood?name={name}", reads=False))
            else:
                stack.enter_context(http1(server, f"/ws/flood?name={name}", max_queue=1))
            counts = [-1]

            def settled() -> bool:
                counts.append(len(events(server, name)))
                return counts[-1] > 0 and counts[-5:] == [counts[-1]] * 5

            wait_for(settled, "a view that waits")
            # 64 KiB each: kernel buffers of some megabytes hold a part of it over HTTP/1.1.
            assert counts[-1] < (20 if protocol == "h2" else 300)
        wait_for(lambda: "ended" in events(server, name), "end of the view")

    def test_what_the_view_does_not_read_blocks_the_client(
        self, serve: Serve, protocol: str
    ) -> None:
        """Memory stays bounded, and nothing is lost."""
        server = serve()
        worker = server.worker()
        with socket(server, protocol, "/ws/deaf") as sock, Client(server) as other:
            assert other.get("/").body == b"hello"
            memory = worker.memory_info().rss
            raw = sock.client if protocol == "h2" else None
            if raw is not None:
                for _ in range(15):  # just under the window of 1 MiB
                    sock.send(b"x" * 65536)
                raw.expect_alive()
            else:
                for _ in range(15):
                    sock.send(b"x" * 65536)
            assert other.get("/").body == b"hello"
            assert worker.memory_info().rss < memory + 8 * 1024 * 1024
            wait_for(lambda: other.get("/ws/open-gate").status == 200, "the gate")
            sock.send(b"last")
            assert sock.recv() == str(15 * 65536 + 4)

    def test_refused_by_the_view(self, server: Server, protocol: str) -> None:
        if protocol == "h2":
            with RawClient(server) as client:
                stream = client.open(connect_fields("/ws/refused"), end_stream=False)
                assert client.finish(stream).status == 403
                client.expect_alive()
        else:
            with pytest.raises(InvalidStatus) as refused:
                http1(server, "/ws/refused")
            assert refused.value.response.status_code == 403

    def test_a_drain_closes_with_1001(self, serve: Serve, protocol: str) -> None:
        server = serve()
        with socket(server, protocol, "/ws/echo?name=drain") as sock:
            sock.send("one")
            assert sock.recv() == "one"
            server.signal(signal.SIGTERM)
            assert close_code(sock) == 1001
            if protocol == "h2":
                sock.client.expect_close()
        assert server.wait() == 0


class TestHttp1:
    def test_without_tls(self, shared: Serve) -> None:
        with http1(shared(env={}, plaintext=True), "/ws/echo") as sock:
            sock.send("plain")
            assert sock.recv() == "plain"

    def test_ping_of_the_client_is_answered(self, server: Server) -> None:
        with http1(server, "/ws/echo") as sock:
            assert sock.ping().wait(10)

    def test_the_server_closes_the_connection_behind_it(self, serve: Serve) -> None:
        server = serve()
        worker = server.worker()
        with Client(server) as client:
            assert client.get("/").status == 200
            files = worker.num_fds()
            for _ in range(20):
                with http1(server, "/ws/echo") as sock:
                    sock.send("close")
                    assert close_code(sock) == 4000
            assert client.get("/").status == 200
            # The asyncio loop of the first one keeps some files of its own.
            wait_for(lambda: worker.num_fds() <= files + 6, "end of the connections")
