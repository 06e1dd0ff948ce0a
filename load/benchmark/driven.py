"""The workloads that h2load drives: requests, transfers, new connections."""

import threading
import time
from pathlib import Path
from typing import ClassVar

import database
import h2load
from h2load import percentile
from servers import CannotRunError, Server
from workload import CPU, MB, P50, P99, RATE, THROUGHPUT, Metric, Options, Sample, Workload

MIB = 1024 * 1024


class Requests(Workload):
    """GETs of one path for some seconds, with a fixed number in flight."""

    metrics: ClassVar[tuple[Metric, ...]] = (RATE, P50, P99, CPU)
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
            "rate at first": run.earlier / self.ramp,
        }
        sample = sample_of(run, {metric.name: values[metric.name] for metric in self.metrics})
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
    by_default = True


class Json(Requests):
    name = "json"
    title = "GET of 10 KB of JSON, made anew each time, 10 connections x 10 streams"
    path = "/json"
    streams = 10


class Sleep10(Requests):
    name = "sleep-10"
    # A pool of threads grows while the first requests wait. What that costs is in none of the
    # other numbers.
    metrics = (*Requests.metrics, Metric("rate at first", "req/s"))
    title = "a view that sleeps 50 ms, 10 in flight (1 connection x 10 streams)"
    path = "/sleep?ms=50"
    connections = 1
    streams = 10
    # Threads answer these by the thousand, so a short run would count one thousand more or less.
    ramp = 1.0
    longer = 2.0


class Sleep100(Sleep10):
    name = "sleep-100"
    title = "a view that sleeps 50 ms, 100 in flight (10 connections x 10 streams)"
    connections = 10
    streams = 10


class Sleep1000(Sleep100):
    name = "sleep-1000"
    title = "a view that sleeps 50 ms, 1,000 in flight (10 connections x 100 streams)"
    streams = 100
    by_default = True


class Sleep10000(Sleep100):
    name = "sleep-10000"
    title = "a view that sleeps 50 ms, 10,000 in flight (10 connections x 1,000 streams)"
    streams = 1000
    # They come back in waves of 10,000, so it takes several of them to tell a rate.
    ramp = 4.0
    longer = 6.0


class Database(Requests):
    name = "db"
    title = "ten rows from PostgreSQL by Plain's ORM, as JSON, 10 connections x 10 streams"
    path = "/db?shelf=7"
    streams = 10
    only_plain = True

    def environment(self, options: Options) -> dict[str, str]:
        return {"BENCH_POSTGRES_URL": database.url()}


class Transfer(Workload):
    """Large bodies over one connection, a fixed number of them.

    A number rather than a time: of one that the end of the run cuts off, h2load does not say
    how much was sent.
    """

    metrics = (
        THROUGHPUT,
        Metric("cpu", "ms CPU/MB", less_is_better=True),
        Metric("memory", "MiB more at the peak", less_is_better=True),
    )
    streams: ClassVar[int] = 4
    #: Bytes of one body.
    size: ClassVar[int] = 10 * MIB
    #: Bytes of one response's body, to check what came.
    answer: ClassVar[int] = 10 * MIB
    #: Bodies for each second of `--seconds`: about what the fastest server here moves.
    per_second: ClassVar[int]
    path: ClassVar[str]

    def options(self, folder: Path) -> tuple[str, ...]:
        return ()

    def count(self, seconds: float) -> int:
        return max(self.streams, round(self.per_second * seconds))

    def limit(self, seconds: float) -> float:
        return 3 * seconds + h2load.GRACE

    def run(self, server: Server, options: Options) -> Sample:
        cpu = server.cpu_seconds()
        with Peak(server) as peak:
            run = h2load.run_count(
                self.count(options.seconds),
                self.limit(options.seconds),
                server.url + self.path,
                options.folder,
                *("-c", "1", "-m", str(self.streams), *self.options(options.folder)),
            )
        cpu = server.cpu_seconds() - cpu
        megabytes = run.ok * self.size / MB
        values = {
            "throughput": megabytes / run.seconds,
            "cpu": cpu / megabytes * 1e3,
            "memory": peak.growth / MIB,
        }
        sample = sample_of(run, values)
        if run.body_bytes is not None and not run.failed + run.errored:
            expected = run.ok * self.answer
            if run.body_bytes != expected:
                sample.notes.append(f"{run.body_bytes} bytes of bodies instead of {expected}")
        return sample


class Peak:
    """The most memory that a server had while the `with` block ran, measured all the time."""

    interval = 0.1

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = self._highest = server.resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def growth(self) -> int:
        return self._highest - self._before

    def _watch(self) -> None:
        while not self._stop.wait(self.interval):
            self._highest = max(self._highest, self._server.resident())


class Download(Transfer):
    name = "download"
    title = "GET of 10 MiB, 1 connection x 4 streams"
    path = f"/bytes?n={Transfer.size}"
    per_second = 40
    by_default = True


class File(Download):
    name = "file"
    title = "GET of a file of 10 MiB (FileResponse, wsgi.file_wrapper), 1 connection x 4 streams"
    path = "/file"
    by_default = False


class Huge(Transfer):
    name = "huge"
    title = "GET of 1 GB that the view makes in pieces of 64 KiB, 1 stream"
    size = answer = 1000 * MB
    path = f"/stream?n={1000 * MB}"
    streams = 1

    def count(self, seconds: float) -> int:
        return 1

    def limit(self, seconds: float) -> float:
        return 60.0


class Upload(Transfer):
    name = "upload"
    title = "POST of 10 MiB that the view reads, 1 connection x 4 streams"
    path = "/upload"
    answer = len(str(Transfer.size))
    per_second = 15
    by_default = True

    def options(self, folder: Path) -> tuple[str, ...]:
        return ("-d", str(folder / "body.bin"))


class Connect(Workload):
    """New connections, each with one small request: batches, one after another."""

    name = "connect"
    title = "new connections (TCP, TLS 1.3, HTTP/2) with one GET of 13 bytes each, 100 at a time"
    metrics = (
        Metric("rate", "connections/s"),
        Metric("cpu", "us CPU/connection", less_is_better=True),
    )
    batch = 100

    def run(self, server: Server, options: Options) -> Sample:
        cpu = server.cpu_seconds()
        deadline = time.monotonic() + options.seconds
        ok = failed = 0
        seconds = 0.0
        while time.monotonic() < deadline:
            run = h2load.run_count(
                self.batch,
                h2load.GRACE,
                server.url + "/hello",
                options.folder,
                *("-c", str(self.batch)),
            )
            ok += run.ok
            failed += self.batch - run.ok
            seconds += run.seconds
        if not ok:
            raise CannotRunError("no connection was answered")
        cpu = server.cpu_seconds() - cpu
        return Sample({"rate": ok / seconds, "cpu": cpu / ok * 1e6}, ok=ok, failed=failed)


def sample_of(run: h2load.Run, values: dict[str, float]) -> Sample:
    sample = Sample(values, ok=run.ok, failed=run.failed + run.errored)
    if run.stopped:
        sample.notes.append(f"stopped after {run.seconds:g} s with {run.ok} requests done")
    return sample
