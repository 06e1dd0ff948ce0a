"""The bytes of request headers that a worker holds.

A request of 50 bytes can name an entry of HPACK's table of 4 KB fifteen times. Plain joins fields
of one name, so each such request takes 60 to 140 KB for as long as its view runs.
"""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from plain.logs import get_framework_logger

log = get_framework_logger("plain.server")

#: Bytes of one request that are not counted, and never refused. Its stream takes as many.
FREE = 4096

#: Bytes that a worker may hold. A request past them is answered with a 503.
LIMIT = 16 * 1024 * 1024

#: The part of them from which on the connection that holds most is closed, to make room.
LARGEST = 0.5

#: Seconds between two log lines that say so.
LOG_INTERVAL = 60.0

Fields = list[tuple[str, str]]


class Holder(Protocol):
    """A connection, as far as its requests' headers are counted."""

    def close_for_headers(self) -> None:
        """Close for what its requests' headers take, and release it."""


class HeaderBudget:
    """Counts what the requests of each connection hold. One for a worker."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._held: dict[Holder, int] = {}  # without those that were closed for it
        self.used = 0  # bytes
        self._logged_at = -LOG_INTERVAL  # monotonic

    def charge(self, holder: Holder | None, size: int) -> bool:
        """Count `size` bytes for `holder` (None has one request at most), if there is room.

        If there is none, a connection that holds most of it is closed first.
        """
        if self.used + size > self._limit:
            self._close_largest()
        if self.used + size > self._limit:
            self._log_refusal()
            return False
        self.used += size
        if holder is not None:
            self._held[holder] = self._held.get(holder, 0) + size
        return True

    def release(self, holder: Holder | None, size: int) -> None:
        """Take back what was charged."""
        self.used -= size
        if size and holder in self._held:
            self._held[holder] -= size
            if not self._held[holder]:
                del self._held[holder]

    def _log_refusal(self) -> None:
        now = time.monotonic()
        if now - self._logged_at > LOG_INTERVAL:
            self._logged_at = now
            log.warning(
                "Too many bytes of header fields, refusing requests", extra={"held": self.used}
            )

    def _close_largest(self) -> None:
        largest = max(self._held, key=lambda holder: self._held[holder], default=None)
        if largest is not None and self._held[largest] > LARGEST * self._limit:
            del self._held[largest]  # views that run keep theirs until they return
            largest.close_for_headers()


def size_to_charge(fields: Fields, list_size: int) -> int:
    """Bytes to count for a request whose header list has `list_size` (RFC 9113 section 6.5.2)."""
    if list_size <= FREE:
        return 0
    values = [value for _, value in fields]
    times = Counter(name for name, _ in fields)
    single = {id(value): len(value) for value in values}  # one may stand there many times
    joined = sum(len(value) for name, value in fields if times[name] > 1)
    return max(0, (sum(single.values()) + joined) * _widest(values) - FREE)


def _widest(values: Iterable[str]) -> int:
    """Bytes that CPython takes for each character of a string that has all of these in it."""
    highest = max((max(value) for value in values if value and not value.isascii()), default="")
    return 1 if highest <= "\xff" else 2 if highest <= "\uffff" else 4
