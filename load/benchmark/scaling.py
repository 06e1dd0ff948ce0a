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
import json
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

import h2load
import psutil
from arguments import positive_float, positive_int
from curves import AXES, Axis, Curves, Point, as_json, read_json, table
from from_tests import make_certificate
from kinds import KINDS, LIMIT, OURS
from machine import allow_open_files, describe
from progress import Progress, say
from servers import CannotRunError, Server


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    servers = [name for name in KINDS if name != LIMIT]
    parser.add_argument("--rounds", type=positive_int, default=2, help="default: 2")
    parser.add_argument(
        "--seconds", type=positive_float, default=1.5, help="for one point; default: 1.5"
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
        about = describe(args.servers, args.rounds, args.seconds, workers=1)
        curves = run_all(args)
    for name, value in about.items():
        print(f"{name:<16} {value}")
    print(table(curves))
    if args.json:
        args.json.write_text(json.dumps(as_json(about, curves), indent=2) + "\n")
    if args.plots:
        import curves_plot

        say(f"drew {curves_plot.draw(args.plots, about, curves)}")
    return 0


def run_all(args: argparse.Namespace) -> Curves:
    allow_open_files()
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
            h2load.warm_up(running.url, folder)
            *options, url = axis.arguments(point.value, running.url, folder)
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


def run() -> NoReturn:
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
