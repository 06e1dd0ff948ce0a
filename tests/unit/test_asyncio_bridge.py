"""Coroutines on the loop's thread whose asker leaves, without a server."""

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult

from plain_gevent_h2.app.asyncio_bridge import Abandoned, AsyncioThread
from plain_gevent_h2.net.fairness import give_way


class Asker:
    """As much of a stream as waits for a coroutine."""

    def __init__(self) -> None:
        self.gone_at: float | None = None
        self.cancel: Callable[[], None] | None = None

    def leave(self) -> None:
        self.gone_at = 1.0
        if self.cancel is not None:
            self.cancel()


@pytest.fixture(scope="module")
def bridge() -> AsyncioThread:
    return AsyncioThread()


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


def start(bridge: AsyncioThread, coroutine: Coroutine[Any, Any, str], asker: Asker) -> AsyncResult:
    """Have a greenlet wait for `coroutine`."""
    result = AsyncResult()
    gevent.spawn(bridge.run, coroutine, contextvars.Context(), asker).link(result)
    return result


def wait_for(condition: Callable[[], object]) -> None:
    with gevent.Timeout(10):
        while not condition():
            give_way()


def test_it_is_cancelled_and_has_its_end(
    bridge: AsyncioThread, view: Coroutine[Any, Any, str], said: list[str]
) -> None:
    asker = Asker()
    result = start(bridge, view, asker)
    wait_for(lambda: said)
    asker.leave()
    with pytest.raises(Abandoned):
        result.get(timeout=10)
    assert said == ["started", "cleaned up"]
    assert asker.cancel is None


def test_it_does_not_start_when_nobody_waits_any_more(
    bridge: AsyncioThread, view: Coroutine[Any, Any, str], said: list[str]
) -> None:
    asker = Asker()
    asker.leave()
    with pytest.raises(Abandoned):
        start(bridge, view, asker).get(timeout=10)
    assert said == []


def test_one_that_goes_on_has_its_result(bridge: AsyncioThread, said: list[str]) -> None:
    async def stubborn() -> str:
        said.append("started")
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        return "went on"

    asker = Asker()
    result = start(bridge, stubborn(), asker)
    wait_for(lambda: said)
    asker.leave()
    assert result.get(timeout=10) == "went on"


def test_who_cancels_itself_is_not_abandoned(bridge: AsyncioThread) -> None:
    async def view() -> str:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        start(bridge, view(), Asker()).get(timeout=10)
