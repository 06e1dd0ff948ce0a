"""Real attacks on a real worker, and a client beside them that must not notice."""

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from attacks import ANSWERED, ATTACKS, MANY_AT_ONCE, Outcome, run_at_once
from h2client import Client
from harness import Server, wait_for

#: Seconds of each attack, one connection after another.
SECONDS = 1.0

#: Requests that are measured before an attack, and after it.
REQUESTS = 100

#: What the median latency of the client beside an attack may come to: three times the
#: unattacked one, or of these seconds if that was less (a client in Python on a machine that
#: is shared).
FACTOR = 3
LEAST_LATENCY = 0.002

#: Bytes that a worker may have grown by after any number of attacks: as much as it lets the
#: allocator keep of what was freed (`memory.py`).
GROWTH = 64 * 1024 * 1024


@pytest.fixture(scope="module")
def attackers() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(int).result()
        yield pool


@pytest.fixture(scope="module")
def server(tls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(
        tls, env={"PLAIN_SERVER_MAX_REQUESTS": "0"}, tmp=tmp_path_factory.mktemp("server")
    ) as running:
        yield running


@pytest.fixture(scope="module")
def memory(server: Server) -> int:
    """Bytes that the worker takes before the first attack."""
    with Client(server) as client:
        for _ in range(200):
            latency(client)
    return server.worker().memory_info().rss


def latency(client: Client) -> float:
    """Seconds that a request takes, which must succeed."""
    started = time.perf_counter()
    answer = client.get("/")
    assert (answer.status, answer.body) == (200, b"hello")
    return time.perf_counter() - started


def attack(
    pool: ProcessPoolExecutor, server: Server, name: str, *, reads: bool = True, at_once: int = 1
) -> Outcome:
    """Run an attack, by so many attackers, beside a client, and check that client."""
    with Client(server) as client:
        for _ in range(20):
            latency(client)
        before = [latency(client) for _ in range(REQUESTS)]
        target = server.port, str(server.certfile)
        attacked = pool.submit(run_at_once, at_once, name, *target, seconds=SECONDS, reads=reads)
        beside = []
        while not attacked.done():
            beside.append(latency(client))
        outcome = attacked.result()
        # Before and after: what else the machine does may begin meanwhile.
        after = [latency(client) for _ in range(REQUESTS)]
        unattacked = max(statistics.median(before), statistics.median(after))
        bound = FACTOR * max(unattacked, LEAST_LATENCY)
        assert statistics.median(beside) <= bound, (unattacked, outcome)
    return outcome


def comes_back(server: Server, memory: int) -> None:
    """The worker is the one of before the attack, and takes no more than it may."""
    process = server.worker()
    wait_for(lambda: process.memory_info().rss < memory + GROWTH, "memory of before")


@pytest.mark.parametrize("name", ATTACKS)
def test_attack(attackers: ProcessPoolExecutor, server: Server, memory: int, name: str) -> None:
    outcome = attack(attackers, server, name)
    assert set(outcome.goaways) == {"ENHANCE_YOUR_CALM"}, outcome
    assert not outcome.resets, outcome
    comes_back(server, memory)


@pytest.mark.parametrize("name", MANY_AT_ONCE)
def test_attack_by_20_at_once(
    attackers: ProcessPoolExecutor, server: Server, memory: int, name: str
) -> None:
    outcome = attack(attackers, server, name, at_once=20)
    assert outcome.connections >= 20
    assert set(outcome.goaways) == {"ENHANCE_YOUR_CALM"}, outcome
    comes_back(server, memory)


@pytest.mark.parametrize("name", ANSWERED)
def test_attack_by_one_who_never_reads(
    attackers: ProcessPoolExecutor, server: Server, memory: int, name: str
) -> None:
    # It cannot be told, but it is closed.
    outcome = attack(attackers, server, name, reads=False)
    assert outcome.connections
    assert "never" not in outcome.resets
    comes_back(server, memory)
