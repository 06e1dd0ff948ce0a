"""The bytes of one WebSocket, on their way between its stream and its view."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

import gevent
import gevent.event
import pytest

from plain_gevent_h2.app.asyncio_bridge import BACKLOG, AsyncioThread, Mailbox
from plain_gevent_h2.app.unread_websockets import UnreadBudget
from plain_gevent_h2.app.upload_budget import UploadBudget
from plain_gevent_h2.app.websocket import MAX_EARLY, MIN_READ, REPORT_AFTER, WebSocketTransport
from plain_gevent_h2.net.fairness import yield_to_others

pytestmark = pytest.mark.usefixtures("hub_has_a_timer")


class Stream:
    """A WebSocket's stream, of which the test plays the client."""

    def __init__(self, bridge: AsyncioThread) -> None:
        self.budget = UploadBudget(None)
        self.unread = UnreadBudget(self.budget)
        self.consumed = 0
        self.evicted = 0
        self.transport = WebSocketTransport(self.unread, self._on_read, self._on_evicted)
        self._bridge = bridge
        self.sent = b""

    def _on_read(self, size: int) -> None:
        self.consumed += size

    def _on_evicted(self) -> None:
        self.evicted += 1

    def feed(self, data: bytes) -> None:
        """The client sends `data`: what of it does not wait is consumed."""
        waits = self.transport.feed(data)
        self.consumed += len(data) - waits

    def run(
        self,
        view: Callable[[WebSocketTransport, "asyncio.Future[None]"], Coroutine[Any, Any, Any]],
    ) -> "gevent.Greenlet[..., None]":
        def serve() -> None:
            for piece in self.transport.serve(self._bridge, view):
                self.sent += piece

        greenlet = gevent.spawn(serve)
        yield_to_others()
        return greenlet


@pytest.fixture
def stream(bridge: AsyncioThread) -> Stream:
    return Stream(bridge)


def wait_for(condition: Callable[[], object]) -> None:
    with gevent.Timeout(60):
        while not condition():
            yield_to_others()


async def echo(transport: WebSocketTransport, _shutdown: "asyncio.Future[None]") -> None:
    while data := await transport.recv(100):
        await transport.sendall(data)


class TestTransport:
    def test_what_the_view_takes_is_consumed_and_what_it_sends_comes(self, stream: Stream) -> None:
        stream.transport.accept()
        serving = stream.run(echo)
        for piece in (b"one", b"two", b"x" * 994):
            stream.feed(piece)
        wait_for(lambda: len(stream.sent) == 1000)
        wait_for(lambda: stream.consumed == 1000)
        assert stream.transport.waiting == stream.budget.used == 0
        stream.feed(b"last")
        stream.transport.end()
        serving.get(timeout=60)
        assert stream.sent[-7:] == b"xxxlast"
        assert stream.consumed == 1004
        assert stream.budget.used == 0

    def test_what_the_view_does_not_take_is_counted(self, stream: Stream) -> None:
        stream.transport.accept()
        stream.feed(b"x" * 5000)
        assert (stream.transport.waiting, stream.budget.used, stream.consumed) == (5000, 5000, 0)

    def test_what_is_read_ahead_of_the_view_is_counted_to_the_byte(self, stream: Stream) -> None:
        """Of a frame, of a message that is not whole, and of messages that the view has not taken.

        Its client has its window back as soon as it was read.
        """
        steps: list[tuple[int, int, int]] = []  # bytes: of the window, of the budget, that wait

        async def step() -> None:
            """Let the hub see what is reported."""
            done = asyncio.get_running_loop().create_future()
            goes_on = asyncio.get_running_loop().call_soon_threadsafe

            def look() -> None:
                state = (stream.consumed, stream.budget.used, stream.transport.waiting)
                steps.append(state)
                goes_on(done.set_result, None)

            stream._bridge.hub.post(look)
            await done

        async def view(transport: WebSocketTransport, _: "asyncio.Future[None]") -> None:
            assert len(await transport.recv(20_000)) == 20_000
            await step()
            transport.frame_was_read(19_000)  # without its header
            await step()
            assert len(await transport.recv(1000)) == 1000  # too few to be reported
            await step()
            assert len(await transport.recv(50_000)) == 9000  # all
            await step()
            transport.frame_was_read(REPORT_AFTER)
            await step()
            transport.frame_was_read(REPORT_AFTER - 1)  # too few to be counted
            await step()

        stream.transport.accept()
        assert not stream.transport.is_evicted
        stream.feed(b"x" * 30_000)
        stream.transport.end()
        stream.run(view).get(timeout=60)
        assert steps == [
            (20_000, 30_000, 10_000),
            (20_000, 29_000, 10_000),
            (20_000, 29_000, 10_000),
            (30_000, 29_000, 0),
            (30_000, REPORT_AFTER, 0),
            (30_000, 0, 0),
        ]
        assert stream.budget.used == 0

    def test_the_view_is_told_once_of_all_that_has_come(self, stream: Stream) -> None:
        told = Mailbox(lambda _run: None)
        stream.transport.accept()
        stream.transport._loop = told
        for _ in range(2):
            for _ in range(3):
                stream.feed(b"x")
            assert len(told._calls) == 1
            told._run()

    def test_what_comes_beside_what_is_read_ahead_is_counted(self, stream: Stream) -> None:
        end = gevent.event.Event()

        async def view(transport: WebSocketTransport, _: "asyncio.Future[None]") -> None:
            await transport.recv(20_000)
            while not end.is_set():
                await asyncio.sleep(0)

        stream.transport.accept()
        stream.feed(b"x" * 20_000)
        serving = stream.run(view)
        wait_for(lambda: stream.consumed == 20_000)
        stream.feed(b"x" * 500)
        assert (stream.budget.used, stream.transport.waiting) == (20_500, 500)
        end.set()
        serving.get(timeout=60)
        assert stream.budget.used == 0

    def test_its_view_runs_in_the_context_of_its_stream(self, stream: Stream) -> None:
        found: list[str] = []
        variable = contextvars.ContextVar("variable", default="none")

        async def view(_transport: object, _: "asyncio.Future[None]") -> None:
            found.append(variable.get())
            variable.set("of the view")

        def serve() -> None:
            variable.set("of the stream")
            list(stream.transport.serve(stream._bridge, view))
            found.append(variable.get())

        gevent.spawn(serve).get(timeout=60)
        assert found == ["of the stream", "of the stream"]

    def test_before_the_view_accepts_few_bytes_may_come(self, stream: Stream) -> None:
        stream.feed(b"x" * MAX_EARLY)
        assert stream.evicted == 0
        stream.feed(b"x")
        assert stream.evicted == 1
        assert stream.transport.is_evicted
        assert stream.consumed == MAX_EARLY + 1
        assert stream.budget.used == stream.transport.waiting == 0
        stream.feed(b"x" * 10)  # the client has not heard of it yet
        assert stream.consumed == MAX_EARLY + 11
        assert stream.budget.used == 0
        assert stream.evicted == 1
        stream.transport.evict()
        assert stream.evicted == 1

    def test_afterwards_many_may(self, stream: Stream) -> None:
        stream.feed(b"x" * 10)
        stream.transport.accept()
        stream.feed(b"x" * 2 * MAX_EARLY)
        assert not stream.evicted

    def test_the_client_leaves(self, stream: Stream) -> None:
        stream.transport.accept()
        serving = stream.run(echo)
        stream.feed(b"x")
        stream.transport.lost()
        assert stream.consumed == 1
        assert stream.transport.waiting == stream.budget.used == 0
        serving.get(timeout=60)
        stream.feed(b"y" * 5)
        assert stream.consumed == 6
        assert stream.budget.used == 0

    def test_it_leaves_before_the_view_starts(self, stream: Stream) -> None:
        stream.feed(b"x" * 10)
        stream.transport.lost()
        assert (stream.consumed, stream.budget.used) == (10, 0)
        stream.run(echo).get(timeout=60)
        assert stream.sent == b""
        assert stream.consumed == 10

    def test_a_view_that_sends_to_nobody_is_told(self, stream: Stream) -> None:
        told: list[str] = []

        async def view(transport: WebSocketTransport, _: "asyncio.Future[None]") -> None:
            assert await transport.recv(10) == b""
            with pytest.raises(ConnectionResetError):
                await transport.sendall(b"x")
            told.append("told")

        serving = stream.run(view)
        stream.transport.lost()
        serving.get(timeout=60)
        assert told == ["told"]

    def test_a_view_that_sends_much_waits_and_goes_on(self, stream: Stream) -> None:
        number = 10 * BACKLOG

        async def view(transport: WebSocketTransport, _shutdown: "asyncio.Future[None]") -> None:
            for _ in range(number):
                await transport.sendall(b"x" * 10)

        stream.run(view).get(timeout=60)
        assert stream.sent == b"x" * 10 * number

    def test_a_view_that_reads_in_small_pieces_gets_them_all(self, stream: Stream) -> None:
        got = bytearray()

        async def view(transport: WebSocketTransport, _: "asyncio.Future[None]") -> None:
            while data := await transport.recv(2):
                got.extend(data)

        sent = bytes(range(256)) * 40
        stream.transport.accept()
        stream.feed(sent)
        stream.transport.end()
        stream.run(view).get(timeout=60)
        assert got == sent
        assert stream.consumed == len(sent)

    def test_what_is_reported_after_the_view_has_ended_counts_no_more(self, stream: Stream) -> None:
        reported = gevent.event.Event()

        async def view(transport: WebSocketTransport, _: "asyncio.Future[None]") -> None:
            def late() -> None:
                transport.frame_was_read(50_000)
                stream._bridge.hub.post(reported.set)

            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, late)  # behind what ends the view's task

        stream.run(view).get(timeout=60)
        assert reported.wait(60)
        assert stream.budget.used == 0
        stream.feed(b"x" * 10)
        assert (stream.budget.used, stream.consumed) == (0, 10)

    def test_closing_the_iterator_ends_the_view(self, stream: Stream) -> None:
        ended: list[str] = []

        async def view(transport: WebSocketTransport, _: "asyncio.Future[None]") -> None:
            await transport.sendall(b"x")
            assert await transport.recv(10) == b""
            ended.append("ended")

        stream.feed(b"")
        pieces = stream.transport.serve(stream._bridge, view)
        with gevent.Timeout(60):
            assert next(pieces) == b"x"
            pieces.close()
        assert ended == ["ended"]

    def test_what_a_view_raises_is_raised(self, stream: Stream) -> None:
        async def view(transport: WebSocketTransport, _: "asyncio.Future[None]") -> None:
            raise LookupError("on purpose")

        stream.feed(b"x" * 10)
        serving = stream.run(view)
        with pytest.raises(LookupError):
            serving.get(timeout=60)
        assert stream.budget.used == 0  # what the view left
        assert stream.consumed == 10

    @pytest.mark.parametrize("early", [True, False])
    def test_a_worker_that_shuts_down_says_so(self, stream: Stream, early: bool) -> None:
        async def view(_: WebSocketTransport, shutdown: "asyncio.Future[None]") -> None:
            await shutdown

        if early:
            stream.transport.worker_shuts_down()
        serving = stream.run(view)
        if not early:
            wait_for(lambda: stream.transport._shutdown is not None)
            stream.transport.worker_shuts_down()
            stream.transport.worker_shuts_down()  # the second of a drain's sweeps
        serving.get(timeout=60)

    def test_a_on_evictedd_one_loses_what_its_messages_keep(self, stream: Stream) -> None:
        dropped: list[str] = []

        async def view(transport: WebSocketTransport, _: "asyncio.Future[None]") -> None:
            transport.drop_messages = lambda: dropped.append("dropped")
            await transport.recv(1)
            transport.frame_was_read(50_000)
            while not dropped:
                await asyncio.sleep(0)
            await transport.recv(1)

        stream.transport.accept()
        serving = stream.run(view)
        stream.feed(b"x")
        wait_for(lambda: stream.budget.used == 50_000)
        stream.transport.evict()
        assert stream.budget.used == 0
        wait_for(lambda: dropped)
        stream.transport.end()
        serving.get(timeout=60)
        assert stream.budget.used == 0

    def test_the_reader_waits_while_much_waits_for_the_view(self, stream: Stream) -> None:
        goes_on: list[str] = []

        async def view(transport: WebSocketTransport, _: "asyncio.Future[None]") -> None:
            while not goes_on:
                await asyncio.sleep(0)
            while await transport.recv(100):
                pass

        stream.transport.accept()
        serving = stream.run(view)
        stream.feed(b"x" * 1000)
        stream.transport.wait_for_room(1000)
        waiting = gevent.spawn(stream.transport.wait_for_room, 999)
        yield_to_others()
        assert not waiting.ready()
        goes_on.append("now")
        waiting.get(timeout=60)
        stream.transport.end()
        serving.get(timeout=60)

    def test_the_reader_does_not_wait_for_a_client_that_left(self, stream: Stream) -> None:
        stream.transport.accept()
        stream.feed(b"x" * 1000)
        waiting = gevent.spawn(stream.transport.wait_for_room, 0)
        yield_to_others()
        assert not waiting.ready()
        stream.transport.lost()
        waiting.get(timeout=60)

    def test_a_large_read_gives_the_client_its_window_before(self, stream: Stream) -> None:
        """Or both would wait: the view for a message, the client for its window."""

        reads: list[int] = []

        async def view(transport: WebSocketTransport, _: "asyncio.Future[None]") -> None:
            while len(reads) < 2:
                reads.append(len(await transport.recv(100_000)))

        stream.transport.accept()
        serving = stream.run(view)
        stream.feed(b"x" * (MIN_READ - 1))
        wait_for(lambda: stream.consumed == MIN_READ - 1)
        stream.feed(b"x")
        wait_for(lambda: reads)
        stream.feed(b"x")
        stream.transport.end()
        serving.get(timeout=60)
        assert reads == [MIN_READ, 1]
        assert stream.consumed == MIN_READ + 1
        assert stream.budget.used == 0

    def test_the_view_closes(self, stream: Stream) -> None:
        async def view(transport: WebSocketTransport, _: "asyncio.Future[None]") -> None:
            transport.close()
            assert await transport.recv(10) == b""
            await transport.sendall(b"bye")

        stream.run(view).get(timeout=60)
        assert stream.sent == b"bye"
