"""What an HTTP/1.1 connection sends, on a socket of the test's own."""

import struct
from collections.abc import Callable, Coroutine
from typing import Any

import gevent
import pytest
from clock import Clock
from gevent.event import Event

from plain_gevent_h2.http1 import output as output_module
from plain_gevent_h2.http1.output import Output, complete
from plain_gevent_h2.limits.send_timeout import MIN_PROGRESS
from plain_gevent_h2.limits.unsent import UnsentBytes
from plain_gevent_h2.net.fairness import HTTP1_SEND_TURN, yield_to_others

TIMEOUT = 30.0


class Socket:
    """One that takes what it is given, unless it is full."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self.timeouts: list[float | None] = []
        self.options: list[Any] = []
        self.closed = False
        self.has_room = Event()
        self.has_room.set()
        self.on_send: Callable[[], object] = lambda: None

    def settimeout(self, timeout: float | None) -> None:
        self.timeouts.append(timeout)

    def sendall(self, data: bytes | memoryview) -> None:
        self.has_room.wait()
        self.on_send()
        self.calls.append(bytes(data))

    def setsockopt(self, *option: Any) -> None:
        self.options.append(option[-1])

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def sock() -> Socket:
    return Socket()


@pytest.fixture
def unsent() -> UnsentBytes:
    return UnsentBytes()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock.of(output_module, monkeypatch)


@pytest.fixture
def output(sock: Socket, unsent: UnsentBytes, clock: Clock) -> Output:
    return Output(sock, TIMEOUT, unsent)  # type: ignore[arg-type]


class TestFlush:
    def test_small_pieces_leave_together(self, output: Output, sock: Socket) -> None:
        for piece in (b"HTTP/1.1 200 OK\r\n", b"\r\n", b"body"):
            output.write(piece)
        assert sock.calls == []
        output.flush()
        assert sock.calls == [b"HTTP/1.1 200 OK\r\n\r\nbody"]
        output.flush()
        assert len(sock.calls) == 1

    @pytest.mark.parametrize("size", [HTTP1_SEND_TURN - 1, HTTP1_SEND_TURN, HTTP1_SEND_TURN + 1])
    def test_all_is_sent_once_and_in_order(
        self, output: Output, sock: Socket, unsent: UnsentBytes, size: int
    ) -> None:
        pieces = [
            b"he",
            b"ad",
            bytes(range(256)) * (size // 256) + b"x" * (size % 256),
            b"",
            b"tail",
        ]
        for piece in pieces:
            output.write(piece)
        output.flush()
        assert b"".join(sock.calls) == b"".join(pieces)
        # A large piece is not joined with others: the copy would cost more than another send.
        assert (sock.calls[0] == b"head") == (size >= HTTP1_SEND_TURN)
        assert max(map(len, sock.calls)) <= HTTP1_SEND_TURN
        assert b"" not in sock.calls
        assert unsent.http1 == 0

    def test_each_turn_has_the_timeout(self, output: Output, sock: Socket) -> None:
        """The reader of a WebSocket sets another on the same socket."""
        output.write(b"x" * (2 * HTTP1_SEND_TURN + 1))
        output.flush()
        assert sock.timeouts == [TIMEOUT] * 3

    def test_what_waits_is_counted_until_it_is_sent(
        self, output: Output, sock: Socket, unsent: UnsentBytes
    ) -> None:
        size = 2 * HTTP1_SEND_TURN + 5
        counts: list[int] = []
        sock.on_send = lambda: counts.append(unsent.http1)
        output.write(b"x" * size)
        assert unsent.http1 == 0
        output.flush()
        assert counts == [size, size - HTTP1_SEND_TURN, 5]
        assert (unsent.http1, unsent.http2) == (0, 0)

    @pytest.mark.parametrize("turns", [0, 1, 2])
    @pytest.mark.parametrize("error", [TimeoutError, ConnectionResetError])
    def test_after_a_failure_nothing_is_counted(
        self,
        output: Output,
        sock: Socket,
        unsent: UnsentBytes,
        turns: int,
        error: type[OSError],
    ) -> None:
        def fail() -> None:
            if len(sock.calls) == turns:
                raise error

        unsent.http1 = 7  # of other connections
        sock.on_send = fail
        output.write(b"x" * 3 * HTTP1_SEND_TURN)
        with pytest.raises(error):
            output.flush()
        assert unsent.http1 == 7
        assert not output.is_sending
        # A client that takes too long gets a TCP reset: what it has must not look whole.
        assert sock.closed == (error is TimeoutError)
        assert sock.options == ([struct.pack("ii", 1, 0)] if sock.closed else [])

    def test_an_interim_response(self, output: Output, sock: Socket) -> None:
        output.send_continue()
        assert sock.calls == [b"HTTP/1.1 100 Continue\r\n\r\n"]


class TestStalled:
    """How long the client has taken nothing, by what its kernel has acknowledged."""

    @pytest.fixture
    def acknowledged(self, monkeypatch: pytest.MonkeyPatch, sock: Socket) -> list[int | None]:
        taken: list[int | None] = [0]

        def bytes_acknowledged(of: object) -> int | None:
            assert of is sock
            return taken[0]

        monkeypatch.setattr(output_module, "bytes_acknowledged", bytes_acknowledged)
        return taken

    @pytest.fixture
    def sending(self, output: Output, sock: Socket) -> Output:
        """One whose client does not read."""
        sock.has_room.clear()
        output.write(b"x" * 10)
        gevent.spawn(output.flush)
        yield_to_others()
        assert output.is_sending
        return output

    def test_who_sends_nothing_is_not_stalled(
        self, output: Output, clock: Clock, acknowledged: list[int | None]
    ) -> None:
        clock.now += 100
        assert not output.is_sending
        assert output.stalled(clock.now) == 0.0

    def test_it_grows_until_enough_is_taken(
        self, sending: Output, clock: Clock, acknowledged: list[int | None]
    ) -> None:
        clock.now += 5
        assert sending.stalled(clock.now) == 5.0
        acknowledged[0] = MIN_PROGRESS - 1
        assert sending.stalled(clock.now) == 5.0
        acknowledged[0] = MIN_PROGRESS
        assert sending.stalled(clock.now) == 0.0
        clock.now += 3
        assert sending.stalled(clock.now) == 3.0
        acknowledged[0] = 2 * MIN_PROGRESS - 1  # from the last progress on
        assert sending.stalled(clock.now) == 3.0
        acknowledged[0] = 2 * MIN_PROGRESS
        assert sending.stalled(clock.now) == 0.0

    def test_once_it_is_sent_it_is_over(
        self, sending: Output, sock: Socket, clock: Clock, acknowledged: list[int | None]
    ) -> None:
        sent_at = clock.now
        clock.now += 5
        sock.has_room.set()
        yield_to_others()
        assert not sending.is_sending
        assert sending.stalled(clock.now) == 0.0
        assert sending.sent_at == sent_at

    def test_where_the_kernel_does_not_tell_the_sockets_timeout_is_all(
        self, sending: Output, clock: Clock, acknowledged: list[int | None]
    ) -> None:
        acknowledged[0] = None
        clock.now += 100
        assert sending.stalled(clock.now) == 0.0


class TestComplete:
    def test_a_coroutine_that_waits_for_nothing(self, output: Output) -> None:
        async def write() -> int:
            output.write(b"x")
            await output.drain()
            return 5

        assert complete(write()) == 5

    def test_one_that_waits_is_an_error(self) -> None:
        class Waits:
            def __await__(self) -> Any:
                yield

        async def wait() -> None:
            await Waits()

        coroutine: Coroutine[Any, Any, None] = wait()
        with pytest.raises(
            RuntimeError, match=r"^Plain's HTTP/1.1 writer waited for an event loop$"
        ):
            complete(coroutine)
        coroutine.close()
