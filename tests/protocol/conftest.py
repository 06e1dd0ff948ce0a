"""The protocol tier: a worker in this process, on a clock that takes no time."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from certificate import make_certificate
from memory import MemoryServer, has_own_time, set_up_plain
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from virtual_time import make_hub, using

HUB = make_hub()


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", autouse=True)
def clock() -> Iterator[None]:
    set_up_plain()
    with using(HUB, has_own_time):
        yield


@pytest.fixture(scope="module")
def server(tls: tuple[Path, Path]) -> Iterator[MemoryServer]:
    with MemoryServer(tls) as running:
        yield running


@pytest.fixture(scope="module")
def plaintext() -> Iterator[MemoryServer]:
    with MemoryServer(None) as running:
        yield running


@pytest.fixture(params=["tls", "plaintext"])
def either(request: pytest.FixtureRequest) -> MemoryServer:
    name = {"tls": "server", "plaintext": "plaintext"}[request.param]
    running: MemoryServer = request.getfixturevalue(name)
    return running


@pytest.fixture
def serve(tls: tuple[Path, Path]) -> Iterator[Callable[..., MemoryServer]]:
    """Start a worker of the test's own: `serve(env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "1"})`."""
    with ExitStack() as stack:

        def start(*, plaintext: bool = False, env: dict[str, str] | None = None) -> MemoryServer:
            return stack.enter_context(MemoryServer(None if plaintext else tls, env))

        yield start


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test no server holds anything for its clients."""
    yield
    for server in MemoryServer.started:
        server.expect_nothing_left()


@pytest.fixture(scope="module")
def bytes_server(tls: tuple[Path, Path], request: pytest.FixtureRequest) -> Iterator[MemoryServer]:
    """For `test_header_bytes.py`: what a span has of a head is made, too."""
    before = trace._TRACER_PROVIDER
    with MemoryServer(tls, request.module.ENV) as running:
        trace._TRACER_PROVIDER = TracerProvider()
        yield running
        trace._TRACER_PROVIDER = before
