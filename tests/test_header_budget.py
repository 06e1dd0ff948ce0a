"""The bytes of request headers that a worker holds, without a server."""

from plain_gevent_h2.header_budget import FREE, HeaderBudget, size_to_charge

MEGABYTE = 1_000_000


class Connection:
    """As much of a connection as holds headers."""

    def __init__(self, budget: HeaderBudget) -> None:
        self._budget = budget
        self.waiting: list[int] = []  # what is released when it is closed
        self.is_closed = False

    def charge(self, size: int, *, waits: bool = False) -> bool:
        charged = self._budget.charge(self, size)
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
        budget = HeaderBudget(10 * MEGABYTE)
        connections = [Connection(budget) for _ in range(10)]
        assert all(connection.charge(MEGABYTE) for connection in connections)
        assert not Connection(budget).charge(1)
        budget.release(connections[3], MEGABYTE)
        assert Connection(budget).charge(MEGABYTE)
        assert not any(connection.is_closed for connection in connections)

    def test_who_holds_most_of_it_is_closed_for_others(self) -> None:
        budget = HeaderBudget(10 * MEGABYTE)
        large, small = Connection(budget), Connection(budget)
        assert small.charge(2 * MEGABYTE)
        assert all(large.charge(MEGABYTE, waits=True) for _ in range(8))
        assert small.charge(MEGABYTE)
        assert large.is_closed
        assert not small.is_closed
        assert budget.used == 3 * MEGABYTE

    def test_who_is_closed_may_still_hold_what_runs(self) -> None:
        budget = HeaderBudget(10 * MEGABYTE)
        large = Connection(budget)
        assert large.charge(10 * MEGABYTE)
        assert not Connection(budget).charge(1)
        assert not Connection(budget).charge(1)  # nor is it closed again
        budget.release(large, 10 * MEGABYTE)
        assert budget.used == 0
        assert Connection(budget).charge(10 * MEGABYTE)

    def test_one_that_is_not_a_holder(self) -> None:
        budget = HeaderBudget(10)
        assert budget.charge(None, 10)
        assert not budget.charge(None, 1)
        budget.release(None, 10)
        assert budget.used == 0


class TestSizeToCharge:
    def test_small_lists_are_free(self) -> None:
        assert size_to_charge([("a", "b" * 1000)], FREE) == 0

    def test_a_field_by_itself(self) -> None:
        assert size_to_charge([("a", "b" * 10_000)], 10_033) == 10_000 - FREE

    def test_references_to_one_value_are_one_value_and_what_is_joined_of_them(self) -> None:
        value = "b" * 4000
        assert size_to_charge([("a", value)] * 15, 60_000) == 16 * 4000 - FREE

    def test_characters_that_make_all_of_a_string_wide(self) -> None:
        value = "b" * 4000
        for character, width in (("\xe9", 1), ("\u20ac", 2), ("\U0001f600", 4)):
            fields = [("a", value), ("b", "c" * 5999 + character)]
            assert size_to_charge(fields, 10_066) == 10_000 * width - FREE
