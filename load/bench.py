#!/usr/bin/env python
"""Compares servers: the same work, the same machine, one run, a fresh server each time.

    scripts/bench                                    every server, the chief workloads
    scripts/bench --all --json all.json              every workload: an hour or so
    scripts/bench --servers plain gevent-h2 --workloads small sleep-1000 --rounds 5
    scripts/bench --report a.json b.json --plots docs/bench

Rounds are interleaved (every server has its turn in every round, and the order turns too), so
that what else the machine does falls on all of them. Each number is a median over the rounds.
docs/benchmark.md says what each workload does and how to read the table.
"""

import argparse
import json
import os
import platform
import resource
import shutil
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
from progress import Progress, say
from servers import KINDS, LIMIT, LOAD, CannotRunError, Kind, Server, make_certificate
from workload import Options, Sample, Workload
from workloads import WORKLOADS

#: Seconds to warm a fresh server up: imports, caches, the first connections.
WARM_UP = 0.4
#: Seconds, about, that a measurement takes beyond its own time: start, warm-up, stop.
OVERHEAD = 2.0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=positive_int, default=3, help="default: 3")
    parser.add_argument(
        "--seconds", type=positive_float, default=1.0, help="for one measurement; default: 1"
    )
    parser.add_argument(
        "--workers", type=positive_int, default=1, help="processes of each server; default: 1"
    )
    parser.add_argument("--servers", nargs="+", choices=KINDS, default=list(KINDS), metavar="NAME")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--workloads", nargs="+", choices=WORKLOADS, metavar="NAME")
    chosen.add_argument("--all", action="store_true", help="all workloads, not only those with a *")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="draw PNG files into FOLDER")
    parser.add_argument(
        "--report",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="measure nothing: table and plots of earlier runs, taken together",
    )
    parser.epilog = "\n".join(
        [
            "servers:",
            *(f"  {kind.name:<18} {kind.title}" for kind in KINDS.values()),
            "workloads:",
            *(
                f"{'*' if workload.by_default else ' ':>2}{workload.name:<18} {workload.title}"
                for workload in WORKLOADS.values()
            ),
        ]
    )
    args = parser.parse_args()
    if args.all:
        args.workloads = list(WORKLOADS)
    elif not args.workloads:
        args.workloads = [w.name for w in WORKLOADS.values() if w.by_default]
    return args


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
    if args.report:
        about, cells = report.read_json(args.report)
    else:
        if h2load.find() is None:
            say("h2load is missing: install nghttp2-client (Debian) or nghttp2 (Homebrew)")
            return 2
        # Through the `with` blocks, so that no server is left behind.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        about = describe(args)
        cells = run_all(args)
    for name, value in about.items():
        print(f"{name:<16} {value}")
    print(f"\n{report.table(cells)}")
    if args.json:
        report.write_json(args.json, about, cells)
    if args.plots:
        import plots

        for path in plots.draw(args.plots, about, cells):
            say(f"drew {path}")
    return 0


def describe(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers were measured with and on."""
    needed = dict.fromkeys(name for server in args.servers for name in KINDS[server].needs)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        **{name: installed(name) for name in needed},
        "commit": commit(),
        "h2load": h2load.version(),
        "openssl": ssl.OPENSSL_VERSION,
        "machine": f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, "
        f"load {os.getloadavg()[0]:.2f} as it began",
        "run": f"{args.rounds} rounds, {args.seconds:g} s each, TLS, loopback",
        "processes": f"{args.workers} for each server",
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


def run_all(args: argparse.Namespace) -> report.Cells:
    allow_open_files()
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        make_certificate(folder)
        (folder / "body.bin").write_bytes(b"x" * 10 * 1024 * 1024)
        return measure_all(args, Options(args.seconds, args.workers, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def allow_open_files() -> None:
    """As many as there may be, for us and for the servers that we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 100_000
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as exc:  # macOS has a lower limit than it says
        say(f"the number of open files stays as it is: {exc}")
    if hard < 11_000:
        say(f"at most {hard} open files (ulimit -Hn): 10,000 connections will not fit")


def measure_all(args: argparse.Namespace, options: Options) -> report.Cells:
    # Servers by name: what is shown stays in the order of KINDS, whatever was asked for first.
    servers = [name for name in KINDS if name in args.servers]
    pairs = [
        (workload, server)
        for workload in args.workloads
        for server in servers
        if belongs(WORKLOADS[workload], KINDS[server])
    ]
    cells: report.Cells = {pair: report.Cell() for pair in pairs}
    planned = [
        pair
        for turn in range(args.rounds)
        for workload in args.workloads
        for pair in turned([pair for pair in pairs if pair[0] == workload], turn)
    ]
    with Progress([workload for workload, _ in planned], options.seconds + OVERHEAD) as progress:
        for workload, server in planned:
            outcome = measure(WORKLOADS[workload], KINDS[server], options)
            progress.done(f"{workload}, {server}: {describe_outcome(WORKLOADS[workload], outcome)}")
            if isinstance(outcome, Sample):
                cells[workload, server].samples.append(outcome)
            else:
                cells[workload, server].reasons.append(outcome)
    return cells


def belongs(workload: Workload, kind: Kind) -> bool:
    if kind.name == LIMIT:
        return workload.name == "small"
    return kind.runs_plain or not workload.only_plain


def turned[T](items: list[T], turn: int) -> list[T]:
    shift = turn % len(items) if items else 0
    return items[shift:] + items[:shift]


def measure(workload: Workload, kind: Kind, options: Options) -> Sample | str:
    """One measurement on a fresh server, or the reason why there is none."""
    if reason := kind.missing():
        return f"left out: {reason}"
    try:
        if kind.name == LIMIT:
            return measure_limit(options)
        env = workload.environment(options)
        with Server(kind, options.folder, options.workers, env) as server:
            streams = ("-c", "10", "-m", "10")
            h2load.run_for(WARM_UP, f"{server.url}/hello", options.folder, *streams)
            sample = workload.run(server, options)
            if server.was_replaced():
                sample.notes.append("a process of the server ended while it was measured")
            return sample
    except (CannotRunError, psutil.Error) as exc:
        return f"failed: {exc}"


def measure_limit(options: Options) -> Sample:
    """What one process can do at most; with several, as many times that."""
    run = subprocess.run(
        [sys.executable, str(LOAD / "limit.py"), "--json", "--seconds", str(options.seconds)],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise CannotRunError(f"limit.py: {run.stderr.strip().splitlines()[-1]}")
    rate = json.loads(run.stdout)["rate"]
    return Sample({"rate": rate * options.workers, "cpu": 1e6 / rate}, ok=round(rate))


def describe_outcome(workload: Workload, outcome: Sample | str) -> str:
    if isinstance(outcome, str):
        return outcome
    metric = next(metric for metric in workload.metrics if metric.name in outcome.values)
    text = f"{report.number(outcome.values[metric.name])} {metric.unit}"
    if outcome.failed:
        text += f", {outcome.failed} failed"
    return "; ".join([text, *outcome.notes])


def run() -> NoReturn:
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
