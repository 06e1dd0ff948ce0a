"""Bytes of WebSockets that their views have not read share a bound, and the budget for bodies."""

import tracemalloc

import pytest
from clock import Clock

from plain_gevent_h2.app import websocket
from plain_gevent_h2.app.upload_budget import UploadBudget
from plain_gevent_h2.app.websocket import (
    MAX_EARLY,
    MAX_UNREAD,
    UNREAD_LOW_WATER,
    Unread,
    WebSocketTransport,
)

MIB = 1024 * 1024


class Socket:
    """As much of a WebSocket as holds bytes."""

    def __init__(self, unread: Unread) -> None:
        self._unread = unread
        self.refused = 0

    def hold(self, size: int) -> None:
        self._unread.hold(self, size)  # type: ignore[arg-type]

    def get(self, size: int) -> None:
        """Hold `size` bytes, the last of which have just come."""
        self.hold(size)
        self._unread.check(self)  # type: ignore[arg-type]

    def refuse(self) -> None:
        self.refused += 1
        self.hold(0)


class TestUnreadBudget:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        return Clock.of(websocket, monkeypatch)

    @pytest.fixture
    def budget(self) -> UploadBudget:
        return UploadBudget(1000 * MIB)

    @pytest.fixture
    def unread(self, clock: Clock, budget: UploadBudget) -> Unread:
        return Unread(budget)

    def test_it_counts_in_the_budget_for_bodies(self, budget: UploadBudget, unread: Unread) -> None:
        first, second = Socket(unread), Socket(unread)
        first.hold(100)
        second.hold(50)
        first.hold(30)
        assert budget.used == 80
        first.hold(0)
        second.hold(0)
        assert budget.used == unread._size == 0
        assert not unread._held
        assert not unread._since

    def test_up_to_the_limit_nobody_is_refused(self, unread: Unread) -> None:
        sockets = [Socket(unread) for _ in range(16)]
        for sock in sockets:
            sock.get(MIB)
        assert not any(sock.refused for sock in sockets)

    def test_the_largest_is_beside_the_limit(self, unread: Unread) -> None:
        large, small = Socket(unread), Socket(unread)
        small.get(MAX_UNREAD)
        large.get(100 * MIB)
        assert not large.refused
        assert not small.refused
        small.get(MAX_UNREAD + 1)
        assert small.refused
        assert not large.refused

    def test_past_it_those_that_hold_most_for_longest_go(
        self, clock: Clock, unread: Unread
    ) -> None:
        old, new, largest = (Socket(unread) for _ in range(3))
        old.get(2 * MIB)
        clock.now += 100
        new.get(12 * MIB)
        clock.now += 1
        largest.get(20 * MIB)
        assert [sock.refused for sock in (old, new, largest)] == [0, 0, 0]
        more = Socket(unread)
        more.get(2 * MIB + 1)
        # 2 MiB for 101 s, of the 16 MiB and a byte. Then there is more than the low water.
        assert old.refused == 1
        assert new.refused == 1
        assert [more.refused, largest.refused] == [0, 0]

    def test_the_largest_is_spared_however_long_it_has_held_it(
        self, clock: Clock, unread: Unread
    ) -> None:
        largest = Socket(unread)
        largest.get(20 * MIB)
        clock.now += 1000
        others = [Socket(unread) for _ in range(17)]
        for sock in others:
            sock.get(MIB)
        assert not largest.refused
        assert sum(sock.refused for sock in others) == 17 - UNREAD_LOW_WATER // MIB

    def test_it_ends_at_the_low_water(self, clock: Clock, unread: Unread) -> None:
        old = [Socket(unread) for _ in range(17)]
        for sock in old:
            sock.hold(MIB)
            clock.now += 1
        old[-1].get(MIB + 1)  # the largest
        assert not any(sock.refused for sock in old)
        newest = Socket(unread)
        newest.get(MIB)
        gone = sum(sock.refused for sock in old)
        assert [sock.refused for sock in old[:gone]] == [1] * gone  # the oldest
        assert 17 - gone == UNREAD_LOW_WATER // MIB

    def test_who_takes_some_counts_from_then_on(self, clock: Clock, unread: Unread) -> None:
        takes, keeps = Socket(unread), Socket(unread)
        takes.hold(8 * MIB)
        keeps.hold(8 * MIB - 100)
        clock.now += 100
        takes.hold(8 * MIB - 1)
        takes.hold(8 * MIB)  # more comes, which changes nothing
        clock.now += 1
        Socket(unread).get(20 * MIB)
        Socket(unread).get(101)
        assert keeps.refused == 1
        assert takes.refused == 0

    def test_without_room_in_the_budget_who_got_some_is_refused(
        self, budget: UploadBudget, unread: Unread
    ) -> None:
        budget.charge(999 * MIB)
        holder, little, much = (Socket(unread) for _ in range(3))
        holder.get(MIB)
        assert not holder.refused
        little.get(MAX_EARLY)
        assert not little.refused
        much.get(MAX_EARLY + 1)
        assert (holder.refused, little.refused, much.refused) == (0, 0, 1)


class Holder:
    """A WebSocket that nobody reads, and what became of its bytes."""

    def __init__(self, unread: Unread) -> None:
        self.consumed = self.refused = 0
        self.transport = WebSocketTransport(unread, self._consume, self._refuse)
        self.transport.accept()

    def _consume(self, size: int) -> None:
        self.consumed += size

    def _refuse(self) -> None:
        self.refused += 1

    def feed(self, size: int) -> None:
        waits = self.transport.feed(bytes(size))
        self.consumed += size - waits


class StalledUpload:
    """One of which nothing more comes."""

    def __init__(self, budget: UploadBudget, size: int) -> None:
        self.evicted = False
        self._budget, self._size = budget, size
        budget.charge(size)
        budget.begin(self)

    def slowness(self, more: int = 0) -> float:
        return float("inf")

    def evict(self) -> None:
        self.evicted = True
        self._budget.end(self)
        self._budget.release(self._size)


class TestTransports:
    """The same, with the transports that hold the bytes."""

    def test_those_that_hold_most_for_longest_are_refused(self) -> None:
        budget = UploadBudget(None)
        unread = Unread(budget)
        large = Holder(unread)
        large.feed(2 * MAX_UNREAD)  # as its view may allow: one is always held
        holders = [Holder(unread) for _ in range(8)]
        for holder in holders:
            holder.feed(MAX_UNREAD // 8)
        assert not any(holder.refused for holder in holders)
        Holder(unread).feed(1)
        assert [holder.refused for holder in holders] == [1, 1, 1, 0, 0, 0, 0, 0]
        assert [holder.consumed for holder in holders[:3]] == [MAX_UNREAD // 8] * 3
        assert not large.refused
        assert budget.used == 2 * MAX_UNREAD + 5 * MAX_UNREAD // 8 + 1

    def test_it_counts_in_the_budget_for_bodies(self) -> None:
        budget = UploadBudget(200_000)
        unread = Unread(budget)
        first, second = Holder(unread), Holder(unread)
        first.feed(120_000)
        second.feed(60_000)
        second.feed(60_000)
        assert (first.refused, second.refused) == (0, 1)
        assert budget.used == 120_000
        second.feed(100)  # under way as it was refused
        assert second.consumed == 120_100
        first.transport.lost()
        assert budget.used == 0

    def test_uploads_that_fill_the_budget_give_way_to_it(self) -> None:
        budget = UploadBudget(200_000)
        stalled = StalledUpload(budget, 200_000)
        socket = Holder(Unread(budget))
        socket.feed(2000)
        assert stalled.evicted
        assert not socket.refused
        assert budget.used == 2000

    def test_a_few_bytes_are_not_refused_for_whole_bodies(self) -> None:
        budget = UploadBudget(200_000)
        budget.charge(200_000)
        socket = Holder(Unread(budget))
        socket.feed(2000)
        assert not socket.refused

    def test_what_comes_in_small_pieces_is_joined(self) -> None:
        transport = WebSocketTransport(Unread(UploadBudget(None)), lambda _: None, lambda: None)
        piece = b"xx"
        tracemalloc.start()
        try:
            for _ in range(MAX_EARLY // len(piece)):
                transport.feed(piece)
            assert tracemalloc.get_traced_memory()[0] < 2 * MAX_EARLY
        finally:
            tracemalloc.stop()
