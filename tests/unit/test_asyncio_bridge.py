"""Coroutines on the loop's thread whose client leaves, without a server."""

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Any, Self

import gevent
import pytest
from gevent.event import AsyncResult

from plain_gevent_h2.app import asyncio_bridge
from plain_gevent_h2.app.asyncio_bridge import (
    BACKLOG,
    BACKLOG_BYTES,
    Abandoned,
    AsyncioThread,
    Call,
    Mailbox,
    Pieces,
)
from plain_gevent_h2.net.fairness import yield_to_others
from plain_gevent_h2.patching.threads import shared_threads

pytestmark = pytest.mark.usefixtures("hub_has_a_timer")


class Stream:
    """As much of a stream as waits for a coroutine."""

    def __init__(self) -> None:
        self.gone_at: float | None = None
        self.cancel: Callable[[], None] | None = None

    def leave(self) -> None:
        self.gone_at = 1.0
        if self.cancel is not None:
            self.cancel()


@pytest.fixture
def said() -> list[str]:
    """What the view below has said."""
    return []


@pytest.fixture
def view(said: list[str]) -> Coroutine[Any, Any, str]:
    async def view() -> str:
        said.append("started")
        try:
            await asyncio.sleep(600)
        finally:
            for _ in range(3):
                await asyncio.sleep(0)
            said.append("cleaned up")
        return "waited"

    return view()


def start(
    bridge: AsyncioThread, coroutine: Coroutine[Any, Any, str], stream: Stream
) -> "AsyncResult[str]":
    """Have a greenlet wait for `coroutine`."""
    result: AsyncResult[str] = AsyncResult()
    gevent.spawn(bridge.run, coroutine, contextvars.Context(), stream).link(result)
    return result


def wait_for(condition: Callable[[], object]) -> None:
    with gevent.Timeout(60):
        while not condition():
            yield_to_others()


def test_it_is_cancelled_and_has_its_end(
    bridge: AsyncioThread, view: Coroutine[Any, Any, str], said: list[str]
) -> None:
    stream = Stream()
    result = start(bridge, view, stream)
    wait_for(lambda: said)
    stream.leave()
    with pytest.raises(Abandoned):
        result.get(timeout=60)
    assert said == ["started", "cleaned up"]
    assert stream.cancel is None


def test_it_does_not_start_when_nobody_waits_any_more(
    bridge: AsyncioThread, view: Coroutine[Any, Any, str], said: list[str]
) -> None:
    stream = Stream()
    stream.leave()
    with pytest.raises(Abandoned):
        start(bridge, view, stream).get(timeout=60)
    assert said == []


def test_one_that_goes_on_has_its_result(bridge: AsyncioThread, said: list[str]) -> None:
    async def stubborn() -> str:
        said.append("started")
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "went on"

    stream = Stream()
    result = start(bridge, stubborn(), stream)
    wait_for(lambda: said)
    stream.leave()
    assert result.get(timeout=60) == "went on"


def test_who_cancels_itself_is_not_abandoned(bridge: AsyncioThread) -> None:
    async def view() -> str:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        start(bridge, view(), Stream()).get(timeout=60)


def test_when_its_greenlet_is_stopped_it_is_cancelled(
    bridge: AsyncioThread, view: Coroutine[Any, Any, str], said: list[str]
) -> None:
    stream = Stream()
    greenlet = gevent.spawn(bridge.run, view, contextvars.Context(), stream)
    wait_for(lambda: said)
    greenlet.kill(timeout=60)
    assert stream.cancel is None

    async def later() -> None:
        """Started after the cancelling was asked for, and longer than the view's end."""
        for _ in range(10):
            await asyncio.sleep(0)

    bridge.run(later(), contextvars.Context(), Stream())
    assert said == ["started", "cleaned up"]


def test_what_it_raises_is_raised(bridge: AsyncioThread) -> None:
    async def view() -> str:
        raise LookupError("on purpose")

    stream = Stream()
    with pytest.raises(LookupError):
        start(bridge, view(), stream).get(timeout=60)
    assert stream.cancel is None


def test_it_runs_in_its_context_on_another_thread(bridge: AsyncioThread) -> None:
    variable = contextvars.ContextVar[str]("variable")
    context = contextvars.Context()
    context.run(variable.set, "value")

    async def view() -> tuple[str, int]:
        return variable.get(), threading.get_ident()

    value, thread = bridge.run(view(), context, Stream())
    assert value == "value"
    assert thread != threading.get_ident()


def test_its_thread_is_shared_by_requests_and_has_a_hub_of_its_own(bridge: AsyncioThread) -> None:
    """A greenlet that is started there has its turn while the loop waits."""

    async def view() -> bool:
        assert threading.get_ident() in shared_threads
        assert asyncio.get_event_loop() is asyncio.get_running_loop()
        loop = asyncio.get_running_loop()
        had_its_turn: asyncio.Future[bool] = loop.create_future()
        gevent.spawn(loop.call_soon_threadsafe, had_its_turn.set_result, True)
        return await had_its_turn

    assert start(bridge, view(), Stream()).get(timeout=60)  # type: ignore[arg-type]


def test_greenlets_that_start_the_loop_at_once_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    start_new_thread = asyncio_bridge._start_new_thread

    def start_thread(function: Callable[..., object], args: tuple[Any, ...]) -> None:
        started.append(function)
        start_new_thread(function, args)

    monkeypatch.setattr(asyncio_bridge, "_start_new_thread", start_thread)
    bridge = AsyncioThread()
    first, second = gevent.spawn(bridge.loop), gevent.spawn(bridge.loop)
    assert first.get(timeout=60) is second.get(timeout=60) is bridge.loop()
    assert len(started) == 1


def test_calls_for_the_loop_have_nothing_of_their_callers_context(bridge: AsyncioThread) -> None:
    variable = contextvars.ContextVar("variable", default="none")
    found: list[str] = []

    def post() -> None:
        variable.set("of the caller")
        bridge.loop().post(lambda: found.append(variable.get()))

    contextvars.Context().run(post)
    wait_for(lambda: found)
    assert found == ["none"]


@pytest.mark.parametrize("exc", [SystemExit(1), KeyboardInterrupt()], ids=repr)
def test_one_that_wants_to_end_the_process_ends_no_other(
    bridge: AsyncioThread, view: Coroutine[Any, Any, str], said: list[str], exc: BaseException
) -> None:
    async def exits() -> str:
        raise exc

    stream = Stream()
    beside = start(bridge, view, stream)
    wait_for(lambda: said)
    with pytest.raises(type(exc)):
        start(bridge, exits(), Stream()).get(timeout=60)
    assert not beside.ready()
    stream.leave()
    with pytest.raises(Abandoned):
        beside.get(timeout=60)


class TestMailbox:
    """Calls for another thread, whose turns are the test's."""

    @pytest.fixture
    def woken(self) -> list[Callable[[], None]]:
        """What the other thread was woken for."""
        return []

    @pytest.fixture
    def mailbox(self, woken: list[Callable[[], None]]) -> Mailbox:
        return Mailbox(woken.append)

    def test_it_is_woken_once_for_all_that_wait(
        self, mailbox: Mailbox, woken: list[Callable[[], None]]
    ) -> None:
        called: list[int] = []
        for i in range(5):
            mailbox.post(called.append, i)
        assert len(woken) == 1
        woken.pop()()
        assert called == [0, 1, 2, 3, 4]
        assert woken == []
        mailbox.post(called.append, 5)
        assert len(woken) == 1

    def test_what_is_posted_meanwhile_is_for_the_next_turn(
        self, mailbox: Mailbox, woken: list[Callable[[], None]]
    ) -> None:
        called: list[int] = []
        mailbox.post(lambda: mailbox.post(called.append, 1))
        woken.pop()()
        assert called == []
        woken.pop()()
        assert called == [1]

    def test_one_that_raises_takes_no_other_with_it(
        self, mailbox: Mailbox, woken: list[Callable[[], None]]
    ) -> None:
        called: list[int] = []
        mailbox.post(lambda: 1 / 0)
        mailbox.post(called.append, 1)
        with pytest.raises(ZeroDivisionError):
            woken.pop()()
        woken.pop()()
        assert called == [1]
        assert woken == []

    def test_after_the_last_that_raises_nobody_is_woken(
        self, mailbox: Mailbox, woken: list[Callable[[], None]]
    ) -> None:
        mailbox.post(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            woken.pop()()
        assert woken == []
        mailbox.post(print)
        assert len(woken) == 1


class TestCall:
    @pytest.fixture
    def call(self) -> Call:
        return Call(Mailbox(gevent.get_hub().loop.run_callback))

    def test_who_waits_looks_again_when_notified(self, call: Call) -> None:
        looked: list[int] = []

        def ready() -> bool:
            looked.append(1)
            return len(looked) == 3

        waiting = gevent.spawn(call.wait, ready)
        yield_to_others()
        assert len(looked) == 1
        for number in (2, 3):
            for _ in range(3):  # wakes once
                call.notify()
            yield_to_others()
            assert len(looked) == number
        assert waiting.ready()
        call.notify()  # nobody waits
        call.wait(lambda: True)

    def test_the_hub_is_woken_only_for_who_waits(self) -> None:
        woken: list[Callable[[], None]] = []
        call = Call(Mailbox(woken.append))
        call.notify()
        call.wait(lambda: True)
        call.notify()
        assert woken == []

    def test_it_is_done_when_its_task_is(self, call: Call) -> None:
        async def coroutine() -> str:
            return "value"

        async def run() -> None:
            call.cancel()  # there is nothing to cancel yet
            assert not call.is_done()
            call.start(coroutine(), contextvars.Context())
            assert not call.is_done()
            assert call.task is not None
            await call.task
            assert call.is_done()

        asyncio.run(run())
        assert call.result() == "value"


class TestPieces:
    """Bytes from a coroutine to a greenlet; the loop is one of the test's."""

    @pytest.fixture
    def posted(self) -> list[Callable[[], None]]:
        """What the loop's thread is woken for."""
        return []

    @pytest.fixture
    def pieces(self, posted: list[Callable[[], None]]) -> Pieces:
        return Pieces(Call(Mailbox(lambda _: None)), Mailbox(posted.append))

    @pytest.fixture
    def has_room(self, pieces: Pieces) -> Iterator[Callable[[], bool]]:
        """Whether a coroutine need not wait."""

        async def need_not_wait() -> bool:
            task = asyncio.ensure_future(pieces.wait_for_room())
            await asyncio.sleep(0)
            done = task.done()
            task.cancel()
            return done

        with asyncio.Runner() as runner:
            yield lambda: runner.run(need_not_wait())

    def test_they_come_in_their_order(self, pieces: Pieces) -> None:
        assert not pieces
        pieces.put(b"a")
        pieces.put(b"b")
        assert pieces
        taking = pieces.take()
        assert next(taking) == b"a"
        pieces.put(b"c")  # meanwhile
        assert list(taking) == [b"b", b"c"]
        assert not pieces
        assert list(pieces.take()) == []

    @pytest.mark.parametrize(
        ("most", "size"), [(BACKLOG, 1), (4, BACKLOG_BYTES // 4)], ids=["number", "bytes"]
    )
    def test_so_many_may_wait(
        self, pieces: Pieces, has_room: Callable[[], bool], most: int, size: int
    ) -> None:
        for _ in range(most):
            pieces.put(b"x" * size)
            assert has_room()
        pieces.put(b"x")
        assert not has_room()

    @pytest.mark.parametrize(
        ("most", "size"), [(BACKLOG, 1), (4, BACKLOG_BYTES // 4)], ids=["number", "bytes"]
    )
    def test_who_waits_goes_on_when_half_of_them_are_taken(
        self,
        pieces: Pieces,
        has_room: Callable[[], bool],
        posted: list[Callable[[], None]],
        most: int,
        size: int,
    ) -> None:
        taking: Generator[bytes] = pieces.take()
        for _ in range(2):  # each time anew
            for _ in range(most + 1):
                pieces.put(b"x" * size)
            assert not has_room()
            for _ in range(most // 2):
                next(taking)
                assert posted == []
            next(taking)
            assert len(posted) == 1
            posted.pop()()
            assert has_room()
            while pieces:
                next(taking)
            assert posted == []

    def test_the_loop_is_woken_only_for_who_waits(
        self, pieces: Pieces, posted: list[Callable[[], None]]
    ) -> None:
        for _ in range(BACKLOG + 1):
            pieces.put(b"x")
        assert len(list(pieces.take())) == BACKLOG + 1
        assert posted == []

    def test_nobody_waits_for_one_that_is_closed(
        self, pieces: Pieces, has_room: Callable[[], bool]
    ) -> None:
        for _ in range(2 * BACKLOG):
            pieces.put(b"x")
        assert not has_room()
        pieces.close()
        assert has_room()

    def test_who_waits_hears_of_the_close(self, pieces: Pieces) -> None:
        async def run() -> None:
            for _ in range(2 * BACKLOG):
                pieces.put(b"x")
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                group.create_task(pieces.wait_for_room())
                await asyncio.sleep(0)
                pieces.close()

        asyncio.run(run())


class TestIterate:
    class Numbers:
        """An async stream that says what it has done."""

        def __init__(self, number: int, said: list[str], failure: Exception | None = None) -> None:
            self._number, self._said, self._failure = number, said, failure

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                for i in range(self._number):
                    self._said.append(f"made {i}")
                    yield b"%d" % i
                if self._failure is not None:
                    raise self._failure
            finally:
                await asyncio.sleep(0)
                self._said.append("closed")

        async def aclose(self) -> None:
            self._said.append("outer closed")

    def test_all_chunks(self, bridge: AsyncioThread, said: list[str]) -> None:
        stream = self.Numbers(200, said)
        with gevent.Timeout(60):
            chunks = list(bridge.iterate(stream, contextvars.Context()))
        assert chunks == [b"%d" % i for i in range(200)]
        assert said[-2:] == ["closed", "outer closed"]

    def test_it_runs_in_its_context(self, bridge: AsyncioThread) -> None:
        variable = contextvars.ContextVar("variable", default=b"none")
        context = contextvars.Context()
        context.run(variable.set, b"value")

        async def stream() -> AsyncIterator[bytes]:
            yield variable.get()

        with gevent.Timeout(60):
            assert list(bridge.iterate(stream(), context)) == [b"value"]
        assert variable.get() == b"none"

    def test_one_that_has_nothing_to_close(self, bridge: AsyncioThread) -> None:
        class Plain:
            left = 3

            def __aiter__(self) -> Self:
                return self

            async def __anext__(self) -> bytes:
                if not self.left:
                    raise StopAsyncIteration
                self.left -= 1
                return b"x"

        with gevent.Timeout(60):
            assert list(bridge.iterate(Plain(), contextvars.Context())) == [b"x"] * 3

    def test_what_it_raises_comes_after_its_chunks(
        self, bridge: AsyncioThread, said: list[str]
    ) -> None:
        stream = self.Numbers(2, said, LookupError("on purpose"))
        chunks: list[bytes] = []
        with gevent.Timeout(60), pytest.raises(LookupError):
            chunks.extend(bridge.iterate(stream, contextvars.Context()))
        assert said[-2:] == ["closed", "outer closed"]

    def test_closing_the_iterator_closes_the_stream(
        self, bridge: AsyncioThread, said: list[str]
    ) -> None:
        chunks = bridge.iterate(self.Numbers(10**6, said), contextvars.Context())
        with gevent.Timeout(60):
            assert next(chunks) == b"0"
            chunks.close()
        assert said[-2:] == ["closed", "outer closed"]
        assert len(said) < 1000  # it waited for the greenlet
