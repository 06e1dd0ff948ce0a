"""Mixed traffic, and clients that die in every possible place; then a look at what is left.

`scripts/soak` runs it for minutes, `test_soak.py` for seconds. Ends with a report, and with
status 1 if anything is left behind or an honest client was not served.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from certificate import make_certificate
from harness import Server
from inside import Inside
from soak_clients import HONEST, SPOOL, dies

#: Clients at once.
CLIENTS = 8

#: The part of the time that is not measured: caches fill, threads start.
WARM_UP = 0.25

#: What the worker may keep: memory that its allocator does not give back (`memory.py`), and
#: Python's blocks, most of them in caches of Plain and of the standard library.
GROWTH = 64 * 1024 * 1024
BLOCKS = 1.03

ENV = {
    "PLAIN_SERVER_BODY_MAX_MEMORY_SIZE": str(SPOOL),
    # A report of a stall of the machine would leave source lines in linecache, among the blocks.
    "PLAIN_SERVER_HUB_BLOCKED_SECONDS": "60",
}


class Traffic:
    """What `CLIENTS` threads do: one honest client, one that dies, and so on."""

    def __init__(self, server: Server, seed: int) -> None:
        self._server = server
        self._seed = seed
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []

    def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._client, args=(random.Random(self._seed + i), until))
            for i in range(CLIENTS)
        ]
        self._seed += CLIENTS
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, rng: random.Random, until: float) -> None:
        while time.monotonic() < until and not self.failures:
            honest = rng.choice(HONEST)
            self._attempt(honest.__name__, lambda: honest(self._server, rng))  # noqa: B023
            self._attempt("one that dies", lambda: self.done.update([dies(self._server, rng)]))

    def _attempt(self, name: str, act: Callable[[], None]) -> None:
        def attempt() -> None:
            try:
                act()
                self.done[name] += 1
            except Exception:
                self.failures.append(f"{name}: {traceback.format_exc()}")

        # On a thread of its own: CPython leaves the reset of one SSLSocket in the thread's queue
        # of OpenSSL errors, where the next one would find it.
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()


def soak(server: Server, seconds: float, seed: int) -> list[str]:
    """Run the traffic on `server` (made with `ENV`), print a report, return what was wrong."""
    traffic = Traffic(server, seed)
    traffic.run(seconds * WARM_UP)
    worker = server.worker()
    with Inside(server) as inside:
        memory = worker.memory_info().rss
        traffic.run(seconds * (1 - WARM_UP))
        wrong = traffic.failures + [f"{what}: {n}" for what, n in inside.left().items()]
        try:
            inside.expect_quiet_log()
        except AssertionError as exc:
            wrong.append(f"in the log: {exc}")
        before, after = inside.before, inside.count()
        grown = worker.memory_info().rss - memory
    if grown > GROWTH:
        wrong.append(f"memory grew by {grown:,} bytes")
    if after["blocks"] > before["blocks"] * BLOCKS:
        wrong.append(f"Python's blocks: {before['blocks']:,} -> {after['blocks']:,}")
    print(f"\n{seconds:g} s with seed {seed}, {CLIENTS} clients at once:")
    for name, number in sorted(traffic.done.items()):
        print(f"  {number:7,} {name}")
    print("What the worker holds, before and after:")
    for name, number in before.items():
        if isinstance(number, int):
            print(f"  {name:12} {number:12,} {after[name]:12,}")
    print(f"  {'greenlets':12} {len(before['greenlets']):12,} {len(after['greenlets']):12,}")
    print(f"  {'memory (RSS)':12} {memory:12,} {memory + grown:12,}")
    print("\n".join(["WRONG:", *wrong]) if wrong else "Nothing is left behind.")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/soak", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=3, help="default: 3")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tmp = Path(folder)
        tls = make_certificate(tmp)
        with Server(tls, "--no-access-log", env=ENV, tmp=tmp) as server:
            wrong = soak(server, options.minutes * 60, options.seed)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
