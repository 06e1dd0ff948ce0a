"""A response's body on its way to the writer, with time that the test sets."""

import gevent
import pytest
from clock import Clock

from plain_gevent_h2.http2 import send_buffer
from plain_gevent_h2.http2.send_buffer import HIGH_WATER, LOW_WATER, SendBuffer
from plain_gevent_h2.limits.send_timeout import MIN_PROGRESS
from plain_gevent_h2.limits.unsent import MAX_UNSENT, UnsentBytes
from plain_gevent_h2.net.fairness import yield_to_others


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of(send_buffer, monkeypatch)


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long bodies waited for their clients, as the metric has it."""
    times: list[float] = []
    monkeypatch.setattr("plain_gevent_h2.net.metrics.flow_control_blocked", times.append)
    return times


@pytest.fixture
def unsent() -> UnsentBytes:
    return UnsentBytes()


@pytest.fixture
def buffer(clock: Clock, unsent: UnsentBytes) -> SendBuffer:
    return SendBuffer(1, unsent)


class TestBytes:
    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 7, 1000])
    def test_they_come_out_as_they_went_in(self, buffer: SendBuffer, limit: int) -> None:
        pieces = [b"abc", b"d", b"efghij", b"", b"klm", b"n" * 20]
        for piece in pieces:
            buffer.put(piece)
        taken = []
        while buffer.size:
            taken.append(bytes(buffer.take(limit)))
            assert 0 < len(taken[-1]) <= limit
        assert b"".join(taken) == b"".join(pieces)
        # Small chunks go together: all but the last are full.
        assert {len(data) for data in taken[:-1]} <= {limit}

    def test_one_chunk_is_not_copied(self, buffer: SendBuffer) -> None:
        data = b"x" * 100
        buffer.put(data)
        assert buffer.take(100) is data
        buffer.put(data)
        assert isinstance(buffer.take(60), memoryview)
        assert isinstance(buffer.take(60), memoryview)

    def test_they_are_counted_in_the_worker_until_they_are_framed(
        self, buffer: SendBuffer, unsent: UnsentBytes
    ) -> None:
        other = SendBuffer(3, unsent)
        buffer.put(b"x" * 100)
        other.put(b"x" * 10)
        assert unsent.http2 == 110
        buffer.take(30)
        assert (unsent.http2, buffer.size) == (80, 70)
        buffer.take(1000)
        assert (unsent.http2, buffer.size) == (10, 0)
        assert unsent.http1 == 0

    def test_what_a_closed_buffer_had_is_no_longer_counted(
        self, buffer: SendBuffer, unsent: UnsentBytes
    ) -> None:
        buffer.put(b"x" * 100)
        buffer.take(30)
        for _ in range(2):
            buffer.close()
            assert (unsent.http2, buffer.size) == (0, 0)
        assert buffer.closed


class TestProgress:
    def test_it_counts_from_the_first_byte_that_waits(
        self, buffer: SendBuffer, clock: Clock
    ) -> None:
        buffer.put(b"x" * 10_000)
        clock.now += 1
        buffer.put(b"x" * 10_000)  # more from the view is no progress of the client's
        assert buffer.progress_at == clock.now - 1

    def test_so_many_bytes_are_progress_and_fewer_are_none(
        self, buffer: SendBuffer, clock: Clock
    ) -> None:
        buffer.put(b"x" * 10_000)
        began = clock.now
        for _ in range(MIN_PROGRESS - 1):
            clock.now += 1
            buffer.take(1)
        assert buffer.progress_at == began
        buffer.take(1)
        assert buffer.progress_at == clock.now
        began = clock.now
        clock.now += 1
        buffer.take(MIN_PROGRESS - 1)  # counted anew
        assert buffer.progress_at == began
        buffer.take(1)
        assert buffer.progress_at == clock.now

    def test_the_last_byte_is_progress(self, buffer: SendBuffer, clock: Clock) -> None:
        buffer.put(b"x" * 10)
        clock.now += 1
        buffer.take(5)
        assert buffer.progress_at == clock.now - 1
        buffer.take(5)
        assert buffer.progress_at == clock.now
        # The few bytes are not part of what comes next.
        buffer.put(b"x" * 10_000)
        clock.now += 1
        buffer.take(MIN_PROGRESS - 1)
        assert buffer.progress_at == clock.now - 1


class TestRoom:
    def wait(self, buffer: SendBuffer) -> "gevent.Greenlet[..., None]":
        waiting = gevent.spawn(buffer.wait_for_room)
        yield_to_others()
        return waiting

    def test_up_to_the_high_water_nobody_waits(
        self, buffer: SendBuffer, blocked: list[float]
    ) -> None:
        buffer.put(b"x" * HIGH_WATER)
        assert self.wait(buffer).ready()
        assert blocked == []

    def test_past_it_the_view_waits_for_the_low_water(
        self, buffer: SendBuffer, clock: Clock, blocked: list[float]
    ) -> None:
        buffer.put(b"x" * (HIGH_WATER + 1))
        waiting = self.wait(buffer)
        buffer.take(HIGH_WATER - LOW_WATER)
        buffer.wake()
        yield_to_others()
        assert not waiting.ready()
        clock.now += 5
        buffer.take(1)
        buffer.wake()
        yield_to_others()
        assert waiting.ready()
        assert blocked == [5]

    def test_while_the_worker_holds_much_it_waits_for_the_last_byte(
        self, buffer: SendBuffer, unsent: UnsentBytes, blocked: list[float]
    ) -> None:
        buffer.put(b"x" * 10)
        unsent.http2 = MAX_UNSENT
        assert self.wait(buffer).ready()
        unsent.http2 = MAX_UNSENT + 1
        waiting = self.wait(buffer)
        assert not waiting.ready()
        unsent.http2 += 100
        buffer.take(9)
        buffer.wake()
        yield_to_others()
        assert not waiting.ready()
        buffer.take(1)
        buffer.wake()
        yield_to_others()
        assert waiting.ready()

    def test_then_not_even_one_byte_may_be_left(
        self, buffer: SendBuffer, unsent: UnsentBytes, blocked: list[float]
    ) -> None:
        buffer.put(b"x")
        unsent.http2 = MAX_UNSENT + 1
        waiting = self.wait(buffer)
        assert not waiting.ready()
        unsent.http2 = MAX_UNSENT  # the worker holds no more than it may
        buffer.wake()
        yield_to_others()
        assert waiting.ready()

    def test_who_waited_once_can_wait_again(
        self, buffer: SendBuffer, clock: Clock, blocked: list[float]
    ) -> None:
        for _ in range(2):
            buffer.put(b"x" * (HIGH_WATER + 1))
            waiting = self.wait(buffer)
            assert not waiting.ready()
            clock.now += 1
            buffer.take(HIGH_WATER + 1)
            buffer.wake()
            yield_to_others()
            assert waiting.ready()
            buffer.wake()  # nobody waits
        assert blocked == [1, 1]

    def test_it_waits_no_more_once_nothing_can_be_sent(
        self, buffer: SendBuffer, blocked: list[float]
    ) -> None:
        buffer.put(b"x" * (HIGH_WATER + 1))
        waiting = self.wait(buffer)
        buffer.close()
        yield_to_others()
        assert waiting.ready()
        buffer.put(b"x" * (HIGH_WATER + 1))
        assert self.wait(buffer).ready()

    @pytest.mark.parametrize("ends", ["taken", "closed"])
    def test_for_a_whole_body_nobody_waits_but_it_is_measured(
        self, buffer: SendBuffer, clock: Clock, blocked: list[float], ends: str
    ) -> None:
        buffer.put_whole(b"x" * (HIGH_WATER + 1))
        assert buffer.ending
        clock.now += 3
        buffer.wake()
        assert blocked == []
        if ends == "taken":
            buffer.take(HIGH_WATER - LOW_WATER + 1)
        else:
            buffer.close()
        for _ in range(2):
            buffer.wake()
        assert blocked == [3]

    def test_a_small_whole_body_is_not(self, buffer: SendBuffer, blocked: list[float]) -> None:
        buffer.put_whole(b"x" * HIGH_WATER)
        buffer.take(HIGH_WATER)
        buffer.wake()
        assert blocked == []
