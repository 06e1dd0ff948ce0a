"""Starts the server as a user does: `plain server ...` in a subprocess, over real TLS."""

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self, TypedDict

import psutil

TESTS = Path(__file__).parent

#: Plain's command where all of its packages are installed that a test uses.
PLAIN_WITH_POSTGRES = Path(sys.executable).parent / "plain"

#: The same where `scripts/test` installed just what the app in `app/` uses: it starts faster.
PLAIN = Path(os.environ.get("TEST_PLAIN", PLAIN_WITH_POSTGRES))

#: Seconds before a wait for a condition fails the test. Far above what any of them needs.
WAIT = 120.0

#: The same for the start of a server: its first one compiles all that it imports.
WAIT_FOR_START = 90.0


def wait_for[T](condition: Callable[[], T | None], what: str, timeout: float = WAIT) -> T:
    """Poll `condition` until it is truthy and return it; fail the test after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"no {what} within {timeout:g} s")
        time.sleep(0.02)
    return value


def free_port(family: socket.AddressFamily = socket.AF_INET) -> int:
    with socket.socket(family) as s:
        s.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
        return int(s.getsockname()[1])


def _runs(process: psutil.Process) -> bool:
    """False for a zombie, too: one whose parent has ended stays so if process 1 reaps none."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


class ServerProcess(ABC):
    """A server in a subprocess, on a port of its own, for the life of a `with` block.

    Its standard output and error go to one file in `folder` (`log()` returns its text). A
    subclass says how it is started and when it is ready: `Server` below for the tests, the
    benchmark's for each server that it compares.
    """

    #: What ends it, and the seconds that it then has before it is killed.
    stop_signal: ClassVar[signal.Signals] = signal.SIGQUIT
    stop_timeout: ClassVar[float] = 10.0
    #: Whether it shares no terminal with us: Ctrl-C does not reach it.
    own_session: ClassVar[bool] = False

    def __init__(self, name: str, *, folder: Path, project: Path, env: Mapping[str, str]) -> None:
        self.name, self.project, self.env = name, project, env
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        #: Its processes as it became ready.
        self.first_family: list[psutil.Process] = []
        self._choose_port()

    def _choose_port(self) -> None:
        self.port = free_port()
        self.logfile = self._folder / f"{self.name}-{self.port}.log"
        self._log_start = 0

    # -- life -----------------------------------------------------------------

    @abstractmethod
    def command(self) -> list[str]:
        """Its command line, which runs in `project`."""

    @abstractmethod
    def wait_ready(self) -> None:
        """Return once it serves."""

    def __enter__(self) -> Self:
        try:
            self.start()
            self.wait_ready()
            self.first_family = self.family()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        with self.logfile.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.project,
                env=self.env,
                stdout=log,
                stderr=log,
                start_new_session=self.own_session,
            )

    def has_ended(self) -> bool:
        return self.running.poll() is not None

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "the server was not started"
        return self.process

    @property
    def pid(self) -> int:
        return self.running.pid

    def kill(self) -> None:
        """End it, and whatever it leaves running."""
        if self.process is None:
            return
        family = {*self.first_family, *self.family()}
        if not self.has_ended():
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(self.stop_timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        with suppress(AssertionError):
            wait_for(lambda: not any(map(_runs, family)), "end of its processes", 1)
        for process in filter(_runs, family):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    # -- looking at it --------------------------------------------------------

    def family(self) -> list[psutil.Process]:
        """Its processes: the one that we started, and all below it."""
        try:
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def log(self) -> str:
        if not self.logfile.exists():
            return ""
        with self.logfile.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def forget_log(self) -> None:
        """From here on, `log()` has what comes after this."""
        self._log_start = self.logfile.stat().st_size


class ProjectOptions(TypedDict, total=False):
    """What is served, and by which command."""

    project: Path
    plain: Path


class ServerOptions(ProjectOptions, total=False):
    """What `Server` is told by keyword, for those who pass it on."""

    env: dict[str, str] | None
    worker: str | None
    bind: str | None


class Server(ServerProcess):
    """`plain server`, with `args` added to its command line and `env` to its environment.

    `tls=None` serves without TLS.
    """

    #: Those in their `with` block, whose logs go into the report of a test that fails.
    started: ClassVar["list[Server]"] = []

    def __init__(
        self,
        tls: tuple[Path, Path] | None,
        *args: str,
        env: dict[str, str] | None = None,
        project: Path = TESTS,
        plain: Path = PLAIN,
        worker: str | None = "gevent-h2",
        bind: str | None = None,
        tmp: Path,
    ) -> None:
        self.tls = tls
        self.certfile = tls[0] if tls else None
        self._plain, self._bind, self._args = plain, bind, list(args)
        if worker is not None:
            self._args += ["--worker", worker]
        if tls:
            self._args += ["--certfile", str(tls[0]), "--keyfile", str(tls[1])]
        # Without bytecode, each start would compile the package: 0.13 s.
        ours = {name: v for name, v in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment = {**ours, **(env or {})}
        super().__init__("server", folder=tmp, project=project, env=environment)

    # -- life -----------------------------------------------------------------

    def __enter__(self) -> Self:
        Server.started.append(self)
        try:
            try:
                return super().__enter__()
            except AssertionError:
                if self._bind or "Connection in use" not in self.log():
                    raise
                self._choose_port()  # another has taken the port since it was chosen
                return super().__enter__()
        except BaseException:
            Server.started.remove(self)
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        Server.started.remove(self)
        self.kill()
        if exc_type is not None:
            print(f"--- server log ---\n{self.end_of_log()}")

    def command(self) -> list[str]:
        bind = self._bind or f"127.0.0.1:{self.port}"
        return [str(self._plain), "server", "--bind", bind, *self._args]

    def wait_ready(self) -> None:
        """Return once a worker of the server has said that it started."""
        wait_for(
            lambda: self._has_started() or self.has_ended(), "start of the server", WAIT_FOR_START
        )
        if self.has_ended() and not self._has_started():
            raise AssertionError(f"the server did not start:\n{self.log()}")

    def _has_started(self) -> bool:
        return "Server worker started" in self.log()

    def signal(self, sig: signal.Signals) -> None:
        self.running.send_signal(sig)

    def wait(self, timeout: float = WAIT) -> int:
        """Wait for the arbiter to end and return its exit code."""
        return self.running.wait(timeout)

    # -- looking at it --------------------------------------------------------

    def workers(self) -> list[psutil.Process]:
        """The worker processes (not multiprocessing's resource tracker)."""
        try:
            children = psutil.Process(self.pid).children()
            return [c for c in children if "spawn_main" in " ".join(c.cmdline())]
        except psutil.NoSuchProcess:
            return []

    def worker(self) -> psutil.Process:
        return wait_for(self.workers, "worker process")[0]

    def end_of_log(self) -> str:
        """The log's last lines, without those of requests that went well."""
        lines = self.log().splitlines(keepends=True)
        return "".join(line for line in lines if " status=200 " not in line)[-8000:]

    def wait_log(self, text: str, timeout: float = WAIT) -> None:
        wait_for(lambda: text in self.log(), f"log line with {text!r}", timeout)

    # -- talking to it --------------------------------------------------------

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def tls_context(self, *alpn: str) -> ssl.SSLContext:
        """A client context that verifies the throw-away certificate."""
        context = ssl.create_default_context(cafile=str(self.certfile))
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def connect_tcp(self, timeout: float = WAIT) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def connect(self, *alpn: str, timeout: float = WAIT) -> socket.socket:
        """A TCP connection, with TLS (offering `alpn`) if the server has it."""
        raw = self.connect_tcp(timeout)
        if not self.tls:
            return raw
        return self.tls_context(*alpn).wrap_socket(raw, server_hostname="localhost")
