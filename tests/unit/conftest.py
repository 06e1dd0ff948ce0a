"""For unit tests in which greenlets wait for native threads."""

from collections.abc import Iterator

import gevent
import pytest

from plain_gevent_h2.app.asyncio_bridge import AsyncioThread


@pytest.fixture
def hub_has_a_timer() -> Iterator[None]:
    """A hub that waits for another thread alone ends (`LoopExit`). A worker's has its sweeps."""
    with gevent.Timeout(60):
        yield


@pytest.fixture(scope="module")
def bridge() -> AsyncioThread:
    return AsyncioThread()
