"""A raw HTTP/2 client over TLS, for tests that break the rules.

It packs frames by hand and checks nothing that it sends. What it receives are hyperframe's
objects: `take()` and the `expect_...()` methods pick them out by stream, in any order among
streams, and wait with a deadline. Nothing sleeps.

It stands apart from `h2client.py`: `h2` sends nothing that is wrong, and shows no frames, their
order or their padding.

    with RawClient(server) as client:
        stream_id = client.open(request_fields("/echo", "POST"), end_stream=False)
        client.send(data(stream_id, b"body", pad=3))
        assert client.expect_response(stream_id).status == 200
"""

import itertools
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from closing import Closing
from h2.errors import ErrorCodes
from harness import WAIT
from hpack import Decoder, Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from serving import Serving

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: What a peer counts with until SETTINGS say otherwise (RFC 9113 section 6.5.2), in bytes.
DEFAULT_WINDOW = 65535
DEFAULT_MAX_FRAME_SIZE = 16384

#: The setting with the first window of each stream (RFC 9113 section 6.5.2).
WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE

#: The largest window, the highest stream identifier (RFC 9113 sections 6.9.1 and 5.1.1).
MAX_31 = 2**31 - 1

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY = 0x20

type Field = tuple[str | bytes, str | bytes]


# -- frames to send, in bytes ---------------------------------------------------------------


def pack(
    kind: int, flags: int, stream_id: int, payload: bytes = b"", length: int | None = None
) -> bytes:
    """A frame of any kind; `length` is what its header says, if not the truth."""
    size = len(payload) if length is None else length
    return struct.pack(">HBBBL", size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def split(frames: bytes) -> list[tuple[int, int, int, bytes]]:
    """Type, flags, stream and payload of each of these whole frames."""
    found = []
    pos = 0
    while pos < len(frames):
        high, low, kind, flags, stream_id = struct.unpack_from(">HBBBL", frames, pos)
        end = pos + 9 + (high << 8 | low)
        found.append((kind, flags, stream_id, frames[pos + 9 : end]))
        pos = end
    return found


def _padded(payload: bytes, flags: int, pad: int | None) -> tuple[bytes, int]:
    if pad is None:
        return payload, flags
    return bytes([pad]) + payload + bytes(pad), flags | PADDED


def data(stream_id: int, body: bytes = b"", *, end: bool = True, pad: int | None = None) -> bytes:
    payload, flags = _padded(body, END_STREAM if end else 0, pad)
    return pack(DataFrame.type, flags, stream_id, payload)


def headers(
    stream_id: int,
    block: bytes,
    *,
    end_stream: bool = True,
    end_headers: bool = True,
    pad: int | None = None,
    priority: bytes = b"",
    cuts: Iterable[int] = (),
) -> bytes:
    """HEADERS with `block`, which is cut at the offsets `cuts` into CONTINUATIONs.

    `priority` is made by `priority_fields()`.
    """
    edges = [0, *cuts, len(block)]
    first, *rest = [block[start:end] for start, end in itertools.pairwise(edges)]
    flags = (END_STREAM if end_stream else 0) | (PRIORITY if priority else 0)
    flags |= END_HEADERS if end_headers and not rest else 0
    payload, flags = _padded(priority + first, flags, pad)
    frames = pack(HeadersFrame.type, flags, stream_id, payload)
    for i, fragment in enumerate(rest, 1):
        frames += continuation(stream_id, fragment, end_headers=end_headers and i == len(rest))
    return frames


def continuation(stream_id: int, fragment: bytes, *, end_headers: bool = True) -> bytes:
    flags = END_HEADERS if end_headers else 0
    return pack(ContinuationFrame.type, flags, stream_id, fragment)


def priority_fields(depends_on: int = 0, weight: int = 255, *, exclusive: bool = False) -> bytes:
    return struct.pack(">LB", depends_on | (exclusive << 31), weight)


def priority(
    stream_id: int, depends_on: int = 0, weight: int = 255, *, exclusive: bool = False
) -> bytes:
    payload = priority_fields(depends_on, weight, exclusive=exclusive)
    return pack(PriorityFrame.type, 0, stream_id, payload)


def rst_stream(stream_id: int, code: int = ErrorCodes.CANCEL) -> bytes:
    return pack(RstStreamFrame.type, 0, stream_id, struct.pack(">L", code))


def settings(values: Mapping[int, int] | Iterable[tuple[int, int]] = ()) -> bytes:
    """SETTINGS; pairs instead of a mapping can repeat one."""
    pairs = values.items() if isinstance(values, Mapping) else values
    payload = b"".join(struct.pack(">HL", key, value) for key, value in pairs)
    return pack(SettingsFrame.type, 0, 0, payload)


def settings_ack() -> bytes:
    return pack(SettingsFrame.type, ACK, 0)


def push_promise(stream_id: int, promised_stream_id: int, block: bytes) -> bytes:
    payload = struct.pack(">L", promised_stream_id) + block
    return pack(PushPromiseFrame.type, END_HEADERS, stream_id, payload)


def ping(payload: bytes = bytes(8), *, ack: bool = False) -> bytes:
    return pack(PingFrame.type, ACK if ack else 0, 0, payload)


def goaway(last_stream_id: int = 0, code: int = 0, debug: bytes = b"") -> bytes:
    return pack(GoAwayFrame.type, 0, 0, struct.pack(">LL", last_stream_id, code) + debug)


def window_update(stream_id: int, increment: int) -> bytes:
    return pack(WindowUpdateFrame.type, 0, stream_id, struct.pack(">L", increment))


def request_fields(path: str = "/", method: str = "GET", *extra: Field) -> list[Field]:
    """The header list of a valid request."""
    return [
        (":method", method),
        (":scheme", "https"),
        (":path", path),
        (":authority", "localhost"),
        *extra,
    ]


# -- the client -----------------------------------------------------------------------------


@dataclass
class Response:
    """What came on a stream until it ended: with END_STREAM, or with a reset."""

    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    reset: int | None = None

    @property
    def status(self) -> int:
        return int(dict(self.headers)[":status"])


#: OpenSSL's name for the end of TCP without close_notify.
_RAGGED = "UNEXPECTED_EOF_WHILE_READING"


class RawClient(Closing):
    """One connection, on which the handshake was sent (unless `handshake=False`).

    `settings` go into our preface. `acknowledge` answers the server's SETTINGS and PINGs,
    `update_windows` gives back the windows of DATA as it is received. `sock` is connected already.
    """

    def __init__(
        self,
        server: Serving,
        settings: Mapping[int, int] | None = None,
        *,
        handshake: bool = True,
        acknowledge: bool = True,
        update_windows: bool = False,
        sock: socket.socket | None = None,
    ) -> None:
        self.sock = sock or server.connect("h2")
        if isinstance(self.sock, ssl.SSLSocket):
            assert self.sock.selected_alpn_protocol() == "h2"
        self.acknowledge = acknowledge
        self.update_windows = update_windows
        self.encoder = Encoder()
        self.decoder = Decoder(max_header_list_size=2**20)
        self.decoder.max_allowed_table_size = 2**32 - 1  # a test may have allowed any
        #: Every frame received, in order; a header block is whole, in its HEADERS.
        self.frames: list[Frame] = []
        #: The server's SETTINGS, as far as they were received.
        self.server_settings: dict[int, int] = {}
        #: How the server's side ended: "closed" (TLS or TCP, cleanly), "reset", or "" if open;
        #: "ragged" is the end of TCP without that of TLS, where `sock` tells it.
        self.ending = ""
        #: Why something could not be sent: the server no longer reads.
        self.send_error: OSError | None = None
        self.next_stream_id = 1
        self._untaken: list[Frame] = []
        self._fields: dict[HeadersFrame, list[tuple[str, str]]] = {}
        self._open_block: HeadersFrame | None = None
        self._buffer = bytearray()
        self._pings = itertools.count(1)
        if handshake:
            self.handshake(settings or {})

    def close(self) -> None:
        self.sock.close()

    # -- sending --------------------------------------------------------------

    def handshake(self, values: Mapping[int, int] | None = None) -> None:
        """Send the client connection preface (RFC 9113 section 3.4)."""
        self.send(PREFACE, settings(values or {}))

    def send(self, *frames: bytes | Frame) -> None:
        """Send these in one call. That the server closed meanwhile is for `expect_...` to say."""
        self.send_bytes(b"".join(f if isinstance(f, bytes) else f.serialize() for f in frames))

    def send_bytes(self, raw: bytes) -> None:
        self.sock.settimeout(WAIT)
        try:
            self.sock.sendall(raw)
        except TimeoutError:
            raise
        except OSError as exc:
            self.send_error = exc

    def block(self, fields: Iterable[Field]) -> bytes:
        """A header block, in this connection's compression state. To be sent in order."""
        return self.encoder.encode(fields)

    def new_stream_id(self) -> int:
        self.next_stream_id += 2
        return self.next_stream_id - 2

    def open(self, fields: Iterable[Field] | None = None, *, end_stream: bool = True) -> int:
        """Send a request's HEADERS on a new stream and return its identifier."""
        stream_id = self.new_stream_id()
        block = self.block(request_fields() if fields is None else fields)
        self.send(headers(stream_id, block, end_stream=end_stream))
        return stream_id

    def request(self, path: str = "/", method: str = "GET", *extra: Field) -> Response:
        """A request without a body, and its whole response."""
        return self.expect_response(self.open(request_fields(path, method, *extra)))

    # -- receiving ------------------------------------------------------------

    def receive(self, deadline: float) -> Frame | None:
        """The next frame, or None once the server's side has ended.

        Raises `TimeoutError` at `deadline` (of `time.monotonic()`).
        """
        while (frame := self._parse()) is None:
            if self.ending:
                return None
            self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                received = self.sock.recv(65536)
            except ConnectionError:
                self.ending = "reset"
            except ssl.SSLError as exc:
                # OpenSSL may still know of an earlier error: then CPython makes no SSLEOFError.
                if not (isinstance(exc, ssl.SSLEOFError) or exc.reason == _RAGGED):
                    raise
                self.ending = "ragged"
            else:
                self._buffer += received
                self.ending = "" if received else "closed"
        self.frames.append(frame)
        self._answer(frame)
        return frame

    def _parse(self) -> Frame | None:
        """The first frame in the buffer, with a whole header block if it is HEADERS."""
        while len(self._buffer) >= 9:
            frame, length = Frame.parse_frame_header(memoryview(bytes(self._buffer[:9])))
            if len(self._buffer) < 9 + length:
                return None
            payload = bytes(self._buffer[9 : 9 + length])
            del self._buffer[: 9 + length]
            frame.parse_body(memoryview(payload))
            if isinstance(frame, ContinuationFrame):
                head = self._open_block
                assert head is not None, f"CONTINUATION out of place: {frame}"
                assert frame.stream_id == head.stream_id, f"CONTINUATION of another: {frame}"
                head.data += frame.data
                if "END_HEADERS" not in frame.flags:
                    continue
                frame, self._open_block = head, None
            elif self._open_block is not None:
                raise AssertionError(f"inside the header block of {self._open_block}: {frame}")
            elif isinstance(frame, HeadersFrame) and "END_HEADERS" not in frame.flags:
                self._open_block = frame
                continue
            if isinstance(frame, HeadersFrame):
                self._fields[frame] = [
                    (name.decode("latin-1"), value.decode("latin-1"))
                    for name, value in self.decoder.decode(frame.data, raw=True)
                ]
            return frame
        return None

    def _answer(self, frame: Frame) -> None:
        self._untaken.append(frame)
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.server_settings.update(frame.settings)
            if self.acknowledge:
                self.send(settings_ack())
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags and self.acknowledge:
            self.send(ping(frame.opaque_data, ack=True))
        elif isinstance(frame, DataFrame) and self.update_windows and frame.body_len:
            size = frame.flow_controlled_length
            self.send(window_update(0, size))
            if "END_STREAM" not in frame.flags:
                self.send(window_update(frame.stream_id, size))

    def take(
        self,
        matches: Callable[[Frame], bool],
        what: str = "frame",
        timeout: float = WAIT,
        *,
        keep: bool = False,
    ) -> Frame:
        """The first frame that matches and was not taken before; fails after `timeout` s.

        `keep` leaves it for a later call.
        """
        for i, frame in enumerate(self._untaken):
            if matches(frame):
                return frame if keep else self._untaken.pop(i)
        deadline = time.monotonic() + timeout
        try:
            while (received := self.receive(deadline)) is not None:
                if matches(received):
                    return received if keep else self._untaken.pop()
        except TimeoutError:
            pass
        raise AssertionError(f"no {what}; {self.describe()}")

    def expect[F: Frame](
        self,
        kind: type[F],
        stream_id: int | None = None,
        timeout: float = WAIT,
        *,
        keep: bool = False,
    ) -> F:
        """The next frame of this kind (on this stream) that was not taken before."""
        frame = self.take(
            lambda f: isinstance(f, kind) and stream_id in (None, f.stream_id),
            f"{kind.__name__} on stream {stream_id}",
            timeout,
            keep=keep,
        )
        assert isinstance(frame, kind)
        return frame

    def received[F: Frame](self, kind: type[F], stream_id: int | None = None) -> list[F]:
        """All frames of this kind (on this stream) so far, taken or not."""
        return [f for f in self.frames if isinstance(f, kind) and stream_id in (None, f.stream_id)]

    def forget_frames(self) -> None:
        """Let go of all frames so far, taken or not."""
        self.frames.clear()
        self._untaken.clear()
        self._fields.clear()

    def fields(self, frame: HeadersFrame) -> list[tuple[str, str]]:
        """The decoded header list of a HEADERS frame that was received."""
        return self._fields[frame]

    def describe(self) -> str:
        """What has happened so far, for a failure's message."""
        lines = [f"  {frame}" for frame in self.frames[-30:]]
        if self.send_error is not None:
            lines.append(f"  (sending failed: {self.send_error})")
        lines.append(f"  ({self.ending or 'open'})")
        return f"{len(self.frames)} frames received:\n" + "\n".join(lines)

    # -- expectations ---------------------------------------------------------

    def finish(self, stream_id: int, timeout: float = WAIT) -> Response:
        """All of a response, or what there was of it before a reset."""
        response = Response()
        ended = False
        while not ended:
            frame = self.take(
                lambda f: (
                    f.stream_id == stream_id
                    and isinstance(f, HeadersFrame | DataFrame | RstStreamFrame)
                ),
                f"end of stream {stream_id}",
                timeout,
            )
            ended = "END_STREAM" in frame.flags
            if isinstance(frame, RstStreamFrame):
                response.reset = frame.error_code
                return response
            if isinstance(frame, DataFrame):
                assert response.headers, f"DATA before HEADERS; {self.describe()}"
                response.body += frame.data
            elif isinstance(frame, HeadersFrame):
                if response.headers and response.status >= 200:
                    assert ended, f"trailers without END_STREAM; {self.describe()}"
                    response.trailers = self.fields(frame)
                else:
                    response.headers = self.fields(frame)
        return response

    def expect_response(self, stream_id: int, timeout: float = WAIT) -> Response:
        """A whole response. A reset is a failure."""
        response = self.finish(stream_id, timeout)
        assert response.reset is None, f"stream {stream_id} was reset; {self.describe()}"
        return response

    def expect_data(self, stream_id: int, size: int) -> list[DataFrame]:
        """DATA until there are `size` bytes of it (or more: compare)."""
        frames: list[DataFrame] = []
        while sum(len(frame.data) for frame in frames) < size:
            frames.append(self.expect(DataFrame, stream_id))
        return frames

    def expect_ack(self) -> None:
        """The server's acknowledgement of a SETTINGS of ours, one for each call."""
        self.take(lambda f: isinstance(f, SettingsFrame) and "ACK" in f.flags, "SETTINGS ACK")

    def expect_alive(self) -> None:
        """A PING is acknowledged, and no GOAWAY with an error has come."""
        payload = struct.pack(">Q", next(self._pings))
        self.send(ping(payload))
        self.take(
            lambda f: isinstance(f, PingFrame) and f.opaque_data == payload and "ACK" in f.flags,
            "PING ACK",
        )
        errors = [f for f in self.received(GoAwayFrame) if f.error_code]
        assert not errors, f"GOAWAY with an error; {self.describe()}"

    def expect_close(self) -> list[GoAwayFrame]:
        """The server closes cleanly; returns the GOAWAYs it sent."""
        deadline = time.monotonic() + WAIT
        try:
            while self.receive(deadline) is not None:
                pass
        except TimeoutError:
            raise AssertionError(f"not closed; {self.describe()}") from None
        assert self.ending == "closed", f"TCP reset instead of a close; {self.describe()}"
        return self.received(GoAwayFrame)

    def expect_connection_error(self, *codes: int) -> GoAwayFrame:
        """A GOAWAY with one of these codes, then a clean close (RFC 9113 section 5.4.1).

        It is the last frame of all.
        """
        goaways = self.expect_close()
        wanted = _names(codes)
        assert goaways, f"closed without a GOAWAY({wanted}); {self.describe()}"
        got = goaways[-1].error_code
        assert got in codes, f"GOAWAY({_names([got])}), not ({wanted}); {self.describe()}"
        assert self.frames[-1] is goaways[-1], f"frames after the GOAWAY; {self.describe()}"
        return goaways[-1]

    def expect_stream_error(self, stream_id: int, *codes: int, strict: bool = True) -> None:
        """RST_STREAM with one of these codes (RFC 9113 section 5.4.2).

        Without `strict` a connection error with such a code will do too, as section 5.4.1
        lets a server choose.
        """
        wanted = _names(codes)
        frame = self.take(
            lambda f: (
                isinstance(f, GoAwayFrame)
                or (isinstance(f, RstStreamFrame) and f.stream_id == stream_id)
            ),
            f"RST_STREAM({wanted}) on stream {stream_id}",
        )
        if isinstance(frame, RstStreamFrame):
            got = frame.error_code
            assert got in codes, f"RST_STREAM({_names([got])}), not ({wanted}); {self.describe()}"
            return
        assert not strict, (
            f"a connection error, not RST_STREAM({wanted}) on stream {stream_id}; {self.describe()}"
        )
        self.expect_connection_error(*codes)


def _names(codes: Iterable[int]) -> str:
    known = {int(code): code.name for code in ErrorCodes}
    return " or ".join(known.get(code, f"{code:#x}") for code in codes)
