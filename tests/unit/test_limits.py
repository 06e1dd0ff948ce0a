"""What is left of one connection's budgets, without a connection."""

import pytest
import raw

from plain_gevent_h2.http2.frames import PREFACE, SMALL_DATA, SMALL_SIZE, FrameReader, FrameType
from plain_gevent_h2.http2.limits import FRAME_LIMITS, STRAINED, Budgets


def test_a_budget_that_slows_down_ends_no_connection() -> None:
    budgets = Budgets()
    burst = FRAME_LIMITS[SMALL_DATA].burst
    tenth = round((1 - STRAINED) * burst)
    for _ in range(tenth - 1):
        budgets.slow_down(SMALL_DATA)
    assert not budgets.strained()
    for _ in range(2 * burst):
        budgets.slow_down(SMALL_DATA)
    assert budgets.strained()


@pytest.mark.parametrize("waited", [0.0, 3600.0])
def test_nothing_is_filled_up_while_a_client_is_kept_waiting(waited: float) -> None:
    budgets = Budgets()
    budgets.spend(FrameType.PING, 900)
    budgets._filled_at[FrameType.PING] -= 3600  # as if it had been an hour ago
    budgets.forgo(waited)
    assert budgets.strained() == bool(waited)


def count(*frames: bytes) -> list[int]:
    """The kinds that these frames of a stream are counted as."""
    counted: list[int] = []

    def check(stream_id: int, size: int, *, ends: bool) -> None:
        pass

    reader = FrameReader(16384, check, counted.append)
    for _ in reader.feed(PREFACE + raw.settings() + b"".join(frames)):
        pass
    return counted[1:]  # SETTINGS


def test_small_data_slows_a_connection_down() -> None:
    assert count(raw.data(1, b"x" * SMALL_SIZE, end=False)) == []
    assert count(raw.data(1, b"x" * (SMALL_SIZE - 1), end=False)) == [SMALL_DATA]
    assert count(raw.data(1, b"x", end=False, pad=200)) == [SMALL_DATA]
    assert count(raw.data(1, b"", end=False)) == [FrameType.DATA]
    assert count(raw.data(1, b"x")) == []
