"""Bytes of WebSockets that their views have not read share a bound, and the budget for bodies."""

import tracemalloc

import pytest
from clock import Clock

from plain_gevent_h2.app import unread_websockets
from plain_gevent_h2.app.unread_websockets import (
    ALWAYS_ALLOWED,
    MAX_UNREAD,
    UNREAD_LOW_WATER,
    UnreadBudget,
)
from plain_gevent_h2.app.upload_budget import UploadBudget
from plain_gevent_h2.app.websocket import MAX_EARLY, WebSocketTransport

MIB = 1024 * 1024


class Socket:
    """As much of a WebSocket as holds bytes."""

    def __init__(self, unread: UnreadBudget) -> None:
        self._unread = unread
        self.evicted = 0

    def hold(self, size: int) -> None:
        self._unread.hold(self, size)

    def get(self, size: int) -> None:
        """Hold `size` bytes, the last of which have just come."""
        self.hold(size)
        self._unread.check(self)

    def evict(self) -> None:
        self.evicted += 1
        self.hold(0)


class TestUnreadBudget:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        return Clock.of(unread_websockets, monkeypatch)

    @pytest.fixture
    def budget(self) -> UploadBudget:
        return UploadBudget(1000 * MIB)

    @pytest.fixture
    def unread(self, clock: Clock, budget: UploadBudget) -> UnreadBudget:
        return UnreadBudget(budget)

    def test_it_counts_in_the_budget_for_bodies(
        self, budget: UploadBudget, unread: UnreadBudget
    ) -> None:
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

    def test_up_to_the_limit_nobody_is_on_evictedd(self, unread: UnreadBudget) -> None:
        sockets = [Socket(unread) for _ in range(16)]
        for sock in sockets:
            sock.get(MIB)
        assert not any(sock.evicted for sock in sockets)

    def test_the_largest_is_beside_the_limit(self, unread: UnreadBudget) -> None:
        large, small = Socket(unread), Socket(unread)
        small.get(MAX_UNREAD)
        large.get(100 * MIB)
        assert not large.evicted
        assert not small.evicted
        small.get(MAX_UNREAD + 1)
        assert small.evicted
        assert not large.evicted

    def test_past_it_those_that_hold_most_for_longest_go(
        self, clock: Clock, unread: UnreadBudget
    ) -> None:
        old, new, largest = (Socket(unread) for _ in range(3))
        old.get(2 * MIB)
        clock.now += 100
        new.get(12 * MIB)
        clock.now += 1
        largest.get(20 * MIB)
        assert [sock.evicted for sock in (old, new, largest)] == [0, 0, 0]
        more = Socket(unread)
        more.get(2 * MIB + 1)
        # 2 MiB for 101 s, of the 16 MiB and a byte. Then there is more than the low water.
        assert old.evicted == 1
        assert new.evicted == 1
        assert [more.evicted, largest.evicted] == [0, 0]

    def test_the_largest_is_spared_however_long_it_has_held_it(
        self, clock: Clock, unread: UnreadBudget
    ) -> None:
        largest = Socket(unread)
        largest.get(20 * MIB)
        clock.now += 1000
        others = [Socket(unread) for _ in range(17)]
        for sock in others:
            sock.get(MIB)
        assert not largest.evicted
        assert sum(sock.evicted for sock in others) == 17 - UNREAD_LOW_WATER // MIB

    def test_it_ends_at_the_low_water(self, clock: Clock, unread: UnreadBudget) -> None:
        old = [Socket(unread) for _ in range(17)]
        for sock in old:
            sock.hold(MIB)
            clock.now += 1
        old[-1].get(MIB + 1)  # the largest
        assert not any(sock.evicted for sock in old)
        newest = Socket(unread)
        newest.get(MIB)
        gone = sum(sock.evicted for sock in old)
        assert [sock.evicted for sock in old[:gone]] == [1] * gone  # the oldest
        assert 17 - gone == UNREAD_LOW_WATER // MIB

    def test_who_takes_some_counts_from_then_on(self, clock: Clock, unread: UnreadBudget) -> None:
        takes, keeps = Socket(unread), Socket(unread)
        takes.hold(8 * MIB)
        keeps.hold(8 * MIB - 100)
        clock.now += 100
        takes.hold(8 * MIB - 1)
        takes.hold(8 * MIB)  # more comes, which changes nothing
        clock.now += 1
        Socket(unread).get(20 * MIB)
        Socket(unread).get(101)
        assert keeps.evicted == 1
        assert takes.evicted == 0

    def test_without_room_in_the_budget_who_got_some_is_on_evictedd(
        self, budget: UploadBudget, unread: UnreadBudget
    ) -> None:
        budget.charge(999 * MIB)
        holder, little, much = (Socket(unread) for _ in range(3))
        holder.get(MIB)
        assert not holder.evicted
        little.get(ALWAYS_ALLOWED)
        assert not little.evicted
        much.get(ALWAYS_ALLOWED + 1)
        assert (holder.evicted, little.evicted, much.evicted) == (0, 0, 1)


class Holder:
    """A WebSocket that nobody reads, and what became of its bytes."""

    def __init__(self, unread: UnreadBudget) -> None:
        self.consumed = self.evicted = 0
        self.transport = WebSocketTransport(unread, self._on_read, self._on_evicted)
        self.transport.accept()

    def _on_read(self, size: int) -> None:
        self.consumed += size

    def _on_evicted(self) -> None:
        self.evicted += 1

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

    def seconds_at_rate(self, more: int = 0) -> float:
        return float("inf")

    def evict(self) -> None:
        self.evicted = True
        self._budget.end(self)
        self._budget.release(self._size)


class TestTransports:
    """The same, with the transports that hold the bytes."""

    def test_those_that_hold_most_for_longest_are_on_evictedd(self) -> None:
        budget = UploadBudget(None)
        unread = UnreadBudget(budget)
        large = Holder(unread)
        large.feed(2 * MAX_UNREAD)  # as its view may allow: one is always held
        holders = [Holder(unread) for _ in range(8)]
        for holder in holders:
            holder.feed(MAX_UNREAD // 8)
        assert not any(holder.evicted for holder in holders)
        Holder(unread).feed(1)
        assert [holder.evicted for holder in holders] == [1, 1, 1, 0, 0, 0, 0, 0]
        assert [holder.consumed for holder in holders[:3]] == [MAX_UNREAD // 8] * 3
        assert not large.evicted
        assert budget.used == 2 * MAX_UNREAD + 5 * MAX_UNREAD // 8 + 1

    def test_it_counts_in_the_budget_for_bodies(self) -> None:
        budget = UploadBudget(200_000)
        unread = UnreadBudget(budget)
        first, second = Holder(unread), Holder(unread)
        first.feed(120_000)
        second.feed(60_000)
        second.feed(60_000)
        assert (first.evicted, second.evicted) == (0, 1)
        assert budget.used == 120_000
        second.feed(100)  # under way as it was refused
        assert second.consumed == 120_100
        first.transport.lost()
        assert budget.used == 0

    def test_uploads_that_fill_the_budget_yield_to_others_to_it(self) -> None:
        budget = UploadBudget(200_000)
        stalled = StalledUpload(budget, 200_000)
        socket = Holder(UnreadBudget(budget))
        socket.feed(2000)
        assert stalled.evicted
        assert not socket.evicted
        assert budget.used == 2000

    def test_a_few_bytes_are_not_on_evictedd_for_whole_bodies(self) -> None:
        budget = UploadBudget(200_000)
        budget.charge(200_000)
        socket = Holder(UnreadBudget(budget))
        socket.feed(2000)
        assert not socket.evicted

    def test_what_comes_in_small_pieces_is_joined(self) -> None:
        transport = WebSocketTransport(
            UnreadBudget(UploadBudget(None)), lambda _: None, lambda: None
        )
        piece = b"xx"
        tracemalloc.start()
        try:
            for _ in range(MAX_EARLY // len(piece)):
                transport.feed(piece)
            assert tracemalloc.get_traced_memory()[0] < 2 * MAX_EARLY
        finally:
            tracemalloc.stop()
