import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Unpack

import pytest
from browser import Browser
from harness import PLAIN, Server, ServerOptions
from postgres import DBAPP, Postgres
from tools import need

# Of plain.dev, which every `plain` command here loads: look for no database where an app has none.
os.environ.setdefault("PLAIN_POSTGRES_URL", "postgresql://127.0.0.1:1/none")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test's report ends with the logs of the servers that it may have spoken to."""
    report = yield
    if report.failed:
        for server in Server.started:
            report.sections.append((f"log of the server on {server.port}", server.end_of_log()))
    return report


@pytest.fixture(scope="module")
def server(tls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with one worker for the tests of a module that leave it as they found it."""
    with Server(tls, tmp=tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def plaintext(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As `server`, without TLS."""
    with Server(None, tmp=tmp_path_factory.mktemp("plaintext")) as running:
        yield running


@pytest.fixture(params=["tls", "plaintext"])
def either(request: pytest.FixtureRequest) -> Server:
    """The server with TLS, then the one without."""
    name = {"tls": "server", "plaintext": "plaintext"}[request.param]
    running: Server = request.getfixturevalue(name)
    return running


@pytest.fixture
def serve(tls: tuple[Path, Path], tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server of the test's own: `serve("--workers", "2", env={...})`."""
    with ExitStack() as stack:

        def start(
            *args: str,
            plaintext: bool = False,
            tmp: Path = tmp_path,
            **options: Unpack[ServerOptions],
        ) -> Server:
            server = Server(None if plaintext else tls, *args, tmp=tmp, **options)
            return stack.enter_context(server)

        yield start


class SharedServers:
    """Starts a server for the first test that wants it with these settings, and keeps it."""

    #: Those that are kept: of more, the one goes that was not wanted for longest.
    MOST = 3

    def __init__(self, tls: tuple[Path, Path], folder: Path) -> None:
        self._tls, self._folder = tls, folder
        self._running: dict[tuple[object, ...], Server] = {}

    def __call__(self, *, env: dict[str, str], plaintext: bool = False) -> Server:
        settings = (plaintext, *sorted(env.items()))
        server = self._running.pop(settings, None)
        if server is None:
            self.keep(self.MOST - 1)
            server = Server(None if plaintext else self._tls, env=env, tmp=self._folder).__enter__()
        self._running[settings] = server
        return server

    def keep(self, count: int) -> None:
        while len(self._running) > count:
            server = self._running.pop(next(iter(self._running)))
            server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def shared(
    tls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedServers]:
    """As `serve`, for tests of all modules that leave the server as they found it."""
    servers = SharedServers(tls, tmp_path_factory.mktemp("shared"))
    yield servers
    servers.keep(0)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(need("chromium"), tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as running:
        yield running


@pytest.fixture(scope="session")
def database(postgres: Postgres) -> str:
    """The URL of a database with the tables of the app in `dbapp/`."""
    postgres.query("CREATE DATABASE app")
    url = postgres.url("app")
    sync = [str(PLAIN), "postgres", "sync"]
    environment = {**os.environ, "PLAIN_POSTGRES_URL": url}
    subprocess.run(sync, cwd=DBAPP, env=environment, check=True, capture_output=True)
    return url


@pytest.fixture(scope="module")
def db_server(
    database: str, tls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """The app in `dbapp/`, for the tests of a module that leave it as they found it."""
    environment = {"PLAIN_POSTGRES_URL": database, "TEST_CERTIFICATE": str(tls[0])}
    tmp = tmp_path_factory.mktemp("db-server")
    with Server(tls, project=DBAPP, env=environment, tmp=tmp) as running:
        yield running
