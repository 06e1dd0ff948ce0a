"""The part of a response's body that waits to be framed, and the view that waits for it."""

import time
from collections import deque

from gevent.event import Event

from plain_gevent_h2.limits.send_timeout import MIN_PROGRESS
from plain_gevent_h2.limits.unsent import MAX_UNSENT, UnsentBytes
from plain_gevent_h2.net import metrics

#: Bytes of one stream's body that may wait to be sent before its view does, and to which
#: they must fall before it goes on.
HIGH_WATER = 64 * 1024
LOW_WATER = 16 * 1024


class SendBuffer:
    """The part of a response's body that is not framed yet. One for a stream.

    The stream's greenlet fills it and waits in it for room, and the writer empties it. An error
    page is put by the greenlet that finds the error.
    """

    __slots__ = (
        "_chunks",
        "_offset",
        "_progress",
        "_room",
        "_unsent",
        "_waits_since",
        "closed",
        "ending",
        "progress_at",
        "queued",
        "size",
        "stream_id",
    )

    def __init__(self, stream_id: int, unsent: UnsentBytes) -> None:
        self.stream_id = stream_id
        self._unsent = unsent
        self.size = 0  # bytes
        self.ending = False  # END_STREAM goes with the last byte
        self.queued = False  # the writer has it among those to send
        self.closed = False  # nothing of it can be sent any more
        self.progress_at = 0.0  # monotonic time of the last progress, or of the first put
        self._progress = 0  # bytes taken since then
        # Made by the first put: empty, it takes 0.7 KiB of each view that waits.
        self._chunks: deque[bytes] | None = None
        self._offset = 0  # bytes of the first chunk already taken
        self._room: Event | None = None  # made by the first wait
        self._waits_since = 0.0  # monotonic, of a body that was put whole; 0 if it does not wait

    def put(self, data: bytes) -> None:
        if not self.size:
            self.progress_at = time.monotonic()
        if self._chunks is None:
            self._chunks = deque()
        self._chunks.append(data)
        self.size += len(data)
        self._unsent.http2 += len(data)

    def put_whole(self, data: bytes) -> None:
        """Put a whole body. Nobody waits for it, but how long it waits is counted all the same."""
        self.put(data)
        self.ending = True
        if self.size > HIGH_WATER:
            self._waits_since = time.monotonic()

    def take(self, limit: int) -> bytes | memoryview:
        """The next bytes, `limit` of them at most."""
        data = self._take_piece(limit)
        if self.size and len(data) < limit:
            data = self._take_more(data, limit)
        self._unsent.http2 -= len(data)
        self._progress += len(data)
        if self._progress >= MIN_PROGRESS or not self.size:
            self._progress = 0
            self.progress_at = time.monotonic()
        return data

    def _take_more(self, piece: bytes | memoryview, limit: int) -> bytes:
        """Small chunks that wait go together: a DATA frame costs 10 us, however small it is."""
        pieces = [piece]
        while self.size and (limit := limit - len(pieces[-1])) > 0:
            pieces.append(self._take_piece(limit))
        return b"".join(pieces)

    def _take_piece(self, limit: int) -> bytes | memoryview:
        assert self._chunks is not None
        chunk, start = self._chunks[0], self._offset
        left = len(chunk) - start
        if left <= limit:
            self._chunks.popleft()
            self._offset = 0
            self.size -= left
            return memoryview(chunk)[start:] if start else chunk
        self._offset = start + limit
        self.size -= limit
        return memoryview(chunk)[start : start + limit]

    def wait_for_room(self) -> None:
        """Block the stream's greenlet while too much of its body is still here."""
        if self.size <= (HIGH_WATER if self._unsent.http2 <= MAX_UNSENT else 0) or self.closed:
            return
        started = time.monotonic()
        self._room = Event()
        self._room.wait()
        self._room = None
        metrics.flow_control_blocked(time.monotonic() - started)

    def wake(self) -> None:
        """Let the stream's greenlet go on if there is room, or nothing to wait for."""
        if self._room is None and not self._waits_since:
            return  # nobody waits, as for nearly every body
        low = LOW_WATER if self._unsent.http2 <= MAX_UNSENT else 0
        if self.size > low and not self.closed:
            return
        if self._room is not None:
            self._room.set()
        if self._waits_since:
            metrics.flow_control_blocked(time.monotonic() - self._waits_since)
            self._waits_since = 0.0

    def close(self) -> None:
        self.closed = True
        self._chunks = None
        self._unsent.http2 -= self.size
        self.size = 0
        self.wake()
