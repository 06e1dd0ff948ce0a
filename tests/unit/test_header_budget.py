"""The bytes of request headers that a worker holds, without a server."""

import weakref

import pytest
from clock import Clock

from plain_gevent_h2.limits import header_budget
from plain_gevent_h2.limits.header_budget import (
    FREE,
    LITTLE,
    LONG_BLOCK,
    LONG_BLOCKS_BURST,
    LONG_BLOCKS_PER_SECOND,
    UNFINISHED_LIMIT,
    HeaderBudget,
    size_to_charge,
)

MEGABYTE = 1_000_000


class Connection:
    """As much of a connection as holds headers."""

    def __init__(self, budget: HeaderBudget) -> None:
        self._budget = budget
        self.taken = 0
        self.waiting: list[int] = []  # what is released when it is closed
        self.is_closed = False

    def charge(self, size: int, *, waits: bool = False) -> bool:
        charged = self._budget.charge(self, size)
        self.taken += size if charged else 0
        if charged and waits:
            self.waiting.append(size)
        return charged

    def close_for_headers(self) -> None:
        assert not self.is_closed
        self.is_closed = True
        for size in self.waiting:
            self._budget.release(self, size)


class TestHeaderBudget:
    def test_what_is_released_can_be_charged_again(self) -> None:
        budget = HeaderBudget(10 * LITTLE)
        connections = [Connection(budget) for _ in range(10)]
        assert all(connection.charge(LITTLE) for connection in connections)
        assert not Connection(budget).charge(1)
        budget.release(connections[3], LITTLE)
        assert Connection(budget).charge(LITTLE)
        assert not any(connection.is_closed for connection in connections)

    def test_who_holds_most_of_it_is_closed_for_others(self) -> None:
        budget = HeaderBudget(10 * MEGABYTE)
        large, small = Connection(budget), Connection(budget)
        assert small.charge(MEGABYTE)
        assert all(large.charge(MEGABYTE, waits=True) for _ in range(6))
        assert small.charge(3 * MEGABYTE + MEGABYTE // 2)
        assert large.is_closed
        assert not small.is_closed
        assert budget.used == 4 * MEGABYTE + MEGABYTE // 2

    def test_who_is_closed_may_still_hold_what_runs(self) -> None:
        budget = HeaderBudget(10 * MEGABYTE)
        large = Connection(budget)
        assert large.charge(7 * MEGABYTE)
        assert not Connection(budget).charge(4 * MEGABYTE)
        assert large.is_closed
        assert not Connection(budget).charge(4 * MEGABYTE)  # nor is it closed again
        budget.release(large, 7 * MEGABYTE)
        assert budget.used == 0
        assert Connection(budget).charge(7 * MEGABYTE)

    def test_a_part_is_for_those_that_hold_little(self) -> None:
        budget = HeaderBudget(10 * MEGABYTE)
        large = [Connection(budget) for _ in range(3)]
        for connection in large:
            while connection.charge(LITTLE) and connection.taken < 2.4 * MEGABYTE:
                pass
        assert 7 * MEGABYTE < budget.used <= 7.5 * MEGABYTE
        small = [Connection(budget) for _ in range(9)]
        assert all(connection.charge(LITTLE) for connection in small)
        assert not any(connection.is_closed for connection in (*large, *small))

    def test_who_is_over_is_closed_for_nobody(self) -> None:
        budget = HeaderBudget(10 * MEGABYTE)
        over = Connection(budget)
        assert over.charge(7 * MEGABYTE)
        budget.forget(over)
        assert not Connection(budget).charge(4 * MEGABYTE)
        assert not over.is_closed
        budget.release(over, 7 * MEGABYTE)
        assert budget.used == 0

    def test_of_heads_without_an_end_the_first_make_room(self) -> None:
        budget = HeaderBudget()
        slow = [Connection(budget) for _ in range(20)]
        for size in (UNFINISHED_LIMIT // 100, UNFINISHED_LIMIT // 10):
            for connection in slow:
                budget.unfinished(connection, size)
        assert [connection.is_closed for connection in slow] == [True] * 10 + [False] * 10
        budget.unfinished(slow[10], 0)
        budget.forget(slow[11])
        more = [Connection(budget) for _ in range(2)]
        for connection in more:
            budget.unfinished(connection, UNFINISHED_LIMIT // 10)
        assert not any(connection.is_closed for connection in slow[10:])
        assert budget.used == 0

    def test_nothing_is_kept_of_those_that_hold_nothing(self) -> None:
        budget = HeaderBudget()
        connection = Connection(budget)
        here = weakref.ref(connection)
        assert connection.charge(0)
        assert connection.charge(10)
        budget.release(connection, 10)
        budget.unfinished(connection, 10)
        budget.unfinished(connection, 0)
        del connection
        assert here() is None

    def test_up_to_the_last_byte(self) -> None:
        budget = HeaderBudget(2 * LITTLE)
        first = Connection(budget)
        assert first.charge(LITTLE)  # half of it is not yet too much for one
        assert Connection(budget).charge(LITTLE)
        assert not Connection(budget).charge(1)
        assert not first.is_closed
        heads = [Connection(budget) for _ in range(3)]
        budget.unfinished(heads[0], UNFINISHED_LIMIT - 10)
        budget.unfinished(heads[1], 10)
        assert not heads[0].is_closed
        budget.forget(heads[1])
        budget.unfinished(heads[2], 10)
        assert not heads[0].is_closed
        budget.unfinished(heads[2], 11)
        assert heads[0].is_closed
        budget.unfinished(heads[2], 0)
        assert budget._unfinished_size == 0
        assert not budget._unfinished

    def test_who_holds_most_is_not_closed_while_there_is_room(self) -> None:
        budget = HeaderBudget(16 * LITTLE)
        large = Connection(budget)
        assert all(large.charge(LITTLE) for _ in range(10))
        assert all(Connection(budget).charge(LITTLE) for _ in range(6))
        assert not large.is_closed
        assert not Connection(budget).charge(1)
        assert large.is_closed

    def test_refusals_are_logged_once_a_minute(self, caplog: pytest.LogCaptureFixture) -> None:
        budget = HeaderBudget(100)
        assert Connection(budget).charge(60)
        with caplog.at_level("WARNING", "plain.server"):
            for _ in range(3):
                assert not Connection(budget).charge(50)
        (line,) = caplog.records
        assert line.getMessage() == "Too many bytes of header fields, refusing requests"
        assert line.held == 60  # type: ignore[attr-defined]

    def test_after_a_burst_so_many_bytes_of_long_blocks_a_second(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock, budget = Clock.of(header_budget, monkeypatch), HeaderBudget()
        assert budget.must_wait(LONG_BLOCKS_BURST + 1)
        clock.now += 1
        assert not budget.must_wait(LONG_BLOCKS_PER_SECOND - 1)
        assert budget.must_wait(LONG_BLOCK + 1)
        clock.now += 1000  # no more than a burst is saved up
        assert not budget.must_wait(LONG_BLOCKS_BURST - 1)
        assert budget.must_wait(LONG_BLOCK + 1)

    def test_long_blocks_are_paced(self) -> None:
        budget = HeaderBudget()
        assert not any(budget.must_wait(LONG_BLOCK) for _ in range(10_000))
        number = LONG_BLOCKS_BURST // (4 * LONG_BLOCK)
        assert not any(budget.must_wait(4 * LONG_BLOCK) for _ in range(number - 1))
        assert any(budget.must_wait(4 * LONG_BLOCK) for _ in range(100))


class TestSizeToCharge:
    def test_small_lists_are_free(self) -> None:
        assert size_to_charge([("a", "b" * 1000)], FREE) == 0

    def test_names_and_overhead_are_not_counted(self) -> None:
        assert size_to_charge([("a" * 100, "")] * 100, 13_200) == 0

    def test_a_field_by_itself(self) -> None:
        assert size_to_charge([("a", "b" * 20_000)], 20_033) == 20_000 - FREE

    def test_references_to_one_value_are_what_is_joined_of_them(self) -> None:
        value = "b" * 4000
        assert size_to_charge([("a", value)] * 15, 60_000) == 15 * 4000 - FREE
