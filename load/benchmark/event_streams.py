"""The workloads of many event streams: how late an event comes."""

import contextlib
import selectors
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import client
from h2load import percentile
from servers import CannotRunError, Server
from workload import P50, P99, SETTLE, STREAMS, Metric, Options, Sample, Workload


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
            connections = client.open_connections(self.count // STREAMS, server.port, stack)
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
            if not client.is_serving(server.port):
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
