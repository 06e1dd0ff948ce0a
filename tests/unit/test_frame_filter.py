"""What is let through to `h2`, and what is not, without a connection."""

import struct
from collections.abc import Sequence

import pytest
import raw

from plain_gevent_h2.http2.faults import ConnectionFault, StreamFault
from plain_gevent_h2.http2.frame_filter import (
    MAX_CONTINUATIONS,
    MAX_RUN,
    MAX_RUN_BYTES,
    SMALL_SIZE,
    FrameFilter,
    GoAway,
    Settled,
)
from plain_gevent_h2.http2.frames import PREFACE, ErrorCodes, FrameType, RawFrame, pack_frame
from plain_gevent_h2.http2.token_buckets import SMALL_DATA

Item = bytes | StreamFault | GoAway

MAX_FRAME_SIZE = 16384


def wire(item: list[RawFrame] | StreamFault | GoAway) -> Item:
    """Frames for `h2` as they are on the wire; what is none as it is."""
    return b"".join(pack_frame(*frame) for frame in item) if isinstance(item, list) else item


class Connection:
    """A connection whose frames are filtered."""

    def __init__(self, max_block_size: int = 100_000) -> None:
        self.counted: list[int] = []
        self.asked: list[tuple[int, int, bool]] = []  # about DATA: stream, size, ends it
        self.lengths: list[int] = []  # of the same
        self.outcome: ErrorCodes | Settled | None = None  # of DATA
        self.filter = FrameFilter(
            MAX_FRAME_SIZE, self._check_data, self.counted.append, max_block_size
        )
        self.feed(PREFACE + raw.settings())
        self.counted.clear()

    def _check_data(
        self, stream_id: int, size: int, length: int, *, ends: bool
    ) -> ErrorCodes | Settled | None:
        self.asked.append((stream_id, size, ends))
        self.lengths.append(length)
        return self.outcome

    def items(self, *frames: bytes) -> list[Item]:
        return [item for item in map(wire, self.filter.feed(b"".join(frames))) if item != b""]

    def feed(self, *frames: bytes) -> bytes:
        """What `h2` sees."""
        items = self.items(*frames)
        assert all(isinstance(item, bytes) for item in items), items
        return b"".join(items)  # type: ignore[arg-type]

    def expect_fault(self, code: ErrorCodes, reason: str, *frames: bytes) -> None:
        """The last of `frames` ends the connection; `reason` is for the peer and the log."""
        before = b"".join(frames[:-1])
        passed = b""
        with pytest.raises(ConnectionFault) as raised:  # noqa: PT012
            for item in map(wire, self.filter.feed(before + frames[-1])):
                assert isinstance(item, bytes)
                passed += item
        assert (raised.value.code, raised.value.reason) == (code, reason)
        assert passed == before  # all that came before the violation


@pytest.fixture
def connection() -> Connection:
    return Connection()


OPEN = raw.headers(1, b"\x82", end_stream=False)


class TestPreface:
    @pytest.mark.parametrize("piece", [1, 5, 1000])
    def test_it_is_whole_with_its_settings(self, piece: int) -> None:
        reader = Connection.__new__(Connection)
        reader.counted = []
        reader.filter = FrameFilter(MAX_FRAME_SIZE, lambda *_, **__: None, reader.counted.append)
        sent = PREFACE + raw.settings({3: 1})
        seen = b""
        for i in range(0, len(sent), piece):
            assert not reader.filter.preface_seen
            seen += reader.feed(sent[i : i + piece])
        assert reader.filter.preface_seen
        assert seen == raw.settings({3: 1})
        assert reader.counted == [FrameType.SETTINGS]

    @pytest.mark.parametrize("at", range(len(PREFACE)))
    def test_each_byte_counts(self, at: int) -> None:
        wrong = PREFACE[:at] + bytes([PREFACE[at] ^ 1]) + PREFACE[at + 1 :]
        reader = FrameFilter(MAX_FRAME_SIZE, lambda *_, **__: None, lambda _: None)
        with pytest.raises(ConnectionFault) as raised:
            list(reader.feed(wrong[: at + 1]))
        assert raised.value.code == ErrorCodes.PROTOCOL_ERROR
        assert raised.value.reason == "invalid connection preface"

    @pytest.mark.parametrize("first", [raw.settings_ack(), raw.ping(), OPEN, raw.data(1)])
    def test_the_first_frame_is_settings(self, first: bytes) -> None:
        reader = FrameFilter(MAX_FRAME_SIZE, lambda *_, **__: None, lambda _: None)
        with pytest.raises(ConnectionFault) as raised:
            list(reader.feed(PREFACE + first))
        assert raised.value.code == ErrorCodes.PROTOCOL_ERROR
        assert raised.value.reason == "the first frame is not SETTINGS"
        assert not reader.preface_seen


class TestFrames:
    def test_a_frame_is_passed_when_it_is_whole(self, connection: Connection) -> None:
        for byte in OPEN[:-1]:
            assert connection.feed(bytes([byte])) == b""
        assert connection.feed(OPEN[-1:]) == OPEN

    def test_the_largest_frame(self, connection: Connection) -> None:
        largest = raw.pack(0x20, 0, 1, bytes(MAX_FRAME_SIZE))
        connection.feed(largest)
        too_large = raw.pack(0x20, 0, 1, length=MAX_FRAME_SIZE + 1)
        connection.expect_fault(
            ErrorCodes.FRAME_SIZE_ERROR, f"frame of {MAX_FRAME_SIZE + 1} bytes", OPEN, too_large
        )

    @pytest.mark.parametrize("kind", [0x10, 0x20, 0xFF])
    def test_frames_of_other_types_are_ignored_and_counted(
        self, connection: Connection, kind: int
    ) -> None:
        assert connection.feed(OPEN, raw.pack(kind, 0xFF, 1, b"x"), raw.ping()) == OPEN + raw.ping()
        assert connection.counted == [kind, FrameType.PING]

    def test_runs_are_short(self, connection: Connection) -> None:
        pings = raw.ping() * 3 * MAX_RUN
        items = connection.items(pings)
        assert b"".join(items) == pings  # type: ignore[arg-type]
        assert [len(item) // 17 for item in items] == [MAX_RUN] * 3  # type: ignore[arg-type]
        block = raw.headers(1, bytes(MAX_RUN_BYTES // 2), end_stream=False)
        items = connection.items(*[block] * 5)
        assert [len(item) // len(block) for item in items] == [2, 2, 1]  # type: ignore[arg-type]

    def test_all_before_data_is_handed_on_before_it_is_asked_about(
        self, connection: Connection
    ) -> None:
        items = connection.filter.feed(OPEN + raw.data(1, b"x" * 200, end=False))
        assert wire(next(items)) == OPEN
        assert connection.asked == []
        list(items)
        assert connection.asked == [(1, 200, False)]


class TestData:
    def test_a_fault_keeps_it_from_h2_with_the_window_to_give_back(
        self, connection: Connection
    ) -> None:
        """Padding counts in the connection's window (RFC 9113 section 6.1)."""
        connection.feed(OPEN)
        connection.outcome = ErrorCodes.STREAM_CLOSED
        assert connection.items(raw.data(1, b"x" * 10, pad=7), raw.ping()) == [
            StreamFault(1, ErrorCodes.STREAM_CLOSED, unseen=18),
            raw.ping(),
        ]
        assert connection.items(raw.data(1, b"x" * 10, end=False)) == [
            StreamFault(1, ErrorCodes.STREAM_CLOSED, unseen=10)
        ]
        assert connection.asked == [(1, 10, True), (1, 10, False)]

    def test_what_is_settled_goes_no_further(self, connection: Connection) -> None:
        connection.feed(OPEN)
        connection.outcome = Settled.SETTLED
        frames = raw.data(1, b"x" * 10, end=False, pad=7), raw.ping(), raw.data(1, b"x", end=False)
        assert connection.items(*frames) == [raw.ping()]
        assert connection.lengths == [18, 1]

    @pytest.mark.parametrize(("length", "pad"), [(1, 0), (5, 4), (201, 200)])
    def test_all_padding_is_empty(self, connection: Connection, length: int, pad: int) -> None:
        connection.feed(OPEN, raw.data(1, bytes(length - 1 - pad), end=False, pad=pad))
        assert connection.asked == [(1, 0, False)]
        assert connection.counted == [FrameType.DATA]

    @pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05abcd"])
    def test_too_much_padding_is_for_h2_to_refuse(
        self, connection: Connection, payload: bytes
    ) -> None:
        frame = raw.pack(FrameType.DATA, raw.PADDED, 1, payload)
        assert connection.feed(OPEN, frame) == OPEN + frame
        assert connection.asked == ([] if payload else [(1, 0, False)])

    @pytest.mark.parametrize(
        ("size", "end", "kind"),
        [
            (0, False, FrameType.DATA),
            (1, False, SMALL_DATA),
            (SMALL_SIZE - 1, False, SMALL_DATA),
            (SMALL_SIZE, False, None),
            (0, True, None),
            (1, True, None),
        ],
    )
    def test_small_ones_are_counted_but_for_the_last(
        self, connection: Connection, size: int, end: bool, kind: int | None
    ) -> None:
        connection.feed(OPEN, raw.data(1, bytes(size), end=end))
        assert connection.counted == ([] if kind is None else [kind])
        assert connection.asked == [(1, size, end)]


class TestBlocks:
    @staticmethod
    def block(stream_id: int, continuations: int, size: int = 1) -> Sequence[bytes]:
        middle = [raw.continuation(stream_id, bytes(size), end_headers=False)] * (continuations - 1)
        return [
            raw.headers(stream_id, bytes(size), end_headers=False),
            *middle,
            raw.continuation(stream_id, bytes(size)),
        ]

    def test_so_many_continuations_for_each_block(self, connection: Connection) -> None:
        for stream_id in (1, 3, 5):  # counted anew
            frames = self.block(stream_id, MAX_CONTINUATIONS)
            assert connection.feed(*frames) == b"".join(frames)

    def test_and_no_more(self, connection: Connection) -> None:
        frames = self.block(1, MAX_CONTINUATIONS + 1)
        connection.expect_fault(
            ErrorCodes.ENHANCE_YOUR_CALM, "too many CONTINUATION frames", *frames
        )

    @pytest.mark.parametrize(
        "inside",
        [
            raw.ping(),
            raw.data(1),
            raw.continuation(3, b""),
            raw.headers(1, b""),
            raw.pack(32, 0, 1),
        ],
    )
    def test_nothing_else_inside_one(self, connection: Connection, inside: bytes) -> None:
        start = raw.headers(1, b"\x82", end_headers=False)
        connection.expect_fault(
            ErrorCodes.PROTOCOL_ERROR, "frame inside a header block", start, inside
        )

    OUTSIDE = "CONTINUATION outside a header block"

    def test_no_continuation_outside_one(self, connection: Connection) -> None:
        connection.expect_fault(
            ErrorCodes.PROTOCOL_ERROR, self.OUTSIDE, OPEN, raw.continuation(1, b"")
        )
        other = Connection()
        frames = self.block(1, 2)
        last = raw.continuation(1, b"")
        other.expect_fault(ErrorCodes.PROTOCOL_ERROR, self.OUTSIDE, *frames, last)

    def test_so_many_bytes_for_each_block(self) -> None:
        connection = Connection(max_block_size=30)
        for stream_id in (1, 3):
            connection.feed(*self.block(stream_id, 2, size=10))
            assert connection.filter.take_finished_block() == 30
        connection.feed(raw.headers(5, bytes(30)))
        too_long = "header block of more than 30 bytes"
        connection.expect_fault(ErrorCodes.ENHANCE_YOUR_CALM, too_long, raw.headers(7, bytes(31)))
        other = Connection(max_block_size=30)
        start, *rest = self.block(1, 2, size=10)
        last = raw.continuation(1, bytes(11))
        other.expect_fault(ErrorCodes.ENHANCE_YOUR_CALM, too_long, start, rest[0], last)

    def test_what_is_unfinished_is_known(self, connection: Connection) -> None:
        start, middle, end = self.block(1, 2, size=10)
        assert connection.filter.unfinished_block == 0
        for frame, size in ((start, 10), (middle, 20), (end, 0)):
            connection.feed(frame)
            assert connection.filter.unfinished_block == size

    def test_the_longest_that_has_ended_is_told_once(self, connection: Connection) -> None:
        assert connection.filter.take_finished_block() == 0
        connection.feed(raw.headers(1, bytes(5)), raw.headers(3, bytes(20)), raw.headers(5, b"x"))
        assert connection.filter.take_finished_block() == 20
        assert connection.filter.take_finished_block() == 0
        connection.feed(raw.headers(7, bytes(40), end_headers=False))
        assert connection.filter.take_finished_block() == 0

    @pytest.mark.parametrize("pad", [0, 3, 200])
    def test_padding_is_taken_off(self, connection: Connection, pad: int) -> None:
        padded = raw.headers(1, b"\x82\x84", pad=pad)
        assert connection.feed(padded) == raw.headers(1, b"\x82\x84")
        assert connection.feed(raw.headers(3, b"", pad=pad)) == raw.headers(3, b"")

    @pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05abcd"])
    def test_too_much_padding_is_for_h2_to_refuse(
        self, connection: Connection, payload: bytes
    ) -> None:
        frame = raw.pack(FrameType.HEADERS, raw.PADDED | raw.END_HEADERS, 1, payload)
        assert connection.feed(frame) == frame


class TestOtherFrames:
    def test_settings_of_unknown_meaning_are_left_out(self, connection: Connection) -> None:
        known = [(1, 100), (2, 0), (3, 5), (4, 70_000), (5, 20_000), (6, 9), (8, 1)]
        assert connection.feed(raw.settings(known)) == raw.settings(known)
        mixed = [(7, 1), *known, (9, 1), (0xFFFF, 1), (4, 1)]
        assert connection.feed(raw.settings(mixed)) == raw.settings([*known, (4, 1)])
        assert connection.feed(raw.settings([(9, 1)])) == raw.settings()

    def test_an_ack_has_no_payload(self, connection: Connection) -> None:
        assert connection.feed(raw.settings_ack()) == raw.settings_ack()
        ack = raw.pack(FrameType.SETTINGS, raw.ACK, 0, bytes(6))
        connection.expect_fault(
            ErrorCodes.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload", raw.ping(), ack
        )

    @pytest.mark.parametrize("payload", [bytes(5), bytes(7)])
    def test_settings_of_another_length_are_for_h2_to_refuse(
        self, connection: Connection, payload: bytes
    ) -> None:
        frame = raw.pack(FrameType.SETTINGS, 0, 0, payload)
        assert connection.feed(frame) == frame
        on_stream = raw.pack(FrameType.SETTINGS, 0, 1, struct.pack(">HL", 9, 1))
        assert connection.feed(on_stream) == on_stream

    def test_goaway_is_the_callers(self, connection: Connection) -> None:
        frame = raw.pack(FrameType.GOAWAY, 0, 0, struct.pack(">LL", 5, 0xDEADBEEF) + b"debug")
        assert connection.items(raw.ping(), frame, raw.ping()) == [
            raw.ping(),
            GoAway(0xDEADBEEF),
            raw.ping(),
        ]
        assert connection.items(raw.pack(FrameType.GOAWAY, 0, 0, bytes(8))) == [GoAway(0)]
        short = raw.pack(FrameType.GOAWAY, 0, 0, bytes(7))
        connection.expect_fault(ErrorCodes.FRAME_SIZE_ERROR, "GOAWAY too short", OPEN, short)
        on_stream = raw.pack(FrameType.GOAWAY, 0, 1, bytes(8))
        Connection().expect_fault(ErrorCodes.PROTOCOL_ERROR, "GOAWAY on a stream", OPEN, on_stream)

    def test_priority_is_checked_and_ignored(self, connection: Connection) -> None:
        assert connection.feed(OPEN, raw.priority(1), raw.priority(9)) == OPEN
        assert connection.counted == [FrameType.PRIORITY] * 2
        wrong = raw.pack(FrameType.PRIORITY, 0, 1, bytes(4))
        assert connection.items(wrong) == [StreamFault(1, ErrorCodes.FRAME_SIZE_ERROR)]
        assert connection.items(raw.priority(1, 1)) == [StreamFault(1, ErrorCodes.PROTOCOL_ERROR)]
        exclusive = raw.priority(1, 1, exclusive=True)
        assert connection.items(exclusive) == [StreamFault(1, ErrorCodes.PROTOCOL_ERROR)]

    @pytest.mark.parametrize(
        ("frame", "code", "reason"),
        [
            (raw.priority(0), ErrorCodes.PROTOCOL_ERROR, "PRIORITY on stream 0"),
            (raw.priority(3, 3), ErrorCodes.PROTOCOL_ERROR, "malformed PRIORITY"),
            (
                raw.pack(FrameType.PRIORITY, 0, 3, bytes(6)),
                ErrorCodes.FRAME_SIZE_ERROR,
                "malformed PRIORITY",
            ),
            (raw.rst_stream(3), ErrorCodes.PROTOCOL_ERROR, "RST_STREAM on an idle stream"),
        ],
    )
    def test_on_a_stream_that_is_idle_it_is_the_connections_fault(
        self, connection: Connection, frame: bytes, code: ErrorCodes, reason: str
    ) -> None:
        connection.expect_fault(code, reason, OPEN, frame)

    def test_at_first_all_streams_are_idle(self, connection: Connection) -> None:
        reason = "RST_STREAM on an idle stream"
        connection.expect_fault(ErrorCodes.PROTOCOL_ERROR, reason, raw.ping(), raw.rst_stream(1))
        assert Connection().feed(raw.window_update(1, 0)) == raw.window_update(1, 0)  # for h2

    def test_a_reset_of_a_stream(self, connection: Connection) -> None:
        assert connection.feed(OPEN, raw.rst_stream(1)) == OPEN + raw.rst_stream(1)
        other_size = raw.pack(FrameType.RST_STREAM, 0, 3, bytes(3))
        assert connection.feed(other_size) == other_size  # h2 says so

    def test_an_increment_of_none_is_the_streams_fault(self, connection: Connection) -> None:
        connection.feed(OPEN)
        fault = StreamFault(1, ErrorCodes.PROTOCOL_ERROR)
        for increment in (0, 2**31):  # the reserved bit is to be ignored
            frame = raw.pack(FrameType.WINDOW_UPDATE, 0, 1, struct.pack(">L", increment))
            assert connection.items(frame) == [fault]

    @pytest.mark.parametrize("stream_id", [0, 1, 3])
    def test_the_reserved_bit_of_an_increment_is_ignored(
        self, connection: Connection, stream_id: int
    ) -> None:
        frame = raw.pack(FrameType.WINDOW_UPDATE, 0, stream_id, struct.pack(">L", 2**31 + 5))
        passed = raw.window_update(stream_id, 5)
        assert connection.feed(OPEN, frame, frame) == OPEN + passed + passed
        assert connection.feed(frame) == passed

    def test_no_other_frame_of_four_bytes_is_changed(self, connection: Connection) -> None:
        frames = (
            raw.headers(1, b"\x82\x84\x87\x81", end_stream=False),
            raw.data(1, b"\xff\xff\xff\xff", end=False),
            raw.pack(FrameType.RST_STREAM, 0, 1, b"\xff\xff\xff\xff"),
        )
        assert connection.feed(*frames) == b"".join(frames)

    @pytest.mark.parametrize(
        "frame",
        [
            raw.window_update(0, 0),
            raw.window_update(3, 0),
            raw.pack(FrameType.WINDOW_UPDATE, 0, 1, bytes(3)),
            raw.pack(FrameType.WINDOW_UPDATE, 0, 1, bytes(5)),
        ],
    )
    def test_other_increments_are_for_h2_to_refuse(
        self, connection: Connection, frame: bytes
    ) -> None:
        assert connection.feed(OPEN, frame) == OPEN + frame
        assert connection.counted == [FrameType.WINDOW_UPDATE]
