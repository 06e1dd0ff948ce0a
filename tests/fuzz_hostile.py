"""Random schedules of hostile clients, as steps that can be written down and taken again.

They are frames and parts of HTTP/1.1, right ones and broken ones, on several connections that may
end anywhere. Which view goes on, and when, is in the schedule too (`LetGo`), so that little is left
to chance. The connections stand apart from `raw.py`, whose frames they send: a step may keep bytes
back or change them, and nothing that comes is read for what it says.
"""

import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import raw
from harness import WAIT, Server
from hpack import Encoder
from hypothesis import strategies as st
from inside import Inside

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


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


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


def schedules(step: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """Lists of steps, long ones too: of its own accord hypothesis makes lists of about six."""
    return st.one_of([st.lists(step, min_size=n, max_size=60) for n in (1, 15, 30)])


def _pack(form: str, *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return st.tuples(*parts).map(lambda numbers: struct.pack(form, *numbers))


_code = st.sampled_from([0, 1, 2, 5, 7, 8, 0xB, 99, 2**32 - 1])
_setting = _pack(">HL", st.sampled_from([1, 2, 3, 4, 4, 4, 5, 6, 8, 9, 99]), _number)
_control: dict[str, tuple[st.SearchStrategy[Any], ...]] = {
    "priority": (st.just(2), st.just(0), _any_ago, _pack(">LB", _number, st.integers(0, 255))),
    "reset": (st.just(3), st.just(0), _any_ago, _pack(">L", _code)),
    "settings": (st.just(4), st.just(0), st.none(), st.lists(_setting, max_size=3).map(b"".join)),
    "ack": (st.just(4), st.just(1), st.none(), st.just(b"")),
    "ping": (st.just(6), st.sampled_from([0, 0, 1]), st.none(), st.binary(min_size=8, max_size=8)),
    "window": (st.just(8), st.just(0), _any_ago, _pack(">L", _number)),
    "wide": (st.just(8), st.just(0), st.none(), st.just(struct.pack(">L", 2**30))),
    "wide-streams": (st.just(4), st.just(0), st.none(), st.just(struct.pack(">HL", 4, 2**30))),
    "goaway": (st.just(7), st.just(0), st.none(), _pack(">LL", _number, _code)),
    "continuation": (st.just(9), st.sampled_from([0, 4]), _any_ago, st.binary(max_size=9)),
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
_controls = st.one_of([st.builds(Control, _h2, _broken, *parts) for parts in _control.values()])
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

hostile = schedules(_step)
