"""Runs a locust file against the app in load/project, with a server and a certificate of its own.

    scripts/load browse                         100 users for 30 seconds, with no web page
    scripts/load mix -u 1000 -r 100 -t 60s      1,000 users, 100 more each second, for a minute
    scripts/load api --processes 2              the users in two processes
    scripts/load events --web                   started and watched in a browser
    scripts/load browse --host https://test.example --ca-file ca.pem        a server of yours

The exit code is locust's: 0 if the run has passed, 1 if not. All options but --web are for
locust: `locust --help`, and of the file itself: `locust -f load/locust/mix.py --help`.
"""

# ruff: noqa: E402
import argparse
import ast
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent / "project"

# At the end: nothing in tests/ may hide a module of the same name.
sys.path.append(str(HERE.parents[1] / "tests"))

from certificate import make_certificate
from harness import Server

#: Variables of the caller's environment that would change what is measured.
FOREIGN = ("PLAIN_", "PYTHON")


def title(path: Path) -> str:
    """The first line of a locust file's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


#: Each with what it says of itself.
FILES = {
    path.stem: title(path)
    for path in sorted(HERE.glob("*.py"))
    if path.stem not in ("common", "run")
}


class App(Server):
    """This worker with the app in load/project."""

    #: Ctrl-C is for locust, which sums up before the server may end.
    own_session = True

    def __init__(self, folder: Path) -> None:
        tls = make_certificate(folder)
        super().__init__(tls, "--no-access-log", "--workers", "1", project=PROJECT, tmp=folder)
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"%(prog)s {{{','.join(FILES)}}} [--web] [LOCUST'S OPTIONS]",
        epilog="\n".join(["files:", *(f"  {name:<18} {of}" for name, of in FILES.items())]),
    )
    parser.add_argument("file", choices=FILES, metavar="FILE", help="one of those below")
    parser.add_argument("--web", action="store_true", help="with locust's web page")
    parser.add_argument("-H", "--host", help="of a server that runs already")
    arguments, rest = parser.parse_known_args()
    command = [sys.executable, "-m", "locust", "-f", str(HERE / f"{arguments.file}.py")]
    if not arguments.web:
        command += ["--headless", "--run-time", "30s", "--only-summary"]
    command += ["--users", "100", "--spawn-rate", "50"]
    if arguments.host:
        return run([*command, "--host", arguments.host, *rest])
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(App(Path(folder)))
        except AssertionError as exc:
            print(f"the server: {exc}", file=sys.stderr)
            return 2
        return run([*command, "--host", server.url, "--ca-file", str(server.certfile), *rest])


def run(command: list[str]) -> int:
    with subprocess.Popen(command) as locust:
        signal.signal(signal.SIGTERM, lambda *_: locust.terminate())
        while True:
            try:
                return locust.wait()
            except KeyboardInterrupt:
                continue  # locust has got it, too, and sums up


if __name__ == "__main__":
    sys.exit(main())
