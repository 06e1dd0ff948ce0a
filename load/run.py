"""Runs a locust file against the app in load/app, with a server and a certificate of its own.

    scripts/load browse                         100 users for 30 seconds, with no web page
    scripts/load mix -u 1000 -r 100 -t 60s      1,000 users, 100 more each second, for a minute
    scripts/load api --processes 2              the users in two processes
    scripts/load events --web                   started and watched in a browser
    scripts/load browse --host https://test.example --ca-file ca.pem        a server of yours

The exit code is locust's: 0 if the run has passed, 1 if not. All options but --web are for
locust: `locust --help`, and of the file itself: `locust -f load/locust/mix.py --help`.
"""

import argparse
import ast
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from servers import KINDS, LOAD, CannotRunError, Kind, Launch, Server, make_certificate

#: Runs a command in a session of its own: Ctrl-C is for locust, which sums up before the
#: server may end.
APART = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"


def title(path: Path) -> str:
    """The first line of a locust file's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


#: Each with what it says of itself.
FILES = {
    path.stem: title(path)
    for path in sorted((LOAD / "locust").glob("*.py"))
    if path.stem != "common"
}


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
    command = [sys.executable, "-m", "locust", "-f", str(LOAD / "locust" / f"{arguments.file}.py")]
    if not arguments.web:
        command += ["--headless", "--run-time", "30s", "--only-summary"]
    command += ["--users", "100", "--spawn-rate", "50"]
    if arguments.host:
        return run([*command, "--host", arguments.host, *rest])
    with tempfile.TemporaryDirectory() as folder:
        make_certificate(Path(folder))
        try:
            with Server(apart(KINDS["gevent-h2"]), Path(folder)) as server:
                host = ["--host", server.url, "--ca-file", f"{folder}/cert.pem"]
                return run([*command, *host, *rest])
        except CannotRunError as exc:
            print(f"the server: {exc}", file=sys.stderr)
            return 2


def apart(kind: Kind) -> Kind:
    def command(launch: Launch) -> list[str]:
        return [sys.executable, "-c", APART, *kind.command(launch)]

    return replace(kind, command=command)


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
