"""What one HTTP/2 connection may make us do: a budget for each kind of frame.

`docs/security.md` has the table of all limits, with the attack that each one stops.
"""

import time
from typing import Any, NamedTuple

from h2.errors import ErrorCodes
from plain.logs import get_framework_logger

from plain_gevent_h2.net import metrics

from .frames import SMALL_DATA, ConnectionFault, FrameType

log = get_framework_logger("plain.server")


class Limit(NamedTuple):
    """So many frames at once, and so many a second from then on."""

    burst: int
    per_second: int


#: What each kind of frame may come to. One budget for all would let the frequent kind of
#: an honest client (a browser's PRIORITY, a download's WINDOW_UPDATE) use up the rare one's.
#: Bursts are several times what clients were seen to send; a frame costs 3 to 30 us, so
#: no steady rate below comes to more than 2 % of a core.
FRAME_LIMITS: dict[int, Limit] = {
    # Empty, and not the last: no client has a use for more than a few (CVE-2019-9518).
    FrameType.DATA: Limit(200, 10),
    # Sent by browsers for each stream; ignored by us (RFC 9113 section 5.3.2).
    FrameType.PRIORITY: Limit(2000, 500),
    # Open streams reset by the client, resets by us for its faults, and streams refused: each may
    # have started a view for nothing (CVE-2023-44487, CVE-2025-8671). nghttp2 has this burst and a
    # third of the rate. A response taken whole gives one back.
    FrameType.RST_STREAM: Limit(1000, 100),
    # Each makes us send an ACK and look at every stream's window (CVE-2019-9515).
    FrameType.SETTINGS: Limit(100, 10),
    # gRPC measures its bandwidth with one for each round trip (CVE-2019-9512).
    FrameType.PING: Limit(1000, 100),
    FrameType.GOAWAY: Limit(10, 1),
    # A download earns its own; see WINDOW_UPDATES_FOR_DATA.
    FrameType.WINDOW_UPDATE: Limit(5000, 500),
}

#: In place of a frame type: DATA on a stream that is closed, which `h2` answers with a reset each
#: time. As we reset an upload, an honest client may have the connection's window under way: 1,024
#: frames of 16 KiB.
DATA_ON_CLOSED_STREAM = 0x100
FRAME_LIMITS[DATA_ON_CLOSED_STREAM] = Limit(5000, 500)

#: In place of a frame type: RST_STREAM frames, whatever they end. Clients built on `h2`, such as
#: httpx, answer each frame of a stream that they have reset with one more: up to 64 for a download,
#: and two for a small response, which gives these back when it was taken whole.
RESET_FRAME = 0x101
FRAME_LIMITS[RESET_FRAME] = Limit(5000, 500)
RESET_FRAMES_FOR_RESPONSE = 4

#: Frames of types that we do not know and ignore (RFC 9113 section 4.1): PRIORITY_UPDATE.
UNKNOWN_FRAME_LIMIT = Limit(2000, 500)

#: In place of a frame type: DATA of few bytes. A connection that sends many is slowed down, not
#: closed: those of 20 connections at once made others wait 15 times as long.
FRAME_LIMITS[SMALL_DATA] = Limit(20_000, 2000)

#: What a DATA frame sent adds to the client's budgets of WINDOW_UPDATE (some clients send two
#: for each) and PING. A frame cut short by the stream's window adds nothing: a client that
#: opens it byte by byte makes us send a frame for each byte.
WINDOW_UPDATES_FOR_DATA = 4
PINGS_FOR_DATA = 1

#: The part of a budget below which a connection is slowed down. An attacker that opens a new
#: connection for each one closed would otherwise have the worker to itself.
STRAINED = 0.9

#: What a header list past the limit takes of the budget of resets: decoding one costs as
#: much as several requests.
OVERSIZED_HEADERS_COST = 50

#: The same for a path past its limit, but below 16 KiB: a page may have several of such.
LONG_PATH_COST = 5


class Budgets:
    """What is left of one connection's `FRAME_LIMITS`. Used by its reader and its writer.

    A kind that was never used has no entry: an idle connection should cost little.
    """

    __slots__ = ("_filled_at", "_left")

    def __init__(self) -> None:
        self._left: dict[int, float] = {}
        self._filled_at: dict[int, float] = {}  # monotonic seconds

    def spend(self, kind: int, amount: int = 1) -> None:
        """Count `amount` frames of `kind`. Raises `ConnectionFault` past its limit."""
        limit = FRAME_LIMITS.get(kind, UNKNOWN_FRAME_LIMIT)
        left = self._left.get(kind)
        if left is None:
            left = limit.burst
            self._filled_at[kind] = time.monotonic()
        left -= amount
        if left < 0:
            left = self._refill(kind, left, limit)
        self._left[kind] = left

    def forgo(self, seconds: float) -> None:
        """Fill nothing up for the last `seconds`, in which the client was kept waiting."""
        for kind in self._filled_at:
            self._filled_at[kind] += seconds

    def slow_down(self, kind: int) -> None:
        """Count a frame of `kind`, past whose limit nothing more happens than below it."""
        self._filled_at.setdefault(kind, time.monotonic())
        left = self._left.get(kind, FRAME_LIMITS[kind].burst)
        self._left[kind] = max(0.0, left - 1)

    def _refill(self, kind: int, left: float, limit: Limit) -> float:
        now = time.monotonic()
        left = min(limit.burst, left + (now - self._filled_at[kind]) * limit.per_second)
        self._filled_at[kind] = now
        if left < 0:
            raise ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, f"too many {_name(kind)} frames")
        return left

    def strained(self) -> bool:
        """Whether the client uses a part of a budget that honest ones seldom do."""
        return any(self._is_low(kind, left) for kind, left in self._left.items())

    def _is_low(self, kind: int, left: float) -> bool:
        limit = FRAME_LIMITS.get(kind, UNKNOWN_FRAME_LIMIT)
        if left < STRAINED * limit.burst:
            left = self._left[kind] = self._refill(kind, left, limit)
        return left < STRAINED * limit.burst

    def earn(self, kind: int, amount: int) -> None:
        """Give back `amount` frames of `kind`, up to its burst."""
        left = self._left.get(kind)
        if left is not None:
            self._left[kind] = min(left + amount, FRAME_LIMITS[kind].burst)


def report_abuse(client: Any, reason: str) -> None:
    """Count and log a connection that is closed for abuse. Called once for each."""
    metrics.connection_abusive(reason)
    log.warning("Connection closed for abuse", extra={"client": client, "error": reason})


def _name(kind: int) -> str:
    if kind == DATA_ON_CLOSED_STREAM:
        return "late DATA"
    if kind == RESET_FRAME:
        return "late RST_STREAM"
    return FrameType(kind).name if kind in FRAME_LIMITS else "unknown"
