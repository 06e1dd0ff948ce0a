"""The clients of a soak: honest ones, and ones that die in every possible place.

`Mortal` is no client of HTTP/2: it sends bytes that were made before, through a TLS whose bytes on
the wire it counts.
"""

import random
import socket
import ssl
import struct
import time
from collections.abc import Callable

import raw
import ws
from h2client import Client
from harness import WAIT, Server
from hpack import Encoder
from load_client import Http1Client
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.uri import parse_uri

#: Bodies past it are on disk.
SPOOL = 100_000


# -- honest clients -----------------------------------------------------------------------------


def small(server: Server, _rng: random.Random) -> None:
    with Client(server) as client:
        for _ in range(20):
            assert client.get("/").body == b"hello"


def slow(server: Server, _rng: random.Random) -> None:
    with Client(server) as client:
        streams = [client.send("/sleep?s=0.1") for _ in range(30)]
        assert {bytes(answer.body) for answer in client.finish(*streams)} == {b"slept"}


def download(server: Server, rng: random.Random) -> None:
    path = rng.choice(["/bytes?n={}", "/file?n={}", "/chunks?n=1&size={}"])
    with Client(server) as client:
        answers = client.finish(*[client.send(path.format(200_000)) for _ in range(3)])
        assert [len(answer.body) for answer in answers] == [200_000] * 3


def cancel(server: Server, _rng: random.Random) -> None:
    with Client(server) as client:
        for _ in range(10):
            stream_id = client.send("/sleep?s=0.05")
            client.h2.reset_stream(stream_id)
        assert client.get("/").body == b"hello"


def upload(server: Server, rng: random.Random) -> None:
    with raw.RawClient(server) as client:
        size = rng.choice([100, SPOOL + 1, 5 * SPOOL])
        stream_id = client.open(raw.request_fields("/echo", "POST"), end_stream=False)
        for start in range(0, size, 16384):
            client.send(raw.data(stream_id, bytes(min(16384, size - start)), end=False))
        client.send(raw.data(stream_id, b"", end=True))
        assert f'"length": {size}'.encode() in client.expect_response(stream_id).body


def http1(server: Server, _rng: random.Random) -> None:
    with Http1Client(server) as client:
        for path, size in (("/", 5), ("/bytes?n=100000", 100_000), ("/chunks?n=3", 15)):
            assert len(client.get(path).body) == size


def events(server: Server, rng: random.Random) -> None:
    """Server-sent events, until the client has enough of them."""
    path = rng.choice(["/ws/clock?every=0.02", "/ws/blocking-clock?every=0.02"])
    with Client(server) as client:
        answer = client.answers[client.send(path)]
        client.until(lambda: answer.body.count(b"data:") > 5, "events")


def websocket(server: Server, rng: random.Random) -> None:
    with raw.RawClient(server) as client, ws.Http2Socket(client, "/ws/echo") as sock:
        sock.send("hello")
        assert sock.recv() == "hello"
        if rng.random() < 0.5:  # else it just leaves
            sock.close()
            assert sock.until_closed() == 1000


def websocket_http1(server: Server, _rng: random.Random) -> None:
    """On one thread. (`ws.http1()` reads and writes one SSLSocket on two, which loses bytes once
    in thousands of connections, on Python 3.13 and 3.14.)
    """
    protocol = ClientProtocol(parse_uri("wss://localhost/ws/echo"))
    protocol.send_request(protocol.connect())
    messages: list[bytes] = []
    with server.connect("http/1.1") as sock:
        while not messages:
            sock.sendall(b"".join(protocol.data_to_send()))
            data = sock.recv(65536)
            assert data, "closed"
            protocol.receive_data(data)
            for event in protocol.events_received():
                if isinstance(event, Frame):
                    messages.append(bytes(event.data))
                else:  # the response to the handshake
                    protocol.send_text(b"hello")
    assert messages == [b"hello"]


# -- clients that die -----------------------------------------------------------------------------


def _h2(path: str, method: str = "GET", *extra: raw.Field, body: bytes = b"") -> bytes:
    """A request from the connection's first byte, in small frames: it may be cut anywhere."""
    block = Encoder().encode([*raw.request_fields(path, method), *extra])
    sent = raw.PREFACE + raw.settings({4: 2**30}) + raw.window_update(0, 2**30)
    sent += raw.headers(1, block, end_stream=not body and method == "GET", cuts=[len(block) // 2])
    return sent + b"".join(
        raw.data(1, body[start : start + 8000], end=start + 8000 >= len(body))
        for start in range(0, len(body), 8000)
    )


def _h1(path: str, method: str = "GET", extra: str = "", body: bytes = b"") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode() + body


_CHUNK = b"3e8\r\n" + bytes(1000) + b"\r\n"
_WEBSOCKET = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
_MESSAGE = b"\x82\xfe\x03\xe8" + bytes(4) + bytes(1000)

#: What a client was about to say in its life, by ALPN name.
LIVES: dict[str, list[bytes]] = {
    "h2": [
        _h2("/"),
        _h2("/sleep?s=0.2"),
        _h2("/echo", "POST", body=bytes(3 * SPOOL)),
        _h2("/bytes?n=10000000"),
        _h2("/file?n=1000000"),
        _h2("/chunks?n=20&size=30000&wait=0.01"),
        _h2("/ws/clock?every=0.01"),
        _h2("/ws/blocking-clock?every=0.01"),
        _h2(
            "/ws/echo",
            "CONNECT",
            (":protocol", "websocket"),
            ("sec-websocket-version", "13"),
            body=_MESSAGE * 20,
        ),
    ],
    "http/1.1": [
        _h1("/"),
        _h1("/sleep?s=0.2"),
        _h1("/echo", "POST", f"Content-Length: {3 * SPOOL}\r\n", bytes(3 * SPOOL)),
        _h1("/echo", "POST", "Transfer-Encoding: chunked\r\n", _CHUNK * 200 + b"0\r\n\r\n"),
        _h1("/bytes?n=10000000"),
        _h1("/file?n=1000000"),
        _h1("/chunks?n=20&size=30000&wait=0.01"),
        _h1("/ws/clock?every=0.01"),
        _h1("/ws/blocking-clock?every=0.01"),
        _h1("/ws/echo", extra=_WEBSOCKET) + _MESSAGE,
        _h1("/ws/ticks", extra=_WEBSOCKET),
    ],
}

#: Seconds that a dying client listens.
LAST_WORDS = 0.5

DEATHS = ("close", "reset", "half-close", "silence")


class Mortal:
    """A client that dies when so many bytes are on the wire, of TLS, sent or received."""

    def __init__(self, server: Server, protocol: str, to_send: float, to_receive: float) -> None:
        self._sock = socket.create_connection(("127.0.0.1", server.port), WAIT)
        self._to_send, self._to_receive = to_send, to_receive
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = server.tls_context(protocol).wrap_bio(
            self._incoming, self._outgoing, server_hostname="localhost"
        )

    def live(self, words: bytes) -> None:
        """Say this, then listen for a while."""
        try:
            while not self._shook_hands():
                self._receive()
            self._tls.write(words)
            self._flush()
            self._listen()
        except (EOFError, OSError):  # its time has come; or the server closed
            pass

    def _shook_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._flush()
        return True

    def _flush(self) -> None:
        data = self._outgoing.read()
        self._sock.sendall(data[: int(min(self._to_send, len(data)))])
        self._to_send -= len(data)
        if self._to_send <= 0:
            raise EOFError

    def _receive(self) -> None:
        data = self._sock.recv(65536)
        self._incoming.write(data)
        self._to_receive -= len(data)
        if not data or self._to_receive <= 0:
            raise EOFError

    def _listen(self) -> None:
        self._sock.settimeout(LAST_WORDS)
        end = time.monotonic() + LAST_WORDS
        while time.monotonic() < end:
            self._receive()

    def die(self, how: str) -> None:
        try:
            if how == "reset":
                no_linger = struct.pack("ii", 1, 0)
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, no_linger)
            elif how == "half-close":
                self._sock.shutdown(socket.SHUT_WR)
                self._listen()
            elif how == "silence":
                time.sleep(LAST_WORDS)
        except (EOFError, OSError):
            pass
        finally:
            self._sock.close()


def dies(server: Server, rng: random.Random) -> str:
    """Live and die; returns how."""
    protocol = rng.choice(list(LIVES))
    words = rng.choice(LIVES[protocol])
    # A client's part of the handshake is about 600 bytes; what follows is a few hundred, or more.
    length = rng.choice([700, 1200, len(words) + 800])
    to_send = rng.choice([rng.uniform(0, length), rng.uniform(0, length), float("inf")])
    to_receive = rng.choice([2000, 5000, 200_000, float("inf")])
    mortal = Mortal(server, protocol, to_send, to_receive)
    mortal.live(words)
    how = rng.choice(DEATHS)
    mortal.die(how)
    return f"{protocol} {how}"


HONEST: list[Callable[[Server, random.Random], None]] = [
    *(small, slow, download, cancel, upload, http1, events, websocket, websocket_http1)
]
