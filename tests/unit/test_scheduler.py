"""Who sends next, without a connection."""

from plain_gevent_h2.http2.scheduler import RoundRobin
from plain_gevent_h2.http2.send_buffer import SendBuffer
from plain_gevent_h2.limits.unsent import UnsentBytes


def buffers(number: int) -> list[SendBuffer]:
    return [SendBuffer(2 * i + 1, UnsentBytes()) for i in range(number)]


def rest(scheduler: RoundRobin) -> list[SendBuffer]:
    """Those that are left, in their order."""
    found = []
    while (buffer := scheduler.next()) is not None:
        found.append(buffer)
    return found


def test_none_is_next_where_none_is() -> None:
    scheduler = RoundRobin()
    assert not scheduler
    assert scheduler.next() is None


def test_the_first_that_came_is_next() -> None:
    scheduler, three = RoundRobin(), buffers(3)
    for buffer in three:
        scheduler.add(buffer)
        assert scheduler
    assert rest(scheduler) == three
    assert not scheduler


def test_who_has_more_waits_for_all_others() -> None:
    """So each has one frame in a round."""
    scheduler, three = RoundRobin(), buffers(3)
    for buffer in three:
        scheduler.add(buffer)
    sent = []
    for _ in range(9):
        chosen = scheduler.next()
        assert chosen is not None
        sent.append(chosen)
        scheduler.add(chosen)
    assert sent == 3 * three


def test_who_is_removed_is_not_sent() -> None:
    scheduler, (first, second, third) = RoundRobin(), buffers(3)
    for buffer in (first, second, third):
        scheduler.add(buffer)
    scheduler.remove(second)
    assert rest(scheduler) == [first, third]


def test_who_is_not_here_can_be_removed() -> None:
    scheduler, (first, second) = RoundRobin(), buffers(2)
    scheduler.add(first)
    scheduler.remove(second)
    assert scheduler.next() is first
    scheduler.remove(first)
    assert not scheduler


def test_a_buffer_is_queued_while_it_is_here() -> None:
    scheduler, (first, second) = RoundRobin(), buffers(2)
    scheduler.add(first)
    scheduler.add(second)
    assert first.queued
    assert second.queued
    scheduler.next()
    scheduler.remove(second)
    assert not first.queued
    assert not second.queued
