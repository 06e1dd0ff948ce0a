"""Random schedules of a client that keeps to the protocol: each of its requests must be answered.

Which view goes on, and when, is in the schedule too (`Proceed`), so that little is left to chance.
"""

import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import raw
from fuzz_hostile import schedules
from h2.errors import ErrorCodes
from harness import Server
from hyperframe.frame import DataFrame, Frame, SettingsFrame
from hypothesis import reject
from hypothesis import strategies as st
from inside import Inside

HEADER_TABLE_SIZE, MAX_FRAME_SIZE, INITIAL_WINDOW_SIZE = 1, 5, 4

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

honest = schedules(_honest_step)
