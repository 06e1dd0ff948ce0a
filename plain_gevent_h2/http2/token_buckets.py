"""What one HTTP/2 connection may make us do: a token bucket for each kind of frame but a request's.

HEADERS, CONTINUATION and DATA that has content take no token: limits of their own bound them.
`docs/security.md` has the table of all limits, with the attack that each one stops.
"""

import time
from typing import NamedTuple

from .faults import ConnectionFault
from .frames import ErrorCodes, FrameType


class Limit(NamedTuple):
    """A token bucket's size: frames at once, and frames a second from then on."""

    burst: int
    refill_rate: int


#: The bucket of each kind of frame. One bucket for all would let the frequent kind of an
#: honest client (a browser's PRIORITY, a download's WINDOW_UPDATE) use up the rare one's.
#: Bursts are several times what clients were seen to send. A frame costs 3 to 30 us, so no
#: refill rate below comes to more than 2 % of a core.
FRAME_LIMITS: dict[int, Limit] = {
    # Empty, and not the last: no client has a use for more than a few (CVE-2019-9518).
    FrameType.DATA: Limit(200, 10),
    # Sent by browsers for each stream; ignored by us (RFC 9113 section 5.3.2).
    FrameType.PRIORITY: Limit(2000, 500),
    # Open streams reset by the client, resets by us for its faults, and streams refused: each may
    # have started a view for nothing (CVE-2023-44487, CVE-2025-8671). nghttp2 has this burst and a
    # third of the rate. A response that the client takes whole refunds one.
    FrameType.RST_STREAM: Limit(1000, 100),
    # Each makes us send an ACK and check every stream's window (CVE-2019-9515).
    FrameType.SETTINGS: Limit(100, 10),
    # gRPC measures its bandwidth with one for each round trip (CVE-2019-9512).
    FrameType.PING: Limit(1000, 100),
    FrameType.GOAWAY: Limit(10, 1),
    # A download refunds its own; see WINDOW_UPDATES_FOR_DATA.
    FrameType.WINDOW_UPDATE: Limit(5000, 500),
}

#: In place of a frame type: DATA on a stream that is closed, which `h2` answers with a reset each
#: time. As we reset an upload, an honest client may have the connection's window under way: 1,024
#: frames of 16 KiB.
DATA_ON_CLOSED_STREAM = 0x100
FRAME_LIMITS[DATA_ON_CLOSED_STREAM] = Limit(5000, 500)

#: In place of a frame type: RST_STREAM frames, whatever they end. Clients built on `h2`, such as
#: httpx, answer each frame of a stream that they have reset with one more: up to 64 for a download,
#: and two for a small response, which refunds these if the client takes it whole.
RESET_FRAME = 0x101
FRAME_LIMITS[RESET_FRAME] = Limit(5000, 500)
RESET_FRAMES_FOR_RESPONSE = 4

#: In place of a frame type: DATA of few bytes. A connection that sends many is throttled, not
#: closed: those of 20 connections at once made others wait 15 times as long.
SMALL_DATA = 0x102
FRAME_LIMITS[SMALL_DATA] = Limit(20_000, 2000)

#: Frames of types that we do not know and ignore (RFC 9113 section 4.1): PRIORITY_UPDATE.
UNKNOWN_FRAME_LIMIT = Limit(2000, 500)

#: What a DATA frame that we send refunds: WINDOW_UPDATE (some clients send two for each) and
#: PING. A frame cut short by the stream's window refunds nothing: a client that opens it byte
#: by byte makes us send a frame for each byte.
WINDOW_UPDATES_FOR_DATA = 4
PINGS_FOR_DATA = 1

#: The part of a burst below which a bucket is low, and its connection is throttled. An attacker
#: that opens a new connection for each one closed would otherwise have the worker to itself.
LOW = 0.9

#: Resets that a header list past the limit costs: decoding one takes as long as several requests.
OVERSIZED_HEADERS_COST = 50

#: The same for a path past its limit, but below 16 KiB: a page may have several of such.
LONG_PATH_COST = 5


class TokenBuckets:
    """What is left in one connection's buckets.

    The connection's reader takes tokens; `Streams.websocket_evicted()` does in other greenlets. The
    writer and `Streams.forget()` refund them.

    A kind that was never taken from has no entry: an idle connection should cost little.
    """

    __slots__ = ("_left", "_refilled_at")

    def __init__(self) -> None:
        self._left: dict[int, float] = {}
        self._refilled_at: dict[int, float] = {}  # monotonic seconds

    def take(self, kind: int, amount: int = 1) -> None:
        """Take a token for each of `amount` frames of `kind`.

        Raises `ConnectionFault` if there are too few.
        """
        limit = FRAME_LIMITS.get(kind, UNKNOWN_FRAME_LIMIT)
        left = self._left.get(kind)
        if left is None:
            left = limit.burst
            self._refilled_at[kind] = time.monotonic()
        left -= amount
        if left < 0:
            left = self._refill(kind, left, limit)
        self._left[kind] = left

    def take_if_any(self, kind: int) -> None:
        """Take a token for a frame of `kind`, whose connection is throttled but never closed."""
        self._refilled_at.setdefault(kind, time.monotonic())
        left = self._left.get(kind, FRAME_LIMITS[kind].burst)
        self._left[kind] = max(0.0, left - 1)

    def refund(self, kind: int, amount: int) -> None:
        """Put `amount` tokens of `kind` back, up to its burst."""
        left = self._left.get(kind)
        if left is not None:
            self._left[kind] = min(left + amount, FRAME_LIMITS[kind].burst)

    def skip_refill(self, seconds: float) -> None:
        """Refill nothing for the last `seconds`, in which the client was kept waiting."""
        for kind in self._refilled_at:
            self._refilled_at[kind] += seconds

    def low(self) -> bool:
        """Whether the client has used a part of a bucket that honest ones seldom do."""
        return any(self._is_low(kind, left) for kind, left in self._left.items())

    def _is_low(self, kind: int, left: float) -> bool:
        limit = FRAME_LIMITS.get(kind, UNKNOWN_FRAME_LIMIT)
        if left < LOW * limit.burst:
            left = self._left[kind] = self._refill(kind, left, limit)
        return left < LOW * limit.burst

    def _refill(self, kind: int, left: float, limit: Limit) -> float:
        now = time.monotonic()
        left = min(limit.burst, left + (now - self._refilled_at[kind]) * limit.refill_rate)
        self._refilled_at[kind] = now
        if left < 0:
            raise ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, f"too many {_name(kind)} frames")
        return left


def _name(kind: int) -> str:
    if kind == DATA_ON_CLOSED_STREAM:
        return "late DATA"
    if kind == RESET_FRAME:
        return "late RST_STREAM"
    return FrameType(kind).name if kind in FRAME_LIMITS else "unknown"
