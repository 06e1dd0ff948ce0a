"""Who is closed for whole responses that nobody takes, with connections of the tests' own."""

import pytest

from plain_gevent_h2.limits.unread_responses import CHECK_AGAIN, MAX_UNTAKEN, UnreadResponses
from plain_gevent_h2.limits.unsent import UnsentBytes

unsent = UnsentBytes()


class Connection:
    """One with whole responses of so many bytes, of which its client takes some or none."""

    def __init__(self, *sizes: int, takes: bool = False) -> None:
        self.sizes, self.takes = list(sizes), takes
        self.looked = 0
        unsent.http2 += sum(sizes)

    def untaken(self) -> list[int]:
        self.looked += 1
        return [] if self.takes else self.sizes

    def close_for_responses(self) -> None:
        unsent.http2 -= sum(self.sizes)
        self.sizes = []


@pytest.fixture(autouse=True)
def _nothing_unsent() -> None:
    unsent.http2 = 0


def closed(*connections: Connection) -> list[bool]:
    """Which of them are closed."""
    UnreadResponses(lambda: connections, unsent).make_room()
    return [not connection.sizes for connection in connections]


SHARE = MAX_UNTAKEN // 4


def test_nobody_is_closed_while_there_is_room() -> None:
    assert closed(*(Connection(SHARE) for _ in range(5))) == [False] * 5
    assert unsent.http2 > MAX_UNTAKEN  # the largest is beside it


def test_who_leaves_most_is_closed_until_there_is_room() -> None:
    few, most, many = Connection(SHARE), Connection(*[SHARE] * 3), Connection(SHARE, SHARE)
    assert closed(few, most, many) == [False, True, False]
    least, two, three = Connection(SHARE), Connection(*[SHARE] * 2), Connection(*[SHARE] * 7)
    assert closed(least, two, three) == [False, False, True]


def test_what_a_connection_leaves_in_all_decides_and_not_its_largest() -> None:
    large, many = Connection(2 * SHARE), Connection(*[SHARE] * 3)
    assert closed(many, large, Connection(SHARE), Connection(SHARE)) == [True, False, False, False]


def test_no_more_are_closed_than_need_be() -> None:
    equal = [Connection(SHARE) for _ in range(6)]  # one more than there is room for
    assert sum(closed(*equal)) == 1


def test_one_large_response_is_not_lost_for_itself() -> None:
    export = Connection(10 * SHARE)
    assert closed(export, Connection(SHARE)) == [False, False]
    assert closed(export, *(Connection(SHARE) for _ in range(5)))[0]


def test_nobody_is_closed_for_what_clients_take() -> None:
    taker, other = Connection(10 * SHARE, takes=True), Connection(SHARE)
    assert closed(taker, other, Connection(SHARE)) == [False] * 3


def test_after_nobody_was_found_it_looks_again_for_more_or_at_the_next_sweep() -> None:
    taker = Connection(10 * SHARE, takes=True)
    responses = UnreadResponses(lambda: [taker], unsent)
    for _ in range(100):
        responses.make_room()
    assert taker.looked == 1
    unsent.http2 += CHECK_AGAIN + 1
    responses.make_room()
    assert taker.looked == 2
    responses.sweep()
    assert taker.looked == 3
