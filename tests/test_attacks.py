"""Real attacks on a real worker, and a client beside them that must not notice."""

import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from threading import Thread

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

#: A machine that is slow for a while may be so during one attack, not during each of these.
ATTEMPTS = 3

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
    target = server.port, str(server.certfile)
    slowdowns = []
    for _ in range(ATTEMPTS):
        with Client(server) as client:
            for _ in range(20):
                latency(client)
            before = [latency(client) for _ in range(REQUESTS)]
            attacked = pool.submit(
                run_at_once, at_once, name, *target, seconds=SECONDS, reads=reads
            )
            beside = [latency(client)]
            while not attacked.done():
                beside.append(latency(client))
            outcome = attacked.result()
            # Before and after: what else the machine does may begin meanwhile.
            after = [latency(client) for _ in range(REQUESTS)]
        slowdowns.append(slowdown(beside, before, after))
        if slowdowns[-1] <= FACTOR:
            return outcome
    pytest.fail(f"others waited {slowdowns} times as long: {outcome}")


def slowdown(beside: list[float], *unattacked: list[float]) -> float:
    """How many times as long others wait beside an attack, from lists of latencies."""
    usual = max(statistics.median(latencies) for latencies in unattacked)
    return statistics.median(beside) / max(usual, LEAST_LATENCY)


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


def test_memory_comes_back_each_time(
    attackers: ProcessPoolExecutor, server: Server, memory: int
) -> None:
    # The second burst takes what the first has left free, or given back.
    target = server.port, str(server.certfile)
    for _ in range(4):
        for name in ("cookie-in-thousands", "http2-bomb"):
            attackers.submit(run_at_once, 20, name, *target, seconds=1, reads=True).result()
        comes_back(server, memory)


#: Frames of a WebSocket, masked with zeros: a message's first, and more of the same.
WEBSOCKET_FLOODS = {
    "empty-fragments": (b"\x02\x80\0\0\0\0", b"\0\x80\0\0\0\0"),
    "pongs": (b"", b"\x8a\x80\0\0\0\0"),
}


def send_until_closed(sock: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        while True:
            sock.sendall(data)


@pytest.mark.parametrize("name", WEBSOCKET_FLOODS)
def test_a_websocket_flood_leaves_others_their_turn(
    serve: Callable[..., Server], name: str
) -> None:
    """Plain's reader takes them one by one, in the loop's thread, and none makes it wait."""
    server = serve()
    slowdowns = []
    while not slowdowns or slowdowns[-1] > FACTOR:
        assert len(slowdowns) < ATTEMPTS, slowdowns
        with Client(server) as client, server.connect("http/1.1") as flood:
            slowdowns.append(slowdown_by_flood(client, flood, *WEBSOCKET_FLOODS[name]))


def slowdown_by_flood(client: Client, flood: socket.socket, first: bytes, frame: bytes) -> float:
    for _ in range(20):
        latency(client)
    before = [latency(client) for _ in range(REQUESTS)]
    flood.sendall(
        b"GET /ws/echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert flood.recv(1000).startswith(b"HTTP/1.1 101 ")
    flood.sendall(first)
    sender = Thread(target=send_until_closed, args=(flood, frame * 10_000))
    sender.start()
    try:
        beside = [latency(client) for _ in range(2 * REQUESTS)][REQUESTS:]
        assert sender.is_alive()
    finally:
        flood.shutdown(socket.SHUT_RDWR)
        sender.join()
    # Not after: the server reads on in what the kernel still holds.
    return slowdown(beside, before)
