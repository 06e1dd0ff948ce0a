"""Who sends next: the order in which the streams of a connection may frame their DATA."""

from typing import Protocol

from .send_buffer import SendBuffer


class Scheduler(Protocol):
    """The buffers that have data and, as far as is known, window.

    It owns their `queued`, which is true for those that are here.
    """

    def add(self, buffer: SendBuffer) -> None:
        """`buffer` has data to send. Not called for one that is here already."""

    def next(self) -> SendBuffer | None:
        """Take out the buffer whose DATA frame is next, if there is one."""

    def remove(self, buffer: SendBuffer) -> None:
        """`buffer` has nothing to send any more. It need not be here."""

    def __bool__(self) -> bool:
        """Whether there is one."""


class RoundRobin:
    """One DATA frame of each stream in turn."""

    __slots__ = ("_buffers",)

    def __init__(self) -> None:
        # A list, since a deque takes 760 bytes even when empty.
        self._buffers: list[SendBuffer] = []

    def add(self, buffer: SendBuffer) -> None:
        buffer.queued = True
        self._buffers.append(buffer)

    def next(self) -> SendBuffer | None:
        if not self._buffers:
            return None
        buffer = self._buffers.pop(0)
        buffer.queued = False
        return buffer

    def remove(self, buffer: SendBuffer) -> None:
        if buffer.queued:
            buffer.queued = False
            self._buffers.remove(buffer)

    def __bool__(self) -> bool:
        return bool(self._buffers)
