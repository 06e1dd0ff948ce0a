#!/usr/bin/env python
"""Compares servers: the same work, the same machine, one run, a fresh server each time.

    python load/bench.py                                  all servers, all workloads
    python load/bench.py --servers plain gevent-h2 --workloads small sleep --rounds 5

Rounds are interleaved (every server has its turn in every round, and the order turns too), so
that what else the machine does falls on all of them. Each number is a median over the rounds.
"""

import argparse
import os
import platform
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import h2load
import psutil
import report
from servers import BASELINE, KINDS, LOAD, CannotRunError, Kind, Server, make_certificate
from workloads import WORKLOADS, Options, Sample, Workload

#: Seconds to warm a fresh server up: imports, caches, the first connections.
WARM_UP = 0.5
#: Seconds, about, that a measurement takes beyond its own time: start, warm-up, stop.
OVERHEAD = 2.0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=positive_int, default=3, help="default: 3")
    parser.add_argument(
        "--seconds", type=positive_float, default=3.0, help="for one measurement; default: 3"
    )
    parser.add_argument(
        "--connections", type=positive_int, default=500, help="idle ones; default: 500"
    )
    parser.add_argument("--servers", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME")
    parser.add_argument(
        "--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    parser.epilog = "\n".join(
        [
            "servers:",
            *(f"  {kind.name:<12} {kind.title}" for kind in KINDS.values()),
            "workloads:",
            *(f"  {workload.name:<12} {workload.title}" for workload in WORKLOADS.values()),
        ]
    )
    return parser.parse_args()


def positive_int(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def positive_float(text: str) -> float:
    value = float(text)
    if not 0 < value <= 600:
        raise argparse.ArgumentTypeError("must be more than 0, and at most 600")
    return value


def main() -> int:
    args = parse_arguments()
    if h2load.find() is None:
        say("h2load is missing: install nghttp2-client (Debian) or nghttp2 (Homebrew)")
        return 2
    # Through the `with` blocks, so that no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    about = describe(args)
    for name, value in about.items():
        print(f"{name:<16} {value}")
    print(f"{'ratio':<16} to {KINDS[BASELINE].title}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        options = Options(args.seconds, args.connections, Path(folder))
        make_certificate(options.folder)
        cells = measure_all(args, options)
    print(report.table(cells))
    if args.json:
        report.write_json(args.json, about, cells)
    return 0


def describe(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers were measured with and on."""
    needed = dict.fromkeys(name for server in args.servers for name in KINDS[server].needs)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        **{name: installed(name) for name in [*needed, "h2"]},
        "commit": commit(),
        "h2load": h2load.version(),
        "openssl": ssl.OPENSSL_VERSION,
        "machine": f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, "
        f"load {os.getloadavg()[0]:.2f} as it began",
        "run": f"{args.rounds} rounds, {args.seconds:g} s each, one worker, TLS, loopback",
    }


def installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """The repository's commit, with a + if its package was changed since."""
    try:
        git = ["git", "-C", str(LOAD.parent)]
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        status = [*git, "status", "--porcelain", "--", "plain_gevent_h2"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed.strip() else "")


def measure_all(args: argparse.Namespace, options: Options) -> report.Cells:
    cells: report.Cells = {
        (workload, server): report.Cell() for workload in args.workloads for server in args.servers
    }
    total = args.rounds * len(cells)
    say(f"{total} measurements, about {total * (options.seconds + OVERHEAD):.0f} s")
    done = 0
    for turn in range(args.rounds):
        shift = turn % len(args.servers)
        for workload in args.workloads:
            for server in args.servers[shift:] + args.servers[:shift]:
                done += 1
                progress = f"[{done}/{total}] round {turn + 1}, {workload}, {server}:"
                outcome = measure(WORKLOADS[workload], KINDS[server], options)
                say(f"{progress} {describe_outcome(WORKLOADS[workload], outcome)}")
                if isinstance(outcome, Sample):
                    cells[workload, server].samples.append(outcome)
                else:
                    cells[workload, server].reasons.append(outcome)
    return cells


def measure(workload: Workload, kind: Kind, options: Options) -> Sample | str:
    """One measurement on a fresh server, or the reason why there is none."""
    if reason := kind.cannot.get(workload.name) or kind.missing():
        return f"cannot: {reason}"
    try:
        with Server(kind, options.folder) as server:
            streams = ("-c", "10", "-m", "10")
            h2load.run_for(WARM_UP, f"{server.url}/hello", options.folder, *streams)
            sample = workload.run(server, options)
            if server.was_replaced():
                sample.notes.append("a process of the server ended while it was measured")
            return sample
    except (CannotRunError, psutil.Error) as exc:
        return f"failed: {exc}"


def describe_outcome(workload: Workload, outcome: Sample | str) -> str:
    if isinstance(outcome, str):
        return outcome
    metric = workload.metrics[0]
    text = f"{report.number(outcome.values[metric.name])} {metric.unit}"
    if outcome.failed:
        text += f", {outcome.failed} failed"
    return "; ".join([text, *outcome.notes])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def run() -> NoReturn:
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
