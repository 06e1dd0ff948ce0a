"""The idle connections: when a worker has no room for another, the longest idle is evicted."""

import itertools
import time
from collections import OrderedDict
from typing import Protocol

from plain_gevent_h2.net import metrics

#: Seconds for which a connection may be idle whatever others ask for: clients that connect as fast
#: as they can should not take the place of one that is about to send.
LEAST_IDLE = 2.0

#: The same in a TLS handshake: a client that opens 1,000 a second and sends nothing would have all
#: places.
LEAST_HANDSHAKE = 0.2

#: Evicted connections that may still close in their own time, for each of the connections that a
#: worker may have. They come on top of these.
CLOSING_SHARE = 1 / 16


class Evictable(Protocol):
    """A connection, or what is to be one after its TLS handshake."""

    def evict(self) -> None:
        """Close, being idle, as cleanly as the protocol can. Does not block."""

    def abort(self) -> None:
        """Close at once."""


class IdleConnections:
    """Those that wait for a request or for the rest of its head, or are in their TLS handshake.

    They are kept in the order in which they became idle: to search 10,000 at each `accept` would
    take a millisecond.
    """

    def __init__(self, limit: int) -> None:
        self._most_closing = max(1, int(limit * CLOSING_SHARE))
        self._idle: OrderedDict[Evictable, float] = OrderedDict()  # since when (monotonic)
        self._handshakes: OrderedDict[Evictable, float] = OrderedDict()  # the same
        self._closing: OrderedDict[Evictable, None] = OrderedDict()  # evicted
        self._faulty: OrderedDict[Evictable, None] = OrderedDict()  # closing for a fault

    @property
    def closing(self) -> int:
        """How many were evicted, and are not closed yet."""
        return len(self._closing)

    def add(self, connection: Evictable) -> None:
        """`connection` is idle from now on."""
        self._idle[connection] = time.monotonic()
        self._idle.move_to_end(connection)

    def add_handshake(self, connection: Evictable) -> None:
        """The TLS handshake of `connection` is under way."""
        self._handshakes[connection] = time.monotonic()

    def remove(self, connection: Evictable) -> None:
        """`connection` is busy, or is closing."""
        self._idle.pop(connection, None)

    def faulty(self, connection: Evictable) -> None:
        """`connection` is closing, for a fault of its client's."""
        self._faulty[connection] = None

    def closed(self, connection: Evictable) -> None:
        """`connection` has ended."""
        for group in (self._idle, self._handshakes, self._closing, self._faulty):
            group.pop(connection, None)

    def make_room(self) -> bool:
        """Close a faulty connection, or else the longest idle; False if there is neither.

        Each that is closing has a while to read its GOAWAY: one connection after another of an
        attacker would otherwise take all places.
        """
        if self._faulty:
            self._faulty.popitem(last=False)[0].abort()
            return True
        return self._evict()

    def _take_longest(self) -> Evictable | None:
        now = time.monotonic()
        longest = [
            (since, connection, group)
            for group, least in ((self._idle, LEAST_IDLE), (self._handshakes, LEAST_HANDSHAKE))
            for connection, since in itertools.islice(group.items(), 1)
            if now - since >= least
        ]
        if not longest:
            return None
        _, connection, group = min(longest, key=lambda found: found[0])
        del group[connection]
        return connection

    def _evict(self) -> bool:
        connection = self._take_longest()
        if connection is None:
            return False
        self._closing[connection] = None
        metrics.connection_evicted()
        connection.evict()
        if len(self._closing) > self._most_closing:
            oldest, _ = self._closing.popitem(last=False)
            oldest.abort()
        return True
