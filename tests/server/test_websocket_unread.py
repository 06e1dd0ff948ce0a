"""Bytes of WebSockets that their views do not read: what is held of them has a bound."""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from threading import Thread

import pytest
from attacks import UNREAD, Outcome, leave_unread, websocket_frame
from h2client import Client
from harness import Server, wait_for
from raw import RawClient
from server.test_attacks import ATTEMPTS, FACTOR, GROWTH, REQUESTS, latency, slowdown
from ws import Http2Socket, upgrade_request

Serve = Callable[..., Server]

#: Seconds of each attack.
SECONDS = 3.0


@pytest.fixture(scope="module")
def attackers() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(int).result()
        yield pool


def attack(pool: ProcessPoolExecutor, server: Server, name: str) -> tuple[Outcome, float, int]:
    """What became of it, how many times as long others waited, and the most memory meanwhile."""
    worker = server.worker()
    with Client(server) as client:
        for _ in range(20):
            latency(client)
        before = [latency(client) for _ in range(REQUESTS)]
        attacked = pool.submit(leave_unread, name, server.port, str(server.certfile), SECONDS)
        beside, memory = [], []
        while not attacked.done():
            beside.append(latency(client))
            memory.append(worker.memory_info().rss)
        after = [latency(client) for _ in range(REQUESTS)]
    return attacked.result(), slowdown(beside, before, after), max(memory)


@pytest.mark.alone
@pytest.mark.parametrize("name", UNREAD)
def test_attack(attackers: ProcessPoolExecutor, serve: Serve, name: str) -> None:
    server = serve()
    with RawClient(server) as other, Http2Socket(other, "/ws/echo") as echo:
        echo.send("the asyncio loop has started")
        echo.recv()
        memory = server.worker().memory_info().rss
        slowdowns: list[float] = []
        while not slowdowns or slowdowns[-1] > FACTOR:
            assert len(slowdowns) < ATTEMPTS, slowdowns
            outcome, slower, most = attack(attackers, server, name)
            assert most < memory + GROWTH, outcome
            slowdowns.append(slower)
            echo.send("")  # and answer its pings, or it is closed after 40 s
            echo.recv()
        if name in ("not-accepted", "push-only"):
            assert outcome.resets["ENHANCE_YOUR_CALM"], outcome
        echo.send("still here")
        assert echo.recv() == "still here"


def test_a_large_message_beside_an_attack(attackers: ProcessPoolExecutor, server: Server) -> None:
    with RawClient(server) as client, Http2Socket(client, "/ws/echo") as sock:
        attacked = attackers.submit(
            leave_unread, "push-only", server.port, str(server.certfile), SECONDS
        )
        rounds = 0
        while not attacked.done() or not rounds:
            sock.send(b"x" * 5_000_000)
            assert len(sock.recv()) == 5_000_000
            rounds += 1
        assert attacked.result().resets


def test_http1_is_told_to_come_again(serve: Serve) -> None:
    """Over HTTP/1.1 a WebSocket that holds too much is closed with 1013."""
    server = serve()
    worker = server.worker()
    socks = [server.connect("http/1.1") for _ in range(20)]
    for sock in socks:
        sock.sendall(upgrade_request("/ws/push"))
        assert sock.recv(1000).startswith(b"HTTP/1.1 101 ")
    memory = worker.memory_info().rss
    threads = [Thread(target=send_messages, args=(sock,)) for sock in socks]
    for thread in threads:
        thread.start()

    def close_came() -> bool:
        assert worker.memory_info().rss < memory + GROWTH
        return any(b"\x88\x14\x03\xf5Too much is unread" in received(sock) for sock in socks)

    wait_for(close_came, "close with 1013")
    for sock in socks:
        sock.close()
    for thread in threads:
        thread.join()


def send_messages(sock: socket.socket) -> None:
    with suppress(OSError):
        for _ in range(16):
            sock.sendall(websocket_frame(bytes(2**20 - 14)))


def received(sock: socket.socket) -> bytes:
    with suppress(OSError):
        return sock.recv(65536)
    return b""
