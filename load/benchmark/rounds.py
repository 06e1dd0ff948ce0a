"""The rounds of a run: every server in turn, at every workload, and one measurement."""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import h2load
import psutil
import report
from folders import BENCHMARK
from from_tests import make_certificate
from kinds import KINDS, LIMIT, Kind
from machine import allow_open_files
from progress import Progress
from servers import CannotRunError, Server
from workload import Options, Sample, Workload
from workloads import WORKLOADS

#: Seconds, about, that a measurement takes beyond its own time: start, warm-up, stop.
OVERHEAD = 2.0


def run_all(args: argparse.Namespace) -> report.Cells:
    allow_open_files()
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    try:
        make_certificate(folder)
        (folder / "body.bin").write_bytes(b"x" * 10 * 1024 * 1024)
        return measure_all(args, Options(args.seconds, args.workers, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
            h2load.warm_up(server.url, options.folder)
            sample = workload.run(server, options)
            if server.was_replaced():
                sample.notes.append("a process of the server ended while it was measured")
            return sample
    except (CannotRunError, psutil.Error) as exc:
        return f"failed: {exc}"


def measure_limit(options: Options) -> Sample:
    """What one process can do at most; with several, as many times that."""
    run = subprocess.run(
        [sys.executable, str(BENCHMARK / "limit.py"), "--json", "--seconds", str(options.seconds)],
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
