"""What the benchmark asks of a server: one class for each workload, in `WORKLOADS`."""

import contextlib
import resource
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import client
import h2load
from h2load import percentile
from servers import CannotRunError, Server

MB = 1_000_000
LARGE = 10 * 1024 * 1024


@dataclass(frozen=True)
class Metric:
    """A number that a workload yields."""

    name: str
    unit: str
    less_is_better: bool = False


@dataclass(frozen=True)
class Options:
    """How much to do, and a folder for files."""

    seconds: float
    connections: int
    folder: Path


@dataclass
class Sample:
    """One measurement: the metrics by name, and how many requests they rest on."""

    values: dict[str, float]
    ok: int
    failed: int = 0
    notes: list[str] = field(default_factory=list)


class Workload(ABC):
    """`title` says what is measured."""

    name: ClassVar[str]
    title: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]

    @abstractmethod
    def run(self, server: Server, options: Options) -> Sample:
        """Measure once. Raises `CannotRunError` with the reason if the server cannot do it."""


RATE = Metric("rate", "req/s")
P50 = Metric("p50", "ms", less_is_better=True)
P99 = Metric("p99", "ms", less_is_better=True)
CPU = Metric("cpu", "us CPU/req", less_is_better=True)
THROUGHPUT = Metric("throughput", "MB/s")


class Requests(Workload):
    """GETs of one path for some seconds, with a fixed number in flight."""

    metrics = (RATE, P50, P99, CPU)
    path: ClassVar[str]
    connections: ClassVar[int] = 10
    streams: ClassVar[int]
    #: Seconds at the start that do not count.
    ramp: ClassVar[float] = 0.2
    #: Of `--seconds`, how many times as long it runs.
    longer: ClassVar[float] = 1.0

    def run(self, server: Server, options: Options) -> Sample:
        cpu = server.cpu_seconds()
        run = h2load.run_for(
            options.seconds * self.longer,
            server.url + self.path,
            options.folder,
            *("-c", str(self.connections), "-m", str(self.streams)),
            ramp=self.ramp,
        )
        cpu = server.cpu_seconds() - cpu
        values = {
            "rate": run.rate,
            "p50": percentile(run.latencies, 50) * 1e3,
            "p99": percentile(run.latencies, 99) * 1e3,
            "cpu": cpu / run.ok * 1e6,
        }
        sample = sample_of(run, values)
        if run.ok < self.connections * self.streams:
            sample.notes.append(
                f"fewer than the {self.connections * self.streams:,} requests in flight were "
                "answered in time; p50 and p99 know nothing of the others"
            )
        return sample


class Small(Requests):
    name = "small"
    title = "GET of 13 bytes, 10 connections x 10 streams"
    path = "/hello"
    streams = 10


class Sleep(Requests):
    name = "sleep"
    title = "a view that sleeps 50 ms, 1,000 in flight (10 connections x 100 streams)"
    path = "/sleep?ms=50"
    streams = 100
    # Threads answer these by the thousand, so a short run would count one thousand more or less.
    ramp = 1.0
    longer = 2.0


class Transfer(Workload):
    """Large bodies over one connection, a fixed number of them.

    A number rather than a time: of one that the end of the run cuts off, h2load does not say
    how much was sent.
    """

    metrics = (THROUGHPUT, Metric("cpu", "ms CPU/MB", less_is_better=True))
    streams: ClassVar[int] = 4
    #: Bodies for each second of `--seconds`: about what the fastest server here moves.
    per_second: ClassVar[int]
    path: ClassVar[str]
    #: Bytes of one response's body, to check what came.
    answer: ClassVar[int]

    def options(self, folder: Path) -> tuple[str, ...]:
        return ()

    def run(self, server: Server, options: Options) -> Sample:
        cpu = server.cpu_seconds()
        run = h2load.run_count(
            max(self.streams, round(self.per_second * options.seconds)),
            4 * options.seconds + h2load.GRACE,
            server.url + self.path,
            options.folder,
            *("-c", "1", "-m", str(self.streams), *self.options(options.folder)),
        )
        cpu = server.cpu_seconds() - cpu
        megabytes = run.ok * LARGE / MB
        sample = sample_of(
            run, {"throughput": megabytes / run.seconds, "cpu": cpu / megabytes * 1e3}
        )
        if run.body_bytes is not None and not run.failed + run.errored:
            expected = run.ok * self.answer
            if run.body_bytes != expected:
                sample.notes.append(f"{run.body_bytes} bytes of bodies instead of {expected}")
        return sample


class Download(Transfer):
    name = "download"
    title = "GET of 10 MiB, 1 connection x 4 streams"
    path = f"/bytes?n={LARGE}"
    answer = LARGE
    per_second = 40


class Upload(Transfer):
    name = "upload"
    title = "POST of 10 MiB that the view reads, 1 connection x 4 streams"
    path = "/upload"
    answer = len(str(LARGE))
    per_second = 15

    def options(self, folder: Path) -> tuple[str, ...]:
        body = folder / "upload.bin"
        if not body.exists():
            body.write_bytes(b"x" * LARGE)
        return ("-d", str(body))


class Idle(Workload):
    """Memory of connections that have made one request and now wait.

    The growth of the PSS of all the server's processes. It starts with some connections open,
    which take the memory that the warm-up left free: without them the others would, and look
    cheaper than they are. At the end each must answer once more, or it was not an idle
    connection that was measured.
    """

    name = "idle"
    title = "memory of an idle connection that has made one request"
    metrics = (Metric("memory", "KiB/connection", less_is_better=True),)
    #: Connections before the first look at the memory.
    earlier = 100
    #: Seconds for a server to settle before it is looked at.
    settle = 0.5

    def run(self, server: Server, options: Options) -> Sample:
        allow_open_files(self.earlier + options.connections + 100)
        with contextlib.ExitStack() as stack:
            self._open(self.earlier, server, stack)
            time.sleep(self.settle)
            before = server.memory()
            connections = self._open(options.connections, server, stack)
            time.sleep(self.settle)
            grown = server.memory() - before
            alive = sum(answers(connection) for connection in connections)
        if not connections:
            raise CannotRunError("no connection could be opened")
        sample = Sample(
            {"memory": grown / len(connections) / 1024},
            ok=alive,
            failed=options.connections - alive,
        )
        if len(connections) < options.connections:
            sample.notes.append(f"only {len(connections)} connections could be opened")
        if alive < len(connections):
            sample.notes.append(f"only {alive} of {len(connections)} were still alive at the end")
        return sample

    def _open(
        self, count: int, server: Server, stack: contextlib.ExitStack
    ) -> list[client.Connection]:
        """Connections that answered a request: `count`, or those before the first that did not."""
        connections: list[client.Connection] = []
        for _ in range(count):
            try:
                connection = stack.enter_context(client.Connection(server.port))
            except (OSError, client.BadAnswer):
                break
            if not answers(connection):
                break
            connections.append(connection)
        return connections


def answers(connection: client.Connection) -> bool:
    try:
        connection.get("/hello")
    except (OSError, client.BadAnswer):
        return False
    return True


class Beside(Workload):
    """Small requests, one after another, on a connection that also downloads.

    The client's stream window bounds what the server may have sent ahead (1 MiB), so the
    latency shows whether a small response has to wait for more than that. The download's rate
    stands beside it: whoever sends little in bulk has short waits.
    """

    name = "beside"
    title = "small GETs, one at a time, without and with a bulk download on the same connection"
    metrics = (
        Metric("p50 with bulk", "ms", less_is_better=True),
        Metric("p99 with bulk", "ms", less_is_better=True),
        Metric("p50 alone", "ms", less_is_better=True),
        Metric("p99 alone", "ms", less_is_better=True),
        Metric("bulk", "MB/s"),
    )

    def run(self, server: Server, options: Options) -> Sample:
        seconds = options.seconds / 2
        alone, _ = self._measure(server, seconds, bulk=False)
        beside, throughput = self._measure(server, seconds, bulk=True)
        values = {
            "p50 with bulk": percentile(beside, 50) * 1e3,
            "p99 with bulk": percentile(beside, 99) * 1e3,
            "p50 alone": percentile(alone, 50) * 1e3,
            "p99 alone": percentile(alone, 99) * 1e3,
            "bulk": throughput / MB,
        }
        return Sample(values, ok=len(alone) + len(beside))

    def _measure(self, server: Server, seconds: float, *, bulk: bool) -> tuple[list[float], float]:
        """The latencies of the small requests, in order, and the bulk's bytes a second."""
        try:
            with client.Connection(server.port) as connection:
                connection.get("/hello")
                return Mix(connection, bulk=bulk).run(seconds)
        except (OSError, client.BadAnswer) as exc:
            what = "with the download" if bulk else "alone"
            raise CannotRunError(f"small requests {what}: {exc or type(exc).__name__}") from exc


class Mix:
    """One small request in flight at any time, and one bulk download beside it."""

    def __init__(self, connection: client.Connection, *, bulk: bool) -> None:
        self._connection = connection
        self._latencies: list[float] = []
        self._bulk_bytes = 0
        self._bulk = connection.request(f"/bytes?n={LARGE}") if bulk else None

    def run(self, seconds: float) -> tuple[list[float], float]:
        started = time.perf_counter()
        self._ask()
        while (now := time.perf_counter()) < started + seconds:
            for part in self._connection.receive():
                self._take(part)
        if not self._latencies:
            raise client.BadAnswer(f"no small response in {seconds:g} s")
        return sorted(self._latencies), self._bulk_bytes / (now - started)

    def _ask(self) -> None:
        self._asked = time.perf_counter()
        self._small = self._connection.request("/hello")

    def _take(self, part: client.Frame) -> None:
        if part.stream == self._bulk:
            self._bulk_bytes += part.size
            if part.ended:
                self._bulk = self._connection.request(f"/bytes?n={LARGE}")
        elif part.stream == self._small and part.ended:
            self._latencies.append(time.perf_counter() - self._asked)
            self._ask()


def sample_of(run: h2load.Run, values: dict[str, float]) -> Sample:
    sample = Sample(values, ok=run.ok, failed=run.failed + run.errored)
    if run.stopped:
        sample.notes.append(f"stopped after {run.seconds:g} s with {run.ok} requests done")
    return sample


def allow_open_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= count or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < count:
        raise CannotRunError(f"this needs {count} open files, the limit is {hard} (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (Small(), Sleep(), Download(), Upload(), Idle(), Beside())
}
