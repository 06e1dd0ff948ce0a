"""What Plain's WebSocket reads ahead of its view, on a transport of the test's own."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from ws import frame_bytes

from plain_gevent_h2.app.bounded_websocket import (
    CLOSE_TRY_AGAIN_LATER,
    MESSAGE_BACKLOG,
    BoundedWebSocket,
)
from plain_gevent_h2.app.plain_internals import RECEIVE_QUEUE_SIZE

TEXT, BINARY, CLOSE, PING = 0x81, 0x82, 0x88, 0x89
FIRST_TEXT, NEXT, LAST = 0x01, 0x00, 0x80

MAX_SIZE = 10 * MESSAGE_BACKLOG


class Transport:
    """One whose client has sent these frames; then it is silent."""

    def __init__(self, *frames: bytes, is_evicted: bool = False) -> None:
        self._received = bytearray(b"".join(frames))
        self._more = asyncio.Event()
        self.is_evicted = is_evicted
        self.drop_messages: Callable[[], None] | None = None
        self.end_socket: Callable[[], None] | None = None
        self.ahead: list[int] = []  # bytes of messages, at each report
        self.sent = b""
        self.is_closed = False

    async def recv(self, n: int) -> bytes:
        while not self._received:
            self._more.clear()
            await self._more.wait()
        data = bytes(self._received[:n])
        del self._received[:n]
        return data

    def feed(self, frame: bytes) -> None:
        self._received += frame
        self._more.set()

    @property
    def left(self) -> int:
        """Bytes that nobody has read."""
        return len(self._received)

    def frame_was_read(self, message_bytes: int) -> None:
        self.ahead.append(message_bytes)

    async def sendall(self, data: bytes) -> None:
        self.sent += data

    def close(self) -> None:
        self.is_closed = True

    abort = close


async def turns() -> None:
    """Let the reader read what it can."""
    for _ in range(200):
        await asyncio.sleep(0)


def run(
    transport: Transport, view: Callable[[BoundedWebSocket], Coroutine[Any, Any, None]]
) -> None:
    async def main() -> None:
        of: Any = transport
        socket = BoundedWebSocket(of, max_message_size=MAX_SIZE)
        async with socket:
            await turns()
            await view(socket)

    asyncio.run(main())


def size(message: str | bytes) -> int:
    return sys.getsizeof(message)


@pytest.mark.parametrize("text", [False, True])
def test_each_byte_is_counted_until_the_view_takes_its_message(*, text: bool) -> None:
    first = FIRST_TEXT if text else 0x02
    transport = Transport(
        frame_bytes(first, b"x" * 100),
        frame_bytes(PING, b"?"),
        frame_bytes(NEXT, b"x" * 50),
        frame_bytes(LAST, b"x"),
    )
    message = "x" * 151 if text else b"x" * 151

    async def view(socket: BoundedWebSocket) -> None:
        whole = size(message)
        assert transport.ahead == [100, 100, 150, whole, whole]
        assert await anext(socket) == message
        assert transport.ahead[5:] == [0]
        transport.feed(frame_bytes(TEXT, b"a"))
        transport.feed(frame_bytes(TEXT, b"bc"))
        await turns()
        assert transport.ahead[-1] == size("a") + size("bc")
        assert await anext(socket) == "a"
        assert transport.ahead[-1] == size("bc")

    run(transport, view)
    assert transport.sent.startswith(b"\x8a\x01?")


def test_past_the_backlog_nothing_more_is_read() -> None:
    """But for one message, which waits for room: it was read to know how large it is."""
    frame = frame_bytes(BINARY, bytes(1000))
    one = size(bytes(1000))
    large = frame_bytes(BINARY, bytes(MESSAGE_BACKLOG))
    transport = Transport(large, frame, frame, frame)

    async def view(socket: BoundedWebSocket) -> None:
        kept = size(bytes(MESSAGE_BACKLOG))
        assert transport.ahead[-1] == kept + one
        assert transport.left == 2 * len(frame)
        assert socket._receive_full  # Plain then closes for a view that does not read
        assert await anext(socket) == bytes(MESSAGE_BACKLOG)
        assert transport.ahead[-1] == one  # of the one that waits
        await turns()
        assert not socket._receive_full
        assert transport.left == 0
        assert transport.ahead[-1] == 3 * one

    run(transport, view)


def test_nor_past_a_number_of_messages() -> None:
    frame = frame_bytes(TEXT, b"")
    transport = Transport(*[frame] * (RECEIVE_QUEUE_SIZE + 3))

    async def view(socket: BoundedWebSocket) -> None:
        assert transport.left == 2 * len(frame)
        for _ in range(RECEIVE_QUEUE_SIZE + 3):
            assert await anext(socket) == ""
        assert transport.ahead[-1] == 0

    run(transport, view)


@pytest.mark.parametrize("waits_for_room", [False, True])
def test_one_that_is_evicted_holds_nothing(*, waits_for_room: bool) -> None:
    """And its client is told to come again, once."""
    frame = frame_bytes(BINARY, bytes(MESSAGE_BACKLOG))
    transport = Transport(*[frame] * (1 + waits_for_room))

    async def view(socket: BoundedWebSocket) -> None:
        assert transport.ahead[-1] >= MESSAGE_BACKLOG
        assert transport.drop_messages is not None
        transport.drop_messages()
        await turns()
        assert transport.ahead[-1] == 0
        assert socket._messages.empty()
        transport.feed(frame)
        await turns()
        assert socket._messages.empty()
        assert socket.close_code == CLOSE_TRY_AGAIN_LATER
        assert socket.close_reason == "Too much is unread"
        with pytest.raises(StopAsyncIteration):
            await anext(socket)

    run(transport, view)
    close = CLOSE_TRY_AGAIN_LATER.to_bytes(2) + b"Too much is unread"
    assert transport.sent == bytes((CLOSE, len(close))) + close
    assert transport.is_closed


def test_one_that_was_evicted_before_it_began_is_closed() -> None:
    transport = Transport(frame_bytes(TEXT, b"x"), is_evicted=True)

    async def view(socket: BoundedWebSocket) -> None:
        assert socket.closed
        assert socket.close_code == CLOSE_TRY_AGAIN_LATER
        assert socket._messages.empty()

    run(transport, view)
    assert transport.is_closed


def test_the_stream_may_end_it() -> None:
    """Its reader may wait for room, and not see the end."""
    transport = Transport(*[frame_bytes(BINARY, bytes(MESSAGE_BACKLOG))] * 2)

    async def view(socket: BoundedWebSocket) -> None:
        assert transport.end_socket is not None
        assert not socket.closed
        transport.end_socket()
        assert socket.closed
        assert socket.close_code == 1006

    run(transport, view)
    assert transport.is_closed


@pytest.mark.parametrize(
    ("payload", "echoed", "code", "reason"),
    [
        (b"", b"\x03\xe8", 1005, ""),
        (b"\x03\xe9", b"\x03\xe9", 1001, ""),
        (b"\x0f\xa0bye", b"\x0f\xa0", 4000, "bye"),
    ],
)
def test_a_close_is_answered_with_its_code(
    payload: bytes, echoed: bytes, code: int, reason: str
) -> None:
    """RFC 6455 section 5.5.1; nothing behind it is read."""
    behind = frame_bytes(TEXT, b"late")
    transport = Transport(frame_bytes(CLOSE, payload), behind)

    async def view(socket: BoundedWebSocket) -> None:
        assert (socket.close_code, socket.close_reason) == (code, reason)
        assert transport.left == len(behind)

    run(transport, view)
    assert transport.sent == b"\x88\x02" + echoed


def test_of_a_message_too_large_no_more_is_kept_than_its_limit() -> None:
    part = frame_bytes(FIRST_TEXT, b"x" * (MAX_SIZE - 1))
    transport = Transport(part, frame_bytes(NEXT, b"x"), frame_bytes(NEXT, b"x"))

    async def view(socket: BoundedWebSocket) -> None:
        assert transport.ahead == [MAX_SIZE - 1, MAX_SIZE]
        assert socket.close_code == 1009

    run(transport, view)


@pytest.mark.parametrize(
    "frames",
    [
        [frame_bytes(NEXT, b"x")],
        [frame_bytes(FIRST_TEXT, b"x"), frame_bytes(TEXT, b"x")],
        [frame_bytes(TEXT, b"x"), frame_bytes(LAST, b"x")],
    ],
)
def test_fragments_that_are_out_of_order(frames: list[bytes]) -> None:
    """RFC 6455 section 5.4. The client is told what is wrong."""
    transport = Transport(*frames)

    async def view(socket: BoundedWebSocket) -> None:
        assert (socket.close_code, socket.close_reason) == (1002, "Fragments out of order")

    run(transport, view)
    assert transport.sent.endswith(b"\x03\xeaFragments out of order")
