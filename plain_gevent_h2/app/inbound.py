"""What takes the bytes that a client sends on a stream."""

from typing import Protocol


class Inbound(Protocol):
    """Takes the bytes of one stream: a body, or those of a WebSocket.

    The connection calls it in the hub's thread. It tells the connection when bytes that waited are
    consumed, so that their part of the window goes back to the client then, and not before.
    """

    def feed(self, data: bytes) -> int:
        """Take what the client sent. Returns how many bytes of it wait to be consumed."""

    def end(self) -> None:
        """The client sends nothing more."""

    def lost(self) -> None:
        """The client is gone, or its stream has ended: give up what waits. May be called again."""

    @property
    def progress(self) -> int | None:
        """Bytes that count for the rate floor; None while we are not waiting for the client."""
