"""Connections of random frames, half of them wrong, and of random HTTP/1.1.

Each round has the seed that a failure's message names. For a longer run:

    FUZZ_ROUNDS=20000 scripts/test tests/test_fuzz.py
"""

import os
import random
from collections.abc import Callable

import pytest
import raw
from h2client import Client
from harness import Server, wait_for
from hpack import Encoder

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "400"))

#: Rounds that share a server.
BATCH = 100

PATHS = ["/", "/echo", "/sleep?s=0.01", "/bytes?n=100000", "/chunks?n=5", "/statuses?kind=raise",
         "/failing-body", "/nowhere", "*", "", "/%ff?\u00ff"]  # fmt: skip
FIELDS = ["accept", "te", "connection", "cookie", "content-length", "host", ":path", ":status",
          ":protocol", "X-Upper", "", "expect", "transfer-encoding"]  # fmt: skip
VALUES = ["", "1", "-1", "trailers", "close", "a=b", "x" * 300, "\r\n", "\0", " ", "100-continue",
          "chunked", "99999999999999999999", "\u00ff"]  # fmt: skip


class Frames:
    """Random frames of one connection, most of them right in themselves."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.encoder = Encoder()
        self.next_stream_id = 1

    def stream_id(self) -> int:
        rng = self.rng
        return rng.choice([0, rng.randrange(1, self.next_stream_id + 2), self.next_stream_id])

    def number(self) -> int:
        return self.rng.choice([0, 1, 100, 2**14, 2**31 - 1, 2**31, 2**32 - 1])

    def headers(self) -> bytes:
        rng = self.rng
        method = rng.choice(["GET", "POST", "HEAD", "OPTIONS", "CONNECT", "get", ""])
        fields: list[raw.Field] = list(raw.request_fields(rng.choice(PATHS), method))
        for _ in range(rng.choice([0, 0, 1, 5])):
            fields.insert(rng.randrange(len(fields) + 1), (rng.choice(FIELDS), rng.choice(VALUES)))
        if rng.random() < 0.1:
            rng.shuffle(fields)
        block = self.encoder.encode([(n, v.encode("latin-1")) for n, v in fields])  # type: ignore[union-attr]
        stream_id = self.next_stream_id if rng.random() < 0.9 else self.stream_id()
        self.next_stream_id = max(self.next_stream_id, stream_id + 2)
        end = rng.random() < 0.6
        if rng.random() < 0.8:
            return raw.headers(stream_id, block, end_stream=end)
        cut = rng.randrange(len(block) + 1)
        rest = raw.continuation(stream_id, block[cut:], end_headers=rng.random() < 0.9)
        return raw.headers(stream_id, block[:cut], end_stream=end, end_headers=False) + rest

    def control(self) -> bytes:
        rng = self.rng
        makers: list[Callable[[], bytes]] = [
            lambda: raw.settings([(rng.randrange(12), self.number()) for _ in range(3)]),
            lambda: raw.settings({4: 0}),
            raw.settings_ack,
            lambda: raw.window_update(self.stream_id(), self.number()),
            lambda: raw.rst_stream(self.stream_id(), self.number()),
            lambda: raw.priority(self.stream_id(), self.stream_id()),
            lambda: raw.goaway(self.stream_id(), 0) if rng.random() < 0.1 else b"",
            lambda: raw.ping(ack=rng.random() < 0.3),
            lambda: raw.pack(
                rng.randrange(256), rng.randrange(256), self.stream_id(), rng.randbytes(20)
            ),
        ]
        return rng.choice(makers)()

    def data(self) -> bytes:
        rng = self.rng
        body = b"x" * rng.choice([0, 1, 100, 16000])
        pad = rng.choice([None, None, 0, 255])
        return raw.data(self.stream_id(), body, end=rng.random() < 0.3, pad=pad)

    def frame(self) -> bytes:
        rng = self.rng
        made = rng.choice([self.headers, self.headers, self.data, self.control])()
        if made and rng.random() < 0.05:  # broken
            at = rng.randrange(len(made))
            made = made[:at] + rng.randbytes(rng.randrange(4)) + made[at + rng.randrange(4) :]
        return made


def http2(rng: random.Random) -> bytes:
    frames = Frames(rng)
    start = raw.PREFACE + raw.settings() if rng.random() < 0.95 else rng.randbytes(30)
    return start + b"".join(frames.frame() for _ in range(rng.choice([3, 30, 300])))


def http1(rng: random.Random) -> bytes:
    def line() -> str:
        return f"{rng.choice([*FIELDS, 'Content-Length'])}: {rng.choice(VALUES)}\r\n"

    def request() -> str:
        method = rng.choice(["GET", "POST", "HEAD", "get", "", "PRI"])
        version = rng.choice(["1.1", "1.1", "1.0", "2.0", "9"])
        head = f"{method} {rng.choice(PATHS)} HTTP/{version}\r\nHost: x\r\n"
        body = rng.choice(["", "5\r\nhello\r\n0\r\n\r\n", "zz\r\n", "x" * 100])
        return head + "".join(line() for _ in range(rng.randrange(4))) + "\r\n" + body

    sent = "".join(request() for _ in range(rng.choice([1, 5]))).encode("latin-1")
    return sent[: rng.randrange(len(sent) + 1)] if rng.random() < 0.3 else sent


def one_connection(server: Server, seed: int) -> None:
    """Send it all, in pieces of any size, and read until the server closes or falls silent."""
    rng = random.Random(seed)
    protocol, make = rng.choice([("h2", http2), ("h2", http2), ("http/1.1", http1)])
    sent = make(rng)
    sock = server.connect(protocol)
    sock.settimeout(0.2)
    try:
        while sent:
            cut = rng.choice([1, 9, 1000, 100_000])
            sock.sendall(sent[:cut])
            sent = sent[cut:]
            if rng.random() < 0.01:
                break  # leaves in the middle
        while sock.recv(65536):
            pass
    except OSError:
        pass  # closed while we were sending, or silent: both are answers
    finally:
        sock.close()


@pytest.mark.parametrize("first", range(0, ROUNDS, BATCH))
def test_random_connections_harm_nobody(serve: Callable[..., Server], first: int) -> None:
    server = serve(env={"PLAIN_SERVER_MAX_REQUESTS": "0", "PLAIN_SERVER_KEEPALIVE_TIMEOUT": "2"})
    worker = server.worker()
    with Client(server) as client:
        assert client.get("/").body == b"hello"
        files = worker.num_fds()
    for seed in range(first, min(first + BATCH, ROUNDS)):
        one_connection(server, seed)
        assert worker.is_running(), f"the worker ended, seed {seed}"
        log = server.log()
        assert "Unexpected" not in log, f"seed {seed}"
        assert "Error handling request" not in log, f"seed {seed}"
    with Client(server) as client:
        assert client.get("/").body == b"hello"
        assert client.get("/bytes?n=1000000").status == 200
    wait_for(lambda: worker.num_fds() <= files, "end of the connections")
