"""Standard streams that are closed, or that nobody reads: requests go on."""

import os
import select
import signal
import socket
import subprocess
import threading
import tty
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness import PLAIN, WAIT_FOR_START, Server, wait_for
from load_client import Http2Client

from plain_gevent_h2.process import standard_output as output
from plain_gevent_h2.process.standard_output import MAX_WAITING, Output

LINE = b"x" * 99 + b"\n"


class Unread:
    """A pipe (or a socket, or a terminal) that nobody reads until `rest()` does."""

    def __init__(self, kind: str) -> None:
        if kind == "pipe":
            self.reads, self.writes = os.pipe()
        elif kind == "terminal":
            self.reads, self.writes = os.openpty()
            tty.setraw(self.writes)
        else:
            self.reads, self.writes = (sock.detach() for sock in socket.socketpair())

    def read(self) -> bytes:
        return os.read(self.reads, 1 << 16)

    def read_until(self, end: bytes) -> bytes:
        found = b""
        while end not in found:
            found += self.read()
        return found

    def close(self) -> None:
        for fd in (self.reads, self.writes):
            with suppress(OSError):
                os.close(fd)


@pytest.fixture(params=["pipe", "socket", "terminal"])
def unread(request: pytest.FixtureRequest) -> Iterator[Unread]:
    pair = Unread(request.param)
    yield pair
    pair.close()


class TestOutput:
    def test_nothing_is_lost_before_the_limit(self, unread: Unread) -> None:
        out = Output(unread.writes)
        lines = [b"%d %s" % (i, LINE) for i in range(3000)]
        for line in lines:
            out.write(line)
        assert unread.read_until(lines[-1]) == b"".join(lines)
        assert out.take_lost() == 0

    def test_lines_past_the_limit_are_counted_and_told_once_somebody_reads(
        self, unread: Unread
    ) -> None:
        out = Output(unread.writes)
        written = 2 * MAX_WAITING // len(LINE)
        for _ in range(written):
            out.write(LINE)
        assert out.take_lost() == 0
        read = 0
        while not (lost := out.take_lost()):
            if select.select([unread.reads], [], [], 0.01)[0]:
                read += unread.read().count(b"\n")
        while select.select([unread.reads], [], [], 0)[0]:
            read += unread.read().count(b"\n")
        assert read + lost == written
        assert MAX_WAITING <= read * len(LINE) < 1.5 * MAX_WAITING
        out.write(b"another\n")
        assert unread.read_until(b"\n") == b"another\n"

    def test_who_reads_has_gone(self, unread: Unread) -> None:
        out = Output(unread.writes)
        os.close(unread.reads)
        for _ in range(3):
            assert out.write(LINE) == len(LINE)
        wait_for(lambda: not out._waiting, "end of what waits")
        assert out.take_lost() == 0

    def test_flags_that_other_processes_share_stay(self, unread: Unread) -> None:
        out = Output(unread.writes)
        out.write(LINE)
        assert os.get_blocking(unread.writes)

    def test_without_a_description_of_its_own(
        self, unread: Unread, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As with a pipe of another user's: the thread writes all."""
        monkeypatch.setattr(output, "_never_waits", lambda _fd: None)
        out = Output(unread.writes)
        lines = [b"%d %s" % (i, LINE) for i in range(3000)]
        for line in lines:
            out.write(line)
        assert unread.read_until(lines[-1]) == b"".join(lines)

    def test_threads_write_whole_lines(self, unread: Unread) -> None:
        out = Output(unread.writes)

        def write(name: int) -> None:
            for _ in range(500):
                out.write(b"%d" % name * 99 + b"\n")

        threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        lines: list[bytes] = []
        rest = b""
        while len(lines) < 2000:
            *whole, rest = (rest + unread.read()).split(b"\n")
            lines += whole
        assert set(lines) == {b"%d" % name * 99 for name in range(4)}

    def test_a_forked_process_leaves_to_its_parent_what_waits(self) -> None:
        pair = Unread("pipe")
        out = Output(pair.writes)
        for _ in range(2000):
            out.write(LINE)
        assert out._waiting
        out._forget()
        assert not out._waiting
        pair.close()


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

    def start(*args: str, **kw: object) -> Started:
        servers.append(Started(tls, *args, tmp=tmp_path, **kw))
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
    assert said.count(b"a line of the app") == 1000
    assert b"Server worker exiting" in said
    assert b"Shutting down: Master" in said
    pair.close()
