"""Plain's WebSocket, with a limit for what it reads ahead of its view.

Plain's reader takes 16 messages that the view has not asked for, of up to
`websocket_max_message_size` each, and keeps three copies of the last one until the next has
come: a view that only sends held 18 MiB for each client that flooded it (measured).
"""

import asyncio
import sys
from typing import Any

from .plain_internals import (
    CLOSE_INVALID_PAYLOAD,
    CLOSE_MESSAGE_TOO_BIG,
    CLOSE_PROTOCOL_ERROR,
    OP_CLOSE,
    OP_CONTINUATION,
    OP_PING,
    OP_PONG,
    OP_TEXT,
    RECEIVE_QUEUE_SIZE,
    Frame,
    IncompleteFrame,
    PayloadTooLarge,
    ProtocolError,
    WebSocket,
    encode_frame,
    parse_close_payload,
    read_frame,
    replace_websocket,
)
from .websocket import WebSocketTransport

#: Bytes of messages that wait for the view before nothing more is read. One always may.
MESSAGE_BACKLOG = 64 * 1024

#: RFC 6455 section 7.4.1 leaves 1013 to the registry: "Try Again Later".
CLOSE_TRY_AGAIN_LATER = 1013


class _Messages(asyncio.Queue[str | bytes]):
    """Messages that the view has not taken. Reports to the transport how many bytes they are."""

    def __init__(self, transport: WebSocketTransport) -> None:
        super().__init__(RECEIVE_QUEUE_SIZE)
        self._transport = transport
        self._queued_bytes = 0
        self._next_bytes = 0  # of a message that is not whole, or has no room yet
        self._is_dropped = False

    def full(self) -> bool:
        return self._queued_bytes > MESSAGE_BACKLOG or super().full()

    def frame_was_read(self, next_bytes: int) -> None:
        """So many bytes of the next message are here."""
        self._next_bytes = next_bytes
        self._transport.frame_was_read(self._queued_bytes + next_bytes)

    def drop(self) -> None:
        """Forget the messages that are here and those that may still come."""
        self._is_dropped = True
        while not self.empty():
            self.get_nowait()

    def _put(self, item: str | bytes) -> None:
        if not self._is_dropped:
            self._queued_bytes += sys.getsizeof(item)
            super()._put(item)

    def _get(self) -> str | bytes:
        item = super()._get()
        self._queued_bytes -= sys.getsizeof(item)
        self._transport.frame_was_read(self._queued_bytes + self._next_bytes)
        return item


class BoundedWebSocket(WebSocket):
    """Takes the place of the class that Plain's `run_websocket` makes. Runs in the loop's thread.

    Its reader does what Plain's does, but keeps one copy of a message, and reports what it holds.
    """

    _messages: _Messages

    def __init__(self, transport: WebSocketTransport, **options: Any) -> None:
        super().__init__(transport, **options)
        self._messages = _Messages(transport)
        self._closing: asyncio.Task[None] | None = None
        transport.drop_messages = self._drop
        transport.end_socket = self._end
        if transport.is_evicted:  # before this object was made
            self._drop()

    def _drop(self) -> None:
        """The transport was evicted: forget the messages, and close."""
        self._messages.drop()
        reason = "Too much is unread"
        self._closing = asyncio.create_task(self._fail(CLOSE_TRY_AGAIN_LATER, reason))

    async def _read_loop(self) -> None:
        try:
            while not self.closed and (message := await self._read_message()) is not None:
                self._messages.frame_was_read(sys.getsizeof(message))
                self._receive_full = self._messages.full()
                await self._messages.put(message)
                del message  # before the next, for which it may wait an hour
                self._receive_full = False
                self._messages.frame_was_read(0)
                self._activity.set()
        except PayloadTooLarge:
            await self._fail(CLOSE_MESSAGE_TOO_BIG, "Message too big")
        except UnicodeDecodeError:
            await self._fail(CLOSE_INVALID_PAYLOAD, "Invalid UTF-8")
        except ProtocolError as exc:
            await self._fail(CLOSE_PROTOCOL_ERROR, str(exc))
        except (IncompleteFrame, OSError):
            pass  # the client is gone
        finally:
            self._end()

    async def _read_message(self) -> str | bytes | None:
        """The next message; None once the client has closed. (RFC 6455 section 5.4.)"""
        opcode = OP_CONTINUATION  # of the message's first frame, once that has come
        message = bytearray()
        while True:
            frame = await read_frame(self._transport.recv, self._max_message_size)
            if frame.opcode >= OP_CLOSE:
                if not await self._answer(frame):
                    return None
            else:
                if (frame.opcode == OP_CONTINUATION) != (opcode != OP_CONTINUATION):
                    raise ProtocolError("Fragments out of order")
                opcode = opcode or frame.opcode
                message += frame.payload
                if len(message) > self._max_message_size:
                    raise PayloadTooLarge(len(message), self._max_message_size)
                if frame.fin:
                    return message.decode() if opcode == OP_TEXT else bytes(message)
            del frame  # it would be a second copy while the next is waited for
            self._messages.frame_was_read(len(message))

    async def _answer(self, frame: Frame) -> bool:
        """Do what a control frame asks for; False if it is a close."""
        if frame.opcode == OP_PING:
            await self._write(encode_frame(OP_PONG, frame.payload))
        elif frame.opcode == OP_PONG:
            self._pong_received.set()
        else:
            peer = parse_close_payload(frame.payload)
            await self._send_close(1000 if peer.code == 1005 else peer.code, "")
            self._end(peer.code, peer.reason)
            return False
        return True


def patch_websocket() -> None:
    """Have Plain make a `BoundedWebSocket` where it would make a `WebSocket`."""
    replace_websocket(BoundedWebSocket)
