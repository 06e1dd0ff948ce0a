"""The servers that the benchmark compares: one entry each in `KINDS`, and how one is run."""

import contextlib
import datetime
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Self

import client
import psutil

LOAD = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent

#: Variables of the caller's environment that would change what is compared.
FOREIGN = ("PLAIN_", "GUNICORN_", "GRANIAN_", "WEB_CONCURRENCY", "PYTHON")
#: Seconds within which a server must answer its first request.
START = 30.0
#: Seconds that a server has to end after SIGINT before it is killed.
STOP = 5.0


class CannotRunError(Exception):
    """A server cannot be started, or cannot do what a workload asks. The text is the reason."""


@dataclass(frozen=True)
class Launch:
    """What a command line needs to know."""

    port: int
    workers: int
    certfile: Path
    keyfile: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Kind:
    """A server to compare. `needs` are the distributions whose versions matter."""

    name: str
    title: str
    command: Callable[[Launch], list[str]]
    needs: tuple[str, ...] = ("plain",)
    #: Whether it runs the Plain app, not the bare WSGI app.
    runs_plain: bool = True

    def missing(self) -> str | None:
        """Which distribution it lacks, if any."""
        for distribution in self.needs:
            try:
                version(distribution)
            except PackageNotFoundError:
                return f"{distribution} is not installed"
        return None


def plain_server(*options: str) -> Callable[[Launch], list[str]]:
    """The command of `plain server` with these options on top."""

    def command(launch: Launch) -> list[str]:
        return [
            *(str(BIN / "plain"), "server", "--workers", str(launch.workers), "--no-access-log"),
            *("--bind", launch.address),
            *("--certfile", str(launch.certfile), "--keyfile", str(launch.keyfile)),
            *options,
        ]

    return command


def gunicorn(*options: str) -> Callable[[Launch], list[str]]:
    def command(launch: Launch) -> list[str]:
        return [
            *(str(BIN / "gunicorn"), "wsgi:application", "--workers", str(launch.workers)),
            *("--bind", launch.address, "--log-level", "warning"),
            *("--certfile", str(launch.certfile), "--keyfile", str(launch.keyfile)),
            *("--http-protocols", "h2,h1", "--http2-max-concurrent-streams", "1000"),
            *("--worker-connections", "20000", "--keep-alive", "300"),
            *options,
        ]

    return command


def hypercorn(launch: Launch) -> list[str]:
    return [
        *(str(BIN / "hypercorn"), "wsgi:wsgi:application", "--workers", str(launch.workers)),
        *("--bind", launch.address, "--config", "hypercorn.toml", "--log-level", "warning"),
        *("--certfile", str(launch.certfile), "--keyfile", str(launch.keyfile)),
    ]


def granian(*options: str) -> Callable[[Launch], list[str]]:
    def command(launch: Launch) -> list[str]:
        return [
            *(str(BIN / "granian"), "wsgi:application", "--interface", "wsgi"),
            *("--workers", str(launch.workers), "--host", "127.0.0.1", "--port", str(launch.port)),
            *("--ssl-certificate", str(launch.certfile), "--ssl-keyfile", str(launch.keyfile)),
            *("--http2-max-concurrent-streams", "1000", "--log-level", "warning"),
            # Connections and requests; its default, 1,024, is fewer than some workloads open.
            *("--backpressure", "20000"),
            *options,
        ]

    return command


#: What all others are compared with, this project, and what no server of its parts can pass.
BASELINE, OURS, LIMIT = "plain", "gevent-h2", "limit"

KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            OURS,
            "plain server --worker gevent-h2",
            plain_server("--worker", "gevent-h2"),
            needs=("plain", "plain-gevent-h2", "gevent", "h2"),
        ),
        Kind(BASELINE, "plain server", plain_server()),
        Kind("plain-1000", "plain server --threads 1000", plain_server("--threads", "1000")),
        Kind(
            "gunicorn-gevent",
            "gunicorn gevent (bare WSGI app)",
            gunicorn("--worker-class", "gevent"),
            needs=("gunicorn", "gevent", "h2"),
            runs_plain=False,
        ),
        Kind(
            "gunicorn-gthread",
            "gunicorn gthread, 1,000 threads (bare WSGI app)",
            # A thread serves one HTTP/2 connection at a time: with fewer, connections wait.
            gunicorn("--worker-class", "gthread", "--threads", "1000"),
            needs=("gunicorn", "h2"),
            runs_plain=False,
        ),
        Kind(
            "hypercorn",
            "Hypercorn (bare WSGI app)",
            hypercorn,
            needs=("hypercorn", "h2"),
            runs_plain=False,
        ),
        Kind(
            "granian",
            "Granian (bare WSGI app)",
            granian(),
            needs=("granian",),
            runs_plain=False,
        ),
        Kind(
            "granian-1000",
            "Granian, 1,000 threads (bare WSGI app)",
            granian("--blocking-threads", "1000"),
            needs=("granian",),
            runs_plain=False,
        ),
        Kind(
            LIMIT,
            "h2 and Plain in one process, no socket (limit.py)",
            lambda _: [sys.executable, "limit.py", "--json"],
            needs=("plain", "h2"),
        ),
    )
}


class Server:
    """A server of some kind, for the life of a `with` block, with a fresh worker.

    Fresh for every measurement: what one left behind (views still asleep, memory) must not
    be counted against the next.
    """

    def __init__(
        self, kind: Kind, folder: Path, workers: int = 1, env: Mapping[str, str] | None = None
    ) -> None:
        self.kind = kind
        self.port = free_port()
        self.logfile = folder / f"{kind.name}-{self.port}.log"
        self._command = kind.command(
            Launch(self.port, workers, folder / "cert.pem", folder / "key.pem")
        )
        self._env = {"BENCH_FILE": str(folder / "body.bin"), **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._family: list[psutil.Process] = []  # as of its start

    def __enter__(self) -> Self:
        env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        try:
            with self.logfile.open("wb") as log:
                self._process = subprocess.Popen(
                    self._command, cwd=LOAD, env={**env, **self._env}, stdout=log, stderr=log
                )
        except OSError as exc:
            raise CannotRunError(f"cannot start: {exc}") from exc
        try:
            self._wait_ready()
            self._family = self.family()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.stop()

    def _wait_ready(self) -> None:
        """Return once it has answered a request over HTTP/2."""
        deadline = time.monotonic() + START
        while True:
            if self._running.poll() is not None:
                raise CannotRunError(f"ended as it started: {self.last_words()}")
            try:
                with client.Connection(self.port, timeout=2.0) as connection:
                    connection.get("/hello")
                return
            except (OSError, client.BadAnswer) as exc:
                if time.monotonic() > deadline:
                    reason = f"no answer to GET /hello over HTTP/2 in {START:g} s: {exc}"
                    raise CannotRunError(reason) from exc
            time.sleep(0.05)

    def stop(self) -> None:
        """End it and its workers, by their process ids."""
        family = {*self._family, *self.family()}
        with contextlib.suppress(ProcessLookupError):
            self._running.send_signal(signal.SIGINT)
        try:
            self._running.wait(STOP)
        except subprocess.TimeoutExpired:
            self._running.kill()
            self._running.wait()
        _, left = psutil.wait_procs(family, timeout=1)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server was not started"
        return self._process

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def family(self) -> list[psutil.Process]:
        """Its processes: the one that we started, and all below it."""
        try:
            parent = psutil.Process(self._running.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def was_replaced(self) -> bool:
        """Whether one of its processes ended since its start, or one came."""
        return set(self.family()) != set(self._family)

    def memory(self) -> int:
        """Bytes in use by all of its processes, each shared page counted once (PSS).

        Where the system does not count them so (macOS), without the shared ones.
        """
        infos = [process.memory_full_info() for process in self.family()]
        return sum(getattr(info, "pss", info.uss) for info in infos)

    def resident(self) -> int:
        """The same with shared pages counted for each: less exact, and quickly looked up."""
        total = 0
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def cpu_seconds(self) -> float:
        """CPU time that its processes have used."""
        times = [process.cpu_times() for process in self.family()]
        return sum(t.user + t.system for t in times)

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.logfile.read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "nothing in its log")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def make_certificate(folder: Path) -> None:
    """Write a throw-away certificate for localhost and its key into `folder`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
