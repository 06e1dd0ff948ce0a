"""The servers that the benchmark compares: one entry each in `KINDS`."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from folders import BENCHMARK

BIN = Path(sys.executable).parent


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
            *(str(BIN / "gunicorn"), "app.wsgi:application", "--workers", str(launch.workers)),
            *("--bind", launch.address, "--log-level", "warning"),
            *("--certfile", str(launch.certfile), "--keyfile", str(launch.keyfile)),
            *("--http-protocols", "h2,h1", "--http2-max-concurrent-streams", "1000"),
            *("--worker-connections", "20000", "--keep-alive", "300"),
            *options,
        ]

    return command


def hypercorn(launch: Launch) -> list[str]:
    return [
        *(str(BIN / "hypercorn"), "wsgi:app.wsgi:application", "--workers", str(launch.workers)),
        *("--bind", launch.address, "--config", "hypercorn.toml", "--log-level", "warning"),
        *("--certfile", str(launch.certfile), "--keyfile", str(launch.keyfile)),
    ]


def granian(*options: str) -> Callable[[Launch], list[str]]:
    def command(launch: Launch) -> list[str]:
        return [
            *(str(BIN / "granian"), "app.wsgi:application", "--interface", "wsgi"),
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
            lambda _: [sys.executable, str(BENCHMARK / "limit.py"), "--json"],
            needs=("plain", "h2"),
        ),
    )
}
