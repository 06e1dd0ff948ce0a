"""Standard streams that are closed, or that nobody reads: requests go on."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness import PLAIN, WAIT_FOR_START, Server, wait_for
from load_client import Http2Client
from unread import Unread


class Started(Server):
    """A server whose standard streams are what `streams` says, in the words of a shell."""

    def __init__(
        self, *args: Any, streams: str = "", stdout: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._streams, self._stdout = streams, stdout

    def start(self) -> None:
        bind = f"127.0.0.1:{self.port}"
        shell = ["sh", "-c", f'exec "$0" "$@" {self._streams}']
        command = [*shell, str(PLAIN), "server", "--bind", bind, *self._args]
        with self.logfile.open("ab") as log:
            stdout = log if self._stdout is None else self._stdout
            self.process = subprocess.Popen(
                command, cwd=self.project, env=self.env, stdout=stdout, stderr=stdout
            )

    def wait_ready(self) -> None:
        def answers() -> bool:
            with suppress(OSError), Http2Client(self) as client:
                return client.get("/").body == b"hello"
            return False

        wait_for(answers, "answer", WAIT_FOR_START)


@pytest.fixture
def started(tls: tuple[Path, Path], tmp_path: Path) -> Iterator[Callable[..., Started]]:
    servers: list[Started] = []

    def start(*, streams: str = "", stdout: int | None = None) -> Started:
        servers.append(Started(tls, tmp=tmp_path, streams=streams, stdout=stdout))
        return servers[-1].__enter__()

    yield start
    for server in servers:
        server.__exit__(None, None, None)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_streams_are_opened_before_any_socket(
    started: Callable[..., Started], closed: str
) -> None:
    server = started(streams=closed)
    with Http2Client(server) as client:
        assert client.get("/life/log?lines=1").body == b"logged"
        # In the arbiter, what Plain or the app has opened by then may have the number.
        arbiter, worker = (
            [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)]
            for pid in (server.pid, server.worker().pid)
        )
        assert not [link for link in arbiter + worker if link.startswith("socket:")]
        assert worker.count(os.devnull) >= closed.count("&-")
    server.signal(signal.SIGTERM)
    assert server.wait() == 0


def test_output_that_nobody_reads(started: Callable[..., Started]) -> None:
    """Requests go on, the arbiter does, and who reads at last is told what is missing."""
    pair = Unread("pipe")
    server = started(stdout=pair.writes)
    os.close(pair.writes)
    with Http2Client(server) as client:
        for _ in range(4):
            assert client.get("/life/log?lines=2000").body == b"logged"
        old = int(client.get("/life/pid").body)
    os.kill(old, signal.SIGKILL)  # the arbiter's line about it finds no room either
    with Http2Client(server) as client:
        for _ in range(4):
            assert client.get("/life/log?lines=2000").body == b"logged"
        assert int(client.get("/life/pid").body) != old
    said = pair.read_until(b"Log lines were lost")
    assert b"Plain server started" in said
    assert b"WORKER" in said or b"Worker was sent signal" in said
    reader = threading.Thread(target=lambda: [*iter(pair.read, b"")])
    reader.start()
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    reader.join()
    pair.close()


def test_a_clean_end_loses_no_line(started: Callable[..., Started]) -> None:
    """More than a pipe holds waits as the server ends."""
    pair = Unread("pipe")
    server = started(stdout=pair.writes)
    os.close(pair.writes)
    with Http2Client(server) as client:
        assert client.get("/life/log?lines=1000").body == b"logged"
    server.signal(signal.SIGTERM)
    said = b"".join(iter(pair.read, b""))
    assert server.wait() == 0
    # Not the line of code, which is in the stack of a hub that a busy machine blocks.
    assert said.count(b"] a line of the app") == 1000
    assert b"Server worker exiting" in said
    assert b"Shutting down: Master" in said
    pair.close()
