"""A response that is broken off ends so that its client can tell. HTTP/1.1 and HTTP/1.0 as sent."""

import json
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from closing import Closing
from harness import WAIT, Server, wait_for
from load_client import Http1Client, Http2Client

type Serve = Callable[..., Server]

#: What tells the end of a response, as the view's `kind` and the request's version.
FRAMINGS = {
    "close-delimited": ("", "1.0"),
    "chunked": ("", "1.1"),
    "length": ("length", "1.1"),
    "length, HTTP/1.0": ("length", "1.0"),
}

LAST_CHUNK = b"0\r\n\r\n"


class Client(Closing):
    """One request over HTTP/1.1 or 1.0, and what comes of it until the connection ends.

    Over TLS it sees an end without close_notify, which Python hides by default.
    """

    def __init__(self, server: Server, path: str, version: str, *fields: str) -> None:
        self.sock: socket.socket = server.connect_tcp()
        if server.tls:
            self.sock = server.tls_context("http/1.1").wrap_socket(
                self.sock, server_hostname="localhost", suppress_ragged_eofs=False
            )
        self.received = b""
        self.end = ""
        lines = (f"GET {path} HTTP/{version}", "Host: localhost", *fields, "\r\n")
        self.sock.sendall("\r\n".join(lines).encode())

    def close(self) -> None:
        self.sock.close()

    def close_side(self) -> None:
        """End what is sent, in TCP alone, and read on."""
        socket.socket.shutdown(self.sock, socket.SHUT_WR)

    def read_until(self, text: bytes) -> None:
        while text not in self.received and not self.end:
            self.read()
        assert text in self.received, f"{self.end} after {self.received!r}"

    def read_to_end(self) -> bytes:
        while not self.end:
            self.read()
        return self.received

    def read(self) -> None:
        try:
            piece = self.sock.recv(65536)
        except ssl.SSLEOFError:
            self.end = "no close_notify"
        except ConnectionResetError:
            self.end = "reset"
        else:
            self.received += piece
            self.end = "" if piece else "clean"

    @property
    def body(self) -> bytes:
        return self.received.partition(b"\r\n\r\n")[2]


def open_gate(server: Server, name: str) -> None:
    with Http1Client(server) as client:
        assert client.get(f"/bodies/gates?open={name}").status == 200


def gated(framing: str, name: str, *, fails: bool = False) -> tuple[str, str]:
    kind, version = FRAMINGS[framing]
    return f"/lengths/gated-body?kind={kind}&name={name}{'&fails=1' * fails}", version


def expect_cut(client: Client, framing: str) -> None:
    """The client can tell that its response has no end, and has what came before."""
    client.read_to_end()
    if framing == "close-delimited":
        assert client.end == "reset"
    else:
        assert client.end in ("reset", "no close_notify" if _is_tls(client) else "clean")
    assert b"before" in client.body
    assert b"after" not in client.body
    assert not client.body.endswith(LAST_CHUNK)


def _is_tls(client: Client) -> bool:
    return isinstance(client.sock, ssl.SSLSocket)


class TestBodyThatFails:
    @pytest.mark.parametrize("framing", FRAMINGS)
    def test_it_is_cut(self, either: Server, framing: str) -> None:
        name = f"fails-{framing}-{either.port}".replace(" ", "")
        with Client(either, *gated(framing, name, fails=True)) as client:
            client.read_until(b"before")
            open_gate(either, name)
            expect_cut(client, framing)

    @pytest.mark.parametrize("framing", FRAMINGS)
    def test_one_that_does_not_is_whole(self, either: Server, framing: str) -> None:
        name = f"whole-{framing}-{either.port}".replace(" ", "")
        with Client(either, *gated(framing, name), "Connection: close") as client:
            client.read_until(b"before")
            open_gate(either, name)
            client.read_to_end()
            assert client.end == "clean"
            assert b"after" in client.body
            assert client.body.endswith(LAST_CHUNK) == (framing == "chunked")


@pytest.mark.parametrize("plaintext", [False, True], ids=["tls", "plaintext"])
@pytest.mark.parametrize("end", ["drain", "quit", "kill"])
def test_end_of_the_worker(serve: Serve, end: str, plaintext: bool) -> None:
    """Over its time to drain, stopped at once, and killed: the kernel closes then."""
    server = serve(plaintext=plaintext, env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": "1"})
    worker = server.worker()
    with ExitStack() as stack:
        clients = {
            framing: stack.enter_context(Client(server, *gated(framing, f"gate-{i}")))
            for i, framing in enumerate(FRAMINGS)
        }
        if not plaintext:
            http2 = stack.enter_context(Http2Client(server))
            stream = http2.open("/lengths/gated-body?kind=&name=gate-h2")
            http2.until(lambda: http2.answers[stream].body, "first chunk")
        for client in clients.values():
            client.read_until(b"before")
        if end == "kill":
            worker.kill()
        else:
            server.signal({"drain": signal.SIGTERM, "quit": signal.SIGQUIT}[end])
        for framing, client in clients.items():
            expect_cut(client, framing)
        if not plaintext:
            http2.until_closed()
            assert not http2.answers[stream].ended


class TestHalfClosed:
    """A client that closes its side after its request (HTTP/1.0, `nc`), and reads on."""

    def test_it_is_served(self, either: Server) -> None:
        """Longer than it takes to find out that a client has left."""
        streamed, slept = "/lengths/pauses?wait=0.6", "/sleep?s=2.5"
        with ExitStack() as stack:

            def ask(path: str, version: str) -> Client:
                return stack.enter_context(Client(either, path, version))

            chunked, later = ask(streamed, "1.1"), ask(streamed, "1.1")
            old, whole = ask(streamed, "1.0"), ask(slept, "1.1")
            for client in (chunked, old, whole):
                client.close_side()
            later.read_until(b"x")
            later.close_side()
            for client in (chunked, later, old, whole):
                client.read_to_end()
                assert client.end == "clean"
            assert chunked.body == later.body == b"3E8\r\n%b\r\n" % (b"x" * 1000) * 6 + LAST_CHUNK
            assert old.body == b"x" * 6000
            assert whole.body == b"slept"

    @pytest.mark.parametrize("framing", FRAMINGS)
    def test_a_cut_is_a_reset(self, either: Server, framing: str) -> None:
        name = f"half-{framing}-{either.port}".replace(" ", "")
        with Client(either, *gated(framing, name, fails=True)) as client:
            client.read_until(b"before")
            client.close_side()
            open_gate(either, name)
            client.read_to_end()
            assert client.end == "reset"

    def test_the_end_of_the_drain_is_a_reset(self, serve: Serve) -> None:
        server = serve(plaintext=True, env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": "1"})
        with Client(server, *gated("chunked", "gate")) as client:
            client.read_until(b"before")
            client.close_side()
            server.signal(signal.SIGTERM)
            client.read_to_end()
            assert client.end == "reset"

    def test_who_has_closed_all_is_found_out_by_the_next_write(self, either: Server) -> None:
        name = f"closed-{either.port}"

        def ended() -> bool:
            with Http1Client(either) as other:
                return name in json.loads(other.get("/watched").body)["ended"]

        with Client(either, f"/endless?name={name}&wait=0.1", "1.0") as client:
            client.close_side()
            client.read_until(b"e" * 1000)
        wait_for(ended, "end of the body", WAIT)


class TestPromises:
    def test_the_connection_is_closed_after_a_body_that_is_too_short(self, either: Server) -> None:
        path = "/lengths/promise?kind=whole&promised=10&sent=5"
        with Client(either, path, "1.1") as client:
            client.read_to_end()
            assert client.end == ("no close_notify" if either.tls else "clean")
            assert client.body == b"xxxxx"
