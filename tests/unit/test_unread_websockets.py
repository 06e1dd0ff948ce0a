"""Bytes of WebSockets that their views have not read share a bound, and the budget for bodies."""

import tracemalloc

from plain_gevent_h2.app.upload_budget import UploadBudget
from plain_gevent_h2.app.websocket import MAX_EARLY, MAX_UNREAD, Unread, WebSocketTransport


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


class TestUnread:
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
