"""Random schedules of what clients do, as steps that can be written down and taken again.

`hostile` are schedules of frames, right ones and broken ones, on several connections that may
end anywhere; `honest` ones keep to the protocol, and each of their requests must be answered.
Which view goes on, and when, is in the schedule too (`LetGo`), so that little is left to chance.
"""

import socket
import ssl
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import raw
from h2.errors import ErrorCodes
from harness import WAIT, Server
from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, SettingsFrame
from hypothesis import reject
from hypothesis import strategies as st
from inside import Inside

HEADER_TABLE_SIZE, MAX_FRAME_SIZE, INITIAL_WINDOW_SIZE = 1, 5, 4

#: Seconds that a client listens for what is on its way.
LISTEN = 0.02


class Peer:
    """One connection of a hostile client. Bytes are kept until a step sends them."""

    def __init__(self, server: Server, protocol: str, start: bytes) -> None:
        self.encoder = Encoder()
        self.next_stream_id = 1
        self.pending = start
        self.gone = False
        self.sock = server.connect(protocol)

    def stream(self, ago: int | None) -> int:
        """The stream opened so many before the last; -1 is the next one, None is 0."""
        return 0 if ago is None else max(1, self.next_stream_id - 2 * (ago + 1))

    def send(self, keep: int = 0) -> None:
        """Send all but the last `keep` bytes of what is pending."""
        size = max(0, len(self.pending) - keep)
        now, self.pending = self.pending[:size], self.pending[size:]
        self.sock.settimeout(WAIT)
        self._attempt(lambda: self.sock.sendall(now))

    def listen(self, size: int = 65536) -> None:
        self.sock.settimeout(LISTEN)
        self._attempt(lambda: self.sock.recv(size))

    def _attempt(self, action: Callable[[], object]) -> None:
        """What fails because the server has closed is no failure."""
        if not self.gone:
            with suppress(OSError, ValueError):  # ValueError: there is no TLS any more
                action()

    def close_side(self, tls: bool) -> None:
        """Say, in TLS or in TCP only, that nothing more comes."""
        self.send()
        if tls and isinstance(self.sock, ssl.SSLSocket):
            self.sock.settimeout(0)
            self._attempt(self.sock.unwrap)
        self._attempt(lambda: socket.socket.shutdown(self.sock, socket.SHUT_WR))

    def leave(self, reset: bool) -> None:
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.gone = True
        self.sock.close()


class World:
    """The connections of one schedule, made when their first step comes."""

    #: The protocol of each connection, by its number.
    PROTOCOLS = ("h2", "h2", "http/1.1")

    def __init__(self, server: Server, inside: Inside) -> None:
        self._server = server
        self.inside = inside
        self._peers: dict[int, Peer] = {}

    def peer(self, on: int, start: bytes | None = None) -> Peer:
        """The connection `on`; a new one if that has left, or if it is to start anew."""
        peer = self._peers.get(on)
        if peer is None or peer.gone or start is not None:
            if peer is not None:
                peer.leave(reset=False)
            h2 = self.PROTOCOLS[on] == "h2"
            if start is None:
                start = raw.PREFACE + raw.settings() if h2 else b""
            peer = self._peers[on] = Peer(self._server, self.PROTOCOLS[on], start)
        return peer

    def close(self) -> None:
        for peer in self._peers.values():
            if not peer.gone:
                peer.send()
                peer.listen()
                peer.leave(reset=False)


# -- steps of hostile clients -----------------------------------------------------------------
#
# `on` is the number of a connection, `ago` says which of its streams (`Peer.stream`).


@dataclass(frozen=True)
class Begin:
    """A new connection, whose first bytes are these."""

    on: int
    start: bytes

    def take(self, world: World) -> None:
        world.peer(self.on, self.start)


@dataclass(frozen=True)
class FrameStep:
    """Adds bytes to what is pending; `broken` are changes of them: where, how many, by what."""

    on: int
    broken: tuple[int, int, bytes] | None

    def take(self, world: World) -> None:
        peer = world.peer(self.on)
        made = self.make(peer)
        if self.broken and made:
            at, cut, by = self.broken
            at %= len(made)
            made = made[:at] + by + made[at + cut :]
        peer.pending += made

    def make(self, peer: Peer) -> bytes:
        raise NotImplementedError


@dataclass(frozen=True)
class Request(FrameStep):
    path: str
    method: str
    fields: tuple[tuple[str, str], ...]
    end: bool
    cuts: tuple[int, ...]  # of its block, into CONTINUATIONs
    pad: int | None

    def make(self, peer: Peer) -> bytes:
        stream_id = peer.next_stream_id
        peer.next_stream_id += 2
        fields = [*raw.request_fields(self.path, self.method), *self.fields]
        return raw.headers(
            stream_id,
            block := peer.encoder.encode([(n, _bytes(v)) for n, v in fields]),
            end_stream=self.end,
            cuts=sorted({cut % (len(block) + 1) for cut in self.cuts}),
            pad=self.pad,
        )


@dataclass(frozen=True)
class Trailers(FrameStep):
    """HEADERS on a stream that may have had some: trailers, or a fault."""

    ago: int
    fields: tuple[tuple[str, str], ...]
    end: bool

    def make(self, peer: Peer) -> bytes:
        block = peer.encoder.encode([(n, _bytes(v)) for n, v in self.fields])
        return raw.headers(peer.stream(self.ago), block, end_stream=self.end)


@dataclass(frozen=True)
class Data(FrameStep):
    ago: int | None
    body: bytes
    times: int
    end: bool
    pad: int | None

    def make(self, peer: Peer) -> bytes:
        stream_id = peer.stream(self.ago)
        return raw.data(stream_id, self.body * self.times, end=self.end, pad=self.pad)


@dataclass(frozen=True)
class Control(FrameStep):
    """A frame with a payload that is as it is."""

    kind: int
    flags: int
    ago: int | None
    payload: bytes

    def make(self, peer: Peer) -> bytes:
        return raw.pack(self.kind, self.flags, peer.stream(self.ago), self.payload)


@dataclass(frozen=True)
class Text(FrameStep):
    """A part of HTTP/1.1."""

    text: bytes

    def make(self, _peer: Peer) -> bytes:
        return self.text


@dataclass(frozen=True)
class Send:
    """Send all but the last `keep` bytes of what is pending, and listen."""

    on: int
    keep: int
    listen: int

    def take(self, world: World) -> None:
        peer = world.peer(self.on)
        peer.send(self.keep)
        if self.listen:
            peer.listen(self.listen)


@dataclass(frozen=True)
class CloseSide:
    on: int
    tls: bool

    def take(self, world: World) -> None:
        world.peer(self.on).close_side(self.tls)


@dataclass(frozen=True)
class Leave:
    on: int
    reset: bool

    def take(self, world: World) -> None:
        peer = world.peer(self.on)
        peer.send()
        peer.leave(self.reset)


@dataclass(frozen=True)
class LetGo:
    """Let so many of the waiting views go on."""

    number: int

    def take(self, world: World) -> None:
        world.inside.order(str(self.number))


Step = Begin | FrameStep | Send | CloseSide | Leave | LetGo


def play(server: Server, inside: Inside, schedule: Iterable[Step]) -> None:
    """Take these steps, end all that is left, and look whether anything stayed."""
    inside.order("shut")
    world = World(server, inside)
    try:
        for step in schedule:
            step.take(world)
        inside.order("open")
    finally:
        world.close()
    inside.expect_nothing_left()


def _bytes(text: str) -> bytes:
    return text.encode("latin-1")


# -- schedules of hostile clients ---------------------------------------------------------------

PATHS = (
    *("/", "/gated?gates=first", "/gated?gates=first&size=100000", "/gated?gates=each&n=3"),
    *("/left/async?name=fuzz", "/left/silent?name=fuzz"),
    *("/gated?n=3&size=40000&gates=each", "/gated?n=2&fail=1&gates=each", "/gated?n=1&fail=0"),
    *("/file?n=100000", "/ws/echo", "/ws/ticks", "/ws/clock?every=0.005", "/meta", "/nowhere"),
    *(
        "/bytes?n=100000",
        "/bytes?n=10000000",
        "/gated?n=99&size=99999",
        "*",
        "",
        "//x",
        "/%ff?\u00ff",
        "http://x/",
    ),
)
METHODS = ("GET", "GET", "GET", "POST", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "get", "")
FIELDS = (
    *("accept", "te", "connection", "cookie", "content-length", "host", "expect", "x-y"),
    *("transfer-encoding", "priority", ":path", ":status", ":protocol", "X-Upper", ""),
    *("sec-websocket-version", "upgrade", "sec-websocket-key"),
)
VALUES = (
    *("", "0", "1", "10", "-1", "trailers", "close", "a=b", "x" * 300, "\r\n", "\0", " ", "13"),
    *("100-continue", "chunked", "9" * 20, "\u00ff", "websocket", "u=1, i", "Upgrade", "gzip"),
    *("AAAAAAAAAAAAAAAAAAAAAA==", "localhost"),
)

_field = st.tuples(st.sampled_from(FIELDS), st.sampled_from(VALUES))
_fields = st.one_of(st.just(()), st.lists(_field, max_size=4).map(tuple))
_websocket = st.just(((":protocol", "websocket"), ("sec-websocket-version", "13")))
_number = st.sampled_from([0, 1, 2, 100, 2**14, 65535, 2**16, 2**31 - 1, 2**31, 2**32 - 1])
_ago = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 5, -1])
_any_ago = st.one_of(_ago, st.none())
_pad = st.sampled_from([None, None, None, 0, 255])
_often = st.sampled_from([True, True, True, False])
_broken = st.one_of(
    *[st.none()] * 40,
    st.tuples(st.integers(0, 300), st.integers(0, 9), st.binary(max_size=5)),
)
#: A WebSocket's masked messages: text, ping, close, and half a frame.
_body = st.sampled_from(
    [
        b"",
        b"x",
        b"x" * 100,
        b"\x81\x81\0\0\0\0x",
        b"\x89\x80\0\0\0\0",
        b"\x88\x80\0\0\0\0",
        b"\x82\xff",
    ]
)


def _schedule(step: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Long ones too: of its own accord hypothesis makes lists of about six."""
    return st.one_of(st.lists(step, min_size=n, max_size=60) for n in (1, 15, 30))


def _pack(form: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(lambda numbers: struct.pack(form, *numbers))


_code = st.sampled_from([0, 1, 2, 5, 7, 8, 0xB, 99, 2**32 - 1])
_setting = _pack(">HL", st.sampled_from([1, 2, 3, 4, 4, 4, 5, 6, 8, 9, 99]), _number)
_control = {
    "priority": (2, st.just(0), _any_ago, _pack(">LB", _number, st.integers(0, 255))),
    "reset": (3, st.just(0), _any_ago, _pack(">L", _code)),
    "settings": (4, st.just(0), st.none(), st.lists(_setting, max_size=3).map(b"".join)),
    "ack": (4, st.just(1), st.none(), st.just(b"")),
    "ping": (6, st.sampled_from([0, 0, 1]), st.none(), st.binary(min_size=8, max_size=8)),
    "window": (8, st.just(0), _any_ago, _pack(">L", _number)),
    "wide": (8, st.just(0), st.none(), st.just(struct.pack(">L", 2**30))),
    "wide-streams": (4, st.just(0), st.none(), st.just(struct.pack(">HL", 4, 2**30))),
    "goaway": (7, st.just(0), st.none(), _pack(">LL", _number, _code)),
    "continuation": (9, st.sampled_from([0, 4]), _any_ago, st.binary(max_size=9)),
    "any": (st.integers(0, 255), st.integers(0, 255), _any_ago, st.binary(max_size=20)),
}

_start_line = st.builds(
    lambda method, path, version: f"{method} {path} HTTP/{version}\r\n",
    *(st.sampled_from((*METHODS, "PRI")), st.sampled_from(PATHS)),
    st.sampled_from(["1.1", "1.1", "1.1", "1.0", "2.0", "9"]),
)
_lines = st.lists(
    _field.map(lambda field: f"{field[0]}: {field[1]}\r\n"), max_size=4
).map("".join)  # fmt: skip
_length = st.sampled_from(["", "", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"])
_rest = st.sampled_from(["", "hello", "5\r\nhello\r\n0\r\n\r\n", "zz\r\n", "x" * 100, "5\r\nhe"])
_text = st.builds(
    lambda start, length, lines, rest: _bytes(f"{start}Host: x\r\n{length}{lines}\r\n{rest}"),
    *(_start_line, _length, _lines, _rest),
)
_upgrade = st.sampled_from(["/ws/echo", "/ws/ticks", "/ws/refused", "/"]).map(
    lambda path: _bytes(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
)

_h2 = st.sampled_from([0, 0, 1])
_any_peer = st.sampled_from([0, 0, 1, 2])
_request = st.builds(
    Request,
    *(_h2, _broken, st.sampled_from(PATHS), st.sampled_from(METHODS), _fields, _often),
    *(st.lists(st.integers(0, 60), max_size=2).map(tuple), _pad),
)
_socket = st.builds(
    Request,
    *(_h2, _broken, st.sampled_from(["/ws/echo", "/ws/ticks", "/"]), st.just("CONNECT")),
    *(_websocket, st.sampled_from([False, False, True]), st.just(()), st.none()),
)
_data = st.builds(
    Data, _h2, _broken, _any_ago, _body, st.sampled_from([1, 1, 1, 100, 2000]), _often, _pad
)
_trailers = st.builds(Trailers, _h2, _broken, _ago, _fields, _often)
_controls = st.one_of(
    st.builds(Control, _h2, _broken, st.just(kind) if isinstance(kind, int) else kind, *rest)
    for kind, *rest in _control.values()
)
# What keeps a connection alive, so that there is something to end.
_upload = st.builds(
    Request, _h2, st.none(), st.sampled_from(["/gated", "/gated?gates=first", "/echo"]),
    st.just("POST"), st.just(()), st.just(False), st.just(()), _pad,
)  # fmt: skip
_piece = st.builds(
    Data, _h2, st.none(), st.sampled_from([0, 0, 1, 2]), st.just(b"x"),
    st.sampled_from([1, 500, 2000, 16000]), st.booleans(), _pad,
)  # fmt: skip
_cancel = st.builds(
    Control, _h2, st.none(), st.just(3), st.just(0), st.sampled_from([0, 0, 1, 2, 3]),
    _pack(">L", _code),
)  # fmt: skip
_more_window = st.builds(
    Control, _h2, st.none(), st.just(8), st.just(0), st.sampled_from([0, 1, 2, None]),
    _pack(">L", st.sampled_from([1, 100, 2**14, 2**16, 2**24])),
)  # fmt: skip
_new_window = st.builds(
    Control, _h2, st.none(), st.just(4), st.just(0), st.none(),
    _pack(">HL", st.just(4), st.sampled_from([0, 1, 2**14, 2**16, 2**24])),
)  # fmt: skip
_texts = st.builds(Text, st.sampled_from([2, 2, 2, 0]), _broken, st.one_of(_text, _text, _upgrade))
_send = st.builds(
    Send, _any_peer, st.sampled_from([0, 0, 0, 1, 9, 30]), st.sampled_from([0, 1, 100, 65536])
)
_begin = st.builds(
    Begin,
    _h2,
    st.one_of(
        st.binary(max_size=30),
        st.integers(0, 33).map(lambda size: (raw.PREFACE + raw.settings())[:size]),
        _setting.map(lambda payload: raw.PREFACE + raw.pack(4, 0, 0, payload)),
    ),
)
_let_go = st.builds(LetGo, st.sampled_from([1, 1, 2, 9]))
_close_side = st.builds(CloseSide, _any_peer, st.booleans())
_leave = st.builds(Leave, _any_peer, st.booleans())
_step = st.one_of(
    *[_request] * 4, _socket, *[_upload] * 3, *[_piece] * 4, *[_cancel] * 2, _more_window,
    _new_window, _data, _trailers, _controls, *[_texts] * 2, *[_send] * 5, *[_let_go] * 3, _begin,
    _close_side, _leave,
)  # fmt: skip

hostile = _schedule(_step)


# -- honest clients -----------------------------------------------------------------------------


#: Seconds after which a response counts as stalled. What is stalled is tried again and again, to
#: make its schedule shorter.
STALLED = 10.0


class HonestClient(raw.RawClient):
    """Keeps the books of what the server may send, and fails when it sends more."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.began = time.monotonic()
        self.granted: defaultdict[int, int] = defaultdict(int)  # by WINDOW_UPDATE
        self.granted[0] = raw.DEFAULT_WINDOW
        self.received_of: defaultdict[int, int] = defaultdict(int)
        self.initial = raw.DEFAULT_WINDOW
        self.offered: list[dict[int, int]] = [{}]  # SETTINGS that are not acknowledged yet
        self.wanted: dict[int, int] = {}  # the size of each response that is to come whole
        self.given_up: set[int] = set()

    def _answer(self, frame: Frame) -> None:
        super()._answer(frame)
        if isinstance(frame, SettingsFrame) and "ACK" in frame.flags:
            self.initial = self.offered.pop(0).get(INITIAL_WINDOW_SIZE, self.initial)
        elif isinstance(frame, DataFrame) and (size := frame.flow_controlled_length):
            for stream_id, start in ((0, 0), (frame.stream_id, self.initial)):
                self.received_of[stream_id] += size
                allowed = start + self.granted[stream_id]
                assert self.received_of[stream_id] <= allowed, f"past the window: {frame}"

    def grant(self, stream_id: int, size: int) -> None:
        self.granted[stream_id] += size
        self.send(raw.window_update(stream_id, size))

    def listen(self) -> None:
        """Take in what is here."""
        with suppress(TimeoutError):
            while self.receive(0) is not None:
                pass

    def finish_all(self) -> None:
        """Open every window, and see that every response comes whole."""
        self.offered.append({INITIAL_WINDOW_SIZE: 2**20})
        self.send(raw.settings({INITIAL_WINDOW_SIZE: 2**20}))
        self.grant(0, 2**24)
        self.expect_alive()  # the windows are open
        # A schedule that stood still may rightly lose responses that keep others from a place to
        # run: they have a second.
        stood_still = time.monotonic() - self.began > 0.9
        for stream_id, size in self.wanted.items():
            if stream_id not in self.given_up:
                response = self.finish(stream_id, STALLED)
                if response.reset == ErrorCodes.CANCEL and stood_still:
                    reject()
                if response.reset != ErrorCodes.REFUSED_STREAM:
                    assert response.reset is None, self.describe()
                    assert (response.status, len(response.body)) == (200, size)
        self.expect_alive()


@dataclass(frozen=True)
class Ask:
    """A GET, or a POST of `upload` bytes, which come back at the end of the response."""

    size: int
    chunks: int
    gates: str
    upload: int | None
    pieces: int

    def take(self, client: HonestClient, _inside: Inside) -> None:
        path = f"/gated?size={self.size}&n={self.chunks}&gates={self.gates}"
        if self.upload is None:
            stream_id = client.open(raw.request_fields(path))
        else:
            stream_id = client.open(raw.request_fields(path, "POST"), end_stream=False)
            body = b"u" * self.upload
            step = len(body) // self.pieces + 1
            parts = [body[i : i + step] for i in range(0, len(body), step)] or [b""]
            for i, part in enumerate(parts):
                client.send(raw.data(stream_id, part, end=i == len(parts) - 1))
        whole = self.size * self.chunks if self.chunks else self.size + (self.upload or 0)
        client.wanted[stream_id] = whole


@dataclass(frozen=True)
class Cancel:
    ago: int

    def take(self, client: HonestClient, _inside: Inside) -> None:
        stream_id = client.next_stream_id - 2 * (self.ago + 1)
        if stream_id > 0:
            client.given_up.add(stream_id)
            client.send(raw.rst_stream(stream_id))


@dataclass(frozen=True)
class Grant:
    """Open the window of a stream, or with None the connection's."""

    ago: int | None
    size: int

    def take(self, client: HonestClient, _inside: Inside) -> None:
        stream_id = 0 if self.ago is None else client.next_stream_id - 2 * (self.ago + 1)
        if stream_id >= 0:
            client.grant(stream_id, self.size)


@dataclass(frozen=True)
class Offer:
    """SETTINGS."""

    values: tuple[tuple[int, int], ...]

    def take(self, client: HonestClient, _inside: Inside) -> None:
        client.offered.append(dict(self.values))
        client.send(raw.settings(self.values))


@dataclass(frozen=True)
class Listen:
    """Read what comes; with `ping`, all that was under way."""

    ping: bool

    def take(self, client: HonestClient, _inside: Inside) -> None:
        if self.ping:
            client.expect_alive()
        client.listen()


@dataclass(frozen=True)
class Proceed:
    """Let so many of the waiting views go on."""

    number: int

    def take(self, _client: HonestClient, inside: Inside) -> None:
        inside.order(str(self.number))


HonestStep = Ask | Cancel | Grant | Offer | Listen | Proceed


def play_honest(server: Server, inside: Inside, schedule: Iterable[HonestStep]) -> None:
    """Take these steps on one connection; every request must be answered in the end."""
    inside.order("shut")
    try:
        with HonestClient(server) as client:
            for step in schedule:
                step.take(client, inside)
            inside.order("open")
            client.finish_all()
    finally:
        inside.order("open")
    inside.expect_nothing_left()


_size = st.sampled_from([0, 1, 9, 1000, 16384, 16385, 65535, 65536, 100_000, 200_000])
_window = st.sampled_from([0, 0, 1, 100, 16384, 65535, 65536, 200_000])
_ask = st.builds(
    Ask, _size, st.sampled_from([0, 0, 0, 1, 3]), st.sampled_from(["", "first", "each"]),
    st.sampled_from([None, None, None, 0, 1, 500, 5000]), st.integers(1, 4),
)  # fmt: skip
_offer = st.builds(
    Offer,
    st.lists(
        st.one_of(
            *[st.tuples(st.just(INITIAL_WINDOW_SIZE), _window)] * 3,
            st.tuples(st.just(HEADER_TABLE_SIZE), st.sampled_from([0, 100, 4096, 65536])),
            st.tuples(st.just(MAX_FRAME_SIZE), st.sampled_from([16384, 20000, 2**24 - 1])),
        ),
        min_size=1, max_size=3, unique_by=lambda pair: pair[0],
    ).map(tuple),
)  # fmt: skip
_recent = st.integers(0, 4)
_grant = st.builds(
    Grant, st.one_of(_recent, _recent, st.none()), st.sampled_from([1, 100, 16384, 65536, 200_000])
)
_honest_step = st.one_of(
    *[_ask] * 3, st.builds(Cancel, _recent), *[_grant] * 3, *[_offer] * 2,
    st.builds(Listen, st.booleans()), *[st.builds(Proceed, st.integers(1, 3))] * 2,
)  # fmt: skip

honest = _schedule(_honest_step)
