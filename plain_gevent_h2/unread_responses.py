"""Who gives way when whole responses that nobody takes fill the worker."""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from .writer import unsent

#: Bytes of all bodies that wait to be sent, past which who takes none of its whole responses is
#: closed. (An HTTP/1.1 response keeps its place, and has time limits.) With the gate of
#: `Http2Connection` alone, each of 100 connections kept some of them, whatever their size: 300 MiB
#: of 1 MB each (measured).
MAX_UNTAKEN = 32 * 1024 * 1024

#: Seconds until all connections are looked at again, after there was nobody to close.
LOOK_AGAIN = 0.1


class Holder(Protocol):
    """A connection, as far as its client leaves whole responses."""

    def untaken(self, now: float) -> int:
        """Bytes of whole responses, none of which its client has taken lately."""

    def close_for_responses(self) -> None:
        """Close, and give up those responses."""


class UnreadResponses:
    """Makes room for responses. One for a worker; called when one was put, and once a second.

    A client that takes some of its own, however slowly, is never closed for others.
    """

    def __init__(self, connections: Callable[[], Iterable[Holder]]) -> None:
        self._connections = connections
        self._look_after = 0.0  # monotonic

    def make_room(self) -> None:
        """Close who leaves most, until what waits is within `MAX_UNTAKEN` or nobody is left."""
        if unsent.size <= MAX_UNTAKEN or (now := time.monotonic()) < self._look_after:
            return
        holders = [(size, each) for each in self._connections() if (size := each.untaken(now))]
        holders.sort(key=lambda pair: pair[0])
        while unsent.size > MAX_UNTAKEN and holders:
            holders.pop()[1].close_for_responses()
        if unsent.size > MAX_UNTAKEN:
            self._look_after = now + LOOK_AGAIN
