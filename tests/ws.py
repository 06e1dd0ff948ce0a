"""WebSocket clients: the `websockets` library over HTTP/1.1, and its protocol over HTTP/2."""

import ssl
import time
from types import TracebackType
from typing import Any, Self

from harness import WAIT, Server
from hyperframe.frame import (
    DataFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from raw import Field, RawClient, data, headers, rst_stream, window_update
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
    connection: ClientConnection = connect(uri, ssl=tls, **options)
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


class Http2Socket:
    """A WebSocket on one stream of `client`, with the framing of the `websockets` library."""

    def __init__(self, client: RawClient, path: str, *extra: Field, reads: bool = True) -> None:
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
        self.reset: int | None = None
        self._window = client.server_settings[SettingsFrame.INITIAL_WINDOW_SIZE]
        self._protocol = ClientProtocol(parse_uri("wss://localhost/"), state=OPEN, max_size=None)
        self._events: list[Event] = []
        self._parts: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self.reset is None and not self.ended:
            self.client.send(rst_stream(self.stream_id))

    def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self._protocol.send_text(message.encode())
        else:
            self._protocol.send_binary(message)
        self.flush()

    def flush(self, *, end: bool = False) -> None:
        for piece in self._protocol.data_to_send():
            for start in range(0, len(piece), 16384):
                self._send(piece[start : start + 16384])
        if end:
            self.client.send(data(self.stream_id, b"", end=True))

    def _send(self, piece: bytes) -> None:
        while self._window < len(piece):
            update = self.client.expect(WindowUpdateFrame, self.stream_id)
            self._window += update.window_increment
        self._window -= len(piece)
        self.client.send(data(self.stream_id, piece, end=False))

    def close(self, code: int = 1000) -> None:
        self._protocol.send_close(code)
        self.flush()

    def recv(self, timeout: float = WAIT) -> str | bytes:
        """The next message. Raises `EOFError` at the end of the WebSocket."""
        deadline = time.monotonic() + timeout
        while True:
            self._events += self._protocol.events_received()  # a DATA frame may have several
            while self._events:
                event = self._events.pop(0)
                if (message := self._message(event)) is not None:
                    return message
            if self.ended or self.reset is not None:
                self._protocol.receive_eof()
                raise EOFError(self.close_code)
            self._receive(deadline - time.monotonic())

    def _receive(self, timeout: float) -> None:
        frame = self.client.take(
            lambda f: f.stream_id == self.stream_id and isinstance(f, DataFrame | RstStreamFrame),
            timeout=timeout,
        )
        if isinstance(frame, RstStreamFrame):
            self.reset = frame.error_code
            return
        assert isinstance(frame, DataFrame)
        if frame.data:
            self._protocol.receive_data(frame.data)
            self.flush()  # the answers to a ping or a close
            if self.reads:
                size = frame.flow_controlled_length
                self.client.send(window_update(0, size), window_update(self.stream_id, size))
        self.ended = "END_STREAM" in frame.flags

    def _message(self, event: Event) -> str | bytes | None:
        assert isinstance(event, Frame)
        if event.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
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

    def until_closed(self) -> int | None:
        """Read to the end; the code of the server's close."""
        try:
            while True:
                self.recv()
        except EOFError:
            return self.close_code


def open_stream(client: RawClient, fields: list[Field]) -> int:
    """A stream with these fields and no END_STREAM."""
    stream_id = client.new_stream_id()
    client.send(headers(stream_id, client.block(fields), end_stream=False))
    return stream_id
