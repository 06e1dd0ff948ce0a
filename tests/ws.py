"""WebSocket clients: the `websockets` library over HTTP/1.1, and its protocol over HTTP/2."""

import socket
import ssl
import struct
import time
from abc import ABC, abstractmethod
from typing import Any, Self

from harness import WAIT, Server
from hyperframe.frame import (
    DataFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from raw import Field, RawClient, data, rst_stream, window_update
from serving import Serving
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Event
from websockets.sync.client import ClientConnection, connect
from websockets.uri import parse_uri


def http1(server: Server, path: str, **options: Any) -> ClientConnection:
    """A socket of the `websockets` library."""
    uri = server.url.replace("http", "ws", 1).replace("127.0.0.1", "localhost") + path
    tls = server.tls_context("http/1.1") if server.tls else None
    if tls is not None:
        # It reads in one thread and writes in another. With the tickets of TLS 1.3 to be read as
        # it writes, 1 of some 300 requests was never sent, to Plain's own server as well.
        tls.maximum_version = ssl.TLSVersion.TLSv1_2
    options = {"max_size": None, "open_timeout": WAIT, "proxy": None, **options}
    # A test may hold it without a `with` block, which is what `legacy` allows.
    connection: ClientConnection = connect(uri, ssl=tls, legacy=True, **options)
    return connection


def connect_fields(path: str, *extra: Field) -> list[Field]:
    """RFC 8441 section 4: an extended CONNECT."""
    return [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", path),
        ("sec-websocket-version", "13"),
        *extra,
    ]


def upgrade_request(path: str, *extra: str) -> bytes:
    """RFC 6455 section 4.1: the request that opens a WebSocket over HTTP/1.1."""
    lines = (
        f"GET {path} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        *extra,
    )
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()


def frame_bytes(
    first: int, payload: bytes, *, masked: bool = True, size: int | None = None
) -> bytes:
    """A frame with this first byte (RFC 6455 section 5.2), masked with zeros.

    `size` is what it says of its length, if not the truth.
    """
    length = len(payload) if size is None else size
    if length < 126:
        head = struct.pack("!BB", first, 0x80 * masked | length)
    elif length < 65536:
        head = struct.pack("!BBH", first, 0x80 * masked | 126, length)
    else:
        head = struct.pack("!BBQ", first, 0x80 * masked | 127, length)
    return head + (bytes(4) if masked else b"") + payload


class Socket(ABC):
    """A WebSocket, with the framing of the `websockets` library."""

    status: int
    headers: dict[str, str]
    reset: int | None = None  # the code of the stream's reset
    ended = False  # the server sends nothing more

    def __init__(self) -> None:
        #: The control frames of the server.
        self.control: list[Frame] = []
        #: Whether pings and closes of the server are answered.
        self.answers = True
        self._protocol = ClientProtocol(parse_uri("wss://localhost/"), state=OPEN, max_size=None)
        self._events: list[Event] = []
        self._parts: list[bytes] = []

    @abstractmethod
    def send_bytes(self, raw: bytes, *, end: bool = False) -> None:
        """Send `raw` as it is, and with `end` the end of what the client sends."""

    @abstractmethod
    def _receive(self, timeout: float) -> bytes:
        """What the server sends next. Sets `reset` or `ended` at its end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    @abstractmethod
    def leave(self) -> None:
        """End it without a close."""

    def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self._protocol.send_text(message.encode())
        else:
            self._protocol.send_binary(message)
        self._flush()

    def send_frame(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        """Send a frame of any kind, in any order."""
        self.send_bytes(frame_bytes(0x80 * fin | opcode, payload))

    def close(self, code: int = 1000) -> None:
        self._protocol.send_close(code)
        self._flush()

    def _flush(self) -> None:
        for piece in self._protocol.data_to_send():
            if piece:
                self.send_bytes(piece)

    def recv(self, timeout: float = WAIT) -> str | bytes:
        """The next message. Raises `EOFError` at the end of the WebSocket."""
        deadline = time.monotonic() + timeout
        while True:
            self._events += self._protocol.events_received()  # a read may have several
            while self._events:
                event = self._events.pop(0)
                if (message := self._message(event)) is not None:
                    return message
            if self.ended or self.reset is not None:
                self._protocol.receive_eof()
                raise EOFError(self.close_code)
            if received := self._receive(deadline - time.monotonic()):
                self._protocol.receive_data(received)
                if self.answers:
                    self._flush()

    def _message(self, event: Event) -> str | bytes | None:
        assert isinstance(event, Frame)
        if event.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self.control.append(event)
            return None
        if event.opcode is not Opcode.CONT:
            self._text = event.opcode is Opcode.TEXT
        self._parts.append(bytes(event.data))
        if not event.fin:
            return None
        whole = b"".join(self._parts)
        self._parts.clear()
        return whole.decode() if self._text else whole

    @property
    def close_code(self) -> int | None:
        return self._protocol.close_code

    def until_closed(self, timeout: float = WAIT) -> int | None:
        """Read to the end; the code of the server's close. `timeout` is for each message."""
        try:
            while True:
                self.recv(timeout)
        except EOFError:
            return self.close_code


class Http1Socket(Socket):
    """One on a connection of its own. `extra` are lines of its handshake."""

    def __init__(self, server: Serving, path: str, *extra: str) -> None:
        super().__init__()
        self.sock = server.connect("http/1.1")
        self.sock.sendall(upgrade_request(path, *extra))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = self.sock.recv(1)
            assert byte, head
            head += byte
        status_line, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status_line.split()[1])
        fields = (line.partition(": ") for line in lines)
        self.headers = {name.lower(): value for name, _, value in fields}

    def leave(self) -> None:
        self.sock.close()

    def send_bytes(self, raw: bytes, *, end: bool = False) -> None:
        self.sock.settimeout(WAIT)
        self.sock.sendall(raw)
        if end:
            self.sock.shutdown(socket.SHUT_WR)

    def _receive(self, timeout: float) -> bytes:
        self.sock.settimeout(timeout)
        received = self.sock.recv(65536)
        self.ended = not received
        return received


class Http2Socket(Socket):
    """One on a stream of `client`. With `reads=False`, no window is given back."""

    def __init__(self, client: RawClient, path: str, *extra: Field, reads: bool = True) -> None:
        super().__init__()
        self.client = client
        self.reads = reads
        self.stream_id = client.open(connect_fields(path, *extra), end_stream=False)
        frame = client.take(
            lambda f: f.stream_id == self.stream_id and isinstance(f, HeadersFrame | RstStreamFrame)
        )
        assert isinstance(frame, HeadersFrame), frame
        self.headers = dict(client.fields(frame))
        self.status = int(self.headers[":status"])
        self.ended = "END_STREAM" in frame.flags
        self._window = client.server_settings[SettingsFrame.INITIAL_WINDOW_SIZE]

    def leave(self) -> None:
        if self.reset is None and not self.ended:
            self.client.send(rst_stream(self.stream_id))

    def send_bytes(self, raw: bytes, *, end: bool = False) -> None:
        for start in range(0, len(raw), 16384):
            self._send(raw[start : start + 16384])
        if end:
            self.client.send(data(self.stream_id, b"", end=True))

    def _send(self, piece: bytes) -> None:
        while self._window < len(piece):
            update = self.client.expect(WindowUpdateFrame, self.stream_id)
            self._window += update.window_increment
        self._window -= len(piece)
        self.client.send(data(self.stream_id, piece, end=False))

    def _receive(self, timeout: float) -> bytes:
        frame = self.client.take(
            lambda f: f.stream_id == self.stream_id and isinstance(f, DataFrame | RstStreamFrame),
            timeout=timeout,
        )
        if isinstance(frame, RstStreamFrame):
            self.reset = frame.error_code
            return b""
        assert isinstance(frame, DataFrame)
        if frame.data and self.reads:
            size = frame.flow_controlled_length
            self.client.send(window_update(0, size), window_update(self.stream_id, size))
        self.ended = "END_STREAM" in frame.flags
        return frame.data
