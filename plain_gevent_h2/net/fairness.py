"""How greenlets that always have more to do take turns."""

import asyncio
import ssl
import time
from typing import Any, Protocol

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore

#: Seconds between heartbeats of the worker, and between its sweeps, in which timeouts are checked.
#: While it drains, every tenth of that.
SWEEP_INTERVAL = 1.0

#: Bytes of HTTP/2 that a writer frames before it calls the socket, and then lets other greenlets
#: run: a peer that always takes more must not keep the hub to itself. One call for the responses
#: that finished in one turn of the loop: +30 % to +60 % requests (measured). (Twice as much in a
#: turn would let small requests beside a download wait twice as long.)
HTTP2_SEND_TURN = 128 * 1024

#: Bytes that are encrypted before a blocking send of HTTP/1.1: an HTTP/2 batch has many responses
#: in it, this is a part of one.
HTTP1_SEND_TURN = 64 * 1024

#: Seconds that a connection which always has more to say keeps the hub to itself.
TURN = 0.0005

#: Seconds that it then waits for its next turn if it has used up much of its token buckets, or
#: still sends after its final GOAWAY; or so many times what its turn took beyond a long one, as for
#: a long header block, if that is more. All such connections of a worker wait one after another:
#: however many attack at once, they have a fifth of it. (20 that flood made a request beside them
#: wait 20 times as long; measured.) WebSockets that flood wait as long, on the asyncio loop.
PENALTY = 0.002
PENALTY_FOR_TURN = 4
LONG_TURN = 0.002

#: Seconds for which TLS handshakes may keep the hub in one turn of the loop, all together. One
#: takes 0.4 ms, and hundreds that arrive at once would go before anything else (300 ms).
HANDSHAKES_TURN = 0.001

#: Reads in a turn of one WebSocket: those of some 40 small frames, which keep the GIL for half a
#: millisecond. Plain's reader never waits while there is more, and the hub would get the GIL back
#: after 5 ms each time it gives it up: a flood of empty fragments made small requests beside it
#: wait 23 times as long (measured).
READS_IN_A_TURN = 128

#: Reads a second past which a WebSocket waits for its next turn. (Of a flood of empty messages
#: 15,000 a second are still echoed, of 21,000 before; measured.)
READS_PER_SECOND = 10_000

#: Connections that may be in the penalty box at once: the last of them waits for 0.2 s.
MOST_PENALIZED = 100


def yield_to_others(seconds: float = 0) -> None:
    """Let the other greenlets run, those that wait for their sockets included.

    `gevent.sleep(0)` is not enough: it comes back before gevent polls the sockets, up to 50 times
    over. The loop checks timers, even one of no time, when it has polled them. (One of a nanosecond
    would wait for a millisecond, libev's least.)
    """
    hub: Any = gevent.get_hub()
    with hub.loop.timer(seconds) as timer:
        hub.wait(timer)


class Penalized(Protocol):
    """A connection, as far as it waits in the penalty box."""

    penalties: int  # how often it has been there

    def close_for_penalties(self) -> None:
        """Close, and `leave()`: no other was here as often."""


class PenaltyBox:
    """Where connections wait that ask for too much, one after another. One for a worker.

    However many they are, together they have what one of them would have alone. So that an honest
    one among them does not wait for hundreds, only `MOST_PENALIZED` have room. Past them the one
    that was here most often is closed: an honest client is here seldom.
    """

    def __init__(self) -> None:
        # The first waits for its time to pass, the others for their turn.
        self._queue: dict[Penalized, Event] = {}

    def wait(self, connection: Penalized, seconds: float) -> None:
        """Block the reader of `connection` for `seconds`, once it has its turn."""
        connection.penalties += 1
        turn = self._queue[connection] = Event()
        if len(self._queue) > MOST_PENALIZED:
            max(self._queue, key=lambda waiting: waiting.penalties).close_for_penalties()
        try:
            if next(iter(self._queue), None) is not connection:
                turn.wait()
            if connection in self._queue:
                yield_to_others(seconds)
        finally:
            self.leave(connection)

    def leave(self, connection: Penalized) -> None:
        """`connection` is over, or has waited."""
        if (turn := self._queue.pop(connection, None)) is not None:
            turn.set()
            for first in self._queue.values():
                first.set()
                break


def penalty(seconds: float) -> float:
    """Seconds to wait after a turn that took `seconds` more than a long one."""
    return max(PENALTY, PENALTY_FOR_TURN * seconds)


class HandshakeTurns:
    """The TLS handshakes under way take turns, with each other and with everything else.

    One for a worker.
    """

    def __init__(self) -> None:
        self._lock = BoundedSemaphore(1)
        self._ends_at = 0.0  # monotonic

    def step(self, tls: ssl.SSLObject) -> None:
        """One step of a handshake, in its turn. Raises what `do_handshake()` raises."""
        with self._lock:
            if time.monotonic() > self._ends_at:
                yield_to_others()
                self._ends_at = time.monotonic() + HANDSHAKES_TURN
            tls.do_handshake()


class AsyncPenaltyBox:
    """The penalty box of an asyncio loop: its tasks wait in it one after another."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def wait(self) -> None:
        async with self._lock:
            await asyncio.sleep(PENALTY)


class ReadTurns:
    """The turns of one WebSocket that always has more to read."""

    def __init__(self, penalty_box: AsyncPenaltyBox) -> None:
        self._penalty_box = penalty_box
        self._reads = 0
        self._began_at = 0.0  # monotonic

    async def count(self) -> None:
        """Count a read; wait if that was the turn's last."""
        self._reads += 1
        if self._reads < READS_IN_A_TURN:
            return
        if time.monotonic() - self._began_at < READS_IN_A_TURN / READS_PER_SECOND:
            await self._penalty_box.wait()
        self._reads = 0
        self._began_at = time.monotonic()
