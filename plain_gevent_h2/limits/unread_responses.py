"""Closes connections when whole responses that nobody takes fill the worker."""

from collections.abc import Callable, Iterable
from typing import Protocol

from .unsent import UnsentBytes

#: Bytes of whole responses, beside the largest, that may wait in a worker for clients that take
#: nothing at all. (An HTTP/1.1 response keeps its slot, and has timeouts.) With the limit of
#: `StartQueue` alone (`MAX_UNREAD_RESPONSES`) each of 100 connections kept some of them, whatever
#: their size: 300 MiB of 1 MB each (measured).
MAX_UNTAKEN = 24 * 1024 * 1024

#: Bytes by which what waits has to grow until all connections are checked again, after there was
#: nobody to close: the check takes 15 ms for 10,000 of them (measured).
CHECK_AGAIN = 4 * 1024 * 1024


class Holder(Protocol):
    """A connection, as far as its client leaves whole responses."""

    def untaken(self) -> list[int]:
        """The bytes left of each whole response; none if its client takes anything."""

    def close_for_responses(self) -> None:
        """Close, and give those responses up."""


class UnreadResponses:
    """Makes room for responses. One for a worker."""

    def __init__(self, connections: Callable[[], Iterable[Holder]], unsent: UnsentBytes) -> None:
        self._connections = connections
        self._unsent = unsent
        self._check_above = MAX_UNTAKEN  # bytes

    def sweep(self) -> None:
        """Called once a second: clients that took something may have stopped."""
        self._check_above = MAX_UNTAKEN
        self.make_room()

    def make_room(self) -> None:
        """Close the connections that leave most, until the rest is below the limit.

        Called after each put.

        What clients do take does not count: to close others would make no room for that. And a
        reset of the responses alone would not do: those that such a client has asked for next would
        take their place.
        """
        if self._unsent.http2 <= self._check_above:
            return
        holders = [(sum(sizes), sizes, c) for c in self._connections() if (sizes := c.untaken())]
        # The largest is spared, so that an export whose one client pauses is not lost for itself.
        most = MAX_UNTAKEN + max((max(sizes) for _, sizes, _ in holders), default=0)
        untaken = sum(total for total, _, _ in holders)
        if untaken <= most:
            self._check_above = self._unsent.http2 + CHECK_AGAIN
            return
        holders.sort(key=lambda holder: holder[0])
        while untaken > most:
            total, _, connection = holders.pop()
            connection.close_for_responses()
            untaken -= total
