"""The streams of a connection that wait for their greenlet."""

from collections.abc import Iterable
from typing import Any, Protocol

import gevent

from plain_gevent_h2.limits.slots import Slots
from plain_gevent_h2.limits.unsent import MAX_UNREAD_RESPONSES, UnsentBytes

from .send_buffer import LOW_WATER, SendBuffer
from .writer import Writer

#: Sweeps, of a second each, in which a client should have taken the whole responses that it has
#: asked for, while those of all connections are past `MAX_UNREAD_RESPONSES`.
SWEEPS_TO_TAKE = 4


class Startable(Protocol):
    """A stream, as far as it waits here."""

    buffer: SendBuffer
    greenlet: Any
    is_clientless: bool
    is_handed_over: bool
    began_at: float

    def run(self) -> bool: ...

    def send_error(self, status: int) -> None: ...


class StartQueue:
    """Gives streams to the worker's `Slots`, in order, and counts those that run.

    It owns each stream's `is_handed_over`.
    """

    __slots__ = (
        "_clientless",
        "_max_streams",
        "_most_running",
        "_open",
        "_running",
        "_slots",
        "_unsent",
        "_waiting",
        "_writer",
    )

    def __init__(
        self,
        slots: Slots,
        unsent: UnsentBytes,
        max_streams: int,
        open_streams: Iterable[Startable],
        writer: Writer,
    ) -> None:
        # Set once.
        self._slots = slots
        self._unsent = unsent
        self._max_streams = max_streams  # that may run with their client
        self._most_running = slots.share(max_streams)  # with and without
        self._open = open_streams  # a view of them
        self._writer = writer
        # Changed by the reader, the streams, and `Slots` in the greenlets of other connections.
        self._waiting: list[Startable] = []  # whole requests and WebSockets, to be started
        self._running = 0  # streams with a greenlet, the client's resets included
        self._clientless = 0  # of these, those whose client is gone

    def add(self, stream: Startable) -> None:
        """Give `stream` its greenlet, or let it wait for one that ends."""
        stream.is_handed_over = True
        self._waiting.append(stream)
        self._slots.start_from(self)

    def remove(self, stream: Startable) -> bool:
        """Have `stream`, which is closed, not started; False if it does not wait any more."""
        if stream not in self._waiting:
            return False
        self._waiting.remove(stream)
        stream.is_handed_over = False
        return True

    def client_left(self, stream: Startable) -> None:
        """The client of `stream` is gone."""
        self._clientless += stream.is_clientless

    def greenlet_began(self) -> None:
        """The greenlet of a stream has begun. The next one's turn is when it waits or ends.

        Not before: what it leaves may be too much.
        """
        if self._waiting:
            gevent.get_hub().loop.run_callback(self.start_waiting)

    def greenlet_done(self, stream: Startable) -> None:
        """The greenlet of `stream` is at its end."""
        self._running -= 1
        if stream.is_clientless:
            self._clientless -= 1
        if self._waiting:
            self._slots.start_from(self)

    def start_waiting(self) -> None:
        """Start those that wait, if they may by now."""
        if self._waiting:
            self._slots.start_from(self)

    def check(self) -> None:
        """Called once a second."""
        if self._waiting and self._clientless >= self._most_running:
            self.refuse_waiting()
        self.start_waiting()  # the worker may have fewer bytes unsent by now

    def leave(self) -> None:
        """The connection is over."""
        self._slots.leave(self)

    # -- the verbs of `Source` ------------------------------------------------

    @property
    def has_stream_to_start(self) -> bool:
        """Whether a stream waits, and no more run than the client may open and leave behind."""
        return (
            bool(self._waiting)
            and self._running - self._clientless < self._max_streams
            and self._running < self._most_running
            and not self._takes_too_little()
        )

    def next_stream(self) -> Startable | None:
        """Take the stream to start next, if there is one."""
        if not self.has_stream_to_start:
            return None
        self._running += 1
        return self._waiting.pop(0)

    def refuse_waiting(self) -> None:
        """Answer with a 503 what waits for views whose clients have left."""
        waiting, self._waiting = self._waiting, []
        for stream in waiting:
            stream.is_handed_over = False
            stream.send_error(503)

    def _takes_too_little(self) -> bool:
        """Whether the client should first take the whole responses that it has asked for.

        Only while other connections leave too much as well. It may leave what it takes in a few
        seconds: a client that reads is not held up.
        """
        if self._unsent.http2 <= MAX_UNREAD_RESPONSES:
            return False
        own = sum(stream.buffer.size for stream in self._open)
        if self._unsent.http2 - own <= MAX_UNREAD_RESPONSES:
            return False
        if any(stream.greenlet is not None and not stream.began_at for stream in self._open):
            return True  # one after another: what they will leave is not known yet
        left = sum(stream.buffer.size for stream in self._open if stream.buffer.ending)
        return left > LOW_WATER + SWEEPS_TO_TAKE * self._writer.taken_lately
