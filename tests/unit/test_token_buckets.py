"""One connection's token buckets, without a connection."""

import pytest
import raw

from plain_gevent_h2.http2.frame_filter import SMALL_SIZE, FrameFilter
from plain_gevent_h2.http2.frames import PREFACE, FrameType
from plain_gevent_h2.http2.token_buckets import FRAME_LIMITS, LOW, SMALL_DATA, TokenBuckets


def test_a_bucket_that_throttles_ends_no_connection() -> None:
    buckets = TokenBuckets()
    burst = FRAME_LIMITS[SMALL_DATA].burst
    tenth = round((1 - LOW) * burst)
    for _ in range(tenth - 1):
        buckets.take_if_any(SMALL_DATA)
    assert not buckets.low()
    for _ in range(2 * burst):
        buckets.take_if_any(SMALL_DATA)
    assert buckets.low()


@pytest.mark.parametrize("waited", [0.0, 3600.0])
def test_nothing_is_refilled_while_a_client_is_kept_waiting(waited: float) -> None:
    buckets = TokenBuckets()
    buckets.take(FrameType.PING, 900)
    buckets._refilled_at[FrameType.PING] -= 3600  # as if it had been an hour ago
    buckets.skip_refill(waited)
    assert buckets.low() == bool(waited)


def count(*frames: bytes) -> list[int]:
    """The kinds that these frames of a stream are counted as."""
    counted: list[int] = []

    def check(stream_id: int, size: int, *, ends: bool) -> None:
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
