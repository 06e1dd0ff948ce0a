"""The workload that shares a connection: small requests beside a bulk download."""

import time

import client
from h2load import percentile
from servers import CannotRunError, Server
from workload import MB, Metric, Options, Sample, Workload

LARGE = 10 * 1024 * 1024


class Beside(Workload):
    """Small requests, one after another, on a connection that also downloads.

    The client's stream window bounds what the server may have sent ahead (1 MiB), so the
    latency shows whether a small response has to wait for more than that. The download's rate
    stands beside it: a server that sends little in bulk has short waits.
    """

    name = "beside"
    title = "small GETs, one at a time, without and with a bulk download on the same connection"
    metrics = (
        Metric("p99 growth", "times as long", less_is_better=True),
        Metric("p50 with bulk", "ms", less_is_better=True),
        Metric("p99 with bulk", "ms", less_is_better=True),
        Metric("p50 alone", "ms", less_is_better=True),
        Metric("p99 alone", "ms", less_is_better=True),
        Metric("bulk", "MB/s"),
    )
    by_default = True

    def run(self, server: Server, options: Options) -> Sample:
        alone, _ = self._measure(server, options.seconds / 2, bulk=False)
        values = {
            "p50 alone": percentile(alone, 50) * 1e3,
            "p99 alone": percentile(alone, 99) * 1e3,
        }
        try:
            beside, throughput = self._measure(server, options.seconds / 2, bulk=True)
        except CannotRunError as exc:
            return Sample(values, ok=len(alone), failed=1, notes=[str(exc)])
        values |= {
            "p99 growth": percentile(beside, 99) / percentile(alone, 99),
            "p50 with bulk": percentile(beside, 50) * 1e3,
            "p99 with bulk": percentile(beside, 99) * 1e3,
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
        if part.failure:
            raise client.BadAnswer(part.failure)
        if part.stream == self._bulk:
            self._bulk_bytes += part.size
            if part.ended:
                self._bulk = self._connection.request(f"/bytes?n={LARGE}")
        elif part.stream == self._small and part.ended:
            self._latencies.append(time.perf_counter() - self._asked)
            self._ask()
