"""What a connection takes it gives back, and what it counts it counts anew."""

import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest
from h2.errors import ErrorCodes
from hpack.hpack import encode_integer
from http1client import Client, request
from hyperframe.frame import GoAwayFrame, HeadersFrame, RstStreamFrame, WindowUpdateFrame
from memory_server import MemoryServer
from raw import (
    WINDOW,
    Field,
    RawClient,
    continuation,
    data,
    headers,
    ping,
    request_fields,
    rst_stream,
    window_update,
)
from virtual_time import advance
from ws import connect_fields

from plain_gevent_h2.app.websocket import MAX_EARLY
from plain_gevent_h2.http2.connection import BLOCK_NOT_CHARGED
from plain_gevent_h2.http2.frame_filter import MAX_CONTINUATIONS
from plain_gevent_h2.http2.frames import FrameType
from plain_gevent_h2.http2.receiver import FEW_STREAMS, MANY_STREAMS
from plain_gevent_h2.http2.state_machine import CONNECTION_WINDOW
from plain_gevent_h2.http2.token_buckets import (
    DATA_ON_CLOSED_STREAM,
    FRAME_LIMITS,
    LONG_PATH_COST,
    OVERSIZED_HEADERS_COST,
    RESET_FRAME,
    RESET_FRAMES_FOR_RESPONSE,
)
from plain_gevent_h2.limits.header_budget import FREE, LONG_BLOCK, UNFINISHED_LIMIT
from plain_gevent_h2.limits.unread_responses import MAX_UNTAKEN
from plain_gevent_h2.net import metrics

Serve = Callable[..., MemoryServer]

RST_STREAM = FrameType.RST_STREAM
CHARGED = (RST_STREAM, RESET_FRAME, DATA_ON_CLOSED_STREAM)


def connection_window(client: RawClient) -> int:
    """Bytes that the server has given back of the connection's window, after all that was sent."""
    client.expect_alive()
    frames = client.received(WindowUpdateFrame, 0)
    return sum(frame.window_increment for frame in frames)


class TestConnectionWindow:
    """RFC 9113 section 6.9: DATA counts in it, whatever becomes of its stream."""

    def given_back(self, client: RawClient, send: Callable[[], int]) -> tuple[int, int]:
        """What of the window came back for more than all of it, and how much was sent."""
        before = connection_window(client)
        sent = 0
        while sent < CONNECTION_WINDOW + 2**20:
            sent += send()
        return connection_window(client) - before, sent

    def test_padded_data_that_is_refused(self, server: MemoryServer) -> None:
        """More than the length that was declared: its padding counts as well."""
        with RawClient(server) as client:
            fields = request_fields("/echo", "POST", ("content-length", "5"))
            stream = client.open(fields, end_stream=False)
            before = connection_window(client)
            client.send(data(stream, b"x" * 1000, pad=200))
            assert connection_window(client) - before == 1201
            client.expect_stream_error(stream, ErrorCodes.PROTOCOL_ERROR)

    @pytest.mark.parametrize("pad", [None, 100])
    @pytest.mark.parametrize("by", ["client", "server"])
    def test_data_on_a_stream_that_was_reset(
        self, server: MemoryServer, by: str, pad: int | None
    ) -> None:
        with RawClient(server) as client:
            stream = client.open(request_fields("/echo", "POST"), end_stream=False)
            if by == "client":
                client.send(rst_stream(stream))
            else:
                client.send(window_update(stream, 0))
                client.expect_stream_error(stream, ErrorCodes.PROTOCOL_ERROR)
            late = data(stream, b"x" * 8000, end=False, pad=pad)

            def send() -> int:
                client.send(*[late] * 50)
                client.expect_alive()
                return 50 * (len(late) - 9)

            back, sent = self.given_back(client, send)
            assert sent - back < CONNECTION_WINDOW // 2  # h2 gives back once half is used
            assert client.request("/").status == 200

    def test_a_body_whose_padding_is_most_of_it(self, server: MemoryServer) -> None:
        with RawClient(server) as client:

            def send() -> int:
                stream = client.open(request_fields("/echo", "POST"), end_stream=False)
                body = [data(stream, b"x" * 200, end=False, pad=255)] * 2000
                client.send(*body, data(stream, b"x", pad=255))
                assert client.expect_response(stream).status == 200
                return 2000 * 456 + 257

            back, sent = self.given_back(client, send)
            assert sent - back < CONNECTION_WINDOW // 2


class TestBodies:
    """What came of a body is given up as soon as nobody is going to read it."""

    def held(self, client: RawClient, server: MemoryServer) -> int:
        """Bytes of bodies that the worker holds, after all that was sent."""
        client.expect_alive()
        return server.worker.limits.uploads.used

    def test_of_a_request_that_is_reset_while_it_waits_for_a_slot(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_MAX_RUNNING_STREAMS": "1"})
        with RawClient(server) as client:
            client.open(request_fields("/sleep?s=5"))
            waiting = client.open(request_fields("/echo", "POST"), end_stream=False)
            client.send(data(waiting, b"x" * 1000))
            assert self.held(client, server) == 1000
            client.send(rst_stream(waiting))
            assert self.held(client, server) == 0
            assert server.worker.limits.slots.running == 1

    def test_of_a_request_that_is_refused(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_MAX_REQUEST_BODY_SIZE": "1000"})
        with RawClient(server) as client:
            stream = client.open(request_fields("/echo", "POST"), end_stream=False)
            client.send(data(stream, b"x" * 1000, end=False))
            assert self.held(client, server) == 1000
            client.send(data(stream, b"x", end=False))
            assert client.expect_response(stream).status == 413
            client.send(data(stream, b"x" * 1000, end=False))
            assert self.held(client, server) == 0
            assert server.worker.limits.open_streams == 1

    def test_of_a_connect_that_opens_no_websocket(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            fields = [*request_fields("/echo", "CONNECT"), (":protocol", "websocket")]
            stream = client.new_stream_id()
            client.send(
                headers(stream, client.block(fields), end_stream=False),
                data(stream, b"x" * 1000, end=False),
            )
            assert client.expect_response(stream).status == 405
            assert self.held(client, server) == 0
            assert server.worker.limits.open_streams == 1


class TestCompressionState:
    """HPACK's table is the connection's: each block is decoded, whatever becomes of its stream."""

    @pytest.mark.parametrize("by", ["client", "server"])
    def test_headers_on_a_stream_that_was_reset(self, server: MemoryServer, by: str) -> None:
        with RawClient(server) as client:
            stream = client.open(request_fields("/echo", "POST"), end_stream=False)
            if by == "client":
                client.send(rst_stream(stream))
            else:
                client.send(window_update(stream, 0))
                client.expect_stream_error(stream, ErrorCodes.PROTOCOL_ERROR)
            fields = request_fields("/headers", "GET", ("x-late", "late" * 20))
            client.send(headers(stream, client.block(fields)))
            again = client.open(fields)  # of the entries that the block above has made
            assert client.expect_response(again).status in (200, 404)
            client.expect_alive()

    def test_a_block_that_is_refused(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            wrong = [(":method", "GET"), ("x-first", "a" * 30)]
            client.expect_stream_error(client.open(wrong), ErrorCodes.PROTOCOL_ERROR)
            fields = request_fields("/", "GET", ("x-first", "a" * 30))
            assert client.expect_response(client.open(fields)).status == 200

    def test_one_past_the_limit_of_a_header_list_is_a_431(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_H2_MAX_HEADER_LIST_SIZE": "2048"})
        with RawClient(server) as client:
            large = ("x-large", "a" * 1900)
            stream = client.open(request_fields("/", "GET", large))
            assert client.expect_response(stream).status == 431
            # In the table it is, and the connection goes on.
            assert client.expect_response(client.open(request_fields())).status == 200
            stream = client.open(request_fields("/", "POST", large), end_stream=False)
            assert client.expect_response(stream).status == 431
            small = ("x-small", "a" * 1500)
            stream = client.open(request_fields("/", "GET", small))
            assert client.expect_response(stream).status == 200

    def test_a_list_within_its_bytes_but_of_many_fields_is_one_too(
        self, server: MemoryServer
    ) -> None:
        with RawClient(server) as client:
            many = [(f"x-{i}", "") for i in range(101)]
            stream = client.open([*request_fields(), *many])
            assert client.expect_response(stream).status == 431
            stream = client.open([*request_fields(), *many[1:]])
            assert client.expect_response(stream).status == 200


class TestRequestsWithoutAView:
    """What a request holds is given back, however it ends before its view has begun."""

    LONG = tuple((f"x-{i}", "y" * 4000) for i in range(4))

    @staticmethod
    def held(server: MemoryServer) -> tuple[int, int]:
        """Bytes of header fields, and of bodies."""
        advance(0.1)
        left = server.worker.left()
        size = left.get("bytes of headers", 0)
        assert left.get("holders of headers", 0) == bool(size)
        return size, left.get("bytes of bodies", 0)

    @pytest.mark.parametrize("end", ["reset", "too much", "malformed trailers", "too slow", "gone"])
    def test_over_http2(self, server: MemoryServer, end: str) -> None:
        with RawClient(server) as client:
            fields = [*request_fields("/echo", "POST", ("content-length", "5000")), *self.LONG]
            stream_id = client.open(fields, end_stream=False)
            client.send(data(stream_id, bytes(1000), end=False))
            client.expect_alive()
            size_of_headers, size_of_body = self.held(server)
            assert size_of_headers > 10_000
            assert size_of_body == 1000
            if end == "reset":
                client.send(rst_stream(stream_id))
            elif end == "too much":
                client.send(data(stream_id, bytes(5000)))
                client.expect_stream_error(stream_id, ErrorCodes.PROTOCOL_ERROR)
            elif end == "malformed trailers":
                client.send(headers(stream_id, client.block([("X", "y")])))
                client.expect_stream_error(stream_id, ErrorCodes.PROTOCOL_ERROR)
            elif end == "too slow":
                advance(60)
                assert client.expect_response(stream_id).status == 408
                advance(10)
            else:
                client.sock.close()
            assert self.held(server) == (0, 0)

    def test_a_view_may_hold_them_after_its_connection(self, server: MemoryServer) -> None:
        """Which nobody can close any more."""
        with RawClient(server) as client:
            client.open([*request_fields("/sleep?s=20"), *self.LONG])
            client.expect_alive()
        advance(0.1)
        assert server.worker.left()["bytes of headers"] > 10_000
        assert not server.worker.remembered()

    @pytest.mark.parametrize("end", ["reset", "gone"])
    def test_one_that_waits_for_its_slot(self, serve: Serve, end: str) -> None:
        server = serve(env={"PLAIN_SERVER_MAX_RUNNING_STREAMS": "1"})
        with RawClient(server) as other, RawClient(server) as client:
            other.open(request_fields("/sleep?s=20"))
            other.expect_alive()
            stream_id = client.open(
                [*request_fields("/echo", "POST"), *self.LONG], end_stream=False
            )
            client.send(data(stream_id, bytes(1000)))
            client.expect_alive()
            size_of_headers, size_of_body = self.held(server)
            assert size_of_headers > 10_000
            assert size_of_body == 1000
            if end == "reset":
                client.send(rst_stream(stream_id))
                client.expect_alive()
            else:
                client.sock.close()
            assert self.held(server) == (0, 0)

    @pytest.mark.parametrize("end", ["too slow", "bad chunks", "half-closed", "gone"])
    def test_over_http1(self, either: MemoryServer, end: str) -> None:
        fields = [f"{name}: {value}" for name, value in self.LONG]
        with Client(either.connect("http/1.1")) as client:
            chunked = request("/echo", "Transfer-Encoding: chunked", *fields, method="POST")
            client.send(chunked + b"3e8\r\n" + bytes(1000))
            size_of_headers, size_of_body = self.held(either)
            assert size_of_headers > 10_000
            assert size_of_body == 1000
            if end == "too slow":
                advance(60)
                assert client.read().status == 408
            elif end == "bad chunks":
                client.send(b"\r\nx\r\n")
                assert client.read().status == 400
                assert client.closed()
            elif end == "half-closed":
                client.sock.shutdown(socket.SHUT_WR)
                assert client.read().status == 408
                assert client.closed()
        assert self.held(either) == (0, 0)


class TestRoom:
    """Who has to go when what all clients leave is too much."""

    @pytest.mark.parametrize("slow", ["h2", "http/1.1"])
    @pytest.mark.parametrize("fast", ["h2", "http/1.1"])
    def test_a_body_that_stalls_makes_room_for_another(
        self, serve: Serve, slow: str, fast: str
    ) -> None:
        server = serve(env={"PLAIN_SERVER_MAX_INFLIGHT_BODY_SIZE": "50000"})
        fields = request("/echo", "Content-Length: 40001", method="POST")
        with (
            RawClient(server) as client,
            RawClient(server) as other,
            Client(server.connect("http/1.1")) as old,
            Client(server.connect("http/1.1")) as another,
        ):
            # No part of it comes for a while. (Its rate is that of the last seconds.)
            stream_id = 0
            if slow == "h2":
                stream_id = client.open(request_fields("/echo", "POST"), end_stream=False)
                for _ in range(4):
                    client.send(data(stream_id, bytes(10_000), end=False))
            else:
                old.send(fields + bytes(40_000))
            advance(14)
            if fast == "h2":
                second = other.open(request_fields("/echo", "POST"), end_stream=False)
                for i in range(4):
                    other.send(data(second, bytes(10_000), end=i == 3))
                assert other.finish(second).status == 200
            else:
                another.send(fields + bytes(40_001))
                assert another.read().status == 200
            assert (client.finish(stream_id) if slow == "h2" else old.read()).status == 503
            assert server.log().count("Upload evicted") == (slow == "h2")

    def test_whole_responses_that_nobody_takes_are_given_up(self, serve: Serve) -> None:
        """Those of the connection that leaves most; the largest response is spared."""
        server = serve()
        size = MAX_UNTAKEN // 4
        with ExitStack() as stack:
            clients = [stack.enter_context(RawClient(server, {WINDOW: 0})) for _ in range(5)]
            for client in (clients[0], *clients):
                stream_id = client.open(request_fields(f"/bytes?n={size}"))
                client.expect(HeadersFrame, stream_id)
            advance(2)
            clients[0].expect_connection_error(ErrorCodes.ENHANCE_YOUR_CALM)
            for client in clients[1:]:
                client.expect_alive()
                assert not client.received(RstStreamFrame)
            assert server.worker.limits.unsent.total == 4 * size
            assert "responses that are not taken" in server.log()


class TestOpenStreams:
    @pytest.mark.parametrize(
        ("max_running_streams", "very_many"),
        [(1000, MANY_STREAMS), (MANY_STREAMS, 2 * MANY_STREAMS)],
    )
    def test_while_a_worker_has_very_many_a_connection_may_have_a_few(
        self, serve: Serve, max_running_streams: int, very_many: int
    ) -> None:
        """Very many are also more than may run and wait."""
        server = serve(env={"PLAIN_SERVER_MAX_RUNNING_STREAMS": str(max_running_streams)})
        with RawClient(server) as client:
            for _ in range(FEW_STREAMS):
                open_upload(client)
            client.expect_alive()
            elsewhere = very_many - FEW_STREAMS - 1
            server.worker.limits.open_streams += elsewhere
            try:
                open_upload(client)
                client.expect_alive()
                assert not client.received(RstStreamFrame)
                client.expect_stream_error(open_upload(client), ErrorCodes.REFUSED_STREAM)
            finally:
                server.worker.limits.open_streams -= elsewhere

    def test_those_of_other_connections_count(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_MAX_RUNNING_STREAMS": "10"})
        with RawClient(server) as other, RawClient(server) as late:
            for _ in range(100):
                open_upload(other)
            other.expect_alive()
            elsewhere = MANY_STREAMS - 100 - FEW_STREAMS
            server.worker.limits.open_streams += elsewhere
            try:
                uploads = [open_upload(late) for _ in range(FEW_STREAMS + 2)]
                for refused in uploads[FEW_STREAMS:]:
                    late.expect_stream_error(refused, ErrorCodes.REFUSED_STREAM)
                late.send(data(uploads[0], b"body"))
                assert late.finish(uploads[0]).status == 200
            finally:
                server.worker.limits.open_streams -= elsewhere


class TestCounts:
    def test_continuations_are_those_of_one_block(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            for _ in range(3):
                stream = client.new_stream_id()
                block = client.block(request_fields())
                assert len(block) >= 2
                empty = [continuation(stream, b"", end_headers=False)] * (MAX_CONTINUATIONS - 1)
                client.send(
                    headers(stream, block[:1], end_headers=False),
                    *empty,
                    continuation(stream, block[1:]),
                )
                assert client.expect_response(stream).status == 200

    def test_responses_taken_whole_earn_no_more_than_a_burst_of_resets(
        self, server: MemoryServer
    ) -> None:
        burst = FRAME_LIMITS[FrameType.RST_STREAM].burst
        with RawClient(server) as client:
            for _ in range(burst // 50):  # more than it has, at 1 a response
                streams = [client.open() for _ in range(90)]
                for stream in streams:
                    assert client.expect_response(stream).status == 200
            for _ in range(burst + 200):
                stream = client.open(request_fields("/sleep?s=1"))
                client.send(rst_stream(stream))
            client.expect_connection_error(ErrorCodes.ENHANCE_YOUR_CALM)

    def test_resets_of_streams_that_have_ended_have_a_limit_of_their_own(
        self, server: MemoryServer
    ) -> None:
        with RawClient(server) as client:
            stream = client.open()
            client.expect_response(stream)
            late = rst_stream(stream)
            burst = FRAME_LIMITS[RESET_FRAME].burst
            client.send(*[late] * (burst - 100))
            client.expect_alive()
            client.send(*[late] * 200)
            client.expect_connection_error(ErrorCodes.ENHANCE_YOUR_CALM)

    @pytest.mark.parametrize("kind", ["malformed", "refused"])
    def test_streams_that_come_to_nothing_have_one(self, serve: Serve, kind: str) -> None:
        """They cost as much as those that the client resets."""
        server = serve(env={"PLAIN_SERVER_H2_MAX_CONCURRENT_STREAMS": "1"})
        burst = FRAME_LIMITS[FrameType.RST_STREAM].burst
        with RawClient(server) as client:
            if kind == "refused":
                client.open(request_fields("/echo", "POST"), end_stream=False)
            more = [("X-Upper", "1")] if kind == "malformed" else []
            for _ in range(burst + burst // 2):
                client.send(
                    headers(client.new_stream_id(), client.block([*request_fields(), *more]))
                )
            client.expect_connection_error(ErrorCodes.ENHANCE_YOUR_CALM)
            assert len(client.received(RstStreamFrame)) == burst + 1

    @pytest.mark.parametrize("more", [-BLOCK_NOT_CHARGED + 1, 0, 1])
    def test_bytes_of_a_header_block_without_its_end(self, server: MemoryServer, more: int) -> None:
        with RawClient(server) as client:
            value = b"y" * 20_000
            block = client.block(request_fields()) + b"\0\1x"
            block += bytes(encode_integer(len(value), 7)) + value
            size = BLOCK_NOT_CHARGED + more
            cuts = range(10_000, size, 10_000)
            client.send(headers(1, block[:size], end_headers=False, cuts=cuts))
            advance(0.01)
            left = server.worker.left()
            assert left.get("bytes of unfinished headers", 0) == max(0, more)
            client.send(continuation(1, block[size : size + 10_000], end_headers=False))
            client.send(continuation(1, block[size + 10_000 :]))
            assert client.finish(1).status == 200
            assert server.worker.left() == {"connections": 1}

    def test_header_blocks_without_an_end_have_one_for_the_worker(
        self, server: MemoryServer
    ) -> None:
        """Those that were begun first make room."""
        fragment = bytes(16384)
        size = 7 * len(fragment) - BLOCK_NOT_CHARGED
        number = UNFINISHED_LIMIT // size
        with ExitStack() as stack:
            clients = [stack.enter_context(RawClient(server)) for _ in range(number + 2)]
            for client in clients:
                client.send(headers(1, fragment, end_headers=False))
                for _ in range(6):
                    client.send(continuation(1, fragment, end_headers=False))
                advance(0.01)
            for client in clients[:2]:
                client.expect_connection_error(ErrorCodes.ENHANCE_YOUR_CALM)
            assert not any(client.received(GoAwayFrame) for client in clients[2:])

    def test_heads_without_an_end_have_it_too(self, plaintext: MemoryServer) -> None:
        size = 60_000 - FREE
        number = UNFINISHED_LIMIT // size
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(plaintext.connect())) for _ in range(number + 2)]
            for client in clients:
                client.send(request()[:-2].ljust(60_000, b"x"))
                advance(0.001)
            for client in clients[:2]:
                assert client.closed()
            assert plaintext.worker.left()["connections"] == number


MANY = [(f"x-{i}", "") for i in range(150)]


def open_upload(client: RawClient, *more: Field) -> int:
    return client.open(request_fields("/echo", "POST", *more), end_stream=False)


def a_reset(client: RawClient) -> None:
    client.send(rst_stream(open_upload(client)))


def a_late_reset(client: RawClient) -> None:
    stream_id = client.open()
    client.expect_response(stream_id)
    client.send(rst_stream(stream_id))


def a_malformed_request(client: RawClient) -> None:
    client.open([*request_fields(), ("X", "y")])


def one_that_is_taken_back(client: RawClient) -> None:
    """As `h2` sees its header block, the stream is closed already."""
    block = client.block([*request_fields(), ("X", "y")])
    client.send(headers(client.new_stream_id(), block), rst_stream(1, ErrorCodes.NO_ERROR))


def many_fields(client: RawClient) -> None:
    open_upload(client, *MANY)


def a_path(size: int) -> Callable[[RawClient], None]:
    def act(client: RawClient) -> None:
        client.open(request_fields("/" + "x" * (size - 1), "POST"), end_stream=False)

    return act


def less_than_promised(client: RawClient) -> None:
    client.open(request_fields("/echo", "POST", ("content-length", "5")))


def more_than_promised(client: RawClient) -> None:
    client.send(data(open_upload(client, ("content-length", "5")), b"123456", end=False))


def malformed_trailers(client: RawClient) -> None:
    client.send(headers(open_upload(client), client.block([("X", "y")])))


def malformed_trailers_and_a_reset(client: RawClient) -> None:
    """As `Receiver` sees the first, the stream is closed already."""
    stream_id = open_upload(client)
    client.expect_alive()
    trailers = headers(stream_id, client.block([("X", "y")]))
    client.send(trailers, rst_stream(stream_id))


def trailers_without_an_end(client: RawClient) -> None:
    client.send(headers(open_upload(client), client.block([("x", "y")]), end_stream=False))


def a_reset_of_ours(client: RawClient) -> None:
    client.send(window_update(open_upload(client), 0))


def headers_after_a_reset_of_ours(client: RawClient) -> None:
    a_reset_of_ours(client)
    client.send(headers(1, client.block([("x", "y")])))


def data_after_a_reset_of_ours(client: RawClient) -> None:
    a_reset_of_ours(client)
    client.send(data(1, bytes(1000), end=False))


def an_evicted_websocket(client: RawClient) -> None:
    path = connect_fields("/ws/slow-to-accept?s=3")
    stream_id = client.open(path, end_stream=False)
    client.send(*[data(stream_id, bytes(16000), end=False)] * (MAX_EARLY // 16000 + 1))


def responses_after_resets(client: RawClient) -> None:
    for _ in range(20):
        a_reset(client)
    for _ in range(3):
        client.request()


#: What the metric counts of a reset: the code, and whether the client sent it.
BY_CLIENT = ("CANCEL", True)
FOR_FAULT = ("PROTOCOL_ERROR", False)


class TestCosts:
    """What a client is charged for, and what the metric of resets counts."""

    @pytest.mark.parametrize(
        ("act", "tokens", "resets"),
        [
            (a_reset, {RST_STREAM: 1, RESET_FRAME: 1}, [BY_CLIENT]),
            (a_late_reset, {RESET_FRAME: 1}, []),
            (a_malformed_request, {RST_STREAM: 1}, [FOR_FAULT]),
            (
                one_that_is_taken_back,
                {RST_STREAM: 1, RESET_FRAME: 1},
                [FOR_FAULT, ("NO_ERROR", True)],
            ),
            (many_fields, {RST_STREAM: OVERSIZED_HEADERS_COST}, []),
            (a_path(LONG_BLOCK - 1), {RST_STREAM: LONG_PATH_COST}, []),
            (a_path(LONG_BLOCK), {RST_STREAM: OVERSIZED_HEADERS_COST}, []),
            (less_than_promised, {RST_STREAM: 1}, [FOR_FAULT]),
            (more_than_promised, {RST_STREAM: 1}, [FOR_FAULT]),
            (malformed_trailers, {RST_STREAM: 1}, [FOR_FAULT]),
            (
                malformed_trailers_and_a_reset,
                {RST_STREAM: 1, RESET_FRAME: 1},
                [FOR_FAULT, BY_CLIENT],
            ),
            (trailers_without_an_end, {RST_STREAM: 1}, [FOR_FAULT]),
            (a_reset_of_ours, {RST_STREAM: 1}, [FOR_FAULT]),
            (headers_after_a_reset_of_ours, {RST_STREAM: 2}, [FOR_FAULT]),
            (
                data_after_a_reset_of_ours,
                {RST_STREAM: 1, DATA_ON_CLOSED_STREAM: 1},
                [FOR_FAULT],
            ),
            (an_evicted_websocket, {RST_STREAM: 1}, [("ENHANCE_YOUR_CALM", False)]),
            (
                responses_after_resets,
                {RST_STREAM: 20 - 3, RESET_FRAME: 20 - 3 * RESET_FRAMES_FOR_RESPONSE},
                [BY_CLIENT] * 20,
            ),
        ],
    )
    def test_of(
        self,
        server: MemoryServer,
        monkeypatch: pytest.MonkeyPatch,
        act: Callable[[RawClient], object],
        tokens: dict[int, int],
        resets: list[tuple[str, bool]],
    ) -> None:
        counted: list[tuple[str, bool]] = []
        monkeypatch.setattr(
            metrics, "stream_reset", lambda code, *, by_client: counted.append((code, by_client))
        )
        with RawClient(server) as client:
            act(client)
            client.expect_alive()
            (connection,) = server.worker._connections.http2()
            left = connection._buckets._left
            taken = {kind: FRAME_LIMITS[kind].burst - number for kind, number in left.items()}
            assert {kind: taken[kind] for kind in CHARGED if taken.get(kind)} == tokens
            assert counted == resets


def test_a_websocket_that_is_evicted_too_often_closes_its_connection(
    server: MemoryServer,
) -> None:
    with RawClient(server) as client:
        client.expect_alive()
        (connection,) = server.worker._connections.http2()
        connection._buckets.take(RST_STREAM, FRAME_LIMITS[RST_STREAM].burst)
        an_evicted_websocket(client)
        goaway = client.expect_connection_error(ErrorCodes.ENHANCE_YOUR_CALM)
        assert goaway.additional_data == b"too many RST_STREAM frames"


class TestClientsThatDoNotRead:
    def test_who_does_not_read_its_answers_loses_its_place(self, serve: Serve) -> None:
        """Its streams, greenlets and bytes are given back."""
        server = serve(
            env={
                "PLAIN_SERVER_SEND_TIMEOUT": "5",
                "PLAIN_SERVER_MAX_RUNNING_STREAMS": "20",
            }
        )
        client = RawClient(server)
        for _ in range(20):
            client.open(request_fields("/chunks?n=100&size=10000"))
        client.send(window_update(0, 2**30))
        assert server.worker.limits.slots.running <= 20
        for _ in range(60):
            advance(1.0)
        limits = server.worker.limits
        assert (limits.slots.running, limits.open_streams, limits.unsent.total) == (0, 0, 0)
        with RawClient(server) as other:
            assert other.request("/").status == 200
        client.sock.close()

    def test_who_opens_no_window_loses_its_places(self, serve: Serve) -> None:
        """It reads all that comes, so that its connection goes on."""
        server = serve(env={"PLAIN_SERVER_SEND_TIMEOUT": "5"})
        with RawClient(server, {WINDOW: 0}) as client:
            streams = [client.open(request_fields("/chunks?n=3&size=100")) for _ in range(20)]
            client.expect_alive()
            limits = server.worker.limits
            assert limits.open_streams == 20
            for _ in range(10):
                advance(1.0)
            for stream in streams:
                client.expect_stream_error(stream, ErrorCodes.CANCEL)
            assert (limits.slots.running, limits.open_streams, limits.unsent.total) == (0, 0, 0)
            assert client.request("/", "HEAD").status == 200

    def test_who_does_not_read_pings_is_closed(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_SEND_TIMEOUT": "5"})
        with RawClient(server) as client:
            client.expect_alive()
            client.sock.setblocking(False)
            try:
                for _ in range(5000):
                    client.sock.sendall(ping() * 10)
            except OSError:
                pass  # it reads no more
            for _ in range(60):
                advance(1.0)
            assert server.worker.left() == {}


def test_a_goaway_names_the_last_stream_that_was_served(server: MemoryServer) -> None:
    with RawClient(server) as client:
        for _ in range(3):
            client.request("/")
        client.send(continuation(7, b""))  # a fault of the connection
        goaway = client.expect_connection_error(ErrorCodes.PROTOCOL_ERROR)
        assert isinstance(goaway, GoAwayFrame)
        assert goaway.last_stream_id == 5
