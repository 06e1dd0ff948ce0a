"""The budget for the bytes of WebSockets that their views have not read, and who is evicted."""

import time
from typing import Protocol

from .upload_budget import UploadBudget

#: Bytes that all WebSockets of a worker may hold for their views, and to which they must then
#: fall. A view that never reads lets each client leave 3 MiB. The socket that holds most is not
#: among them: how large a message may be is for its view to say.
MAX_UNREAD = 16 * 1024 * 1024
UNREAD_LOW_WATER = MAX_UNREAD * 3 // 4

#: Bytes that a WebSocket may hold even when whole bodies, which nobody can evict, have used up the
#: worker's budget.
ALWAYS_ALLOWED = 64 * 1024


class Evictable(Protocol):
    """A WebSocket, as far as it holds bytes."""

    def evict(self) -> None:
        """Give up all bytes, and have the client's side closed."""


class UnreadBudget:
    """What the WebSockets of one worker hold that their views have not read. Lives in the hub.

    It counts in the worker's budget for bodies, and has a limit of its own.
    """

    def __init__(self, uploads: UploadBudget) -> None:
        self._uploads = uploads
        self._held: dict[Evictable, int] = {}  # bytes; without those that hold none
        self._since: dict[Evictable, float] = {}  # when its view last took some
        self._size = 0  # the sum of `_held`

    def hold(self, socket: Evictable, size: int) -> None:
        """`socket` holds `size` bytes from now on."""
        change = size - self._held.get(socket, 0)
        self._size += change
        self._uploads.release(-change)  # not charge(), which refuses: that is for check()
        if not size:
            self._held.pop(socket, None)
            self._since.pop(socket, None)
            return
        self._held[socket] = size
        if change < 0 or socket not in self._since:
            self._since[socket] = time.monotonic()

    def check(self, socket: Evictable) -> None:
        """Evict WebSockets if they hold too much: `socket`, which got some bytes, or others.

        Called in greenlets, since an eviction writes to the log.
        """
        if not self._uploads.make_room_for_websockets() and self._held[socket] > ALWAYS_ALLOWED:
            socket.evict()
        elif self._size > MAX_UNREAD:
            self._make_room()

    def _make_room(self) -> None:
        """Evict those that hold most for longest.

        Not the largest: an honest message that just arrives would be evicted before what an
        attacker has left for minutes in many smaller pieces.
        """
        largest = max(self._held, key=self._held.__getitem__)
        spared = self._held[largest]
        if self._size - spared <= MAX_UNREAD:
            return
        now = time.monotonic()
        weights = {s: size * (now - self._since[s]) for s, size in self._held.items()}
        del weights[largest]
        for socket in sorted(weights, key=weights.__getitem__, reverse=True):
            socket.evict()
            if self._size - spared <= UNREAD_LOW_WATER:
                break
