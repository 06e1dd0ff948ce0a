"""The budget for request bodies, and who gives way when it is used up."""

from typing import Protocol

from plain_gevent_h2.net.fairness import SWEEP_INTERVAL

from .plain_internals import BodyBudget

#: Seconds over which an upload's rate is measured: the last one to two of these. Not its whole
#: life, since an attacker may start fast.
RATE_WINDOW = 2.0

#: Seconds for which an upload may hold what it has, at its rate, whatever others ask for. An
#: honest client that stalls for a moment should not lose its upload; and one who would hold
#: 1 GB for ever at this price has to send 100 MB/s.
PATIENCE = 10.0


class Upload(Protocol):
    """A request's body that is still arriving."""

    def seconds_at_rate(self, more: int = 0) -> float:
        """Seconds that all it has took, with `more` bytes that just came, if all of it came at the
        rate of the last seconds.
        """

    def evict(self) -> None:
        """Give up what was received, and answer with a 503."""


class Pace:
    """How fast one upload has come lately."""

    __slots__ = ("_before", "_latest")

    def __init__(self, now: float) -> None:
        # Each a time, and the bytes that had come by then.
        self._before = self._latest = (now, 0)

    def record(self, now: float, received: int) -> None:
        """`received` bytes have come in all, before those that come now."""
        if now - self._latest[0] >= RATE_WINDOW:
            self._before, self._latest = self._latest, (now, received)

    def seconds_at_rate(self, now: float, received: int) -> float:
        """Seconds that `received` bytes take at the rate of the last seconds."""
        since, had = self._latest if now - self._latest[0] >= RATE_WINDOW else self._before
        if received == had:
            return float("inf") if received else 0.0
        return received * max(now - since, RATE_WINDOW) / (received - had)


class UploadBudget(BodyBudget):
    """Plain's budget, which knows the uploads under way.

    When it is used up, those that hold the most for their rate are evicted before the one that
    asks for more is refused: who holds much and sends little would else keep everybody out.
    Bodies that are whole are not among them, since their clients can do nothing more.
    """

    def __init__(self, limit: int | None) -> None:
        super().__init__(limit)
        #: Seconds that clients have had to send, which is the time of all rates here. It stands
        #: still while a view keeps the hub, since no upload is read then.
        self.client_seconds = 0.0
        self._ticked_at: float | None = None
        self._under_way: dict[Upload, None] = {}
        # Of those, at `_ranked_at`, the ones that may be evicted; the first to go is last.
        self._ranking: list[Upload] = []
        self._ranked_at: float | None = None

    def tick(self, now: float) -> None:
        """Set `client_seconds`. Called by the worker, at least once a second."""
        if self._ticked_at is not None:
            self.client_seconds += min(now - self._ticked_at, SWEEP_INTERVAL)
        self._ticked_at = now

    def begin(self, upload: Upload) -> None:
        """The first bytes of `upload` have come."""
        self._under_way[upload] = None

    def end(self, upload: Upload) -> None:
        """`upload` is whole, or given up."""
        self._under_way.pop(upload, None)

    def make_room(self, upload: Upload, size: int) -> bool:
        """Evict others until `size` more bytes of `upload` fit; False if it is to go itself."""
        if self.limit is None or size > self.limit:
            return False
        return self._evict(self.limit - size, max(PATIENCE, upload.seconds_at_rate(size)), upload)

    def make_room_for_websockets(self) -> bool:
        """Evict uploads until what is counted beside them fits; False if it does not."""
        return self.limit is None or self._evict(self.limit, PATIENCE, None)

    def _evict(self, most: int, patience: float, asks: Upload | None) -> bool:
        while self.used > most:
            worst = self._worst()
            if worst is None or worst is asks or worst.seconds_at_rate() <= patience:
                return False
            worst.evict()
        return True

    def _worst(self) -> Upload | None:
        # 10,000 take 5 ms to rank (measured), so not for each request that finds no room.
        if self._ranked_at != self.client_seconds:
            self._ranked_at = self.client_seconds
            slow = [
                (seconds, u) for u in self._under_way if (seconds := u.seconds_at_rate()) > PATIENCE
            ]
            slow.sort(key=lambda pair: pair[0])
            self._ranking = [upload for _, upload in slow]
        # Some have ended since, or are fast again.
        while self._ranking and not self._is_slow(self._ranking[-1]):
            self._ranking.pop()
        return self._ranking[-1] if self._ranking else None

    def _is_slow(self, upload: Upload) -> bool:
        return upload in self._under_way and upload.seconds_at_rate() > PATIENCE
