"""One connection's token buckets, without a connection."""

import pytest
import raw
from clock import Clock

from plain_gevent_h2.http2 import token_buckets
from plain_gevent_h2.http2.faults import ConnectionFault
from plain_gevent_h2.http2.frame_filter import SMALL_SIZE, FrameFilter
from plain_gevent_h2.http2.frames import PREFACE, ErrorCodes, FrameType
from plain_gevent_h2.http2.token_buckets import (
    DATA_ON_CLOSED_STREAM,
    FRAME_LIMITS,
    LOW,
    RESET_FRAME,
    SMALL_DATA,
    UNKNOWN_FRAME_LIMIT,
    Limit,
    TokenBuckets,
)

#: A type of frame that RFC 9113 does not have.
UNKNOWN = 0x20


def limit_of(kind: int) -> Limit:
    return FRAME_LIMITS.get(kind, UNKNOWN_FRAME_LIMIT)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of(token_buckets, monkeypatch)


#: Each kind that ends a connection past its limit, and one that has no limit of its own.
KINDS = [*(kind for kind in FRAME_LIMITS if kind != SMALL_DATA), UNKNOWN]


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("kind", KINDS)
def test_the_burst_is_free_and_no_more(kind: int) -> None:
    buckets = TokenBuckets()
    buckets.take(kind, limit_of(kind).burst)
    with pytest.raises(ConnectionFault) as raised:
        buckets.take(kind)
    assert raised.value.code == ErrorCodes.ENHANCE_YOUR_CALM


@pytest.mark.usefixtures("clock")
def test_one_frame_at_a_time_comes_to_the_same() -> None:
    buckets = TokenBuckets()
    for _ in range(FRAME_LIMITS[FrameType.GOAWAY].burst):
        buckets.take(FrameType.GOAWAY)
    with pytest.raises(ConnectionFault):
        buckets.take(FrameType.GOAWAY)


@pytest.mark.parametrize("kind", KINDS)
def test_it_refills_at_its_rate(clock: Clock, kind: int) -> None:
    buckets, limit = TokenBuckets(), limit_of(kind)
    buckets.take(kind, limit.burst)
    clock.now += 1
    buckets.take(kind, limit.refill_rate)
    with pytest.raises(ConnectionFault):
        buckets.take(kind)
    clock.now += 2  # of one second, what the last frame took is made up for as well
    buckets.take(kind, limit.refill_rate)


def test_time_counts_once(clock: Clock) -> None:
    buckets, limit = TokenBuckets(), FRAME_LIMITS[FrameType.PING]
    buckets.take(FrameType.PING, limit.burst)
    clock.now += 1
    buckets.take(FrameType.PING, limit.refill_rate)
    clock.now += 1
    buckets.take(FrameType.PING, limit.refill_rate)
    with pytest.raises(ConnectionFault):
        buckets.take(FrameType.PING)


def test_it_refills_to_its_burst_at_most(clock: Clock) -> None:
    """The frames that are being counted come after."""
    buckets, burst = TokenBuckets(), FRAME_LIMITS[FrameType.PING].burst
    buckets.take(FrameType.PING, burst)
    clock.now += 3600
    buckets.take(FrameType.PING)
    buckets.take(FrameType.PING, burst)
    with pytest.raises(ConnectionFault):
        buckets.take(FrameType.PING, burst)


@pytest.mark.usefixtures("clock")
def test_each_kind_has_a_bucket_of_its_own() -> None:
    buckets = TokenBuckets()
    for kind in KINDS:
        buckets.take(kind, limit_of(kind).burst)


@pytest.mark.usefixtures("clock")
def test_a_refund_is_capped_by_the_burst() -> None:
    buckets, burst = TokenBuckets(), FRAME_LIMITS[FrameType.RST_STREAM].burst
    buckets.take(FrameType.RST_STREAM, 10)
    buckets.refund(FrameType.RST_STREAM, 4)
    with pytest.raises(ConnectionFault):
        buckets.take(FrameType.RST_STREAM, burst - 5)
    buckets.take(FrameType.RST_STREAM, burst - 6)  # what is left, to the last
    buckets.refund(FrameType.RST_STREAM, 10 * burst)
    buckets.take(FrameType.RST_STREAM, burst)
    with pytest.raises(ConnectionFault):
        buckets.take(FrameType.RST_STREAM)


@pytest.mark.usefixtures("clock")
def test_a_refund_before_the_first_frame_is_lost() -> None:
    buckets, burst = TokenBuckets(), FRAME_LIMITS[FrameType.PING].burst
    buckets.refund(FrameType.PING, 100)
    with pytest.raises(ConnectionFault):
        buckets.take(FrameType.PING, burst + 1)


def test_one_that_only_slows_down_goes_to_zero_and_no_lower(clock: Clock) -> None:
    """Or who sends more for longer would be slowed down for longer after it."""
    buckets, limit = TokenBuckets(), FRAME_LIMITS[SMALL_DATA]
    tenth = round((1 - LOW) * limit.burst)
    for _ in range(tenth):
        buckets.take_if_any(SMALL_DATA)
    assert not buckets.low()
    buckets.take_if_any(SMALL_DATA)
    assert buckets.low()
    for _ in range(2 * limit.burst):
        buckets.take_if_any(SMALL_DATA)
    clock.now += LOW * limit.burst / limit.refill_rate - 0.5 / limit.refill_rate
    assert buckets.low()
    clock.now += 1 / limit.refill_rate
    assert not buckets.low()


@pytest.mark.parametrize("kind", KINDS)
def test_low_is_who_used_a_tenth_of_a_burst_lately(clock: Clock, kind: int) -> None:
    buckets, limit = TokenBuckets(), limit_of(kind)
    assert not buckets.low()
    tenth = round((1 - LOW) * limit.burst)
    buckets.take(kind, tenth)
    assert not buckets.low()
    buckets.take(kind)
    assert buckets.low()
    clock.now += 1.5 / limit.refill_rate
    assert not buckets.low()
    buckets.take(kind, limit.burst - tenth)  # the refill above was kept


@pytest.mark.parametrize("waited", [0.0, 3600.0])
def test_nothing_is_filled_up_while_a_client_is_kept_waiting(clock: Clock, waited: float) -> None:
    buckets, limit = TokenBuckets(), FRAME_LIMITS[FrameType.PING]
    buckets.take(FrameType.PING, limit.burst)
    buckets.take_if_any(SMALL_DATA)
    clock.now += 3600
    buckets.skip_refill(waited)
    assert buckets.low() == bool(waited)
    clock.now += 1
    buckets.take(FrameType.PING, limit.refill_rate)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (FrameType.PING, "PING"),
        (DATA_ON_CLOSED_STREAM, "late DATA"),
        (RESET_FRAME, "late RST_STREAM"),
        (UNKNOWN, "unknown"),
    ],
)
def test_the_fault_names_the_kind(kind: int, name: str) -> None:
    with pytest.raises(ConnectionFault, match=f": too many {name} frames$"):
        TokenBuckets().take(kind, 10**6)


def count(*frames: bytes) -> list[int]:
    """The kinds that these frames of a stream are counted as."""
    counted: list[int] = []

    def check(stream_id: int, size: int, length: int, *, ends: bool) -> None:
        pass

    reader = FrameFilter(16384, check, counted.append)
    for _ in reader.feed(PREFACE + raw.settings() + b"".join(frames)):
        pass
    return counted[1:]  # SETTINGS


def test_small_data_slows_a_connection_down() -> None:
    assert count(raw.data(1, b"x" * SMALL_SIZE, end=False)) == []
    assert count(raw.data(1, b"x" * (SMALL_SIZE - 1), end=False)) == [SMALL_DATA]
    assert count(raw.data(1, b"x", end=False, pad=200)) == [SMALL_DATA]
    assert count(raw.data(1, b"", end=False)) == [FrameType.DATA]
    assert count(raw.data(1, b"x")) == []
