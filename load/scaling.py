#!/usr/bin/env python
"""What a request costs the server as the load grows: CPU time over connections, streams, sizes.

    scripts/bench scaling                            about 4 minutes
    scripts/bench scaling --servers gevent-h2 plain --json scaling.json --plots docs/bench
    scripts/bench scaling --report scaling.json --plots docs/bench

Cost is CPU time of all the server's processes: the load generator's speed and what waits in
queues are not in it. `growth` is the most by which a point of an axis is dearer than one before it,
for each request, or for each byte where the size grows. About 1 or less: the total grows linearly
or more slowly, once past what a request costs anyway.
"""

import argparse
import dataclasses
import json
import shutil
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, NoReturn

import bench
import h2load
import psutil
from progress import Progress, say
from report import number
from servers import KINDS, LIMIT, OURS, CannotRunError, Server, make_certificate

MIB = 1024 * 1024


@dataclass(frozen=True)
class Axis:
    """What grows, through which values, and the h2load run for one value."""

    name: str
    title: str
    values: tuple[int, ...]
    unit: str = "us CPU/request"

    def bytes_each(self, value: int) -> int:
        """Bytes of the body of one request, where that is what grows."""
        return value if self.name in ("response", "upload") else 0

    def arguments(self, value: int, server: Server, folder: Path) -> list[str]:
        if self.name == "connections":
            return ["-c", str(value), "-m", "1", f"{server.url}/hello"]
        if self.name == "streams":
            return ["-c", "1", "-m", str(value), f"{server.url}/hello"]
        if self.name == "response":
            return ["-c", "1", "-m", "2", f"{server.url}/bytes?n={value}"]
        body = folder / f"upload-{value}"
        if not body.exists():
            with body.open("wb") as out:
                out.truncate(value)
        return ["-c", "1", "-m", "2", "-d", str(body), f"{server.url}/upload"]


SIZES = (1024, 16 * 1024, 256 * 1024, MIB, 4 * MIB, 16 * MIB, 64 * MIB)
AXES = (
    Axis("connections", "connections, one stream each", (1, 10, 100, 300, 1000, 2000)),
    Axis("streams", "streams at once on one connection", (1, 3, 10, 30, 100, 300, 1000)),
    Axis("response", "bytes of a response", SIZES),
    Axis("upload", "bytes of a request's body", SIZES),
)


@dataclass
class Point:
    """The cost at one value of an axis, in each round: microseconds of CPU time a request."""

    value: int
    costs: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def cost(self) -> float | None:
        return statistics.median(self.costs) if self.costs else None


#: By axis and server.
Curves = dict[tuple[str, str], list[Point]]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    servers = [name for name in KINDS if name != LIMIT]
    parser.add_argument("--rounds", type=bench.positive_int, default=2, help="default: 2")
    parser.add_argument(
        "--seconds", type=bench.positive_float, default=1.5, help="for one point; default: 1.5"
    )
    parser.add_argument("--servers", nargs="+", choices=servers, default=[OURS], metavar="NAME")
    names = [axis.name for axis in AXES]
    parser.add_argument("--axes", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all costs to FILE")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw scaling.png into FOLDER")
    parser.add_argument("--report", type=Path, metavar="FILE", help="of an earlier run")
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    if args.report:
        about, curves = read_json(args.report)
    else:
        args.workers = 1
        about = bench.describe(args)
        curves = run_all(args)
    for name, value in about.items():
        print(f"{name:<16} {value}")
    print(table(curves))
    if args.json:
        args.json.write_text(json.dumps(as_json(about, curves), indent=2) + "\n")
    if args.plots:
        import plots

        say(f"drew {plots.scaling(args.plots, about, curves)}")
    return 0


def run_all(args: argparse.Namespace) -> Curves:
    bench.allow_open_files()
    axes = [axis for axis in AXES if axis.name in args.axes]
    curves = {(a.name, s): [Point(v) for v in a.values] for a in axes for s in args.servers}
    # Small and large values take turns in time with the rounds, not one after the other.
    planned = [
        (axis, server, number)
        for _ in range(args.rounds)
        for axis in axes
        for number in range(len(axis.values))
        for server in args.servers
    ]
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        make_certificate(folder)
        with Progress([axis.name for axis, _, _ in planned], args.seconds + 2) as progress:
            for axis, server, number in planned:
                point = curves[axis.name, server][number]
                measure(axis, server, point, folder, args.seconds)
                last = point.notes[-1] if point.notes else f"{point.costs[-1]:,.1f} {axis.unit}"
                progress.done(f"{axis.name} {point.value:,}, {server}: {last}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return curves


def measure(axis: Axis, server: str, point: Point, folder: Path, seconds: float) -> None:
    """One more cost for `point`, or a note why not."""
    kind = KINDS[server]
    try:
        if reason := kind.missing():
            raise CannotRunError(reason)
        with Server(kind, folder) as running:
            h2load.run_for(bench.WARM_UP, f"{running.url}/hello", folder, "-c", "10", "-m", "10")
            *options, url = axis.arguments(point.value, running, folder)
            if size := axis.bytes_each(point.value):
                cost, failed = cost_of_count(running, size, seconds, [*options, url], folder)
            else:
                # Time for all to be connected: what that costs is not what is asked here.
                lead = 0.5 + 0.004 * (point.value if axis.name == "connections" else 1)
                cost, failed = cost_of_steady(running, lead, seconds, [*options, url], folder)
    except (CannotRunError, psutil.Error) as exc:
        point.notes.append(f"failed: {exc}")
        return
    point.costs.append(cost)
    if failed:
        point.notes.append(f"{failed} requests failed")


def cost_of_count(
    server: Server, size: int, seconds: float, arguments: list[str], folder: Path
) -> tuple[float, int]:
    """Microseconds of CPU time for each of a number of bodies, and how many failed.

    A number, so that none is cut off half-way; it is about 200 MB for each second.
    """
    *options, url = arguments
    count = max(4, min(int(5_000 * seconds), int(200e6 * seconds / size)))
    cpu = server.cpu_seconds()
    run = h2load.run_count(count, 20 * seconds + h2load.GRACE, url, folder, *options)
    return (server.cpu_seconds() - cpu) / run.ok * 1e6, run.failed + run.errored


def cost_of_steady(
    server: Server, lead: float, seconds: float, arguments: list[str], folder: Path
) -> tuple[float, int]:
    """The same for small requests, over `seconds` that begin `lead` after the start."""
    *options, url = arguments
    with ThreadPoolExecutor(1) as pool:
        driving = pool.submit(h2load.run_for, lead + seconds + 0.2, url, folder, *options)
        time.sleep(lead)
        begin, cpu = time.time(), server.cpu_seconds()
        time.sleep(seconds)
        end, cpu = time.time(), server.cpu_seconds() - cpu
        run = driving.result()
    answered = sum(begin <= moment < end for moment in run.moments)
    if not answered:
        raise CannotRunError("no request was answered while it was measured")
    return cpu / answered * 1e6, run.failed + run.errored


def table(curves: Curves) -> str:
    lines: list[str] = []
    for axis in AXES:
        servers = [server for name, server in curves if name == axis.name]
        if not servers:
            continue
        sized = bool(axis.bytes_each(1))
        lines += ["", f"{axis.title} ({axis.unit}{', us CPU/MB' if sized else ''})"]
        lines.append(f"  {'':<12}" + "".join(f"{server:>24}" for server in servers))
        for place, value in enumerate(axis.values):
            points = [curves[axis.name, server][place] for server in servers]
            cells = [cell(point.cost, value if sized else 0) for point in points]
            lines.append(f"  {value:<12,}" + "".join(f"{text:>24}" for text in cells))
        grown = [growth(axis, curves[axis.name, server]) for server in servers]
        lines.append(f"  {'growth':<12}" + "".join(f"{text:>24}" for text in grown))
        for server in servers:
            for point in curves[axis.name, server]:
                lines += [f"  ! {server}, {point.value:,}: {note}" for note in point.notes]
    return "\n".join(lines)


def cell(cost: float | None, size: int) -> str:
    if cost is None:
        return "-"
    return f"{number(cost)}" + (f" {number(cost / size * 1e6):>10}" if size else "")


def growth(axis: Axis, points: list[Point]) -> str:
    """The most by which a point is dearer than one before it: for each request, or each byte."""
    costs = [p.cost / (axis.bytes_each(p.value) or 1) for p in points if p.cost is not None]
    if len(costs) < 2:
        return ""
    return f"{max(later / earlier for earlier, later in combinations(costs, 2)):.2f}x"


def as_json(about: dict[str, Any], curves: Curves) -> dict[str, Any]:
    stored: dict[str, Any] = {}
    for (axis, server), points in curves.items():
        stored.setdefault(axis, {})[server] = [dataclasses.asdict(point) for point in points]
    return {"about": about, "curves": stored}


def read_json(path: Path) -> tuple[dict[str, Any], Curves]:
    run = json.loads(path.read_text())
    curves = {
        (axis, server): [Point(**point) for point in points]
        for axis, servers in run["curves"].items()
        for server, points in servers.items()
    }
    return run["about"], curves


def run() -> NoReturn:
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
