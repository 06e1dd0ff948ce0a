"""A lean HTTP/2 client, for what h2load cannot measure.

It stands apart from the tests' clients (tests/h2client.py, tests/raw.py) because it has no `h2` and
no object for a frame: at full speed a client's own work would be much of what is measured, so
DATA frames are only counted. It trusts the server to follow the protocol. It stands apart from
the locust user (plain_gevent_h2/load), whose frames it packs and parses, because it blocks on one
socket, or on a selector's word: no greenlet's turn is in its times.
"""

import contextlib
import functools
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import hpack

from plain_gevent_h2.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_SIZE,
    PREFACE,
    FrameType,
    pack_frame,
    parse_frame_header,
)

INITIAL_WINDOW_SIZE = 4

#: The windows that we open, in bytes. The stream's is what a browser may have on a fast line;
#: all that the server has sent within it lies before the next small response in the sockets.
STREAM_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 2**31 - 1
#: The connection's window before anybody has said anything (RFC 9113 section 6.9.2).
DEFAULT_WINDOW = 65535


class BadAnswer(Exception):
    """Not the response that was asked for."""


@dataclass(slots=True)
class Frame:
    """A frame of a response.

    `size` is the bytes of the body in it, `body` these bytes if the connection keeps them,
    `failure` why there will be no response.
    """

    stream: int
    size: int = 0
    body: bytes = b""
    ended: bool = False
    failure: str | None = None


@functools.cache
def tls_context() -> ssl.SSLContext:
    """The certificate is our own: it is not checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def connect(port: int, timeout: float) -> ssl.SSLSocket:
    """A TLS connection that has agreed on HTTP/2."""
    raw = socket.create_connection(("127.0.0.1", port), timeout)
    try:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = tls_context().wrap_socket(raw, server_hostname="localhost")
    except BaseException:
        raw.close()
        raise
    if sock.selected_alpn_protocol() != "h2":
        sock.close()
        raise BadAnswer("the server does not speak HTTP/2")
    return sock


class Connection:
    """One HTTP/2 connection. Nothing waits longer than `timeout` seconds for the server."""

    def __init__(self, port: int, timeout: float = 10.0, *, keeps_bodies: bool = False) -> None:
        self._sock = connect(port, timeout)
        self._keeps_bodies = keeps_bodies
        self._decoder = hpack.Decoder()
        self._encoder = hpack.Encoder()
        self._buffer = bytearray()
        self._next_stream = 1
        self._unacknowledged: dict[int, int] = {}  # stream -> bytes not given back; 0: connection
        settings = struct.pack("!HL", INITIAL_WINDOW_SIZE, STREAM_WINDOW)
        window = struct.pack("!L", CONNECTION_WINDOW - DEFAULT_WINDOW)
        self._sock.sendall(
            PREFACE
            + pack_frame(FrameType.SETTINGS, 0, 0, settings)
            + pack_frame(FrameType.WINDOW_UPDATE, 0, 0, window)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def settimeout(self, seconds: float) -> None:
        self._sock.settimeout(seconds)

    def close(self) -> None:
        self._sock.close()

    def fileno(self) -> int:
        return self._sock.fileno()

    def has_more(self) -> bool:
        """Whether bytes were decrypted already that a selector would not tell of."""
        return self._sock.pending() > 0

    def request(self, path: str) -> int:
        """Send a GET request and return its stream."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", path),
        ]
        block = self._encoder.encode(fields)
        self._sock.sendall(pack_frame(FrameType.HEADERS, END_STREAM | END_HEADERS, stream, block))
        return stream

    def get(self, path: str) -> int:
        """Ask for `path` and wait for the response: the bytes of its body."""
        return sum(part.size for part in self._response(path))

    def answers(self) -> bool:
        """Whether a small request has its response."""
        try:
            self.get("/hello")
        except (OSError, BadAnswer):
            return False
        return True

    def read(self, path: str) -> bytes:
        """The body itself. The connection must be one that keeps them."""
        return b"".join(part.body for part in self._response(path))

    def _response(self, path: str) -> Iterator[Frame]:
        stream = self.request(path)
        while True:
            for part in self.receive():
                if part.stream != stream:
                    continue
                if part.failure:
                    raise BadAnswer(part.failure)
                yield part
                if part.ended:
                    return

    def receive(self) -> Iterator[Frame]:
        """What comes next, answering what needs an answer. Raises `BadAnswer`."""
        data = self._sock.recv(256 * 1024)
        if not data:
            raise BadAnswer("the server closed the connection")
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= FRAME_HEADER_SIZE:
                kind, flags, stream, size = parse_frame_header(buffer, at)
                start = at + FRAME_HEADER_SIZE
                end = start + size
                if len(buffer) < end:
                    break
                at = end
                if kind == FrameType.DATA:
                    ended = bool(flags & END_STREAM)
                    self._give_back(stream, size, ended=ended)
                    body = bytes(buffer[start:end]) if self._keeps_bodies else b""
                    yield Frame(stream, size, body, ended)
                else:
                    yield from self._other(kind, flags, stream, bytes(buffer[start:end]))
        finally:
            # Also for a caller that has seen enough.
            del buffer[:at]

    def _other(self, kind: int, flags: int, stream: int, payload: bytes) -> Iterator[Frame]:
        if kind == FrameType.HEADERS:
            if flags & ~END_STREAM != END_HEADERS:
                raise BadAnswer(f"HEADERS with flags {flags:#x}, which this client cannot read")
            status = int(dict(self._decoder.decode(payload, raw=True))[b":status"])
            failure = f"status {status}" if status != 200 else None
            yield Frame(stream, ended=bool(flags & END_STREAM), failure=failure)
        elif kind == FrameType.RST_STREAM:
            yield Frame(
                stream, ended=True, failure=f"RST_STREAM with error {int.from_bytes(payload)}"
            )
        elif kind == FrameType.GOAWAY:
            raise BadAnswer(f"GOAWAY with error {int.from_bytes(payload[4:8])}")
        elif kind == FrameType.SETTINGS and not flags & ACK:
            self._sock.sendall(pack_frame(kind, ACK, 0))
        elif kind == FrameType.PING and not flags & ACK:
            self._sock.sendall(pack_frame(kind, ACK, 0, payload))

    def _give_back(self, stream: int, size: int, *, ended: bool) -> None:
        """Open the windows again by half at a time, the stream's only while it lasts."""
        updates = b""
        for owner, window in ((0, CONNECTION_WINDOW), (stream, STREAM_WINDOW)):
            owed = self._unacknowledged.get(owner, 0) + size
            if owner and ended:
                self._unacknowledged.pop(owner, None)
                continue
            if owed >= window // 2:
                updates += pack_frame(FrameType.WINDOW_UPDATE, 0, owner, struct.pack("!L", owed))
                owed = 0
            self._unacknowledged[owner] = owed
        if updates:
            self._sock.sendall(updates)


def open_connections(count: int, port: int, stack: contextlib.ExitStack) -> list[Connection]:
    """Connections that answered a request: `count`, or those before the first that did not."""
    connections: list[Connection] = []
    for _ in range(count):
        try:
            connection = stack.enter_context(Connection(port, keeps_bodies=True))
        except (OSError, BadAnswer):
            break
        if not connection.answers():
            break
        connections.append(connection)
    return connections


def is_serving(port: int) -> bool:
    """Whether a new connection's request is answered, within two seconds."""
    try:
        with Connection(port, timeout=2.0) as connection:
            return connection.answers()
    except (OSError, BadAnswer):
        return False
