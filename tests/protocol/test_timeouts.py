"""Each timeout of a connection and of a request, to the second, on a clock that takes no time.

`server/test_slow_clients.py`, `test_drain.py` and `test_bodies.py` wait for one of each kind.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from attacks import websocket_frame
from gevent import socket
from h2.errors import ErrorCodes
from http1client import Client, request
from hyperframe.frame import DataFrame, GoAwayFrame, PingFrame, RstStreamFrame
from load_client import MAX_STREAM_ID, REFUSED_STREAM, Http1Client, Http2Client
from memory_server import MemoryServer
from raw import (
    DEFAULT_WINDOW,
    PREFACE,
    WINDOW,
    RawClient,
    continuation,
    data,
    goaway,
    headers,
    ping,
    request_fields,
    rst_stream,
    window_update,
)
from virtual_time import advance, now
from ws import connect_fields

from plain_gevent_h2.app.plain_internals import (
    BODY_RECV_TIMEOUT,
    DRAIN_MIN_RECV,
    HEADER_READ_TIMEOUT,
    LINGER_CLOSE_TIMEOUT,
    RECV_PROGRESS_TIMEOUT,
)
from plain_gevent_h2.http1 import output
from plain_gevent_h2.http1.client_presence import ASK_AFTER, HALF_CLOSED_SILENCE
from plain_gevent_h2.http2.frames import FRAME_HEADER_SIZE, FrameType
from plain_gevent_h2.http2.receiver import DISCARD_BYTES
from plain_gevent_h2.http2.shutdown import DRAIN_GAP, DRAIN_PING_TIMEOUT, LINGER_TIMEOUT
from plain_gevent_h2.http2.timeouts import (
    BLOCK_TIMEOUT,
    DISCARD_TIMEOUT,
    PARK_AFTER,
    PREFACE_TIMEOUT,
    STALLED,
)
from plain_gevent_h2.http2.token_buckets import FRAME_LIMITS
from plain_gevent_h2.limits.idle_connections import LEAST_IDLE
from plain_gevent_h2.limits.send_timeout import (
    MIN_PROGRESS,
    SEND_TIMEOUT_UNDER_PRESSURE,
    SEND_TIMEOUT_WHEN_FULL,
)
from plain_gevent_h2.net.fairness import SWEEP_INTERVAL
from plain_gevent_h2.stream import STOP_GRACE

Serve = Callable[..., MemoryServer]


#: Seconds by which a timeout may be late: it is seen by a sweep, and the next one after it.
LATE = 2 * SWEEP_INTERVAL + 0.1


@contextmanager
def takes(seconds: float, late: float = LATE) -> Iterator[None]:
    """The block takes so many seconds, or a little more."""
    began = now()
    yield
    took = now() - began
    assert seconds <= took <= seconds + late, f"{took:g} s, not {seconds:g}"


def until_over(server: MemoryServer, act: Callable[[], object] = lambda: None) -> None:
    """Return when the server has no connection; `act()` twice a second until then."""
    advance(0.01)  # it has accepted those that were opened
    while server.worker.left().get("connections"):
        act()
        advance(0.5)


def until_closing(server: MemoryServer, act: Callable[[], object]) -> None:
    """Return when the server has begun to close an HTTP/2 connection; `act()` until then."""
    while not server.worker.is_closing():
        act()
        advance(0.5)


def watched(server: MemoryServer) -> dict[str, list[str]]:
    with RawClient(server) as client:
        seen: dict[str, list[str]] = json.loads(client.request("/watched").body)
        return seen


class TestIdle:
    """HTTP/2 connections without a stream."""

    def test_keep_alive(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "20"})
        with RawClient(server) as client:
            assert client.request().body == b"hello"
            with takes(20):
                goaways = client.expect_close()
            (goaway,) = goaways
            assert (goaway.error_code, goaway.last_stream_id) == (0, 1)
            assert goaway.additional_data == b""

    def test_pings_do_not_keep_a_connection(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "20"})
        with RawClient(server) as client:
            client.expect_alive()
            with takes(20):
                until_closing(server, lambda: client.send(ping()))
            client.expect_close()

    def test_a_request_begins_it_anew(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "20"})
        with RawClient(server) as client:
            for _ in range(5):
                advance(18)
                assert client.request().body == b"hello"
            with takes(20):
                client.expect_close()

    def test_a_stream_keeps_its_connection(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "5"})
        with RawClient(server) as client:
            stream_id = client.open(request_fields("/sleep?s=600"))
            assert client.expect_response(stream_id, 700).body == b"slept"

    def test_a_parked_connection_has_no_greenlet_and_serves(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "20"})
        with RawClient(server) as client:
            client.expect_alive()
            for _ in range(3):
                assert server.worker.readers() == 1
                with takes(PARK_AFTER):
                    while server.worker.readers():
                        advance(0.1)
                assert client.request().body == b"hello"
            with takes(20):
                client.expect_close()

    def test_a_connection_with_a_stream_is_not_parked(self, server: MemoryServer) -> None:
        with RawClient(server, {WINDOW: 0}) as client:
            stream_id = client.open(request_fields("/bytes?n=100"))
            advance(5)
            assert server.worker.readers() == 1
            # Nor if the stream came after a sweep had found the connection idle.
            (connection,) = server.worker._connections.http2()
            connection.park()
            advance(0.1)
            assert server.worker.readers() == 1
            client.send(window_update(stream_id, 100))
            assert client.finish(stream_id).body == b"x" * 100

    @pytest.mark.parametrize(
        "sent", [b"", PREFACE[:10], PREFACE], ids=["nothing", "half", "no-settings"]
    )
    def test_preface(self, server: MemoryServer, sent: bytes) -> None:
        """RFC 9113 section 3.4. The keep-alive is minutes."""
        client = RawClient(server, handshake=False, acknowledge=False)
        with client, takes(PREFACE_TIMEOUT):
            client.send_bytes(sent)
            assert [g.error_code for g in client.expect_close()] == [ErrorCodes.PROTOCOL_ERROR]

    def test_preface_a_byte_at_a_time(self, server: MemoryServer) -> None:
        client = RawClient(server, handshake=False, acknowledge=False)
        octets = iter(PREFACE)
        with client, takes(PREFACE_TIMEOUT):
            until_closing(server, lambda: client.send_bytes(bytes([next(octets)])))
            assert [g.error_code for g in client.expect_close()] == [ErrorCodes.PROTOCOL_ERROR]

    def test_who_is_idle_longest_makes_room(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_CONNECTIONS": "2"})
        with RawClient(server) as first, RawClient(server) as second:
            for client in (first, second):
                assert client.request().body == b"hello"
                advance(LEAST_IDLE / 4)
            assert not server.connect("h2").recv(100).startswith(b"\0")  # no SETTINGS
            advance(LEAST_IDLE / 2)
            with RawClient(server) as third:
                assert third.request().body == b"hello"
                assert [g.error_code for g in first.expect_close()] == [0]
            second.expect_alive()

    @pytest.mark.parametrize("sent", [b"", b"GET / HT"], ids=["nothing", "half-a-head"])
    def test_over_http1_too(self, serve: Serve, sent: bytes) -> None:
        """Whoever has sent half a head is as idle as who has sent nothing."""
        server = serve(env={"PLAIN_SERVER_CONNECTIONS": "2"})
        with (
            Client(server.connect("http/1.1")) as first,
            Client(server.connect("http/1.1")) as second,
        ):
            for client in (first, second):
                assert client.get().body == b"hello"
            advance(2)
            first.send(sent)
            advance(LEAST_IDLE - 1.5)
            with Client(server.connect("http/1.1")) as third:
                assert third.get().body == b"hello"
                assert first.closed()
                assert second.get().body == b"hello"
                assert third.get().body == b"hello"

    def test_a_busy_one_does_not(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_CONNECTIONS": "2"})
        with Client(server.connect("http/1.1")) as old, RawClient(server) as client:
            old.send(request("/sleep?s=25"))
            stream_id = client.open(request_fields("/sleep?s=25"))
            client.expect_alive()
            advance(10 * LEAST_IDLE)
            assert not server.connect("h2").recv(100).startswith(b"\0")  # no SETTINGS
            assert old.read().body == client.finish(stream_id).body == b"slept"


class TestEnd:
    """What is left of an HTTP/2 connection after its GOAWAY."""

    @pytest.mark.parametrize("why", ["fault", "going away"])
    def test_linger(self, server: MemoryServer, why: str) -> None:
        """The client does not close: it has had its time to read the GOAWAY."""
        with RawClient(server) as client, takes(LINGER_TIMEOUT):
            client.send(data(0) if why == "fault" else goaway())
            code = ErrorCodes.PROTOCOL_ERROR if why == "fault" else ErrorCodes.NO_ERROR
            assert [frame.error_code for frame in client.expect_close()] == [code]
            client.send(ping(), ping())
            assert client.send_error is None
            until_over(server)

    def test_it_ends_as_soon_as_the_client_closes(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            client.send(data(0))
            client.expect_connection_error(ErrorCodes.PROTOCOL_ERROR)
        with takes(0, 0.1):
            until_over(server)

    @pytest.mark.parametrize(("at_fault", "seconds"), [(False, 20), (True, LINGER_TIMEOUT)])
    def test_what_the_kernel_holds_has_the_send_timeout(
        self, serve: Serve, at_fault: bool, seconds: float
    ) -> None:
        """But for a client that broke the protocol."""
        server = serve(env={"PLAIN_SERVER_SEND_TIMEOUT": "20"})
        with RawClient(server, {WINDOW: 2**20}) as client:
            client.send(window_update(0, 2**20))
            client.open(request_fields("/bytes?n=100000"))
            advance(1)
            if at_fault:
                client.send(data(0))
            else:
                server.drain()
            with takes(seconds):
                until_over(server)

    def test_a_header_block_that_has_ended_is_not_timed(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            block = client.block(request_fields("/sleep?s=20"))
            client.send(headers(1, block[:5], end_headers=False))
            advance(1)
            client.send(continuation(1, block[5:]))
            assert client.finish(1).body == b"slept"

    @pytest.mark.parametrize("at_fault", [True, False])
    def test_who_broke_the_protocol_makes_room_at_once(self, serve: Serve, at_fault: bool) -> None:
        """Another has the time that it takes to read its last frames."""
        server = serve(env={"PLAIN_SERVER_CONNECTIONS": "1"})
        with RawClient(server) as client:
            client.send(data(0) if at_fault else goaway())
            client.expect_close()
            assert any(server.worker.remembered()) == at_fault  # it is not idle
            with Client(server.connect("http/1.1")) as other:
                other.send(request())
                assert other.read().status == (200 if at_fault else 503)

    @pytest.mark.parametrize("held_by", ["websocket", "window", "view"])
    def test_no_frame_follows_the_last_goaway(self, serve: Serve, held_by: str) -> None:
        """RFC 9113 section 5.4.1. Whatever is given up for it would have had some."""
        server = serve(env={"PLAIN_SERVER_H2_INITIAL_WINDOW_SIZE": "65535"})
        with RawClient(server, {WINDOW: 0}) as client:
            if held_by == "websocket":
                stream_id = client.open(connect_fields("/ws/deaf"), end_stream=False)
                for _ in range(5):  # most of its window
                    message = websocket_frame(bytes(10_000))
                    client.send(data(stream_id, message, end=False))
            else:
                path = "/bytes?n=100" if held_by == "window" else "/sleep?s=1"
                client.open(request_fields(path))
            client.expect_alive()
            client.send(data(0))
            client.expect_connection_error(ErrorCodes.PROTOCOL_ERROR)

    def test_a_client_that_takes_no_more_but_asks(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            client.expect_alive()
            client.sock.shutdown(socket.SHUT_RD)
            client.send(ping())
            with takes(0, 0.1):
                until_over(server)

    def test_nothing_more_is_done_after_it(self, serve: Serve) -> None:
        """Whoever still knows of the connection: the worker, its limits, another connection."""
        server = serve()
        with RawClient(server) as client:
            client.request()
            client.send(ping() * (FRAME_LIMITS[FrameType.PING].burst // 2))
            client.expect_alive()
            (connection,) = server.worker._connections.http2()
            assert server.worker.remembered() == [connection, connection]  # in the penalty box too
            for is_over in (False, True):
                connection.abort()
                assert not server.worker.remembered()
                if is_over:
                    until_over(server)
                connection.close_for_penalties()
                connection.close_for_headers()
                connection.close_for_responses()
                connection.evict()
                connection.drain()
                connection.park()
                connection.sweep(now() + 1000)
                assert connection.untaken() == []
                assert connection.active_streams == 0
            while client.receive(now() + 1) is not None:
                pass
            assert not client.received(GoAwayFrame)
        assert "abuse" not in server.log()

    def test_a_header_block_without_an_end(self, server: MemoryServer) -> None:
        with RawClient(server) as client, takes(BLOCK_TIMEOUT):
            client.send(headers(1, client.block(request_fields()), end_headers=False))
            until_closing(server, lambda: client.send(continuation(1, b"\x84", end_headers=False)))
            client.expect_connection_error(ErrorCodes.ENHANCE_YOUR_CALM)

    def test_the_rest_of_a_request_that_is_answered(self, server: MemoryServer) -> None:
        """RFC 9113 section 8.1: RST_STREAM with NO_ERROR asks for it to stop."""
        with RawClient(server) as client:
            too_large = ("content-length", "1000000000")
            stream_id = client.open(request_fields("/echo", "POST", too_large), end_stream=False)
            assert client.expect_response(stream_id).status == 413
            with takes(DISCARD_TIMEOUT):
                assert client.expect(RstStreamFrame, stream_id).error_code == 0
            assert client.request().body == b"hello"

    @pytest.mark.parametrize("pad", [None, 100])
    def test_of_which_no_more_is_taken_than_may_be_under_way(
        self, server: MemoryServer, pad: int | None
    ) -> None:
        """Padding counts: the client's window does for it as well."""
        with RawClient(server) as client, takes(0, 0.1):
            too_large = ("content-length", "1000000000")
            stream_id = client.open(request_fields("/echo", "POST", too_large), end_stream=False)
            assert client.expect_response(stream_id).status == 413
            frame = data(stream_id, bytes(8192), end=False, pad=pad)
            for _ in range(DISCARD_BYTES // (len(frame) - FRAME_HEADER_SIZE)):
                client.send(frame)
            client.expect_alive()
            assert not client.received(RstStreamFrame)
            client.send(frame)
            assert client.expect(RstStreamFrame, stream_id).error_code == 0
            assert client.request().body == b"hello"


def whole_second() -> float:
    """Wait for one. Sums with it, as below, are exact."""
    advance(math.ceil(now()) - now())
    return now()


def let_all_run() -> None:
    """Return when all have done what they can, at this moment."""
    for _ in range(10):
        advance(0)


def no_preface(client: RawClient) -> None:
    client.send_bytes(PREFACE)


def nothing(client: RawClient) -> None:
    client.handshake()
    client.expect_alive()


def a_header_block(client: RawClient) -> None:
    client.handshake()
    client.send(headers(1, client.block(request_fields()), end_headers=False))


def an_answered_upload(client: RawClient) -> None:
    nothing(client)
    too_large = ("content-length", "1000000000")
    stream_id = client.open(request_fields("/echo", "POST", too_large), end_stream=False)
    assert client.expect_response(stream_id).status == 413


def a_response_without_window(client: RawClient) -> None:
    client.handshake({WINDOW: 0})
    client.open(request_fields("/bytes?n=100"))
    client.expect_alive()


def a_response_that_is_not_read(client: RawClient) -> None:
    client.handshake({WINDOW: 2**30})
    client.send(window_update(0, 2**30))
    client.open(request_fields("/endless?name=second&wait=0&size=100000"))


def an_end(client: RawClient) -> None:
    client.handshake()
    client.send(goaway())
    client.expect_close()


class TestLastMoment:
    """A timeout has passed after its last moment, and not at it."""

    @pytest.mark.parametrize(
        ("of", "seconds"),
        [
            (nothing, PARK_AFTER),
            (nothing, 60),  # SERVER_KEEPALIVE_TIMEOUT
            (no_preface, PREFACE_TIMEOUT),
            (a_header_block, BLOCK_TIMEOUT),
            (an_answered_upload, DISCARD_TIMEOUT),
            (a_response_without_window, 30),  # SERVER_SEND_TIMEOUT
            (a_response_that_is_not_read, 30),  # the same
            (an_end, LINGER_TIMEOUT),
        ],
    )
    def test_of_http2(self, serve: Serve, of: Callable[[RawClient], None], seconds: float) -> None:
        env = {"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "60", "PLAIN_SERVER_SEND_TIMEOUT": "30"}
        server = serve(env=env)
        worker, began = server.worker, whole_second()
        with RawClient(server, handshake=False) as client:
            of(client)

            def after(seconds: float) -> object:
                """What there is of the connection, if it is checked then."""
                let_all_run()
                for connection in worker._connections.http2():
                    connection.sweep(began + seconds)
                let_all_run()
                return worker.readers(), worker.is_closing(), worker.left()

            before = after(0.75 * seconds)
            assert after(seconds) == before
            assert now() == began
            assert after(seconds + 0.001) != before

    def test_of_a_drain(self, serve: Serve) -> None:
        server = serve()
        began = whole_second()
        with RawClient(server, acknowledge=False) as client:
            client.expect_alive()
            (connection,) = server.worker._connections.http2()
            connection.drain()
            first = began + 2 * DRAIN_GAP
            last = first + DRAIN_PING_TIMEOUT
            for at, goaways in (began, 0), (first, 1), (last, 1):
                connection.sweep(at)
                client.expect_alive()
                assert len(client.received(GoAwayFrame)) == goaways
            connection.sweep(last + 0.001)
            assert len(client.expect_close()) == 2


class TestDrain:
    @pytest.mark.parametrize("acknowledged", [True, False], ids=["ack", "no-ack"])
    def test_two_goaways(self, serve: Serve, acknowledged: bool) -> None:
        """An acknowledgement of what was not asked for is none."""
        server = serve()
        with Http2Client(server, ack_pings=False) as client:
            slow = client.open("/sleep?s=10")
            client.round_trip()
            server.drain()
            with takes(DRAIN_GAP, 0.3):
                client.until(lambda: client.pings, "PING")
            (first,) = client.goaways
            assert (first.last_stream_id, first.error_code) == (MAX_STREAM_ID, 0)
            crossing = client.open("/")
            assert client.answer(crossing).body == b"hello"
            client.ack_ping(client.pings[0] if acknowledged else PingFrame(opaque_data=b"anything"))
            with takes(0 if acknowledged else DRAIN_PING_TIMEOUT, 0.3):
                client.until(lambda: len(client.goaways) == 2, "second GOAWAY")
            second = client.goaways[1]
            assert (second.last_stream_id, second.error_code) == (crossing, 0)
            late = client.open("/")
            client.round_trip()
            answer = client.answers[late]
            assert not answer.headers
            assert answer.reset in (None, REFUSED_STREAM)  # it is past the last stream
            assert client.answer(slow).body == b"slept"
            client.until_closed()
            assert client.end == "clean"
            assert len(client.goaways) == 2
        advance(LATE)
        assert server.has_ended()

    def test_idle_connections(self, serve: Serve) -> None:
        server = serve()
        with Http2Client(server) as used, Http2Client(server) as unused:
            assert used.get("/").body == b"hello"
            unused.round_trip()
            server.drain()
            with takes(0, 0.3):
                used.until_closed()
            assert [g.last_stream_id for g in used.goaways] == [1]
            with takes(DRAIN_GAP, 0.5):
                unused.until_closed()
            assert [g.last_stream_id for g in unused.goaways] == [MAX_STREAM_ID, 0]
        advance(LATE)
        assert server.has_ended()

    def test_a_stream_without_end_is_cut_in_time(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": "10"})
        with Http2Client(server) as client:
            stream_id = client.open("/endless?name=cut&wait=1")
            client.until(lambda: client.answers[stream_id].body, "first chunk")
            server.drain()
            with takes(10, 0.5):
                client.until_closed()
            assert not client.answers[stream_id].ended
        advance(5)
        assert server.has_ended()
        assert "Worker stops before its requests have ended" not in server.log()

    def test_a_connection_of_too_many_requests(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_H2_MAX_REQUESTS_PER_CONNECTION": "3"})
        with Http2Client(server) as client:
            for _ in range(3):
                assert client.get("/").body == b"hello"
            client.until_closed()
            assert client.goaways[-1].last_stream_id == 5

    def test_http1(self, serve: Serve) -> None:
        server = serve()
        with Http1Client(server) as busy, Http1Client(server) as idle, Http1Client(server) as late:
            for client in (idle, late):
                assert client.get("/").headers["connection"] == "keep-alive"
            busy.send("/sleep?s=8")
            advance(1)
            server.drain()
            advance(DRAIN_MIN_RECV / 2)  # a request that was on its way is served
            assert late.get("/").headers["connection"] == "close"
            with takes(DRAIN_MIN_RECV / 2, RECV_PROGRESS_TIMEOUT):
                assert (idle.receive(), idle.end) == (None, "clean")
            answer = busy.receive()
            assert answer is not None
            assert (bytes(answer.body), answer.headers["connection"]) == (b"slept", "close")
            assert (busy.receive(), busy.end) == (None, "clean")
        advance(LATE)
        assert server.has_ended()

    @pytest.mark.parametrize(
        ("framing", "half"),
        [
            ("Content-Length: 100", b"half"),
            ("Content-Length: 100", b""),
            ("Transfer-Encoding: chunked", b"4\r\nhalf\r\n"),
            ("Transfer-Encoding: chunked", b"ff\r\nhalf"),
        ],
    )
    def test_http1_uploads_are_given_up(self, serve: Serve, framing: str, half: bytes) -> None:
        server = serve(env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": "8"})
        with Client(server.connect("http/1.1")) as client:
            client.send(request("/echo", framing, method="POST") + half)
            advance(1)
            server.drain()
            with takes(2, 0.5):  # a quarter of the time
                answer = client.read()
            assert (answer.status, answer.all("connection")) == (408, ["close"])
            assert client.closed()
        advance(LATE)
        assert server.has_ended()


class TestResponses:
    """Clients that do not take what they have asked for."""

    @pytest.fixture
    def impatient(self, serve: Serve) -> MemoryServer:
        return serve(env={"PLAIN_SERVER_SEND_TIMEOUT": "10"})

    @pytest.mark.parametrize("window", [0, 1])
    @pytest.mark.parametrize("path", ["/bytes?n=100000", "/chunks?n=1000&size=1000"])
    def test_without_a_window(self, impatient: MemoryServer, path: str, window: int) -> None:
        with RawClient(impatient, {WINDOW: window}) as client, takes(10):
            response = client.finish(client.open(request_fields(path)))
            assert (response.reset, len(response.body)) == (ErrorCodes.CANCEL, window)
            client.expect_alive()

    def test_a_few_bytes_at_a_time_are_no_progress(self, impatient: MemoryServer) -> None:
        with RawClient(impatient, {WINDOW: 0}) as client, takes(10):
            stream_id = client.open(request_fields("/bytes?n=100000"))
            for _ in range(200):
                client.send(window_update(stream_id, 1))
                client.expect_alive()
                if client.received(RstStreamFrame):
                    break
                advance(0.1)

    def test_slow_progress_is_progress(self, impatient: MemoryServer) -> None:
        with RawClient(impatient, {WINDOW: 0}) as client:
            stream_id = client.open(request_fields(f"/bytes?n={10 * MIN_PROGRESS}"))
            for _ in range(10):
                advance(8)
                client.send(window_update(stream_id, MIN_PROGRESS))
                client.expect_data(stream_id, MIN_PROGRESS)
            assert not client.received(RstStreamFrame)

    def test_a_connection_that_is_not_read(self, impatient: MemoryServer) -> None:
        with RawClient(impatient, {WINDOW: 2**31 - 1}) as client:
            client.send(window_update(0, 2**30))
            client.open(request_fields("/endless?name=unread&wait=0&size=100000"))
            with takes(10):
                until_over(impatient)
        assert "unread" in watched(impatient)["ended"]

    def test_what_a_body_gave_before_it_failed_comes_before_the_reset(
        self, server: MemoryServer
    ) -> None:
        """Though another response keeps the socket full meanwhile."""
        with RawClient(server, {WINDOW: 2**30}) as client:
            client.send(window_update(0, 2**30))
            other = client.open(request_fields("/endless?name=full&wait=0&size=100000"))
            advance(0.1)
            failing = client.open(request_fields("/failing-body?after=3"))
            advance(0.1)
            response = client.finish(failing)
            assert response.body == b"chunk" * 3
            assert response.reset == ErrorCodes.INTERNAL_ERROR
            client.send(rst_stream(other))

    @pytest.mark.parametrize("held_by", ["stream", "connection", "socket"])
    def test_they_give_way_when_places_are_short(self, serve: Serve, held_by: str) -> None:
        """A socket may be slow for longer than a window may be shut."""
        server = serve(env={"PLAIN_SERVER_MAX_RUNNING_STREAMS": "1"})
        window = 0 if held_by == "stream" else 2**30
        with (
            RawClient(server, {WINDOW: window}, update_windows=False) as client,
            RawClient(server) as other,
        ):
            if held_by == "socket":
                client.send(window_update(0, 2**30))
            client.open(request_fields("/endless?name=hog&wait=0&size=100000"))
            if held_by != "socket":
                client.expect_alive()
            slow = SEND_TIMEOUT_UNDER_PRESSURE
            with takes(slow if held_by == "socket" else SEND_TIMEOUT_WHEN_FULL):
                assert other.request().body == b"hello"

    @pytest.mark.parametrize("takes_some", [False, True])
    def test_over_http1_too(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch, takes_some: bool
    ) -> None:
        """By what their kernels have acknowledged: a socket pair has no such count."""
        taken = itertools.count(0, MIN_PROGRESS if takes_some else 0)
        monkeypatch.setattr(output, "bytes_acknowledged", lambda _sock: next(taken))
        env = {"PLAIN_SERVER_MAX_RUNNING_STREAMS": "1", "PLAIN_SERVER_SEND_TIMEOUT": "20"}
        server = serve(env=env)
        with Client(server.connect("http/1.1")) as client, RawClient(server) as other:
            client.send(request("/endless?name=hog1&wait=0&size=100000"))
            client.read_head()
            with takes(20 if takes_some else SEND_TIMEOUT_WHEN_FULL):
                assert other.request().body == b"hello"

    def test_http1(self, impatient: MemoryServer) -> None:
        with Client(impatient.connect("http/1.1")) as client:
            client.send(request("/endless?name=unread1&wait=0&size=100000"))
            with takes(10):
                until_over(impatient)
        assert "unread1" in watched(impatient)["ended"]


class TestUntaken:
    """Whole responses of which a client takes nothing, as `UnreadResponses` asks for them."""

    SIZE = 4 * 2**20

    @staticmethod
    def untaken(server: MemoryServer) -> list[int]:
        (connection,) = server.worker._connections.http2()
        return connection.untaken()

    @pytest.mark.parametrize("taken", [0, MIN_PROGRESS - 1, MIN_PROGRESS])
    def test_by_the_window_of_a_stream(self, server: MemoryServer, taken: int) -> None:
        with RawClient(server, {WINDOW: 0}) as client:
            paths = [f"/bytes?n={self.SIZE}", "/bytes?n=0", "/endless?name=untaken&wait=0&size=9"]
            first, *_ = (client.open(request_fields(path)) for path in paths)
            client.expect_alive()
            assert self.untaken(server) == [self.SIZE]
            if taken:
                client.send(window_update(first, taken))
                client.expect_data(first, taken)
                took = taken == MIN_PROGRESS
                assert self.untaken(server) == ([] if took else [self.SIZE - taken])
            advance(LATE)
            assert self.untaken(server) == [self.SIZE - taken]

    def test_by_the_window_of_the_connection(self, server: MemoryServer) -> None:
        with RawClient(server, {WINDOW: 2**30}) as client:
            stream_id = client.open(request_fields(f"/bytes?n={self.SIZE}"))
            client.expect_data(stream_id, DEFAULT_WINDOW)
            assert self.untaken(server) == []
            advance(LATE)
            assert self.untaken(server) == [self.SIZE - DEFAULT_WINDOW]

    def test_by_a_socket_that_takes_nothing_for_a_while(self, server: MemoryServer) -> None:
        with RawClient(server, {WINDOW: 2**30}) as client:
            client.send(window_update(0, 2**30))
            client.open(request_fields(f"/bytes?n={self.SIZE}"))
            let_all_run()
            (connection,) = server.worker._connections.http2()
            writer = connection._writer
            for after in (1, 2):
                writer.sweep(now() + after)
            assert writer.taken_lately == 0
            assert connection.untaken() == []  # its socket may take more in a moment
            advance(STALLED)
            assert connection.untaken() == []
            advance(0.1)
            (left,) = connection.untaken()
            assert 0 < left < self.SIZE


class TestViews:
    def test_deadline(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_REQUEST_DEADLINE": "5"})
        with RawClient(server) as client:
            with takes(5, 0.1):
                assert client.request("/sleep?s=10").status == 503
            assert client.request("/sleep?s=4").body == b"slept"
            # A setting for all views ends no download.
            assert client.request("/chunks?n=3&wait=4").body == b"aaaaabbbbbccccc"

    @pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
    def test_a_body_that_blocks_is_stopped_without_its_client(
        self, server: MemoryServer, protocol: str
    ) -> None:
        name = f"blocked-{protocol}"
        path = f"/endless?name={name}&block=1"
        if protocol == "h2":
            with RawClient(server) as client:
                client.expect(DataFrame, client.open(request_fields(path)))
        else:
            with Client(server.connect("http/1.1")) as old:
                old.send(request(path))
                old.read_head()
        with takes(STOP_GRACE, LATE + 1):
            while name not in watched(server)["ended"]:
                advance(0.1)


class TestBodies:
    """Requests whose bodies do not come, or slowly."""

    def test_http2_below_the_rate_floor(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            stream_id = client.open(request_fields("/echo", "POST"), end_stream=False)
            for _ in range(60):
                client.send(data(stream_id, b"x" * 10, end=False))
                advance(1)
                if client_has_answer(client, stream_id):
                    break
            assert client.expect_response(stream_id).status == 408
            client.expect_alive()

    def test_http2_without_a_floor(self, serve: Serve) -> None:
        env = {"PLAIN_SERVER_BODY_MIN_BYTES_PER_SECOND": "0", "PLAIN_SERVER_KEEPALIVE_TIMEOUT": "9"}
        server = serve(env=env)
        with RawClient(server) as client:
            stream_id = client.open(request_fields("/echo", "POST"), end_stream=False)
            for _ in range(10):
                client.send(data(stream_id, b"x", end=False))
                advance(6)
            with takes(3):
                assert client.expect_response(stream_id).status == 408

    def test_http2_without_its_end(self, server: MemoryServer) -> None:
        length = ("content-length", "4")
        with RawClient(server) as client:
            stream_id = client.open(request_fields("/echo", "POST", length), end_stream=False)
            client.send(data(stream_id, b"body", end=False))
            with takes(BODY_RECV_TIMEOUT):
                assert client.expect_response(stream_id).status == 408

    def test_http1_that_stalls(self, server: MemoryServer) -> None:
        with Client(server.connect("http/1.1")) as client:
            client.send(request("/echo", "Content-Length: 100", method="POST") + b"half")
            with takes(BODY_RECV_TIMEOUT):
                assert client.read().status == 408
            assert client.closed()

    def test_http1_below_the_rate_floor(self, server: MemoryServer) -> None:
        with Client(server.connect("http/1.1")) as client:
            client.send(request("/echo", "Content-Length: 1000", method="POST"))
            client.sock.settimeout(1)
            for _ in range(60):
                client.send(b"x" * 10)
                try:
                    assert client.sock.recv(12) == b"HTTP/1.1 408"
                    break
                except TimeoutError:
                    continue
            else:
                raise AssertionError("no answer")


def client_has_answer(client: RawClient, stream_id: int) -> bool:
    """Whether anything has come on the stream so far."""
    client.expect_alive()
    return any(frame.stream_id == stream_id for frame in client.frames)


class TestHttp1:
    def test_keep_alive(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "20"})
        with Client(server.connect("http/1.1")) as client:
            for _ in range(3):
                advance(18)
                assert client.get().body == b"hello"
            with takes(20):
                assert client.closed()

    def test_line_breaks_do_not_keep_a_connection(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "20"})
        with Client(server.connect("http/1.1")) as client, takes(20):
            until_over(server, lambda: client.send(b"\r\n"))

    def test_a_head_that_stops(self, server: MemoryServer) -> None:
        with Client(server.connect("http/1.1")) as client, takes(RECV_PROGRESS_TIMEOUT):
            client.send(request()[:-2])
            assert client.closed()

    def test_a_head_a_byte_at_a_time(self, server: MemoryServer) -> None:
        with Client(server.connect("http/1.1")) as client, takes(HEADER_READ_TIMEOUT):
            client.send(b"GET / HTTP/1.1\r\nX: ")
            until_over(server, lambda: client.send(b"x"))

    def test_linger(self, server: MemoryServer) -> None:
        """The client does not close: it has had its time to read the response."""
        with Client(server.connect("http/1.1")) as client, takes(LINGER_CLOSE_TIMEOUT):
            assert client.get("/", "Connection: close").body == b"hello"
            assert client.closed()
            client.send(b"to be thrown away")
            until_over(server)

    def test_a_half_closed_client_whose_body_is_silent(self, server: MemoryServer) -> None:
        name = f"silent-{now()}"
        with Client(server.connect("http/1.1")) as client:
            client.send(request(f"/endless?name={name}&block=1"))
            client.read_head()
            client.sock.shutdown(socket.SHUT_WR)
            with takes(HALF_CLOSED_SILENCE, LATE + STOP_GRACE + 1):
                while name not in watched(server)["ended"]:
                    advance(0.1)

    def test_a_half_closed_client_is_asked_whether_it_reads(self, server: MemoryServer) -> None:
        with Client(server.connect("http/1.1")) as client:
            client.send(request("/sleep?s=20"))
            client.sock.shutdown(socket.SHUT_WR)
            with takes(ASK_AFTER):
                assert client.read().raw == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert client.read().body == b"slept"
            assert client.closed()
