"""Which streams of a connection start, and when, without a connection."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from gevent.event import Event

from plain_gevent_h2.http2.send_buffer import LOW_WATER, SendBuffer
from plain_gevent_h2.http2.start_queue import SWEEPS_TO_TAKE, StartQueue
from plain_gevent_h2.limits.slots import Slots
from plain_gevent_h2.limits.unsent import MAX_UNREAD_RESPONSES, UnsentBytes
from plain_gevent_h2.net.fairness import yield_to_others

MAX_STREAMS = 3


class Stream:
    """One whose view goes on until `end()`."""

    def __init__(self, connection: "Connection") -> None:
        self._queue = connection.queue
        self._goes_on = Event()
        self.buffer = SendBuffer(1, connection.unsent)
        self.greenlet: Any = None
        self.is_clientless = False
        self.is_handed_over = False
        self.began_at = 0.0
        self.refused: list[int] = []
        self.has_run = False

    def run(self) -> bool:
        self.has_run = True
        self.began_at = 1.0
        self._queue.greenlet_began()
        self._goes_on.wait()
        self.greenlet = None
        self._queue.greenlet_done(self)
        return True

    def send_error(self, status: int) -> None:
        self.refused.append(status)

    def leave(self, slots: Slots) -> None:
        """Its client is gone."""
        self.is_clientless = self.greenlet is not None
        if self.is_clientless:
            slots.client_left()
        self._queue.client_left(self)

    def end(self) -> None:
        self._goes_on.set()
        yield_to_others()


class Connection:
    def __init__(self, slots: Slots, unsent: UnsentBytes, max_streams: int = MAX_STREAMS) -> None:
        self.slots = slots
        self.unsent = unsent
        self.streams: list[Stream] = []
        writer: Any = SimpleNamespace(taken_lately=0)
        self.writer = writer
        self.queue = StartQueue(slots, unsent, max_streams, self.streams, writer)

    def open(self, number: int = 1) -> list[Stream]:
        """Streams that are received whole."""
        opened = [Stream(self) for _ in range(number)]
        for stream in opened:
            self.streams.append(stream)
            self.queue.add(stream)
        for _ in range(5):
            yield_to_others()
        return opened

    def leave(self, *streams: Stream) -> None:
        for stream in streams:
            stream.leave(self.slots)
            self.queue.start_waiting()  # as for each stream that is closed
        for _ in range(5):
            yield_to_others()


def ran(streams: list[Stream]) -> list[bool]:
    return [stream.has_run for stream in streams]


@pytest.fixture
def slots() -> Slots:
    return Slots(100, lambda: None)


@pytest.fixture
def unsent() -> UnsentBytes:
    return UnsentBytes()


@pytest.fixture
def connection(slots: Slots, unsent: UnsentBytes) -> Connection:
    return Connection(slots, unsent)


class TestNumber:
    def test_so_many_run_and_the_next_when_one_ends(self, connection: Connection) -> None:
        streams = connection.open(5)
        assert ran(streams) == [True] * 3 + [False] * 2
        assert all(stream.is_handed_over for stream in streams)
        assert not connection.queue.has_stream_to_start
        assert connection.queue.next_stream() is None
        for ended in range(5):
            streams[ended].end()
            yield_to_others()
            assert sum(ran(streams)) == min(5, 4 + ended)
        assert connection.slots.running == 0

    def test_they_start_in_their_order(self, slots: Slots, unsent: UnsentBytes) -> None:
        connection = Connection(slots, unsent, max_streams=1)
        streams = connection.open(4)
        for i, stream in enumerate(streams):
            assert ran(streams) == [True] * (i + 1) + [False] * (3 - i)
            stream.end()
            yield_to_others()

    def test_one_that_is_closed_before_its_turn_is_not_started(
        self, connection: Connection
    ) -> None:
        streams = connection.open(5)
        connection.queue.remove(streams[3])
        connection.queue.remove(streams[3])
        assert not streams[3].is_handed_over
        connection.queue.remove(streams[0])  # runs: it is not for the queue to end it
        assert streams[0].is_handed_over
        for stream in streams:
            stream.end()
        for _ in range(3):
            yield_to_others()
        assert ran(streams) == [True, True, True, False, True]

    def test_the_slot_of_one_without_a_client_is_for_another(self, connection: Connection) -> None:
        """Up to as many again: then the connection waits for what it has left behind."""
        first, second, third, fourth = (connection.open(3) for _ in range(4))
        connection.leave(*first)
        assert ran(second) == [True] * 3
        connection.leave(*second)
        assert ran(third) == [False] * 3
        first[0].end()
        yield_to_others()
        assert ran(third + fourth) == [True] + [False] * 5
        for stream in (*first, *second):
            stream.end()
        for _ in range(3):
            yield_to_others()
        assert ran(third) == [True] * 3
        assert ran(fourth) == [False] * 3

    def test_when_all_are_without_their_client_those_that_wait_are_refused(
        self, connection: Connection
    ) -> None:
        running = connection.open(3)
        connection.leave(*running)
        more = connection.open(3)
        waiting = connection.open(2)
        connection.leave(more[0], more[1])
        connection.queue.check()
        assert [stream.refused for stream in waiting] == [[], []]
        connection.leave(more[2])
        connection.queue.check()
        assert [stream.refused for stream in waiting] == [[503], [503]]
        assert not any(stream.is_handed_over for stream in waiting)
        connection.queue.check()
        assert [stream.refused for stream in waiting] == [[503], [503]]
        assert not connection.queue.has_stream_to_start
        for stream in (*running, *more):
            assert stream.refused == []
            stream.end()
        assert ran(connection.open(4)) == [True] * 3 + [False]

    def test_one_whose_client_left_before_it_ran_counts_for_nothing(
        self, connection: Connection
    ) -> None:
        streams = connection.open(5)
        connection.leave(streams[4])
        assert connection.queue._clientless == 0
        connection.leave(streams[0])
        assert connection.queue._clientless == 1
        streams[0].end()
        assert connection.queue._clientless == 0


class TestSlots:
    def test_it_waits_for_a_slot_of_the_worker(self, unsent: UnsentBytes) -> None:
        slots = Slots(1, lambda: None)
        first, second = Connection(slots, unsent), Connection(slots, unsent)
        (running,), (waiting,) = first.open(), second.open()
        assert ran([running, waiting]) == [True, False]
        running.end()
        yield_to_others()
        assert waiting.has_run

    def test_one_that_is_over_waits_for_none(self, unsent: UnsentBytes) -> None:
        slots = Slots(1, lambda: None)
        first, second = Connection(slots, unsent), Connection(slots, unsent)
        (running,), (waiting,) = first.open(), second.open()
        second.queue.leave()
        running.end()
        yield_to_others()
        assert not waiting.has_run
        assert slots.running == 0

    def test_the_next_begins_when_the_last_waits(self, connection: Connection) -> None:
        """Of ten that may start at once none begins twice, and none is forgotten."""
        streams = [Stream(connection) for _ in range(3)]
        for stream in streams:
            connection.streams.append(stream)
            connection.queue.add(stream)
        assert ran(streams) == [False] * 3
        yield_to_others()
        assert ran(streams) == [True] * 3


class TestUnreadResponses:
    """Whether a client may have more before it has taken what it asked for."""

    @pytest.fixture
    def unsent(self) -> UnsentBytes:
        unsent = UnsentBytes()
        unsent.http2 = MAX_UNREAD_RESPONSES + 1  # of other connections
        return unsent

    @staticmethod
    def answered(connection: Connection, size: int) -> Stream:
        """A stream with a whole response of so many bytes."""
        (stream,) = connection.open()
        stream.buffer.put(b"x" * size)
        stream.buffer.ending = True
        stream.end()
        return stream

    @pytest.mark.parametrize(
        ("size", "taken", "may"),
        [
            (LOW_WATER, 0, True),
            (LOW_WATER + 1, 0, False),
            (LOW_WATER + SWEEPS_TO_TAKE * 100, 100, True),
            (LOW_WATER + SWEEPS_TO_TAKE * 100 + 1, 100, False),
        ],
    )
    def test_it_may_leave_what_it_takes_in_a_few_seconds(
        self, connection: Connection, size: int, taken: int, may: bool
    ) -> None:
        connection.writer.taken_lately = taken
        self.answered(connection, size)
        assert ran(connection.open()) == [may]

    def test_what_of_others_is_unsent_decides(
        self, connection: Connection, unsent: UnsentBytes
    ) -> None:
        stream = self.answered(connection, LOW_WATER + 1)
        (waiting,) = connection.open()
        assert not waiting.has_run
        unsent.http2 -= 1  # its own bytes do not count
        connection.queue.check()
        yield_to_others()
        assert waiting.has_run
        assert stream.buffer.size == LOW_WATER + 1

    def test_a_body_whose_end_is_still_to_come_holds_back_nothing(
        self, connection: Connection
    ) -> None:
        """Its view waits for room by itself."""
        self.answered(connection, 10 * LOW_WATER).buffer.ending = False
        assert ran(connection.open()) == [True]

    def test_one_after_another_while_it_is_not_known_what_they_leave(
        self, connection: Connection
    ) -> None:
        streams = [Stream(connection) for _ in range(3)]
        for stream in streams:
            connection.streams.append(stream)
            connection.queue.add(stream)
        assert [stream.greenlet is not None for stream in streams] == [True, False, False]
        for _ in range(5):
            yield_to_others()
        assert ran(streams) == [True] * 3

    def test_while_little_is_unsent_all_start_at_once(
        self, connection: Connection, unsent: UnsentBytes
    ) -> None:
        unsent.http2 = MAX_UNREAD_RESPONSES
        self.answered(connection, LOW_WATER + 1)  # its own
        started: list[Callable[[], object]] = []
        for _ in range(2):
            stream = Stream(connection)
            connection.streams.append(stream)
            connection.queue.add(stream)
            started.append(stream.end)
            assert stream.greenlet is not None
        yield_to_others()
        for end in started:
            end()
