"""What an HTTP/1.1 connection reads: heads and bodies, and what it throws away at its end."""

import struct
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from clock import Clock
from gevent import socket as gsocket
from gevent.event import Event

from plain_gevent_h2.app.plain_internals import (
    BODY_RECV_TIMEOUT,
    HEADER_READ_TIMEOUT,
    LINGER_CLOSE_MAX_BYTES,
    RECV_PROGRESS_TIMEOUT,
    BodyBudgetExceeded,
    ChunkedFramingError,
    InvalidHeaderName,
    LimitRequestHeaders,
    ParsedRequest,
)
from plain_gevent_h2.app.request_rules import RequestRules
from plain_gevent_h2.app.upload_budget import UploadBudget
from plain_gevent_h2.http1 import body as body_module
from plain_gevent_h2.http1 import head as head_module
from plain_gevent_h2.http1.body import CHUNKS_IN_A_TURN, BodyReader, IncompleteBody
from plain_gevent_h2.http1.head import (
    HEAD_RECV_SIZE,
    MAX_HEAD_LINES,
    MAX_HEAD_SIZE,
    HeadReader,
)
from plain_gevent_h2.http1.socket_reader import SocketReader
from plain_gevent_h2.limits.header_budget import FREE, HeaderBudget
from plain_gevent_h2.net.fairness import yield_to_others
from plain_gevent_h2.net.log_throttle import Failures
from plain_gevent_h2.net.tls_socket import RECV_SIZE


class Socket:
    """One from which these pieces come; an exception among them is raised, `None` waits."""

    def __init__(self, *pieces: bytes | Exception | None) -> None:
        self.pieces = list(pieces)
        self.sizes: list[int] = []
        self.timeouts: list[float | None] = []
        self.options: list[bytes] = []
        self.told: list[str] = []

    def recv(self, size: int) -> bytes:
        self.sizes.append(size)
        piece = self.pieces.pop(0) if self.pieces else b""
        if piece is None:
            Event().wait()
        if isinstance(piece, Exception):
            raise piece
        assert piece is not None
        if len(piece) > size:
            self.pieces.insert(0, piece[size:])
        return piece[:size]

    def settimeout(self, timeout: float | None) -> None:
        self.timeouts.append(timeout)

    def setsockopt(self, _level: int, _option: int, value: bytes) -> None:
        self.options.append(value)

    def shutdown(self, how: int) -> None:
        assert how == gsocket.SHUT_WR
        self.told.append("shutdown")


class Host:
    """As much of a worker as reads."""

    def __init__(self, *, is_tls: bool = False, min_body_rate: int = 0) -> None:
        self.drain_read_deadline: float | None = None
        self.rules = RequestRules(
            is_tls=is_tls,
            health_check_path="",
            keepalive_timeout=5,
            max_body_size=100_000,
            body_memory_size=100_000,
            min_body_rate=min_body_rate,
        )
        self.limits = SimpleNamespace(headers=HeaderBudget(), uploads=UploadBudget(50_000))
        self.failed_handshakes = Failures("Handshakes failed")


class Holder:
    def close_for_headers(self) -> None:
        raise AssertionError


@pytest.fixture(autouse=True)
def _time_limit() -> Iterator[None]:
    with gevent.Timeout(10):
        yield


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


GET = b"GET /x HTTP/1.1\r\nHost: localhost\r\nA: b\r\n\r\n"


class TestHead:
    @staticmethod
    def make(*received: bytes | Exception | None, **options: bool) -> tuple[HeadReader, Any, Host]:
        transport: Any = SocketReader(Socket(*received))  # type: ignore[arg-type]
        host = Host(**options)
        return HeadReader(host, transport), transport, host  # type: ignore[arg-type]

    @pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 1000])
    @pytest.mark.parametrize("before", [b"", b"\r\n", b"\r\n\r\n"])
    @pytest.mark.parametrize("after", [b"", b"body", GET])
    def test_it_is_taken_off_what_arrives(self, size: int, before: bytes, after: bytes) -> None:
        reader, transport, host = self.make(*pieces(before + GET + after, size))
        assert reader.read(Holder()) == GET
        assert after.startswith(bytes(transport.received))
        assert len(transport.received) < size
        assert not reader.is_head
        assert not host.limits.headers._unfinished
        assert set(transport.sock.sizes) == {HEAD_RECV_SIZE}

    def test_of_two_the_second_is_there_already(self) -> None:
        head = GET.replace(b"GET", b"HEAD")
        reader, transport, _ = self.make(GET + b"\r\n" + head + GET)
        for expected in (GET, head, GET):
            assert reader.read(Holder()) == expected
            assert reader.is_head == (expected == head)
        assert transport.received == b""
        assert len(transport.sock.sizes) == 1

    def test_at_its_largest(self) -> None:
        longest = GET[:-2] + b"A: " + b"x" * (MAX_HEAD_SIZE - len(GET) - 5) + b"\r\n\r\n"
        assert len(longest) == MAX_HEAD_SIZE
        for size in (10_000, 10**6):
            assert self.make(*pieces(longest, size))[0].read(Holder()) == longest
            too_long = longest.replace(b"A: x", b"A: xx")
            with pytest.raises(LimitRequestHeaders, match=r"^limit request headers$"):
                self.make(*pieces(too_long, size))[0].read(Holder())

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_one_that_does_not_end(self, method: str) -> None:
        start = f"{method} /{'x' * (MAX_HEAD_SIZE - 6)}".encode().ljust(MAX_HEAD_SIZE, b"x")
        reader, _, _ = self.make(start, TimeoutError())
        assert reader.read(Holder()) is None  # it may still end
        reader, _, _ = self.make(start, b"x", TimeoutError())
        with pytest.raises(LimitRequestHeaders, match=r"^Request headers exceeded max size$"):
            reader.read(Holder())
        assert reader.is_head == (method == "HEAD")

    def test_whether_it_is_a_head_is_known_of_the_last(self) -> None:
        head = GET.replace(b"GET", b"HEAD")
        reader, _, _ = self.make(head, GET, head)
        assert not reader.is_head  # of none
        for expected in (head, GET, head):
            assert reader.read(Holder()) == expected
            assert reader.is_head == (expected == head)

    def test_lines(self) -> None:
        most = GET[:-2] + b"A:b\r\n" * (MAX_HEAD_LINES - GET.count(b"\r\n")) + b"\r\n"
        assert self.make(most)[0].read(Holder()) == most
        with pytest.raises(LimitRequestHeaders):
            self.make(most.replace(b"\r\n\r\n", b"\r\nA:b\r\n\r\n"))[0].read(Holder())

    def test_what_has_no_end_is_counted_for_its_connection(self) -> None:
        holder, field = Holder(), b"A: " + b"x" * (FREE - 5) + b"\r\n"
        reader, transport, host = self.make(GET[:-2], field, field, None)
        reading = gevent.spawn(reader.read, holder)
        for _ in range(5):
            yield_to_others()
        size = len(transport.received)
        assert size == len(GET) - 2 + 2 * FREE
        assert host.limits.headers._unfinished == {holder: size - FREE}
        reading.kill()
        reader, _, host = self.make(GET[:-2], field, field, b"\r\n")
        assert reader.read(holder) is not None
        assert host.limits.headers._unfinished == {}

    def test_few_bytes_are_not(self) -> None:
        reader, _, host = self.make(GET[:-2] + b"A: " + b"x" * (FREE - len(GET) - 1), None)
        reading = gevent.spawn(reader.read, Holder())
        yield_to_others()
        yield_to_others()
        assert host.limits.headers._unfinished == {}
        reading.kill()

    @pytest.mark.parametrize("end", [b"", TimeoutError()])
    def test_one_that_does_not_come(self, end: bytes | Exception) -> None:
        for before in (b"", GET[:-1]):
            reader, transport, _ = self.make(end, GET)
            transport.received += before
            assert reader.read(Holder()) is None
            assert len(transport.sock.sizes) == 1  # it is not asked again
        with pytest.raises(ConnectionResetError):
            self.make(GET[:-1], ConnectionResetError())[0].read(Holder())

    def test_it_has_a_time_in_all_and_one_for_each_wait(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = Clock.of(head_module, monkeypatch)
        reader, transport, _ = self.make(*pieces(GET, 1))
        receive = transport.sock.recv

        def slow(size: int) -> bytes:
            clock.now += 1.5
            return bytes(receive(size))

        transport.sock.recv = slow
        assert reader.read(Holder()) is None
        waits = [RECV_PROGRESS_TIMEOUT] * 6 + [HEADER_READ_TIMEOUT - 6 * 1.5]
        assert transport.sock.timeouts == waits

    def test_in_a_drain_its_time_is_over_sooner(self) -> None:
        reader, transport, host = self.make(*pieces(GET, 10))
        host.drain_read_deadline = time.monotonic() - 1
        assert reader.read(Holder()) is None
        assert transport.sock.sizes == []
        # What is there already is served.
        transport.received += GET
        assert reader.read(Holder()) == GET

    @pytest.mark.parametrize("is_tls", [False, True])
    @pytest.mark.parametrize("whole", [False, True])
    def test_tls_to_a_server_without_is_told(self, is_tls: bool, whole: bool) -> None:
        hello = b"\x16\x03\x01\x02\x00\x01" + (b"\r\n\r\n" if whole else b"")
        reader, transport, host = self.make(b"", is_tls=is_tls)
        transport.received += hello
        assert reader.read(Holder()) == (hello if whole else None)
        told = dict(host.failed_handshakes._reasons)
        assert told == ({} if is_tls else {"TLS to a port without TLS (--certfile)": 1})
        assert transport.sock.sizes == ([] if whole or not is_tls else [HEAD_RECV_SIZE])


class TestSocketReader:
    def test_what_is_received_is_kept(self) -> None:
        sock = Socket(b"one", b"two", b"")
        transport = SocketReader(sock)  # type: ignore[arg-type]
        assert [transport.receive(), transport.receive(2), transport.receive()] == [True] * 3
        assert not transport.receive()
        assert transport.received == b"onetwo"
        assert sock.sizes == [RECV_SIZE, 2, RECV_SIZE, RECV_SIZE]

    @pytest.mark.parametrize(
        ("received", "left"),
        [(b"", b""), (b"\r\n", b""), (b"\r\n\r\n\r\nx\r\n", b"x\r\n"), (b"\n\r\n", b"\n\r\n")],
    )
    def test_line_breaks_at_the_start_are_dropped(self, received: bytes, left: bytes) -> None:
        transport = SocketReader(Socket())  # type: ignore[arg-type]
        transport.received += received
        transport.skip_empty_lines()
        assert transport.received == left

    def test_whether_a_close_is_a_reset_is_set_when_it_changes(self) -> None:
        sock = Socket()
        transport = SocketReader(sock)  # type: ignore[arg-type]
        for on in (False, True, True, False, False, True):
            transport.reset_on_close(on=on)
        assert [struct.unpack("ii", value) for value in sock.options] == [(1, 0), (0, 0), (1, 0)]

    @pytest.mark.parametrize("end", [b"", ConnectionResetError()])
    def test_after_our_side_is_closed_what_comes_is_thrown_away(
        self, end: bytes | Exception
    ) -> None:
        """And the close is none of TCP's resets, which could destroy the response."""
        sock = Socket(b"more", b"and more", end, b"not read")
        transport = SocketReader(sock)  # type: ignore[arg-type]
        transport.received += b"left"
        transport.reset_on_close(on=True)
        transport.linger()
        assert sock.told == ["shutdown"]
        assert sock.pieces == [b"not read"]
        assert transport.received == b""
        assert struct.unpack("ii", sock.options[-1]) == (0, 0)

    def test_but_not_for_ever(self) -> None:
        number = LINGER_CLOSE_MAX_BYTES // RECV_SIZE
        sock = Socket(*[b"x" * RECV_SIZE] * (number + 5))
        SocketReader(sock).linger()  # type: ignore[arg-type]
        assert len(sock.sizes) == number


class TestBody:
    @staticmethod
    def parse(*fields: bytes) -> ParsedRequest:
        lines = [b"POST / HTTP/1.1", b"Host: localhost", *fields, b"", b""]
        return ParsedRequest(False, b"\r\n".join(lines), ("127.0.0.1", 50000))

    @staticmethod
    def make(
        *received: bytes | Exception | None, host: Host | None = None
    ) -> tuple[BodyReader, Any]:
        transport: Any = SocketReader(Socket(*received))  # type: ignore[arg-type]
        return BodyReader(host or Host(), transport), transport  # type: ignore[arg-type]

    def read(
        self, reader: BodyReader, *fields: bytes, parsed: ParsedRequest | None = None
    ) -> bytes:
        sink = reader.new_sink()
        try:
            reader.read(sink, parsed or self.parse(*fields))
            assert sink not in reader._worker.limits.uploads._under_way  # it is whole
            return bytes(sink.finish().read())
        finally:
            sink.close()
            assert reader._worker.limits.uploads.used == 0

    @pytest.mark.parametrize("size", [1, 3, 1000])
    def test_one_with_a_length(self, size: int) -> None:
        reader, transport = self.make(*pieces(b"hello" + GET, size))
        assert self.read(reader, b"Content-Length: 5") == b"hello"
        assert GET.startswith(bytes(transport.received))
        assert set(transport.sock.timeouts) == {BODY_RECV_TIMEOUT}
        assert set(transport.sock.sizes) == {RECV_SIZE}

    @pytest.mark.parametrize("fields", [(), (b"Content-Length: 0",)])
    def test_none(self, fields: tuple[bytes, ...]) -> None:
        reader, transport = self.make(GET)
        assert self.read(reader, *fields) == b""
        assert transport.sock.sizes == []

    @pytest.mark.parametrize("size", [1, 3, 1000])
    def test_one_in_chunks(self, size: int) -> None:
        wire = b"3\r\nhel\r\n2\r\nlo\r\n0\r\nX-Trailer: a\r\n\r\n"
        reader, transport = self.make(*pieces(wire + GET, size))
        parsed = self.parse(b"Transfer-Encoding: chunked")
        assert self.read(reader, parsed=parsed) == b"hello"
        assert GET.startswith(bytes(transport.received))

    @pytest.mark.parametrize(
        ("wire", "error"),
        [
            (b"x\r\n", ChunkedFramingError),
            (b"0\r\nbad name: x\r\n\r\n", InvalidHeaderName),
        ],
    )
    def test_one_in_bad_chunks(self, wire: bytes, error: type[Exception]) -> None:
        reader, _ = self.make(wire)
        with pytest.raises(error):
            self.read(reader, b"Transfer-Encoding: chunked")

    def test_many_chunks_let_others_have_their_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ways: list[int] = []
        monkeypatch.setattr(body_module, "yield_to_others", lambda: ways.append(1))
        number = 5 * CHUNKS_IN_A_TURN - 1
        reader, _ = self.make(b"1\r\na\r\n" * number + b"0\r\n\r\n")
        assert self.read(reader, b"Transfer-Encoding: chunked") == b"a" * number
        assert len(ways) == 4

    @pytest.mark.parametrize("fields", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
    @pytest.mark.parametrize("end", [b"", TimeoutError()])
    def test_one_that_does_not_come(self, fields: bytes, end: bytes | Exception) -> None:
        reader, _ = self.make(b"3\r\n", end)
        with pytest.raises(IncompleteBody) as raised:
            self.read(reader, fields)
        assert raised.value.__cause__ is (end if isinstance(end, Exception) else None)
        with pytest.raises(ConnectionResetError):  # there is nobody to answer
            self.read(self.make(b"3\r\n", ConnectionResetError())[0], fields)

    def test_one_that_comes_too_slowly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By the time that was waited for it, and what came of it."""
        clock = Clock.of(body_module, monkeypatch)
        reader, transport = self.make(*[b"x" * 10] * 1000, host=Host(min_body_rate=100))
        receive, seconds = transport.sock.recv, 0.1

        def slow(size: int) -> bytes:
            clock.now += seconds
            return bytes(receive(size))

        transport.sock.recv = slow
        assert self.read(reader, b"Content-Length: 1000") == b"x" * 1000
        seconds = 10.0
        with pytest.raises(IncompleteBody):
            self.read(reader, b"Content-Length: 1000")

    def test_in_a_drain_the_rest_is_not_waited_for(self) -> None:
        host = Host()
        reader, transport = self.make(b"hello", host=host)
        host.drain_read_deadline = time.monotonic() - 1
        with pytest.raises(IncompleteBody):
            self.read(reader, b"Content-Length: 5")
        transport.received += b"hello"
        assert self.read(reader, b"Content-Length: 5") == b"hello"

    def test_a_sweep_gives_it_up_when_the_drain_is_over(self) -> None:
        host = Host()
        reader, _ = self.make(b"he", None, host=host)
        reading = gevent.spawn(self.read, reader, b"Content-Length: 5")
        yield_to_others()
        for deadline in (None, time.monotonic() + 100):
            host.drain_read_deadline = deadline
            reader.sweep()
            yield_to_others()
            assert not reading.ready()
        host.drain_read_deadline = time.monotonic() - 1
        reader.sweep()
        with pytest.raises(IncompleteBody):
            reading.get()
        reader.sweep()  # nobody reads
        yield_to_others()

    def test_one_that_is_evicted_is_stopped_where_it_waits(self) -> None:
        host = Host()
        reader, _ = self.make(b"x" * 20_000, None, host=host)
        parsed, evicted = self.parse(b"Content-Length: 40000"), reader.new_sink()
        reading = gevent.spawn(reader.read, evicted, parsed)
        while host.limits.uploads.used < 20_000:
            yield_to_others()
        for now in range(60):
            host.limits.uploads.tick(now)
        other, _ = self.make(b"y" * 45_000, host=host)
        sink = other.new_sink()
        other.read(sink, self.parse(b"Content-Length: 45000"))  # there was no room for both
        with pytest.raises(BodyBudgetExceeded, match="50000"):
            reading.get()
        evicted.close()
        assert host.limits.uploads.used == 45_000
        sink.close()
