"""Where a server listens, and what its clients agree on with it."""

import json
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from h2client import Client as Http2Client
from harness import WAIT, Server, free_port
from http1client import Client


def test_without_alpn_a_tls_client_gets_http_1(server: Server) -> None:
    with Client(server.connect()) as client:
        assert client.get().body == b"hello"


def connect_tls(server: Server, raw: socket.socket, *alpn: str) -> socket.socket:
    raw.settimeout(WAIT)
    return server.tls_context(*alpn).wrap_socket(raw, server_hostname="localhost")


def connect_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(WAIT)
    sock.connect(str(path))
    return sock


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A path short enough for a unix socket (108 bytes).

    Tests name it before `serve`, since the folder must outlive the server.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "s"


class _Socket:
    """Stands for a `Server` where `Http2Client` asks it for a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def connect(self, *alpn: str) -> socket.socket:
        return self._sock


def http2_get(sock: socket.socket, path: str) -> bytes:
    with Http2Client(_Socket(sock)) as client:  # type: ignore[arg-type]
        return bytes(client.get(path).body)


class TestBinds:
    def test_ipv6(self, serve: Callable[..., Server]) -> None:
        port = free_port(socket.AF_INET6)
        server = serve(bind=f"[::1]:{port}")

        def connect(*alpn: str) -> socket.socket:
            return connect_tls(server, socket.create_connection(("::1", port), WAIT), *alpn)

        with Client(connect("http/1.1")) as client:
            first = json.loads(client.get("/meta").body)
        second = json.loads(http2_get(connect("h2"), "/meta"))
        for meta in (first, second):
            assert meta["client_ip"] == meta["server_name"] == "::1"
            assert meta["server_port"] == str(port)

    @pytest.mark.parametrize("worker", ["gevent-h2", None], ids=["ours", "plain"])
    def test_unix_socket(
        self, socket_path: Path, serve: Callable[..., Server], worker: str | None
    ) -> None:
        serve(plaintext=True, bind=f"unix:{socket_path}", worker=worker)
        with Client(connect_unix(socket_path)) as client:
            meta = json.loads(client.get("/meta").body)
            assert (meta["client_ip"], meta["host"]) == ("", "localhost")
            assert (meta["server_name"], meta["server_port"]) == ("localhost", "80")
            client.send(b"GE / HTTP/1.1\r\n\r\n")
            assert client.read().status == 400

    def test_unix_socket_with_tls(self, socket_path: Path, serve: Callable[..., Server]) -> None:
        server = serve(bind=f"unix:{socket_path}")
        with Client(connect_tls(server, connect_unix(socket_path), "http/1.1")) as client:
            assert client.get().body == b"hello"
        meta = json.loads(http2_get(connect_tls(server, connect_unix(socket_path), "h2"), "/meta"))
        assert (meta["client_ip"], meta["host"]) == ("", "localhost")
        assert (meta["server_name"], meta["server_port"]) == ("localhost", "443")

    def test_several(self, socket_path: Path, serve: Callable[..., Server]) -> None:
        port, port6 = free_port(), free_port(socket.AF_INET6)
        binds = (f"127.0.0.1:{port}", f"[::1]:{port6}", f"unix:{socket_path}")
        server = serve(*(word for bind in binds for word in ("--bind", bind)), plaintext=True)
        sockets = [
            server.connect(),
            socket.create_connection(("127.0.0.1", port), WAIT),
            socket.create_connection(("::1", port6), WAIT),
            connect_unix(socket_path),
        ]
        for sock in sockets:
            with Client(sock) as client:
                assert client.get().body == b"hello"
