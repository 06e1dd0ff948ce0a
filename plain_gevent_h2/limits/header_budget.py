"""The bytes of request headers that a worker holds.

A request of 50 bytes can name an entry of HPACK's table of 4 KB fifteen times. Plain joins fields
of one name, so each such request takes 60 to 140 KB for as long as its view runs.
"""

import time
from typing import Protocol

from plain.logs import get_framework_logger

from plain_gevent_h2.net.log_throttle import OnceAMinute

log = get_framework_logger("plain.server")

#: Bytes of one request that are not counted, and never refused: those of an honest one, mostly. Its
#: stream takes more.
FREE = 4096

#: Bytes that a worker may hold. A request past them is answered with a 503.
LIMIT = 16 * 1024 * 1024

#: Bytes of heads and header blocks whose end is still to come, beside these. Past them the first
#: that were begun are closed.
UNFINISHED_LIMIT = 4 * 1024 * 1024

#: The part of them that is for connections which hold little (in bytes): a few that hold much do
#: not keep out all others.
RESERVED_SHARE = 0.25
LITTLE = 256 * 1024

#: The part of them from which on the connection that holds most is closed, to make room.
LARGEST = 0.5

#: Bytes of a header block, as sent, from which on the time to decode it is counted (1 ms), and
#: bytes of such that a worker decodes, at once and a second, before their senders have to wait.
LONG_BLOCK = 16 * 1024
LONG_BLOCKS_BURST = 2 * 1024 * 1024
LONG_BLOCKS_PER_SECOND = 512 * 1024

Fields = list[tuple[str, str]]


class Holder(Protocol):
    """A connection, as far as its requests' headers are counted. Of HTTP/2, its `Streams`."""

    def close_for_headers(self) -> None:
        """Close for what its requests' headers take, and release what can be."""


class HeaderBudget:
    """Counts what the requests of each connection hold. One for a worker."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self.used = 0  # bytes
        # Of requests, without those whose connection is over or was closed for it: their views
        # keep theirs until they return.
        self._held: dict[Holder, int] = {}
        # Of heads and header blocks whose end is still to come; the first that was begun is first.
        self._unfinished: dict[Holder, int] = {}
        self._unfinished_size = 0
        self._refusal_line = OnceAMinute()
        self._long_left: float = LONG_BLOCKS_BURST
        self._filled_at = 0.0  # monotonic

    def charge(self, holder: Holder, size: int) -> bool:
        """Count `size` bytes for a request of `holder`, if there is room for them.

        If there is none, a connection that holds most of it is closed first.
        """
        if not size:
            return True
        held = self._held.get(holder, 0) + size
        room = self._limit * (1 if held <= LITTLE else 1 - RESERVED_SHARE) - size
        if self.used > room:
            self._close_largest()
        if self.used > room:
            self._log_refusal()
            return False
        self.used += size
        self._held[holder] = held
        return True

    def release(self, holder: Holder, size: int) -> None:
        """Take back what was charged."""
        self.used -= size
        if size and holder in self._held:
            self._held[holder] -= size
            if not self._held[holder]:
                del self._held[holder]

    def unfinished(self, holder: Holder, size: int) -> None:
        """Count `size` bytes of a head whose end is still to come; 0 when it has come.

        The first that were begun are closed for it, `holder` too.
        """
        self._unfinished_size += size - self._unfinished.get(holder, 0)
        if not size:
            self._unfinished.pop(holder, None)
            return
        self._unfinished[holder] = size
        while self._unfinished_size > UNFINISHED_LIMIT:
            first = next(iter(self._unfinished))
            self.unfinished(first, 0)
            first.close_for_headers()

    def forget(self, holder: Holder) -> None:
        """The connection is over. What its views still hold is released as they return."""
        self.unfinished(holder, 0)
        self._held.pop(holder, None)

    def must_wait(self, size: int) -> bool:
        """Whether the sender of a header block of `size` bytes waits before it is decoded.

        All of a worker's connections count together: an attacker may open one for each few blocks.
        """
        if size <= LONG_BLOCK:
            return False
        now = time.monotonic()
        left = self._long_left + (now - self._filled_at) * LONG_BLOCKS_PER_SECOND
        self._filled_at = now
        self._long_left = max(0.0, min(left, LONG_BLOCKS_BURST) - size)
        return not self._long_left

    def _close_largest(self) -> None:
        largest = max(self._held, key=lambda holder: self._held[holder], default=None)
        if largest is not None and self._held[largest] > LARGEST * self._limit:
            del self._held[largest]
            largest.close_for_headers()

    def _log_refusal(self) -> None:
        if self._refusal_line.is_due():
            log.warning(
                "Too many bytes of header fields, refusing requests", extra={"held": self.used}
            )


def size_to_charge(fields: Fields, list_size: int) -> int:
    """Bytes to count for a request whose header list has `list_size` (RFC 9113 section 6.5.2).

    Each value counts, though one may stand there many times: Plain's request has them joined. A
    character takes a byte, since values are decoded as latin-1.
    """
    if list_size <= FREE:
        return 0
    return max(0, sum(len(value) for _, value in fields) - FREE)
