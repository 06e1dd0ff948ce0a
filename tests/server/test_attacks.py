"""Real attacks on a real worker, and a client beside them that must not notice."""

import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread

import pytest
import raw
from attacks import ANSWERED, ATTACKS, MANY_AT_ONCE, Outcome, in_frames, run_at_once
from h2.errors import ErrorCodes
from h2client import Client
from harness import Server, wait_for
from hpack import Encoder
from inside import Inside

#: Seconds of each attack, one connection after another.
SECONDS = 0.5

#: Requests that are measured before an attack, and after it.
REQUESTS = 50

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
    slowdowns: list[float] = []
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


@pytest.mark.alone
@pytest.mark.parametrize("name", ATTACKS)
def test_attack(attackers: ProcessPoolExecutor, server: Server, memory: int, name: str) -> None:
    outcome = attack(attackers, server, name)
    assert set(outcome.goaways) == {"ENHANCE_YOUR_CALM"}, outcome
    assert not outcome.resets, outcome
    comes_back(server, memory)


@pytest.mark.alone
@pytest.mark.parametrize("name", MANY_AT_ONCE)
def test_attack_by_20_at_once(
    attackers: ProcessPoolExecutor, server: Server, memory: int, name: str
) -> None:
    outcome = attack(attackers, server, name, at_once=20)
    assert set(outcome.goaways) == {"ENHANCE_YOUR_CALM"}, outcome
    assert outcome.goaways.total() >= 20, outcome
    assert "never" not in outcome.resets, outcome
    comes_back(server, memory)


@pytest.mark.alone
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
            attackers.submit(run_at_once, 20, name, *target, seconds=SECONDS, reads=True).result()
        comes_back(server, memory)


class TestHeaderBytes:
    """Requests whose header fields take the worker much more than the client sent."""

    @pytest.fixture
    def server(self, serve: Callable[..., Server]) -> Server:
        return serve()  # what the views of one hold would keep out another's

    @pytest.fixture
    def memory(self, server: Server) -> int:
        with Client(server) as client:
            for _ in range(200):
                latency(client)
        return server.worker().memory_info().rss

    @pytest.mark.alone
    def test_references_to_one_long_field(self, server: Server, memory: int) -> None:
        """20 connections of 100 requests, each of 50 bytes that name a field of 4 KB 15 times."""
        with ExitStack() as stack, Client(server) as client:
            encoder, path = Encoder(), raw.request_fields("/sleep?s=9")
            field = ("x", "v" * 3800)
            first = encoder.encode([*path, field])
            block = encoder.encode(path) + encoder.encode([field]) * 15
            frames = [raw.headers(1, first), *(raw.headers(i, block) for i in range(3, 200, 2))]
            attackers = [stack.enter_context(raw.RawClient(server)) for _ in range(20)]
            before = [latency(client) for _ in range(REQUESTS)]
            for attacker in attackers:
                attacker.send(*frames)
                latency(client)
            assert server.worker().memory_info().rss < memory + GROWTH
            beside = [[latency(client) for _ in range(REQUESTS)] for _ in range(ATTEMPTS)]
            assert min(slowdown(latencies, before) for latencies in beside) <= FACTOR
            server.wait_log("Too many bytes of header fields, refusing requests")
        comes_back(server, memory)

    def test_one_connection_that_fills_the_budget(self, serve: Callable[..., Server]) -> None:
        """100 streams, which are the default, are too few for it."""
        server = serve(env={"PLAIN_SERVER_H2_MAX_CONCURRENT_STREAMS": "300"})
        with raw.RawClient(server) as attacker, Client(server) as client:
            for _ in range(200):
                latency(client)
            memory = server.worker().memory_info().rss
            encoder, field = Encoder(), ("x", "v" * 3800)
            path = raw.request_fields("/sleep?s=5")
            attacker.send(raw.headers(1, encoder.encode([*path, field])))
            block = encoder.encode(path) + encoder.encode([field]) * 15
            attacker.send(*(raw.headers(i, block) for i in range(3, 600, 2)))
            goaway = attacker.expect_connection_error(ErrorCodes.ENHANCE_YOUR_CALM)
            assert goaway.additional_data == b"too many bytes of header fields"
            latency(client)
        comes_back(server, memory)

    def test_a_browser_with_60_kb_of_cookies(self, server: Server) -> None:
        cookies = [("cookie", f"c{i}={'a' * 3900}") for i in range(15)]
        with raw.RawClient(server) as client:
            for path in ("/sleep?s=0.2", "/"):
                # One encoding for all: it refers to nothing in the table, where no two cookies fit.
                block = Encoder().encode([*raw.request_fields(path), *cookies])
                streams = [client.new_stream_id() for _ in range(100)]
                client.send(*(b"".join(in_frames(stream, block)) for stream in streams))
                assert {client.finish(stream).status for stream in streams} == {200}

    def test_others_with_cookies_beside_those_that_hold_much(self, server: Server) -> None:
        """Four connections, each with less than half of what a worker may hold."""
        cookies = tuple(("cookie", f"c{i}={'a' * 3900}") for i in range(4))
        encoder = Encoder()
        path, field = raw.request_fields("/sleep?s=5"), ("x", "v" * 3800)
        first = encoder.encode([*path, field])
        block = encoder.encode(path) + encoder.encode([field]) * 15
        with ExitStack() as stack, Client(server) as client:
            for _ in range(4):
                attacker = stack.enter_context(raw.RawClient(server))
                attacker.send(raw.headers(1, first))
                attacker.send(*(raw.headers(i, block) for i in range(3, 200, 2)))
            server.wait_log("Too many bytes of header fields, refusing requests")
            assert {client.get("/", cookies).status for _ in range(20)} == {200}

    @pytest.mark.parametrize("end", [b"\r\n", b""], ids=["whole", "half"])
    def test_long_heads_over_http1(self, server: Server, memory: int, end: bytes) -> None:
        """400 of 56 KB each, whose views go on until the last has come."""
        fields = b"".join(b"x%d: %s\r\n" % (i, b"v" * 8000) for i in range(7))
        head = b"GET /gated?gates=first HTTP/1.1\r\nHost: localhost\r\n" + fields + end
        with Inside(server) as inside, ExitStack() as stack, Client(server) as client:
            inside.order("shut")
            attackers = [stack.enter_context(server.connect("http/1.1")) for _ in range(400)]
            for attacker in attackers:
                with suppress(OSError):  # the rest of it, once it is refused
                    attacker.sendall(head)
                latency(client)
            assert server.worker().memory_info().rss < memory + GROWTH
            if end:
                assert attackers[-1].recv(100).startswith(b"HTTP/1.1 503 ")
            else:
                assert attackers[0].recv(100) == b""  # who has waited longest for its end
            inside.order("open")
        comes_back(server, memory)

    def test_header_blocks_without_an_end(self, server: Server, memory: int) -> None:
        """300 of 100 KB, each on a connection of its own."""
        block = b"\0\x01x\x7f\x80\x80\x7f" + b"v" * 100_000
        pieces = [block[start : start + 16384] for start in range(0, len(block), 16384)]
        frames = [raw.headers(1, pieces[0], end_headers=False)]
        frames += [raw.continuation(1, piece, end_headers=False) for piece in pieces[1:]]
        cookies = tuple(("cookie", f"c{i}={'a' * 3900}") for i in range(15))
        with ExitStack() as stack, Client(server) as client:
            attackers = [stack.enter_context(raw.RawClient(server)) for _ in range(300)]
            for attacker in attackers:
                attacker.send(*frames)
                latency(client)
            assert server.worker().memory_info().rss < memory + GROWTH
            assert client.get("/", cookies).status == 200
            goaway = attackers[0].expect_connection_error(ErrorCodes.ENHANCE_YOUR_CALM)
            assert goaway.additional_data == b"too many bytes of header fields"
        comes_back(server, memory)

    def test_connections_that_end_inside_a_header_block_leave_nothing(
        self, server: Server, memory: int
    ) -> None:
        block = raw.headers(1, b"\0\x01x\x7f\x80\x80\x7f" + b"v" * 16000, end_headers=False)
        more = raw.continuation(1, b"v" * 16000, end_headers=False)
        for _ in range(1000):
            with raw.RawClient(server) as attacker:
                attacker.send_bytes(block + more)
        process = server.worker()
        wait_for(lambda: process.memory_info().rss < memory + GROWTH // 2, "memory of before", 60)

    def test_long_paths_cost_no_other_request(self, server: Server) -> None:
        """A page with 25 images whose signed addresses are too long."""
        with Client(server) as client:
            other = client.send("/sleep?s=1")
            images = [client.send(f"/{i}?{'a' * 8300}") for i in range(25)]
            assert {answer.status for answer in client.finish(*images)} == {414}
            assert client.finish(other)[0].status == 200


@pytest.mark.alone
def test_an_honest_client_among_those_that_are_slowed_down(server: Server) -> None:
    """250 connections stay just strained; one that has cancelled 240 requests asks for more."""
    block = Encoder().encode(raw.request_fields())
    with ExitStack() as stack:
        strained = [stack.enter_context(raw.RawClient(server)) for _ in range(250)]
        honest = stack.enter_context(raw.RawClient(server))
        pings = [raw.ping() * 15] * 8  # past a tenth of their budget
        for client in strained:
            client.send(*pings)
        stop = Event()

        def keep_on() -> None:
            while not stop.wait(0.01):
                for client in strained:
                    with suppress(OSError):
                        client.sock.sendall(raw.ping() * 10)

        sender = Thread(target=keep_on)
        sender.start()
        try:
            for stream in range(1, 481, 2):
                honest.send(raw.headers(stream, block), raw.rst_stream(stream))
            honest.expect_alive()
            honest.next_stream_id = 481
            for _ in range(20):
                assert honest.finish(honest.open(raw.request_fields())).body == b"hello"
            wait_for(lambda: "too many penalties" in server.log(), "end of some")
        finally:
            stop.set()
            sender.join()


def test_300_connections_that_flood_at_once(server: Server, memory: int) -> None:
    """What those that are slowed down have sent stays where it is: 80 MB of theirs were read."""
    flood = raw.PREFACE + raw.settings() + raw.ping() * 15_000
    with ExitStack() as stack, Client(server) as client:
        attackers = [stack.enter_context(server.connect("h2")) for _ in range(300)]
        worker = server.worker()
        most = 0
        for attacker in attackers:
            attacker.setblocking(False)
            with suppress(OSError):
                attacker.send(flood)
            most = max(most, worker.memory_info().rss)
        for _ in range(REQUESTS):
            latency(client)
            most = max(most, worker.memory_info().rss)
        assert most < memory + GROWTH
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


@pytest.mark.alone
@pytest.mark.parametrize("name", WEBSOCKET_FLOODS)
def test_a_websocket_flood_leaves_others_their_turn(
    serve: Callable[..., Server], name: str
) -> None:
    """Plain's reader takes them one by one, in the loop's thread, and none makes it wait."""
    server = serve()
    slowdowns: list[float] = []
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
