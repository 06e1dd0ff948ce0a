"""The turns that greenlets and tasks take, without a server."""

import asyncio

import gevent
import pytest
from clock import Clock

from plain_gevent_h2.net import fairness
from plain_gevent_h2.net.fairness import (
    HANDSHAKES_TURN,
    LONG_TURN,
    MOST_PENALIZED,
    PENALTY,
    PENALTY_FOR_TURN,
    READS_IN_A_TURN,
    READS_PER_SECOND,
    AsyncPenaltyBox,
    HandshakeTurns,
    PenaltyBox,
    ReadTurns,
    penalty,
    yield_to_others,
)


class Connection:
    """As much of a connection as waits in the box."""

    def __init__(self, box: PenaltyBox, name: int, served: list[int], penalties: int = 0) -> None:
        self.penalties = penalties
        self.is_closed = False
        self._box, self._name, self._served = box, name, served

    def close_for_penalties(self) -> None:
        self.is_closed = True
        self._box.leave(self)

    def wait(self) -> None:
        # The first is still there when the others come.
        self._box.wait(self, 0.001 if self._name else 0.5)
        if not self.is_closed:
            self._served.append(self._name)


def put(count: int, *, closed_after: int = 0) -> tuple[list[Connection], list[int]]:
    """Have so many connections wait, the first of which were there most often."""
    box, served = PenaltyBox(), list[int]()
    connections = [Connection(box, i, served, count - i) for i in range(count)]
    greenlets = [gevent.spawn(connection.wait) for connection in connections]
    yield_to_others()  # all are in the box
    for connection in connections[:closed_after]:
        connection.close_for_penalties()
    gevent.joinall(greenlets, timeout=30, raise_error=True)
    return connections, served


def test_they_wait_one_after_another() -> None:
    connections, served = put(20)
    assert served == list(range(20))
    assert [connection.penalties for connection in connections] == list(range(21, 1, -1))


def test_who_is_closed_waits_no_more_and_keeps_nobody_waiting() -> None:
    _, served = put(20, closed_after=10)
    assert served == list(range(10, 20))


def test_past_its_room_who_was_there_most_often_is_closed() -> None:
    connections, served = put(MOST_PENALIZED + 50)
    assert [connection.is_closed for connection in connections[:50]] == [True] * 50
    assert served == list(range(50, MOST_PENALIZED + 50))


def test_the_box_is_empty_after_one_that_was_stopped() -> None:
    box, served = PenaltyBox(), list[int]()
    stopped, other = Connection(box, 0, served), Connection(box, 1, served)
    first, second = gevent.spawn(stopped.wait), gevent.spawn(other.wait)
    yield_to_others()
    first.kill()
    second.join(timeout=60)
    assert served == [1]


def test_one_that_leaves_before_its_turn_goes_on_at_once() -> None:
    box, served = PenaltyBox(), list[int]()
    first, second = Connection(box, 0, served), Connection(box, 1, served)
    greenlets = [gevent.spawn(connection.wait) for connection in (first, second)]
    yield_to_others()
    box.leave(second)
    greenlets[1].join(timeout=60)
    assert served == [1]
    gevent.killall(greenlets)


def test_a_penalty_is_for_what_a_turn_took_beyond_a_long_one() -> None:
    assert penalty(-LONG_TURN) == penalty(0) == PENALTY
    assert penalty(1) == PENALTY_FOR_TURN


def test_handshakes_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as fit into a turn go together; then all others have theirs."""
    clock = Clock.of(fairness, monkeypatch)
    order: list[str] = []
    monkeypatch.setattr(fairness, "yield_to_others", lambda: order.append("others"))

    class Handshake:
        def do_handshake(self) -> None:
            order.append("handshake")
            clock.now += HANDSHAKES_TURN / 2

    turns = HandshakeTurns()
    for _ in range(5):
        turns.step(Handshake())  # type: ignore[arg-type]
    three = ["others", "handshake", "handshake", "handshake"]
    assert order in (three + three[:3], [*three[:3], *three[:3], "others", "handshake"])


def test_those_that_wait_for_their_turn_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many begin at once, no more of them go than fit into a turn."""
    clock = Clock.of(fairness, monkeypatch)
    order: list[str] = []

    def let_others_run() -> None:
        order.append(" ")
        yield_to_others()

    monkeypatch.setattr(fairness, "yield_to_others", let_others_run)

    class Handshake:
        def do_handshake(self) -> None:
            order.append("h")
            clock.now += HANDSHAKES_TURN * 0.6

    turns, handshake = HandshakeTurns(), Handshake()

    def step() -> None:
        turns.step(handshake)  # type: ignore[arg-type]

    gevent.joinall([gevent.spawn(step) for _ in range(8)], timeout=60)
    assert "".join(order).split() == ["hh"] * 4


class TestReadTurns:
    """A WebSocket that always has more to read, with time that the test sets."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        return Clock.of(fairness, monkeypatch)

    @pytest.fixture
    def waits(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """How long those in the penalty box waited."""
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        monkeypatch.setattr(asyncio, "sleep", sleep)
        return waits

    @staticmethod
    def read(turns: ReadTurns, number: int) -> None:
        async def count() -> None:
            for _ in range(number):
                await turns.count()

        asyncio.run(count())

    def test_a_flood_waits_after_each_turn(self, clock: Clock, waits: list[float]) -> None:
        turns = ReadTurns(AsyncPenaltyBox())
        self.read(turns, READS_IN_A_TURN)  # the first turn is free
        assert waits == []
        self.read(turns, READS_IN_A_TURN - 1)
        assert waits == []
        self.read(turns, 1)
        assert waits == [PENALTY]
        self.read(turns, READS_IN_A_TURN)
        assert waits == [PENALTY] * 2

    def test_one_that_reads_slower_never_waits(self, clock: Clock, waits: list[float]) -> None:
        turns = ReadTurns(AsyncPenaltyBox())
        for _ in range(20):
            self.read(turns, READS_IN_A_TURN - 1)
            clock.now += READS_IN_A_TURN / READS_PER_SECOND + 0.001
            self.read(turns, 1)
        assert waits == []
        clock.now -= 0.002  # as if it had taken less
        self.read(turns, READS_IN_A_TURN)
        assert waits == [PENALTY]

    def test_they_wait_one_after_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        box, inside, most = AsyncPenaltyBox(), 0, 0

        async def sleep(_seconds: float) -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await real_sleep(0)
            inside -= 1

        real_sleep = asyncio.sleep
        monkeypatch.setattr(asyncio, "sleep", sleep)

        async def wait() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(5):
                    group.create_task(box.wait())

        asyncio.run(wait())
        assert (inside, most) == (0, 1)
