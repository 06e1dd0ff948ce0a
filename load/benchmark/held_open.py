"""The workloads that hold idle connections or waiting requests open: what each takes of memory."""

import contextlib
import time
from typing import ClassVar

import client
from servers import CannotRunError, Server
from workload import SETTLE, STREAMS, Metric, Options, Sample, Workload


class Idle(Workload):
    """Memory of connections that have made one request and now wait.

    The growth of the PSS of all the server's processes. It starts with some connections open,
    which take the memory that the warm-up left free: without them the others would, and look
    cheaper than they are. At the end each must answer once more, or it was not an idle
    connection that was measured.
    """

    metrics = (Metric("memory", "KiB/connection", less_is_better=True),)
    count: ClassVar[int]
    #: Connections before the memory is first measured.
    earlier = 100

    def run(self, server: Server, options: Options) -> Sample:
        with contextlib.ExitStack() as stack:
            client.open_connections(self.earlier, server.port, stack)
            time.sleep(SETTLE)
            before = server.memory()
            connections = client.open_connections(self.count, server.port, stack)
            time.sleep(SETTLE)
            grown = server.memory() - before
            alive = sum(connection.answers() for connection in connections)
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
            connections = client.open_connections(wanted, server.port, stack)
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
