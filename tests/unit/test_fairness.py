"""The penalty box, without a server."""

import gevent

from plain_gevent_h2.net.fairness import MOST_PENALIZED, PenaltyBox, give_way


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
    give_way()  # all are in the box
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
