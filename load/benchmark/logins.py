"""Whether logins delay other streams: small requests, alone and beside logins.

    python load/benchmark/logins.py [--server plain] [--rate 20] [--iterations 60000] [--seconds 8]

All on one HTTP/2 connection; one small request every 10 ms. A login hashes a password with
plain.passwords; without `--iterations` with its own number of them.
"""

import argparse
import tempfile
import time
from pathlib import Path

import client
from from_tests import make_certificate
from h2load import percentile
from kinds import KINDS
from servers import Server

#: Seconds between small requests.
INTERVAL = 0.01


class Load:
    """Sends small requests and logins when they are due, and takes what comes back."""

    def __init__(self, connection: client.Connection, rate: float, login: str) -> None:
        self._connection = connection
        self._login = login
        self._login_interval = 1 / rate if rate else float("inf")
        self._small: dict[int, float] = {}  # stream -> when it was due
        self._logins: set[int] = set()
        self.latencies: list[float] = []
        self.logged_in = 0

    def run(self, seconds: float) -> None:
        now = started = time.perf_counter()
        small_due, login_due = now, now + self._login_interval
        while now < started + seconds:
            if now >= login_due:
                self._logins.add(self._connection.request(self._login))
                login_due += self._login_interval
            if now >= small_due:
                self._small[self._connection.request("/hello")] = small_due
                small_due += INTERVAL
            self._receive(max(0.0001, min(small_due, login_due) - time.perf_counter()))
            now = time.perf_counter()

    def _receive(self, timeout: float) -> None:
        self._connection.settimeout(timeout)
        try:
            for part in self._connection.receive():
                if part.ended:
                    self._ended(part.stream)
        except TimeoutError:
            pass

    def _ended(self, stream: int) -> None:
        if stream in self._logins:
            self._logins.remove(stream)
            self.logged_in += 1
        else:
            self.latencies.append(time.perf_counter() - self._small.pop(stream))


def measure(server: Server, rate: float, login: str, seconds: float) -> str:
    with client.Connection(server.port) as connection:
        load = Load(connection, rate, login)
        load.run(seconds)
    times = sorted(load.latencies)
    p50, p99 = percentile(times, 50) * 1e3, percentile(times, 99) * 1e3
    logins = f"{load.logged_in / seconds:5.1f} logins/s" if rate else "without logins"
    return f"{logins:15} p50 {p50:6.2f} ms   p99 {p99:6.2f} ms   ({len(times)} requests)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", choices=KINDS, default="gevent-h2")
    parser.add_argument("--rate", type=float, default=20, help="logins a second")
    parser.add_argument("--iterations", type=int, help="of PBKDF2")
    parser.add_argument("--seconds", type=float, default=8)
    options = parser.parse_args()
    login = "/login" + (f"?iterations={options.iterations}" if options.iterations else "")
    with tempfile.TemporaryDirectory() as folder:
        make_certificate(Path(folder))
        for rate in (0, options.rate) * 3:
            with Server(KINDS[options.server], Path(folder)) as server:
                print(measure(server, rate, login, options.seconds), flush=True)


if __name__ == "__main__":
    main()
