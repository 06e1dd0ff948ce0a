"""Which connection makes room for another, with time that the test sets."""

import pytest
from clock import Clock

from plain_gevent_h2.limits import idle_connections
from plain_gevent_h2.limits.idle_connections import LEAST_HANDSHAKE, LEAST_IDLE, IdleConnections


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of(idle_connections, monkeypatch)


@pytest.fixture
def evictions(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One for each that the metric has counted."""
    counted: list[None] = []
    monkeypatch.setattr(
        "plain_gevent_h2.net.metrics.connection_evicted", lambda: counted.append(None)
    )
    return counted


class Connection:
    """As much of a connection as is closed."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def evict(self) -> None:
        self.told.append("evict")

    def abort(self) -> None:
        self.told.append("abort")


def idle(connections: IdleConnections, number: int = 1) -> list[Connection]:
    made = [Connection() for _ in range(number)]
    for connection in made:
        connections.add(connection)
    return made


def test_there_is_nobody_to_close(clock: Clock) -> None:
    assert not IdleConnections(100).make_room()


def test_who_is_idle_for_a_while_is_evicted(clock: Clock, evictions: list[None]) -> None:
    connections = IdleConnections(100)
    (connection,) = idle(connections)
    clock.now += LEAST_IDLE - 0.5
    assert not connections.make_room()
    clock.now += 0.5
    assert connections.make_room()
    assert connection.told == ["evict"]
    assert connections.closing == len(evictions) == 1
    assert not connections.make_room()  # it goes already
    connections.closed(connection)
    assert connections.closing == 0


def test_the_longest_idle_goes_first(clock: Clock) -> None:
    connections = IdleConnections(100)
    first, second = idle(connections, 2)
    clock.now += 1
    connections.add(first)  # it was busy in between
    clock.now += LEAST_IDLE
    assert connections.make_room()
    assert (first.told, second.told) == ([], ["evict"])
    assert connections.make_room()
    assert first.told == ["evict"]


def test_a_handshake_has_less_time(clock: Clock) -> None:
    connections = IdleConnections(100)
    handshake = Connection()
    connections.add_handshake(handshake)
    clock.now += LEAST_HANDSHAKE / 2
    assert not connections.make_room()
    clock.now += LEAST_HANDSHAKE
    (connection,) = idle(connections)
    assert connections.make_room()
    assert (handshake.told, connection.told) == (["evict"], [])


def test_of_two_that_wait_equally_long_one_goes(clock: Clock) -> None:
    connections = IdleConnections(100)
    handshake, connection = Connection(), Connection()
    connections.add(connection)
    connections.add_handshake(handshake)
    clock.now += LEAST_IDLE
    assert connections.make_room()
    assert len(handshake.told + connection.told) == 1
    assert connections.make_room()
    assert handshake.told == connection.told == ["evict"]
    assert not connections.make_room()


@pytest.mark.parametrize("first", ["handshake", "idle"])
def test_of_both_kinds_the_longest_goes(clock: Clock, first: str) -> None:
    connections = IdleConnections(100)
    handshake, connection = Connection(), Connection()
    if first == "handshake":
        connections.add_handshake(handshake)
        clock.now += 1
    connections.add(connection)
    clock.now += 1
    if first == "idle":
        connections.add_handshake(handshake)
    clock.now += LEAST_IDLE
    assert connections.make_room()
    assert bool(handshake.told) == (first == "handshake")
    assert bool(connection.told) == (first == "idle")


@pytest.mark.parametrize("end", ["busy", "closed"])
def test_who_is_busy_or_gone_is_not_evicted(clock: Clock, end: str) -> None:
    connections = IdleConnections(100)
    (connection,) = idle(connections)
    (connections.remove if end == "busy" else connections.closed)(connection)
    clock.now += 100
    assert not connections.make_room()
    assert connection.told == []
    connections.remove(connection)  # once more is no error


def test_a_handshake_that_ended_is_not_evicted(clock: Clock) -> None:
    connections = IdleConnections(100)
    handshake = Connection()
    connections.add_handshake(handshake)
    connections.closed(handshake)
    clock.now += 100
    assert not connections.make_room()


def test_one_at_fault_goes_before_all_idle_ones_and_at_once(clock: Clock) -> None:
    connections = IdleConnections(100)
    (connection,) = idle(connections)
    faulty = [Connection() for _ in range(3)]
    for each in faulty:
        connections.faulty(each)
    connections.closed(faulty[1])
    clock.now += 100
    assert connections.make_room()
    assert [each.told for each in (*faulty, connection)] == [["abort"], [], [], []]
    assert connections.make_room()
    assert [each.told for each in (*faulty, connection)] == [["abort"], [], ["abort"], []]
    assert connections.make_room()
    assert connection.told == ["evict"]


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (15, 1), (16, 1), (32, 2), (1000, 62)])
def test_past_a_number_who_closes_longest_is_aborted(clock: Clock, limit: int, most: int) -> None:
    connections = IdleConnections(limit)
    made = idle(connections, most + 2)
    clock.now += 100
    for _ in made:
        assert connections.make_room()
    assert [each.told for each in made] == [["evict", "abort"]] * 2 + [["evict"]] * most
    assert connections.closing == most
