"""A server that is measured: its life, and what it uses of the machine."""

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import client
import psutil
from folders import PROJECT
from from_tests import ServerProcess
from kinds import Kind, Launch

#: Variables of the caller's environment that would change what is compared.
FOREIGN = ("PLAIN_", "GUNICORN_", "GRANIAN_", "WEB_CONCURRENCY", "PYTHON")
#: Seconds within which a server must answer its first request.
START = 30.0


class CannotRunError(Exception):
    """A server cannot be started, or cannot do what a workload asks. The text is the reason."""


class Server(ServerProcess):
    """A server of some kind, for the life of a `with` block, with fresh workers.

    Fresh for every measurement: what one left behind (views still asleep, memory) must not
    be counted against the next.
    """

    stop_signal = signal.SIGINT
    stop_timeout = 5.0

    def __init__(
        self, kind: Kind, folder: Path, workers: int = 1, env: Mapping[str, str] | None = None
    ) -> None:
        self._kind, self._workers = kind, workers
        own = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        own |= {"BENCH_FILE": str(folder / "body.bin"), **(env or {})}
        super().__init__(kind.name, folder=folder, project=PROJECT, env=own)

    def command(self) -> list[str]:
        certfile, keyfile = self._folder / "cert.pem", self._folder / "key.pem"
        return self._kind.command(Launch(self.port, self._workers, certfile, keyfile))

    def start(self) -> None:
        try:
            super().start()
        except OSError as exc:
            raise CannotRunError(f"cannot start: {exc}") from exc

    def wait_ready(self) -> None:
        """Return once it has answered a request over HTTP/2."""
        deadline = time.monotonic() + START
        while True:
            if self.has_ended():
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

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def was_replaced(self) -> bool:
        """Whether one of its processes ended since its start, or one came."""
        return set(self.family()) != set(self.first_family)

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
        lines = self.log().split("\n")
        return next((line for line in reversed(lines) if line.strip()), "nothing in its log")
