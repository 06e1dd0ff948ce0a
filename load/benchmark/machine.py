"""The machine and the programs that a run is measured with."""

import os
import platform
import resource
import ssl
import subprocess
import time
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

import h2load
from folders import REPOSITORY
from kinds import KINDS
from progress import say


def describe(servers: Iterable[str], rounds: int, seconds: float, workers: int) -> dict[str, str]:
    """What the numbers of a run were measured with and on."""
    needed = dict.fromkeys(name for server in servers for name in KINDS[server].needs)
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        **{name: installed(name) for name in needed},
        "commit": commit(),
        "h2load": h2load.version(),
        "openssl": ssl.OPENSSL_VERSION,
        "machine": f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs, "
        f"load {os.getloadavg()[0]:.2f} as it began",
        "run": f"{rounds} rounds, {seconds:g} s each, TLS, loopback",
        "processes": f"{workers} for each server",
    }


def installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str:
    """The repository's commit, with a + if its package was changed since."""
    try:
        git = ["git", "-C", str(REPOSITORY)]
        head = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        status = [*git, "status", "--porcelain", "--", "plain_gevent_h2"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed.strip() else "")


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
