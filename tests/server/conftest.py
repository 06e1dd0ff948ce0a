import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Unpack

import pytest
from browser import Browser
from harness import PLAIN_WITH_POSTGRES, Server, ServerOptions
from postgres import DBAPP, OF_DBAPP, Postgres
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
def server(shared: "SharedServers") -> Server:
    """One server with one worker for the tests of all modules that leave it as they found it."""
    return shared(env={})


@pytest.fixture(scope="module")
def plaintext(shared: "SharedServers") -> Server:
    """As `server`, without TLS."""
    return shared(env={}, plaintext=True)


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
    """Starts a server for the first test that wants it with these settings, and keeps it.

    To who gets it, its log begins then.
    """

    #: Those with settings that are kept: of more, the one goes that was not wanted for longest.
    MOST = 3

    def __init__(self, tls: tuple[Path, Path], folder: Path) -> None:
        self._tls, self._folder = tls, folder
        self._running: dict[tuple[bool, tuple[tuple[str, str], ...]], Server] = {}

    def __call__(self, *, env: dict[str, str], plaintext: bool = False) -> Server:
        wanted = plaintext, tuple(sorted(env.items()))
        server = self._running.pop(wanted, None)
        if server is None:
            if env:
                self._make_room()
            server = Server(None if plaintext else self._tls, env=env, tmp=self._folder).__enter__()
        self._running[wanted] = server
        server.forget_log()
        return server

    def _make_room(self) -> None:
        with_settings = [key for key in self._running if key[1]]
        for key in with_settings[: 1 - self.MOST]:
            self._running.pop(key).__exit__(None, None, None)

    def stop(self) -> None:
        for server in self._running.values():
            server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def shared(
    tls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SharedServers]:
    """As `serve`, for tests of all modules that leave the server as they found it."""
    servers = SharedServers(tls, tmp_path_factory.mktemp("shared"))
    yield servers
    servers.stop()


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
    sync = [str(PLAIN_WITH_POSTGRES), "postgres", "sync"]
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
    with Server(tls, **OF_DBAPP, env=environment, tmp=tmp) as running:
        yield running
