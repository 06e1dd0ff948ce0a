"""The workloads of a client of our own: what is held open, and what shares a connection."""

import contextlib
import selectors
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import client
from h2load import percentile
from servers import CannotRunError, Server
from workload import MB, P50, P99, Metric, Options, Sample, Workload

LARGE = 10 * 1024 * 1024
#: Streams of one connection where many are open.
STREAMS = 100
#: Seconds for a server to settle before its memory is looked at: to give back what the burst
#: before it took. (This one lets idle connections rest after one.)
SETTLE = 2.0


class Idle(Workload):
    """Memory of connections that have made one request and now wait.

    The growth of the PSS of all the server's processes. It starts with some connections open,
    which take the memory that the warm-up left free: without them the others would, and look
    cheaper than they are. At the end each must answer once more, or it was not an idle
    connection that was measured.
    """

    metrics = (Metric("memory", "KiB/connection", less_is_better=True),)
    count: ClassVar[int]
    #: Connections before the first look at the memory.
    earlier = 100

    def run(self, server: Server, options: Options) -> Sample:
        with contextlib.ExitStack() as stack:
            open_connections(self.earlier, server, stack)
            time.sleep(SETTLE)
            before = server.memory()
            connections = open_connections(self.count, server, stack)
            time.sleep(SETTLE)
            grown = server.memory() - before
            alive = sum(answers(connection) for connection in connections)
        if not connections:
            raise CannotRunError("no connection could be opened")
        sample = Sample(
            {"memory": grown / len(connections) / 1024}, ok=alive, failed=self.count - alive
        )
        if len(connections) < self.count:
            sample.notes.append(f"only {len(connections)} connections could be opened")
        if alive < len(connections):
            sample.notes.append(f"only {alive} of {len(connections)} were still alive at the end")
        return sample


class Idle1000(Idle):
    name = "idle-1000"
    title = "memory of an idle connection that has made one request, 1,000 of them"
    count = 1000
    by_default = True


class Idle10000(Idle):
    name = "idle-10000"
    title = "memory of an idle connection that has made one request, 10,000 of them"
    count = 10_000


class Waiting(Workload):
    """Memory of requests whose view waits.

    As with idle connections, some wait before the first look. The connections are open before
    it too: what is measured is a stream. The app counts the views that are running: a request
    that waits in a queue, before its view, is not what is measured. All together are a little
    fewer than a round number, which leaves room for those who ask for the count.
    """

    metrics = (Metric("memory", "KiB/request", less_is_better=True),)
    count: ClassVar[int]
    earlier = 50
    #: Seconds that a view waits: longer than the whole measurement.
    view = 45
    #: Seconds for all to reach their view.
    arrive: ClassVar[float] = 5.0

    def run(self, server: Server, options: Options) -> Sample:
        path = f"/sleep?ms={self.view * 1000}"
        with contextlib.ExitStack() as stack:
            wanted = 1 + self.count // STREAMS
            connections = open_connections(wanted, server, stack)
            if len(connections) < wanted:
                raise CannotRunError(f"only {len(connections)} connections could be opened")
            self._ask(connections[:1], self.earlier, path)
            self._wait_for(self.earlier, server, options)
            before = server.memory()
            self._ask(connections[1:], STREAMS, path)
            running = self._wait_for(self.earlier + self.count, server, options)
            grown = server.memory() - before
        total = self.earlier + self.count
        if options.workers == 1 and running is None:
            raise CannotRunError("other requests got no answer while these waited")
        if running is not None and running < total:
            raise CannotRunError(f"only {running:,} of {total:,} requests were in their view")
        sample = Sample({"memory": grown / self.count / 1024}, ok=self.count)
        if options.workers > 1:
            sample.notes.append("with several processes nobody counts the views that run")
        return sample

    def _ask(self, connections: list[client.Connection], streams: int, path: str) -> None:
        """Make so many requests on each connection, in turns."""
        try:
            for _ in range(streams):
                for connection in connections:
                    connection.request(path)
        except OSError as exc:
            raise CannotRunError(f"it took no more requests: {exc}") from exc

    def _wait_for(self, count: int, server: Server, options: Options) -> int | None:
        """Until so many views run, or no longer: how many do. None if nobody says."""
        running: int | None = None
        deadline = time.monotonic() + self.arrive
        if options.workers == 1:
            with (
                contextlib.suppress(OSError, client.BadAnswer),
                client.Connection(server.port, timeout=2.0, keeps_bodies=True) as connection,
            ):
                while time.monotonic() < deadline and (running or 0) < count:
                    running = int(connection.read("/waiting"))
                    time.sleep(0.05)
        time.sleep(SETTLE if options.workers == 1 else self.arrive)
        return running


class Waiting1000(Waiting):
    name = "waiting-1000"
    title = "memory of a request whose view waits, 950 of them on 10 connections"
    count = 900


class Waiting10000(Waiting):
    name = "waiting-10000"
    title = "memory of a request whose view waits, 9,950 of them on 100 connections"
    count = 9_900
    arrive = 15.0


class Events(Workload):
    """Event streams with an event a second each, at a planned time.

    An event carries the time at which it was due, so its delay includes whatever kept the view
    from running then. The streams are spread over the second. Counted are events that were due
    and came while it was measured; an event that never came has no delay, so `delivered` stands
    beside them.
    """

    metrics = (
        P50,
        P99,
        Metric("delivered", "% of the events"),
        Metric("cpu", "us CPU/event", less_is_better=True),
        Metric("memory", "KiB/stream", less_is_better=True),
    )
    path: ClassVar[str] = "/events"
    count: ClassVar[int]
    #: Seconds for all streams to have had an event.
    start: ClassVar[float] = 5.0
    #: The shortest time that tells something of an event a second.
    shortest = 3.0

    def run(self, server: Server, options: Options) -> Sample:
        with contextlib.ExitStack() as stack:
            connections = open_connections(self.count // STREAMS, server, stack)
            if len(connections) * STREAMS < self.count:
                raise CannotRunError(f"only {len(connections)} connections could be opened")
            time.sleep(SETTLE)
            before = server.memory()
            crowd = Crowd(connections)
            self._open(crowd)
            memory = (server.memory() - before) / self.count / 1024
            cpu, own = server.cpu_seconds(), time.process_time()
            crowd.delays.clear()
            seconds = max(self.shortest, options.seconds)
            crowd.listen(seconds)
            cpu, own = server.cpu_seconds() - cpu, time.process_time() - own
            sample = self._sample(crowd, seconds, cpu, memory)
            if own > 0.9 * seconds:
                sample.notes.append("the client had no time left: the delays are partly its own")
            if not is_serving(server):
                sample.notes.append("other requests got no answer meanwhile")
        return sample

    def _open(self, crowd: "Crowd") -> None:
        try:
            for turn in range(STREAMS):
                for number, connection in enumerate(crowd.connections):
                    at = (turn * len(crowd.connections) + number) / self.count
                    connection.request(f"{self.path}?at={at:.5f}")
                crowd.listen(0)
        except OSError as exc:
            raise CannotRunError(f"it took no more requests: {exc}") from exc
        deadline = time.monotonic() + self.start
        while len(crowd.heard) < self.count and time.monotonic() < deadline:
            crowd.listen(0.25)

    def _sample(self, crowd: "Crowd", seconds: float, cpu: float, memory: float) -> Sample:
        delays = sorted(crowd.delays)
        if not delays:
            raise CannotRunError("no event came")
        values = {
            "p50": percentile(delays, 50) * 1e3,
            "p99": percentile(delays, 99) * 1e3,
            "delivered": 100 * min(1.0, len(delays) / (self.count * seconds)),
            "cpu": cpu / len(delays) * 1e6,
        }
        silent = self.count - len(crowd.heard)
        if not silent:
            # What it takes to let streams wait is no measure of what they cost.
            values["memory"] = memory
        sample = Sample(values, ok=len(crowd.heard), failed=silent)
        if silent:
            sample.notes.append(f"{silent:,} of {self.count:,} streams had no event")
        return sample


class Events1000(Events):
    name = "events-1000"
    title = "1,000 event streams (blocking views) on 10 connections: delay of an event"
    count = 1000


class Events10000(Events):
    name = "events-10000"
    title = "10,000 event streams (blocking views) on 100 connections: delay of an event"
    count = 10_000
    start = 20.0


class EventsAsync1000(Events1000):
    name = "events-async-1000"
    title = "1,000 event streams (async views) on 10 connections: delay of an event"
    path = "/events-async"
    only_plain = True


class EventsAsync10000(Events10000):
    name = "events-async-10000"
    title = "10,000 event streams (async views) on 100 connections: delay of an event"
    path = "/events-async"
    only_plain = True


@dataclass
class Crowd:
    """Connections with event streams, all listened to by one thread."""

    connections: list[client.Connection]
    #: Seconds from when each event was due until we had it.
    delays: list[float] = field(default_factory=list)
    #: The streams that have had an event: connection and stream.
    heard: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        for number, connection in enumerate(self.connections):
            self._selector.register(connection, selectors.EVENT_READ, number)

    def listen(self, seconds: float) -> None:
        """Take in what comes within `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            ready = self._selector.select(max(0.0, deadline - time.monotonic()))
            for key, _ in ready:
                self._receive(self.connections[key.data], key.data)
            if time.monotonic() >= deadline or not self._selector.get_map():
                return

    def _receive(self, connection: client.Connection, number: int) -> None:
        try:
            while True:
                for part in connection.receive():
                    if part.body and not part.failure:
                        now = time.monotonic()
                        self.heard.add((number, part.stream))
                        self.delays.extend(now - due for due in due_times(part.body))
                if not connection.has_more():
                    return
        except (OSError, client.BadAnswer):
            # Its streams end here, and count as silent if they had no event yet.
            self._selector.unregister(connection)


def due_times(body: bytes) -> Iterator[float]:
    """The times in a DATA frame's events. Servers send an event in a frame of its own, whole."""
    for line in body.split(b"\n\n"):
        if line.startswith(b"data: "):
            yield float(line[6:])


class Beside(Workload):
    """Small requests, one after another, on a connection that also downloads.

    The client's stream window bounds what the server may have sent ahead (1 MiB), so the
    latency shows whether a small response has to wait for more than that. The download's rate
    stands beside it: whoever sends little in bulk has short waits.
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


def open_connections(
    count: int, server: Server, stack: contextlib.ExitStack
) -> list[client.Connection]:
    """Connections that answered a request: `count`, or those before the first that did not."""
    connections: list[client.Connection] = []
    for _ in range(count):
        try:
            connection = stack.enter_context(client.Connection(server.port, keeps_bodies=True))
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


def is_serving(server: Server) -> bool:
    """Whether a new connection's request is answered, within two seconds."""
    try:
        with client.Connection(server.port, timeout=2.0) as connection:
            return answers(connection)
    except (OSError, client.BadAnswer):
        return False
