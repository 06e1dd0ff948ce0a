"""Runs h2load (nghttp2) and reads what it reports.

The counts come from its log file, one line for each finished request: it is there, to the
last line, when a run had to be stopped because the server stalled, and it lets the first
moments be left out. (h2load's own `--warm-up-time` does not: in 1.52 its counts then disagree
with one another.) Its standard output adds the connections that failed and the exact time.
"""

import re
import shutil
import statistics
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from servers import CannotRunError

#: Seconds to warm a fresh server up: imports, caches, the first connections.
WARM_UP = 0.4
#: Seconds beyond its own duration after which a run is stopped.
GRACE = 5.0

_FINISHED = re.compile(r"^finished in ([\d.]+)(us|ms|s|m|h),", re.MULTILINE)
_REQUESTS = re.compile(
    r"^requests: (\d+) total, (\d+) started, (\d+) done, (\d+) succeeded, "
    r"(\d+) failed, (\d+) errored, (\d+) timeout",
    re.MULTILINE,
)
_DATA = re.compile(r"^traffic: .*\((\d+)\) data$", re.MULTILINE)
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Row:
    """A finished request: when it started (an epoch's seconds), and how it ended."""

    started: float
    status: int  # -1: reset
    latency: float  # seconds

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def ended(self) -> float:
        return self.started + self.latency


@dataclass(frozen=True)
class Run:
    """One run. `failed` are non-2xx and reset streams, `errored` those that got no answer
    because their connection failed. What was in flight when the time was up is in neither."""

    ok: int
    failed: int
    errored: int
    #: The time that was measured, and the latencies (sorted) of what was answered in it.
    seconds: float
    latencies: list[float]
    body_bytes: int | None  # None if it was stopped
    stopped: bool
    #: How many were answered before the time that was measured.
    earlier: int = 0
    #: When each was answered, as `time.time()` counts.
    moments: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds


def find() -> str | None:
    return shutil.which("h2load")


def version() -> str:
    out = subprocess.run(["h2load", "--version"], capture_output=True, text=True, check=True)
    return out.stdout.strip().removeprefix("h2load ")


def warm_up(url: str, folder: Path) -> None:
    run_for(WARM_UP, f"{url}/hello", folder, "-c", "10", "-m", "10")


def run_for(seconds: float, url: str, folder: Path, *options: str, ramp: float = 0.0) -> Run:
    """Keep the streams of `options` (`-c`, `-m`) busy for `ramp` seconds and then `seconds`.

    Only the latter are measured: with many slow requests in flight none is answered at first.
    """
    duration = f"{round((ramp + seconds) * 1000)}ms"
    arguments = ["-D", duration, *options, url]
    return _run(arguments, folder, limit=ramp + seconds + GRACE, window=(ramp, seconds))


def run_count(count: int, limit: float, url: str, folder: Path, *options: str) -> Run:
    """Make `count` requests; stop after `limit` seconds with what is done by then."""
    return _run(["-n", str(count), *options, url], folder, limit=limit)


def _run(
    arguments: list[str],
    folder: Path,
    *,
    limit: float,
    window: tuple[float, float] | None = None,
) -> Run:
    """Run h2load. What counts is what ended in `window` (its start and length in seconds, from
    the first request), or all."""
    log = folder / "h2load.log"
    log.unlink(missing_ok=True)  # h2load appends
    process = subprocess.Popen(
        ["h2load", f"--log-file={log}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=limit)
        stopped = False
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        stopped = True
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode and not stopped:
        raise CannotRunError(f"h2load: {output.strip().splitlines()[-1]}")
    rows = _read_log(log)
    if stopped:
        seconds, errored, body_bytes = limit, 0, None
    else:
        seconds, errored, body_bytes = parse_summary(output)
    answered = [row for row in rows if row.ok]
    latencies = [row.latency for row in answered]
    earlier = 0
    if window and rows:
        ramp, seconds = window
        opened = min(row.started for row in rows) + ramp
        latencies = [row.latency for row in answered if opened <= row.ended <= opened + seconds]
        earlier = sum(row.ended < opened for row in answered)
    if not latencies:
        statuses = sorted({row.status for row in rows}) or "none"
        raise CannotRunError(
            f"no request succeeded in {seconds:.1f} s (statuses: {statuses}, errored: {errored})"
        )
    return Run(
        ok=len(answered),
        failed=len(rows) - len(answered),
        errored=errored,
        seconds=seconds,
        latencies=sorted(latencies),
        body_bytes=body_bytes,
        stopped=stopped,
        earlier=earlier,
        moments=[row.ended for row in answered],
    )


def _read_log(log: Path) -> list[Row]:
    rows = []
    for line in log.read_text().splitlines() if log.exists() else []:
        fields = line.split("\t")
        if len(fields) >= 3:  # a line may be cut off where h2load was stopped
            rows.append(Row(int(fields[0]) / 1e6, int(fields[1]), int(fields[2]) / 1e6))
    return rows


def parse_summary(output: str) -> tuple[float, int, int]:
    """The seconds, the errored requests and the bytes of bodies in what h2load prints."""
    finished = _FINISHED.search(output)
    requests = _REQUESTS.search(output)
    data = _DATA.search(output)
    if not (finished and requests and data):
        raise CannotRunError(f"cannot read what h2load printed: {output[-300:]!r}")
    return float(finished[1]) * _UNITS[finished[2]], int(requests[6]), int(data[1])


def percentile(ordered: list[float], percent: float) -> float:
    """Of values in order; the one value of a list of one."""
    if len(ordered) == 1:
        return ordered[0]
    return statistics.quantiles(ordered, n=1000, method="inclusive")[round(percent * 10) - 1]
