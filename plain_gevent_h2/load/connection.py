"""One HTTP/2 connection of a client: many requests at once, under gevent.

It reads and writes frames itself, with no `h2`: a load generator that is slower than the server
measures itself. docs/benchmark.md has the measurement.
"""

import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import gevent
from gevent.event import Event

from plain_gevent_h2.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_SIZE,
    MAX_STREAM_ID,
    PADDED,
    PREFACE,
    FrameType,
    pack_frame,
    parse_frame_header,
)
from plain_gevent_h2.http2.hpack import BoundedDecoder, MemoEncoder

Fields = list[tuple[str, str]]

PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS = 1, 2, 3
INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 4, 5

NO_ERROR, REFUSED_STREAM, CANCEL = 0, 7, 8
ERROR_NAMES = (
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
)

#: What both sides count with until they have said otherwise (RFC 9113 section 6.5.2).
DEFAULT_WINDOW = 65535
DEFAULT_FRAME_SIZE = 16384

#: Our receive windows, in bytes. A stream's bounds what a slow consumer keeps waiting.
STREAM_WINDOW = 1024 * 1024
CONNECTION_WINDOW = 16 * 1024 * 1024

#: Streams until the server's SETTINGS say how many it allows, as browsers count.
STREAMS_AT_FIRST = 100

#: Bytes that wait to be written before an upload has to wait for them.
WAITING_BYTES = 256 * 1024

MAX_HEADER_LIST_SIZE = 256 * 1024
READ_SIZE = 256 * 1024

_SETTING = struct.Struct(">HL")
_NUMBER = struct.Struct(">L")


class RequestError(Exception):
    """There is no whole response. The text is the reason, the same for all of a kind."""


class UnprocessedError(RequestError):
    """The server did nothing of the request (RFC 9113 section 8.7): it may be sent again."""


def window_update(stream_id: int, size: int) -> bytes:
    return pack_frame(FrameType.WINDOW_UPDATE, 0, stream_id, _NUMBER.pack(size))


def error_name(code: int) -> str:
    return ERROR_NAMES[code] if code < len(ERROR_NAMES) else f"error {code:#x}"


class Stream:
    """One request and what came of its response.

    `streaming`: the body is wanted piece by piece, and its window opens as it is read.
    """

    __slots__ = (
        "_changed",
        "_chunks",
        "_connection",
        "_unacknowledged",
        "ended",
        "error",
        "fields",
        "head",
        "headers_at",
        "id",
        "send_window",
        "sent",
        "size",
        "status",
        "streaming",
    )

    def __init__(
        self, connection: "Connection", stream_id: int, window: int, streaming: bool
    ) -> None:
        self.id = stream_id
        self.streaming = streaming
        self.send_window = window
        self.sent = False  # the whole request
        self.status = 0
        self.fields: Sequence[tuple[bytes, bytes]] = ()
        self.headers_at = 0.0  # time.perf_counter() as they came
        self.size = 0  # bytes of the body so far
        self.head = False  # RFC 9110 section 9.3.2: its content-length is of no body
        self.ended = False
        self.error: RequestError | None = None
        self._connection = connection
        self._chunks: deque[bytes] = deque()
        self._unacknowledged = 0
        self._changed = Event()

    @property
    def over(self) -> bool:
        return self.ended or self.error is not None

    # -- for the request's greenlet --------------------------------------------

    def wait_headers(self, deadline: float) -> None:
        """Wait for the response to begin. What happened after that is for reading to tell."""
        while not self.status and not self.over:
            self._wait(deadline)
        if not self.status and self.error is not None:
            raise self.error

    def read(self, deadline: float) -> bytes:
        """The next piece of the body; empty at its end."""
        while not self._chunks:
            if self.error is not None:
                raise self.error
            if self.ended:
                return b""
            self._wait(deadline)
        chunk = self._chunks.popleft()
        self._give_back(len(chunk))
        return chunk

    def read_all(self, deadline: float) -> bytes:
        while not self.over:
            self._wait(deadline)
        if self.error is not None:
            raise self.error
        return b"".join(self._chunks)

    def close(self) -> None:
        """Let go of it: what the server has not finished, it need not."""
        self._connection.forget(self)

    def _wait(self, deadline: float) -> None:
        self._changed.clear()
        if not self._changed.wait(max(0.0, deadline - time.monotonic())):
            raise RequestError("timed out")

    # -- for the connection's reader -------------------------------------------

    def on_headers(self, fields: Sequence[tuple[bytes, bytes]]) -> None:
        if self.status:
            return  # trailers
        status = int(dict(fields)[b":status"])
        if status < 200:
            return  # RFC 9110 section 15.2: the answer is still to come
        self.status = status
        self.fields = fields
        self.headers_at = time.perf_counter()
        if self.streaming:
            self._changed.set()

    def on_data(self, data: bytes, size: int) -> None:
        """`size` is what counts for the window: the padding, too."""
        self.size += len(data)
        if data:
            self._chunks.append(data)
        if self.streaming:
            self._give_back(size - len(data))
            self._changed.set()
        else:
            self._give_back(size)

    def on_end(self, error: RequestError | None = None) -> None:
        self.error = error or self._truncated()
        self.ended = error is None
        self._changed.set()

    def _truncated(self) -> RequestError | None:
        """RFC 9113 section 8.1.1."""
        if not self.status:
            return RequestError("the response has no headers")
        length = dict(self.fields).get(b"content-length")
        if length is None or self.head or self.status == 304 or int(length) == self.size:
            return None
        return RequestError("the body has another length than content-length says")

    def _give_back(self, size: int) -> None:
        self._unacknowledged += size
        if self._unacknowledged >= STREAM_WINDOW // 2 and not self.over:
            self._connection.send(window_update(self.id, self._unacknowledged))
            self._unacknowledged = 0


class Connection:
    """A connection to one server. One greenlet reads, and one writes while there is something."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, timeout: float) -> None:
        self._sock = connect(host, port, context, timeout)
        self._encoder, self._decoder = MemoEncoder(), BoundedDecoder(MAX_HEADER_LIST_SIZE)
        self._streams: dict[int, Stream] = {}
        self._next_stream_id = 1
        self._closed = False
        self._going_away = False  # RFC 9113 section 6.8
        # What the server allows.
        self._max_streams = STREAMS_AT_FIRST
        self._max_frame_size = DEFAULT_FRAME_SIZE
        self._initial_window = DEFAULT_WINDOW
        self._send_window = DEFAULT_WINDOW
        # Reading.
        self._unacknowledged = 0
        self._block = bytearray()  # of a header list that goes on
        self._block_flags = 0
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            FrameType.DATA: self._on_data,
            FrameType.HEADERS: self._on_headers,
            FrameType.CONTINUATION: self._on_continuation,
            FrameType.RST_STREAM: self._on_rst_stream,
            FrameType.SETTINGS: self._on_settings,
            FrameType.PING: self._on_ping,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.WINDOW_UPDATE: self._on_window_update,
        }
        # Writing.
        self._out = bytearray()
        self._writing = False
        #: Set when there may be room: in a window, among the streams, in what waits to be written.
        self._room = Event()
        self.send(client_preface())
        gevent.spawn(self._read)

    @property
    def usable(self) -> bool:
        """Whether it takes another request."""
        return not (self._closed or self._going_away) and self._next_stream_id <= MAX_STREAM_ID

    def close(self) -> None:
        self._end("the client closed the connection")

    # -- requests ----------------------------------------------------------------

    def open(self, fields: Fields, *, body: bool, streaming: bool, deadline: float) -> Stream:
        """Start a request. Raises `UnprocessedError` if this connection takes none any more."""
        while self.usable and len(self._streams) >= self._max_streams:
            self._wait_for_room(deadline)
        if not self.usable:
            raise UnprocessedError("the connection goes away")
        stream = Stream(self, self._next_stream_id, self._initial_window, streaming)
        self._next_stream_id += 2
        self._streams[stream.id] = stream
        stream.sent = not body
        stream.head = fields[0] == (":method", "HEAD")
        self._send_headers(stream.id, self._encoder.encode(fields), 0 if body else END_STREAM)
        return stream

    def _send_headers(self, stream_id: int, block: bytes, flags: int) -> None:
        size = self._max_frame_size
        first, rest = block[:size], block[size:]
        kind = FrameType.HEADERS
        while rest:
            self.send(pack_frame(kind, flags, stream_id, first))
            kind, flags = FrameType.CONTINUATION, 0
            first, rest = rest[:size], rest[size:]
        self.send(pack_frame(kind, flags | END_HEADERS, stream_id, first))

    def send_body(self, stream: Stream, body: Iterable[bytes], deadline: float) -> None:
        """Send a request's body, as fast as the server takes it, unless it answers before."""
        for chunk in body:
            rest = memoryview(chunk)
            while rest:
                if stream.over:
                    return
                room = WAITING_BYTES - len(self._out)
                size = min(stream.send_window, self._send_window, self._max_frame_size, room)
                if size <= 0:
                    self._wait_for_room(deadline)
                    continue
                part, rest = rest[:size], rest[size:]
                stream.send_window -= len(part)
                self._send_window -= len(part)
                self.send(pack_frame(FrameType.DATA, 0, stream.id, part))
        if not stream.over:
            stream.sent = True
            self.send(pack_frame(FrameType.DATA, END_STREAM, stream.id))

    def forget(self, stream: Stream) -> None:
        self._streams.pop(stream.id, None)
        if not (stream.ended and stream.sent) and stream.error is None:
            self.send(pack_frame(FrameType.RST_STREAM, 0, stream.id, _NUMBER.pack(CANCEL)))
        self._room.set()
        if self._going_away and not self._streams:
            self.close()

    def _wait_for_room(self, deadline: float) -> None:
        self._room.clear()
        if not self._room.wait(max(0.0, deadline - time.monotonic())):
            raise RequestError("timed out")

    # -- writing -----------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Have `data` written in the loop's next turn, with all else that comes until then.

        By a greenlet of its own, so that a request that is stopped never leaves half a frame.
        """
        self._out += data
        if not self._writing and not self._closed:
            self._writing = True
            gevent.spawn(self._write)

    def _write(self) -> None:
        try:
            while self._out and not self._closed:
                out, self._out = self._out, bytearray()
                self._sock.sendall(out)
                self._room.set()
        except OSError as exc:
            self._end(f"connection lost: {reason_of(exc)}")
        finally:
            self._writing = False

    # -- reading -----------------------------------------------------------------

    def _read(self) -> None:
        buffer = bytearray()
        reason = "the server closed the connection"
        try:
            while data := self._sock.recv(READ_SIZE):
                buffer += data
                self._take_frames(buffer)
                # A server that always has something to say must not keep the others waiting:
                # recv() returns without a switch while there is something.
                gevent.sleep(0)
        except OSError as exc:
            reason = f"connection lost: {reason_of(exc)}"
        except Exception as exc:  # whatever is wrong with a frame
            reason = f"bad frame: {exc!r}"
        self._end(reason)

    def _take_frames(self, buffer: bytearray) -> None:
        pos, available = 0, len(buffer)
        handlers = self._handlers
        while available - pos >= FRAME_HEADER_SIZE:
            kind, flags, stream_id, length = parse_frame_header(buffer, pos)
            start = pos + FRAME_HEADER_SIZE
            end = start + length
            if available < end:
                break
            handler = handlers.get(kind)
            if handler is not None:  # RFC 9113 section 4.1: of no known type
                handler(flags, stream_id, bytes(buffer[start:end]))
            pos = end
        del buffer[:pos]

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._unacknowledged += size
        if self._unacknowledged >= CONNECTION_WINDOW // 2:
            self.send(window_update(0, self._unacknowledged))
            self._unacknowledged = 0
        stream = self._streams.get(stream_id)
        if stream is None:
            return  # of a request that was given up
        stream.on_data(without_padding(flags, payload), size)
        if flags & END_STREAM:
            self._end_stream(stream)

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        payload = without_padding(flags, payload)
        self._block[:] = payload[5:] if flags & PRIORITY else payload
        self._block_flags = flags
        if flags & END_HEADERS:
            self._on_header_list(stream_id)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._block += payload
        if flags & END_HEADERS:
            self._on_header_list(stream_id)

    def _on_header_list(self, stream_id: int) -> None:
        # Decoded in any case: the table of the next list depends on it.
        fields = list(self._decoder.decode(bytes(self._block), raw=True))
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        stream.on_headers(fields)
        if self._block_flags & END_STREAM:
            self._end_stream(stream)

    def _on_rst_stream(self, _flags: int, stream_id: int, payload: bytes) -> None:
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        (code,) = _NUMBER.unpack(payload)
        kind = UnprocessedError if code == REFUSED_STREAM else RequestError
        self._end_stream(stream, kind(f"reset by the server: {error_name(code)}"))

    def _on_settings(self, flags: int, _stream_id: int, payload: bytes) -> None:
        if flags & ACK:
            return
        for setting, value in _SETTING.iter_unpack(payload):
            if setting == HEADER_TABLE_SIZE:
                self._encoder.header_table_size = value
            elif setting == MAX_CONCURRENT_STREAMS:
                self._max_streams = value
            elif setting == MAX_FRAME_SIZE:
                self._max_frame_size = value
            elif setting == INITIAL_WINDOW_SIZE:
                # Of the streams that are open, too (RFC 9113 section 6.9.2).
                for stream in self._streams.values():
                    stream.send_window += value - self._initial_window
                self._initial_window = value
        self.send(pack_frame(FrameType.SETTINGS, ACK, 0))
        self._room.set()

    def _on_ping(self, flags: int, _stream_id: int, payload: bytes) -> None:
        if not flags & ACK:
            self.send(pack_frame(FrameType.PING, ACK, 0, payload))

    def _on_goaway(self, _flags: int, _stream_id: int, payload: bytes) -> None:
        """The streams up to the last that it names are still served; the others were not."""
        self._going_away = True
        last = _NUMBER.unpack_from(payload)[0] & MAX_STREAM_ID
        for stream in [s for s in self._streams.values() if s.id > last]:
            self._end_stream(stream, UnprocessedError("the server goes away"))
        self._room.set()
        if not self._streams:
            self.close()

    def _on_window_update(self, _flags: int, stream_id: int, payload: bytes) -> None:
        increment = _NUMBER.unpack(payload)[0] & MAX_STREAM_ID
        if stream_id == 0:
            self._send_window += increment
        elif (stream := self._streams.get(stream_id)) is not None:
            stream.send_window += increment
        self._room.set()

    # -- ends --------------------------------------------------------------------

    def _end_stream(self, stream: Stream, error: RequestError | None = None) -> None:
        del self._streams[stream.id]
        stream.on_end(error)
        self._room.set()

    def _end(self, reason: str) -> None:
        if self._closed:
            return
        self._closed = True
        for stream in list(self._streams.values()):
            self._end_stream(stream, RequestError(reason))
        self._room.set()
        self._sock.close()


def connect(host: str, port: int, context: ssl.SSLContext, timeout: float) -> ssl.SSLSocket:
    """A TLS connection that has agreed on HTTP/2. Raises `RequestError`."""
    try:
        raw = socket.create_connection((host, port), timeout)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock = context.wrap_socket(raw, server_hostname=host)
        except BaseException:
            raw.close()
            raise
    except OSError as exc:
        raise RequestError(f"cannot connect: {reason_of(exc)}") from exc
    if sock.selected_alpn_protocol() != "h2":
        sock.close()
        raise RequestError(f"cannot connect: {_NO_HTTP2}")
    sock.settimeout(None)
    return sock


def client_preface() -> bytes:
    """RFC 9113 section 3.4, and the windows that we open."""
    settings = ((ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, STREAM_WINDOW))
    payload = b"".join(_SETTING.pack(*setting) for setting in settings)
    return (
        PREFACE
        + pack_frame(FrameType.SETTINGS, 0, 0, payload)
        + window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
    )


def without_padding(flags: int, payload: bytes) -> bytes:
    return payload[1 : len(payload) - payload[0]] if flags & PADDED else payload


_NO_HTTP2 = "the server does not speak HTTP/2"


def reason_of(exc: OSError) -> str:
    if "no application protocol" in str(exc):  # the alert has no name in every OpenSSL
        return _NO_HTTP2
    if isinstance(exc, ssl.SSLCertVerificationError):
        return f"the certificate is not valid: {exc.verify_message}"
    return exc.strerror or str(exc) or type(exc).__name__
