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
import signal
import sys
from pathlib import Path
from typing import NoReturn

import h2load
import report
from arguments import positive_float, positive_int
from kinds import KINDS
from machine import describe
from progress import say
from rounds import run_all
from workloads import WORKLOADS


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
        about = describe(args.servers, args.rounds, args.seconds, args.workers)
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


def run() -> NoReturn:
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    run()
