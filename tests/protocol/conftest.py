"""The protocol tier: a worker in this process, on a clock that takes no time."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from memory_server import MemoryServer, as_in_a_worker, has_own_time, set_up_plain
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from virtual_time import VirtualHub, using

# Of plain.dev, where it is installed: look for no database.
os.environ.setdefault("PLAIN_POSTGRES_URL", "postgresql://127.0.0.1:1/none")


@pytest.fixture(scope="session")
def hub() -> VirtualHub:
    set_up_plain()
    return VirtualHub()


@pytest.fixture(scope="module", autouse=True)
def worker_like(hub: VirtualHub) -> Iterator[None]:
    with using(hub, has_own_time), as_in_a_worker():
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[MemoryServer]:
    with MemoryServer(tls=True) as running:
        yield running


@pytest.fixture(scope="module")
def plaintext() -> Iterator[MemoryServer]:
    with MemoryServer(tls=False) as running:
        yield running


@pytest.fixture(params=["tls", "plaintext"])
def either(request: pytest.FixtureRequest) -> MemoryServer:
    name = {"tls": "server", "plaintext": "plaintext"}[request.param]
    running: MemoryServer = request.getfixturevalue(name)
    return running


@pytest.fixture
def serve() -> Iterator[Callable[..., MemoryServer]]:
    """Start a worker of the test's own: `serve(env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "1"})`."""
    with ExitStack() as stack:

        def start(*, plaintext: bool = False, env: dict[str, str] | None = None) -> MemoryServer:
            server = stack.enter_context(MemoryServer(tls=not plaintext, env=env))
            stack.callback(server.expect_nothing_left)
            return server

        yield start


@pytest.fixture(autouse=True)
def nothing_left(hub: VirtualHub) -> Iterator[None]:
    """After each test no server holds anything for its clients, and nothing has failed unseen."""
    hub.loop.not_stuck()
    hub.errors.clear()
    yield
    try:
        for server in MemoryServer.started:
            server.expect_nothing_left()
    finally:
        assert not hub.errors


@pytest.fixture(scope="module")
def bytes_server(request: pytest.FixtureRequest) -> Iterator[MemoryServer]:
    """For `test_header_bytes.py`: what a span has of a head is made, too."""
    before = trace._TRACER_PROVIDER
    with MemoryServer(tls=True, env=request.module.ENV) as running:
        trace._TRACER_PROVIDER = TracerProvider()
        yield running
        trace._TRACER_PROVIDER = before
