"""Who is closed for whole responses that nobody takes, with connections of the tests' own."""

from collections.abc import Iterator

import pytest

from plain_gevent_h2.unread_responses import MAX_UNTAKEN, UnreadResponses
from plain_gevent_h2.writer import unsent


class Connection:
    """One that has put `size` bytes, of which its client takes some or none."""

    def __init__(self, size: int, *, takes: bool = False) -> None:
        self.size, self.takes = size, takes
        self.is_closed = False
        unsent.size += size

    def untaken(self, _now: float) -> int:
        return 0 if self.takes or self.is_closed else self.size

    def close_for_responses(self) -> None:
        self.is_closed = True
        unsent.size -= self.size


@pytest.fixture(autouse=True)
def _nothing_unsent() -> Iterator[None]:
    before, unsent.size = unsent.size, 0
    yield
    unsent.size = before


def closed(*connections: Connection) -> list[bool]:
    UnreadResponses(lambda: connections).make_room()
    return [connection.is_closed for connection in connections]


SHARE = MAX_UNTAKEN // 4


def test_nobody_is_closed_while_there_is_room() -> None:
    assert closed(*(Connection(SHARE) for _ in range(4))) == [False] * 4


def test_who_leaves_most_is_closed_until_there_is_room() -> None:
    sizes = [SHARE, 2 * SHARE, SHARE // 2, 3 * SHARE]
    assert closed(*map(Connection, sizes)) == [False, False, False, True]
    unsent.size = 0
    assert closed(*(Connection(4 * size) for size in sizes)) == [True, True, False, True]


def test_who_takes_some_is_not_closed_for_others() -> None:
    taker, small = Connection(10 * SHARE, takes=True), Connection(1)
    assert closed(taker, small) == [False, True]


def test_after_nobody_was_found_it_does_not_look_at_once() -> None:
    looked = 0

    def connections() -> list[Connection]:
        nonlocal looked
        looked += 1
        return [Connection(0, takes=True)]

    unsent.size = MAX_UNTAKEN + 1
    responses = UnreadResponses(connections)
    for _ in range(10_000):
        responses.make_room()
    assert 1 <= looked < 1000
