"""Starts the server as a user does: `plain server ...` in a subprocess, over real TLS."""

import datetime
import ipaddress
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psutil

TESTS = Path(__file__).parent
PLAIN = Path(sys.executable).parent / "plain"

#: Seconds before a wait for a condition fails the test. Far above what any of them needs.
WAIT = 30.0

#: The same for the start of a server: its first one compiles all that it imports.
WAIT_FOR_START = 90.0


def wait_for[T](condition: Callable[[], T], what: str, timeout: float = WAIT) -> T:
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


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A throw-away certificate for localhost and its key, as files in `folder`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certfile, keyfile = folder / "cert.pem", folder / "key.pem"
    certfile.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    keyfile.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certfile, keyfile


class Server:
    """`plain server` in a subprocess, for the life of a `with` block.

    `args` are added to the command line, `env` to the environment. Standard output and
    error go to one file (`log()` returns its text). `tls=None` serves without TLS.
    """

    #: Those in their `with` block, whose logs go into the report of a test that fails.
    started: ClassVar["list[Server]"] = []

    def __init__(
        self,
        tls: tuple[Path, Path] | None,
        *args: str,
        env: dict[str, str] | None = None,
        project: Path = TESTS,
        worker: str | None = "gevent-h2",
        bind: str | None = None,
        tmp: Path,
    ) -> None:
        self.tls = tls
        self.certfile = tls[0] if tls else None
        self.project = project
        self._tmp, self._bind, self._args = tmp, bind, list(args)
        if worker is not None:
            self._args += ["--worker", worker]
        if tls:
            self._args += ["--certfile", str(tls[0]), "--keyfile", str(tls[1])]
        self.env = {**os.environ, **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None
        self._choose_port()

    def _choose_port(self) -> None:
        self.port = free_port()
        self.logfile = self._tmp / f"server-{self.port}.log"

    # -- life -----------------------------------------------------------------

    def __enter__(self) -> Self:
        Server.started.append(self)
        try:
            self.start()
            try:
                self.wait_ready()
            except AssertionError:
                if self._bind or not (self._died() and "Connection in use" in self.log()):
                    raise
                self._choose_port()  # another has taken the port since it was chosen
                self.start()
                self.wait_ready()
        except BaseException:
            Server.started.remove(self)
            self.kill()
            raise
        return self

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

    def start(self) -> None:
        bind = self._bind or f"127.0.0.1:{self.port}"
        command = [str(PLAIN), "server", "--bind", bind, *self._args]
        with self.logfile.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.project, env=self.env, stdout=log, stderr=log
            )

    def wait_ready(self) -> None:
        """Return once a worker of the server has said that it started."""
        wait_for(lambda: self._has_started() or self._died(), "start of the server", WAIT_FOR_START)
        if self._died() and not self._has_started():
            raise AssertionError(f"the server did not start:\n{self.log()}")

    def _has_started(self) -> bool:
        return "Server worker started" in self.log()

    def _died(self) -> bool:
        return self.running.poll() is not None

    @property
    def running(self) -> subprocess.Popen[bytes]:
        assert self.process is not None, "the server was not started"
        return self.process

    @property
    def pid(self) -> int:
        return self.running.pid

    def signal(self, sig: signal.Signals) -> None:
        self.running.send_signal(sig)

    def wait(self, timeout: float = WAIT) -> int:
        """Wait for the arbiter to end and return its exit code."""
        return self.running.wait(timeout)

    def kill(self) -> None:
        """End whatever still runs: the workers too, if the arbiter left any."""
        if self.process is None:
            return
        family = self.workers()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for worker in family:
            if worker.is_running():
                worker.kill()

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

    def log(self) -> str:
        return self.logfile.read_text(errors="replace") if self.logfile.exists() else ""

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
