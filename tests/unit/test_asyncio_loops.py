"""Event loops that greenlets run: each has a native thread, and ends when its greenlet does."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event
from gevent.lock import Semaphore
from harness import WAIT

from plain_gevent_h2.patching import asyncio_loops, native
from plain_gevent_h2.patching.native_calls import call_in_new_thread, in_native_thread


class Loop(asyncio.SelectorEventLoop):
    def run_forever(self) -> None:
        asyncio_loops._run_forever_in_new_thread(self)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    lookup = asyncio_loops._get_loop_unless_greenlet
    monkeypatch.setattr(asyncio.events, "_get_running_loop", lookup)
    loop = Loop()
    yield loop
    loop.close()


async def native_thread() -> int:
    await asyncio.sleep(0)
    return int(native.get_ident())


def test_each_run_of_a_greenlet_has_a_thread_of_its_own(loop: Loop) -> None:
    other = Loop()
    both_run = threading.Barrier(2, timeout=WAIT)

    async def meet() -> int:
        both_run.wait()
        return await native_thread()

    greenlets = [gevent.spawn(each.run_until_complete, meet()) for each in (loop, other)]
    threads = {greenlet.get(timeout=WAIT) for greenlet in greenlets}
    other.close()
    assert len(threads - {native.get_ident()}) == 2


def test_outside_a_greenlet_it_is_the_caller_s_thread(loop: Loop) -> None:
    assert loop.run_until_complete(native_thread()) == native.get_ident()


def test_what_the_loop_raises_is_raised_in_the_greenlet(loop: Loop) -> None:
    def run() -> object:
        loop.call_soon(sys.exit, 3)
        with pytest.raises(SystemExit) as caught:
            loop.run_forever()
        return caught.value.code

    assert gevent.spawn(run).get(timeout=WAIT) == 3


def test_a_greenlet_that_is_killed_stops_its_loop_before_it_goes_on(loop: Loop) -> None:
    running = Event()
    outcome: list[bool] = []

    async def wait() -> None:
        gevent_loop.run_callback_threadsafe(running.set)
        try:
            await asyncio.sleep(WAIT)
        finally:
            outcome.append(True)

    def run() -> None:
        task = loop.create_task(wait())
        try:
            loop.run_until_complete(task)
        finally:
            outcome.append(loop.is_running())
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(task)

    gevent_loop = gevent.get_hub().loop
    greenlet = gevent.spawn(run)
    assert running.wait(WAIT)
    greenlet.kill(timeout=WAIT)
    assert outcome == [False, True]


def test_a_stop_that_comes_too_late_does_not_stop_the_next_run(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The greenlet is killed as its loop ends: the loop sees the stop in its next run."""
    stops = []

    def call_and_stop(function: object, stop: object) -> None:
        call_in_new_thread(function, stop)  # type: ignore[arg-type]
        stop()  # type: ignore[operator]
        stops.append(stop)

    monkeypatch.setattr(asyncio_loops, "call_in_new_thread", call_and_stop)
    for _ in range(2):
        assert gevent.spawn(loop.run_until_complete, native_thread()).get(timeout=WAIT)
    assert len(stops) == 2


def test_a_greenlet_beside_a_running_loop_has_none(loop: Loop) -> None:
    async def ask() -> tuple[object, object]:
        beside = gevent.spawn(asyncio.events._get_running_loop)
        return asyncio.events._get_running_loop(), beside.get(timeout=WAIT)

    assert loop.run_until_complete(ask()) == (loop, None)


class TestNativeCalls:
    def test_others_run_meanwhile(self) -> None:
        goes_on = Semaphore(0)

        def wait() -> int:
            goes_on.acquire(timeout=WAIT)
            return int(native.get_ident())

        greenlet = gevent.spawn(in_native_thread(wait))
        gevent.spawn(goes_on.release)
        assert greenlet.get(timeout=WAIT) != native.get_ident()

    def test_outside_a_greenlet_and_where_it_is_not_worth_it_the_call_is_direct(self) -> None:
        direct = in_native_thread(native.get_ident)
        assert direct() == native.get_ident()
        small = in_native_thread(native.get_ident, unless=lambda: True)
        assert gevent.spawn(small).get(timeout=WAIT) == native.get_ident()

    def test_what_the_function_raises_is_raised_here_and_not_printed(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def run() -> None:
            with pytest.raises(ZeroDivisionError):
                in_native_thread(divmod)(1, 0)

        gevent.spawn(run).get(timeout=WAIT)
        assert capsys.readouterr().err == ""
