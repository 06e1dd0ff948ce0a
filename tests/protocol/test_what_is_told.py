"""What the log says of requests that are refused and connections that are closed, and what clients
are told."""

import itertools
import json
import logging
from collections.abc import Callable
from types import SimpleNamespace

import gevent
import pytest
from h2.errors import ErrorCodes
from hpack.hpack import encode_integer
from http1client import Client, request
from hyperframe.frame import SettingsFrame, WindowUpdateFrame
from memory_server import MemoryServer
from raw import (
    PREFACE,
    RawClient,
    continuation,
    data,
    headers,
    ping,
    request_fields,
    settings,
    window_update,
)
from virtual_time import advance, now
from ws import connect_fields

from plain_gevent_h2.app.websocket import MAX_EARLY
from plain_gevent_h2.http2 import connection as connection_module
from plain_gevent_h2.http2.connection import DECODING_A_BYTE, Http2Connection
from plain_gevent_h2.http2.frame_filter import MAX_RUN
from plain_gevent_h2.http2.frames import FrameType
from plain_gevent_h2.http2.timeouts import BLOCK_TIMEOUT, PREFACE_TIMEOUT
from plain_gevent_h2.http2.token_buckets import FRAME_LIMITS
from plain_gevent_h2.limits.header_budget import FREE, LONG_BLOCKS_BURST
from plain_gevent_h2.net.fairness import PENALTY, PENALTY_FOR_TURN, TURN, yield_to_others
from plain_gevent_h2.net.tls_socket import RECORD_SIZE, RECV_SIZE

Serve = Callable[..., MemoryServer]

WINDOW = SettingsFrame.INITIAL_WINDOW_SIZE


class Log:
    """The lines of the worker's log, debugging included."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    def expect(self, level: int, message: str, error: str | None = None) -> None:
        """There is one such line, which says who the client is."""
        lines = [line for line in self._caplog.records if line.getMessage() == message]
        assert [line.levelno for line in lines] == [level], self._caplog.text
        assert lines[0].client[0] == "127.0.0.1"  # type: ignore[attr-defined]
        assert getattr(lines[0], "error", None) == error


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    caplog.set_level(logging.DEBUG, "plain.server")
    return Log(caplog)


def expect_goaway(client: RawClient, code: ErrorCodes, reason: str) -> None:
    """The reason is in the debug data (RFC 9113 section 6.8)."""
    goaway = client.expect_connection_error(code)
    assert goaway.additional_data == reason.encode()


class TestHttp2:
    def test_a_malformed_request(self, server: MemoryServer, log: Log) -> None:
        with RawClient(server) as client:
            stream_id = client.open([*request_fields(), ("X", "y")])
            client.expect_stream_error(stream_id, ErrorCodes.PROTOCOL_ERROR)
        log.expect(logging.DEBUG, "Malformed request", "invalid name b'X'")

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_one_of_too_many_fields(self, server: MemoryServer, log: Log, method: str) -> None:
        fields = [(f"x-{i}", "y") for i in range(150)]
        with RawClient(server) as client:
            response = client.finish(client.open([*request_fields("/", method), *fields]))
            assert response.status == 431
            assert (response.body == b"<h1>431</h1>") == (method == "GET")
            assert (response.body == b"") == (method == "HEAD")
        (line,) = (r for r in log._caplog.records if r.getMessage() == "Invalid request")
        assert "header fields of" in line.error  # type: ignore[attr-defined]
        log.expect(logging.WARNING, "Invalid request", line.error)  # type: ignore[attr-defined]

    def test_one_that_promises_too_much(self, server: MemoryServer, log: Log) -> None:
        length = ("content-length", "1000000000000")
        with RawClient(server) as client:
            fields = request_fields("/echo", "POST", length)
            assert client.expect_response(client.open(fields, end_stream=False)).status == 413
        (line,) = (r for r in log._caplog.records if r.getMessage() == "Invalid request")
        assert "1000000000000" in line.error  # type: ignore[attr-defined]
        log.expect(logging.WARNING, "Invalid request", line.error)  # type: ignore[attr-defined]

    def test_one_that_sends_too_much(self, serve: Serve, log: Log) -> None:
        server = serve(env={"PLAIN_SERVER_MAX_REQUEST_BODY_SIZE": "1000"})
        with RawClient(server) as client:
            stream_id = client.open(request_fields("/echo", "POST"), end_stream=False)
            client.send(data(stream_id, bytes(1001), end=False))
            assert client.expect_response(stream_id).status == 413
        (line,) = (r for r in log._caplog.records if r.getMessage() == "Invalid request")
        assert "1000" in line.error  # type: ignore[attr-defined]
        log.expect(logging.WARNING, "Invalid request", line.error)  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("frame", "code", "reason"),
        [
            (
                continuation(1, b""),
                ErrorCodes.PROTOCOL_ERROR,
                "CONTINUATION outside a header block",
            ),
            (settings([(4, 2**31)]), ErrorCodes.FLOW_CONTROL_ERROR, None),  # in h2's words
        ],
    )
    def test_a_fault(
        self, server: MemoryServer, log: Log, frame: bytes, code: ErrorCodes, reason: str | None
    ) -> None:
        with RawClient(server) as client:
            client.expect_alive()
            client.send(frame)
            goaway = client.expect_connection_error(code)
            told = goaway.additional_data.decode()
            assert told == reason if reason else len(told) > 10
        log.expect(logging.DEBUG, "HTTP/2 connection fault", f"{code.name}: {told}")

    def test_a_flood(self, server: MemoryServer, log: Log) -> None:
        with RawClient(server, acknowledge=False) as client:
            client.send(ping() * (FRAME_LIMITS[FrameType.PING].burst + 1))
            expect_goaway(client, ErrorCodes.ENHANCE_YOUR_CALM, "too many PING frames")
        log.expect(logging.WARNING, "Connection closed for abuse", "too many PING frames")

    def test_a_block_without_an_end(self, server: MemoryServer, log: Log) -> None:
        with RawClient(server) as client:
            client.send(headers(1, b"\x82", end_headers=False))
            advance(BLOCK_TIMEOUT + 2)
            reason = "header block without an end"
            expect_goaway(client, ErrorCodes.ENHANCE_YOUR_CALM, reason)
        log.expect(logging.WARNING, "Connection closed for abuse", reason)

    @pytest.mark.parametrize(
        ("verb", "reason"),
        [
            (Http2Connection.close_for_penalties, "too many penalties"),
            (Http2Connection.close_for_headers, "too many bytes of header fields"),
            (Http2Connection.close_for_responses, "responses that are not taken"),
        ],
    )
    def test_one_that_makes_room_for_others(
        self,
        server: MemoryServer,
        log: Log,
        verb: Callable[[Http2Connection], None],
        reason: str,
    ) -> None:
        """It waits in the penalty box. Asked again for room there, it has none to read the why."""
        with RawClient(server) as client:
            client.send(ping() * (FRAME_LIMITS[FrameType.PING].burst // 2))
            client.expect_alive()
            (connection,) = server.worker._connections.http2()
            assert connection.penalties == 1
            assert server.worker.remembered() == [connection, connection]  # idle, and in the box
            verb(connection)
            assert server.worker.remembered() == [connection]  # at fault
            expect_goaway(client, ErrorCodes.ENHANCE_YOUR_CALM, reason)
            client.send(ping())
            connection.close_for_penalties()
            advance(0.1)
            assert not server.worker.left()
        log.expect(logging.WARNING, "Connection closed for abuse", reason)

    def test_no_preface(self, server: MemoryServer) -> None:
        with RawClient(server, handshake=False, acknowledge=False) as client:
            client.send_bytes(PREFACE[:10])
            advance(PREFACE_TIMEOUT + 2)
            (goaway,) = client.expect_close()
            assert goaway.error_code == ErrorCodes.PROTOCOL_ERROR
            assert goaway.additional_data == b"no connection preface"

    def test_a_response_that_is_not_taken(self, serve: Serve, log: Log) -> None:
        server = serve(env={"PLAIN_SERVER_SEND_TIMEOUT": "5"})
        with RawClient(server, {WINDOW: 0}) as client:
            stream_id = client.open(request_fields("/bytes?n=1000"))
            client.expect_stream_error(stream_id, ErrorCodes.CANCEL)
        log.expect(logging.DEBUG, "Client does not take its response")

    def test_a_socket_that_is_not_read(self, serve: Serve, log: Log) -> None:
        server = serve(env={"PLAIN_SERVER_SEND_TIMEOUT": "5"})
        with RawClient(server, {WINDOW: 2**31 - 1}) as client:
            client.send(window_update(0, 2**30))
            client.open(request_fields("/endless?name=told&wait=0&size=100000"))
            advance(20)
        log.expect(logging.DEBUG, "Client does not read")

    def test_answers_that_are_not_read(self, serve: Serve, log: Log) -> None:
        server = serve(env={"PLAIN_SERVER_SEND_TIMEOUT": "5"})
        path = f"/lengths/wire?part=value&value={'y' * 3000}"
        with RawClient(server) as client:
            for i in range(100):
                client.open(request_fields(f"{path}{i}", "HEAD"))
                advance(0)
            advance(3)
            assert server.worker.readers() == 1  # it waits, and not for what the client sends
            advance(10)
            assert not server.worker.left()
        log.expect(logging.WARNING, "Connection closed for abuse", "answers that are not read")

    def test_an_upload_that_makes_room(self, serve: Serve, log: Log) -> None:
        server = serve(env={"PLAIN_SERVER_MAX_INFLIGHT_BODY_SIZE": "20000"})
        with RawClient(server) as client, RawClient(server) as other:
            stream_id = client.open(request_fields("/echo", "POST"), end_stream=False)
            client.send(data(stream_id, bytes(15_000), end=False))
            advance(14)
            second = other.open(request_fields("/echo", "POST"), end_stream=False)
            other.send(data(second, bytes(15_000)))
            assert other.expect_response(second).status == 200
            assert client.expect_response(stream_id).status == 503
        log.expect(logging.WARNING, "Upload evicted")

    def test_a_websocket_that_holds_too_much(self, server: MemoryServer, log: Log) -> None:
        with RawClient(server) as client:
            fields = connect_fields("/ws/slow-to-accept?s=3")
            stream_id = client.open(fields, end_stream=False)
            client.send(*[data(stream_id, bytes(16_000), end=False)] * (MAX_EARLY // 16_000 + 1))
            client.expect_stream_error(stream_id, ErrorCodes.ENHANCE_YOUR_CALM)
        log.expect(logging.DEBUG, "WebSocket holds too much")

    @pytest.mark.parametrize(
        ("size", "reason"),
        [
            (4096, "Oversized header block: more than 4096 bytes"),
            (4097, "header block of more than 4096 bytes"),  # none of which is decoded
        ],
    )
    def test_a_block_of_too_many_bytes(
        self, serve: Serve, log: Log, size: int, reason: str
    ) -> None:
        """It is more than twice the limit of a header list: up to that there is an answer."""
        server = serve(env={"PLAIN_SERVER_H2_MAX_HEADER_LIST_SIZE": "2048"})
        with RawClient(server) as client:
            client.send(headers(1, b"\x82" * size))
            expect_goaway(client, ErrorCodes.ENHANCE_YOUR_CALM, reason)
        log.expect(logging.WARNING, "Connection closed for abuse", reason)


class TestPages:
    """The server's own, over HTTP/2."""

    @pytest.mark.parametrize("method", ["POST", "HEAD"])
    @pytest.mark.parametrize("status", [413, 431, 501])
    @pytest.mark.parametrize("long", [False, True])
    def test_one(self, server: MemoryServer, status: int, method: str, long: bool) -> None:
        more = (("x-long", "y" * FREE),) if long else ()
        fields = request_fields("/echo", method, *more)
        if status == 413:
            fields = [*fields, ("content-length", "1000000000000")]
        elif status == 431:
            fields = [*fields, *((f"x-{i}", "y") for i in range(150))]
        else:
            fields = [(":method", "CONNECT"), (":protocol", "other"), *fields[1:]]
        with RawClient(server) as client:
            response = client.finish(client.open(fields, end_stream=False))
            page = f"<h1>{status}</h1>".encode()
            assert response.status == status
            sent = dict(response.headers)
            assert sent["content-type"] == "text/html"
            assert sent["content-length"] == str(len(page))
            assert "retry-after" not in sent
            assert response.body == (b"" if method == "HEAD" and status != 501 else page)

    def test_one_for_a_request_that_may_come_again(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_MAX_INFLIGHT_BODY_SIZE": "1000"})
        with RawClient(server) as client:
            stream_id = client.open(request_fields("/echo", "POST"), end_stream=False)
            client.send(data(stream_id, bytes(1001), end=False))
            response = client.finish(stream_id)
            assert response.status == 503
            assert dict(response.headers)["retry-after"] == "1"

    @pytest.mark.parametrize(("path", "type"), [("/up", "text/plain"), ("/upper", None)])
    def test_the_health_check(self, serve: Serve, path: str, type: str | None) -> None:
        server = serve(env={"PLAIN_HEALTHCHECK_PATH": "/up"})
        with RawClient(server) as client:
            response = client.request(path)
            assert (response.status == 200) == (type is not None)
            assert type is None or dict(response.headers)["content-type"] == type


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
def test_a_view_knows_both_ends(server: MemoryServer, protocol: str) -> None:
    if protocol == "h2":
        with RawClient(server) as client:
            body = client.request("/meta").body
    else:
        with Client(server.connect("http/1.1")) as old:
            body = old.get("/meta").body
    meta = json.loads(body)
    assert (meta["scheme"], meta["client_ip"]) == ("https", "127.0.0.1")
    assert (meta["server_name"], meta["server_port"]) == ("127.0.0.1", "443")


class TestAccessLog:
    """Plain's own, of what this package has read and sent."""

    AGENT = (("user-agent", "agent"), ("referer", "page"))

    @staticmethod
    def line(server: MemoryServer, marker: str) -> str:
        (line,) = (line for line in server.log().splitlines() if marker in line)
        return line

    @pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
    @pytest.mark.parametrize("size", [0, 5000])
    @pytest.mark.parametrize(("path", "sent"), [("bytes", 5), ("chunks", 15)])
    def test_a_request(
        self, server: MemoryServer, protocol: str, size: int, path: str, sent: int
    ) -> None:
        marker = f"n={'5' if path == 'bytes' else '3'}&told={protocol[-1]}{size}?"
        fields = [*self.AGENT, ("x-long", "y" * size)]
        if protocol == "h2":
            with RawClient(server) as client:
                client.finish(client.open([*request_fields(f"/{path}?{marker}"), *fields]))
        else:
            with Client(server.connect("http/1.1")) as old:
                old.send(request(f"/{path}?{marker}", *(f"{n}: {v}" for n, v in fields)))
                old.read()
        line = self.line(server, marker)
        assert line.startswith("[INFO] Request method=GET")
        for part in (
            f'path="/{path}" ',
            f'query="{marker}"',
            "status=200",
            f"size={sent} ",
            'ip="127.0.0.1"',
            "user_agent=agent",
            "referer=page",
        ):
            assert part.replace('"', "") in line.replace('"', ""), line

    @pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
    def test_an_async_view_whose_client_has_left(
        self, server: MemoryServer, protocol: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """It is cancelled, and has a status that HTTP has not."""
        name = f"left-{protocol[-1]}"
        path = f"/left/async?name={name}"
        if protocol == "h2":
            with RawClient(server) as client:
                client.open(request_fields(path))
                client.expect_alive()
                advance(0.5)
        else:
            with Client(server.connect("http/1.1")) as old:
                old.send(request(path))
                advance(0.5)
        advance(3)
        assert " status=499 " in self.line(server, f"name={name}")
        assert capfd.readouterr().err.count(f"{name} cleaned up.") == 1

    def test_a_path_is_as_it_was_sent(self, server: MemoryServer) -> None:
        """Decoded it could be a line of its own."""
        with RawClient(server) as client:
            assert client.request("/no%0Awhere?told=path").status == 404
        assert 'path="/no%0Awhere"' in self.line(server, "told=path")


class FullDisk:
    """Where bodies go that are too large for memory, once there is no space left."""

    def __init__(self, max_size: int) -> None:
        self._left = max_size

    def write(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise OSError(28, "No space left on device")

    def close(self) -> None:
        pass


class TestDisk:
    @pytest.fixture
    def small(self, serve: Serve) -> MemoryServer:
        """A server that keeps few bytes of a body in memory."""
        return serve(env={"PLAIN_SERVER_BODY_MAX_MEMORY_SIZE": "1000"})

    @pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
    def test_a_body_goes_there(self, small: MemoryServer, protocol: str) -> None:
        """Over HTTP/2 its windows come back as it is written."""
        size = 3 * 2**20
        if protocol == "h2":
            with RawClient(small) as client:
                stream_id = client.open(request_fields("/echo", "POST"), end_stream=False)
                client.expect_alive()
                window = client.server_settings[WINDOW]
                for i in range(size // 16384):
                    while window < 16384:
                        update = client.expect(WindowUpdateFrame, stream_id)
                        window += update.window_increment
                    window -= 16384
                    last = i == size // 16384 - 1
                    client.send(data(stream_id, bytes(16384), end=last))
                body = client.expect_response(stream_id).body
        else:
            with Client(small.connect("http/1.1")) as old:
                old.send(request("/echo", f"Content-Length: {size}", method="POST"))
                for _ in range(size // 16384):
                    old.send(bytes(16384))
                body = old.read().body
        assert json.loads(body)["length"] == size

    @pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
    def test_it_is_full(
        self,
        small: MemoryServer,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        protocol: str,
    ) -> None:
        monkeypatch.setattr("plain_gevent_h2.app.spool.tempfile.SpooledTemporaryFile", FullDisk)
        if protocol == "h2":
            with RawClient(small) as client:
                stream_id = client.open(request_fields("/echo", "POST"), end_stream=False)
                for _ in range(3):
                    client.send(data(stream_id, bytes(2000), end=False))
                    client.expect_alive()
                    advance(0.1)  # not before what was written has failed
                assert client.expect_response(stream_id).status == 500
        else:
            with Client(small.connect("http/1.1")) as old:
                old.send(request("/echo", "Transfer-Encoding: chunked", method="POST"))
                for _ in range(3):
                    old.send(b"7d0\r\n" + bytes(2000) + b"\r\n")
                    advance(0.1)
                answer = old.read()
                assert answer.status == 500
                assert b"No space left" not in answer.body
                assert old.closed()
            assert "status=500" in small.log()
        (line,) = (r for r in caplog.records if "temporary file" in r.getMessage())
        assert line.levelno == logging.ERROR
        assert "No space left" in line.error  # type: ignore[attr-defined]


class TestHeaderFieldsOfOthers:
    """They fill the worker: a request whose own are long is to come again."""

    @pytest.mark.parametrize("protocol", ["h2", "http/1.1", "websocket"])
    def test_a_503(self, serve: Serve, caplog: pytest.LogCaptureFixture, protocol: str) -> None:
        server = serve()
        server.worker.limits.headers._limit = 15_000
        long = [(f"x-{i}", "y" * 4000) for i in range(4)]
        with (
            RawClient(server) as other,
            RawClient(server) as client,
            Client(server.connect("http/1.1")) as old,
        ):
            held = other.open([*request_fields("/sleep?s=5"), *long[:2]])
            other.expect_alive()
            if protocol != "http/1.1":
                fields = request_fields() if protocol == "h2" else connect_fields("/ws/echo")
                response = client.finish(client.open([*fields, *long]))
                assert response.status == 503
                assert server.worker.left()["running streams"] == 1  # the other's
                assert dict(response.headers)["retry-after"] == "1"
                assert client.request("/").body == b"hello"  # without
            else:
                old.send(request("/", *(f"{name}: {value}" for name, value in long)))
                assert old.read().status == 503
                assert old.closed()
            assert other.finish(held).body == b"slept"
            assert client.finish(client.open([*request_fields(), *long])).body == b"hello"
        assert "[ERROR]" not in server.log()  # as of a greenlet for what was refused
        (line,) = (r for r in caplog.records if "header fields" in r.getMessage())
        assert line.levelno == logging.WARNING

    def test_who_holds_most_makes_room_for_itself(self, serve: Serve) -> None:
        """By its end: what came with the request that had no room is not served either."""
        server = serve()
        server.worker.limits.headers._limit = 15_000
        long = [("x-long", "y" * 3000)] * 4  # an entry of HPACK's table
        with RawClient(server) as client:
            client.open([*request_fields("/sleep?s=5"), *long])
            client.expect_alive()
            blocks = [client.block([*request_fields("/sleep?s=5"), *more]) for more in (long, [])]
            client.send(*(headers(client.new_stream_id(), block) for block in blocks))
            reason = "too many bytes of header fields"
            expect_goaway(client, ErrorCodes.ENHANCE_YOUR_CALM, reason)
            left = server.worker.left()
            assert (left["streams without a client"], left.get("open streams")) == (1, None)


class TestPenalties:
    """Who asks for much waits, while others do not."""

    @staticmethod
    def seconds(act: Callable[[], object]) -> float:
        began = now()
        act()
        return now() - began

    def test_a_flood(self, server: MemoryServer) -> None:
        burst = FRAME_LIMITS[FrameType.PING].burst
        with RawClient(server) as client, RawClient(server) as other:

            def ask(of: RawClient) -> None:
                for _ in range(3):  # it waits once it was answered
                    of.expect_alive()

            client.send(ping() * (burst // 20))
            assert self.seconds(lambda: ask(client)) == 0
            client.send(ping() * (burst // 10))
            assert self.seconds(lambda: ask(client)) >= PENALTY
            assert self.seconds(lambda: ask(other)) == 0

    def test_they_are_forgotten_after_a_turn_without_one(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            client.send(ping() * (FRAME_LIMITS[FrameType.PING].burst // 5))
            advance(0.1)
            (connection,) = server.worker._connections.http2()
            assert connection.penalties > 0
            advance(2)  # in which its tokens come back
            client.expect_alive()
            advance(0)
            assert connection.penalties == 0

    def test_the_time_of_a_penalty_refills_nothing(self, server: MemoryServer) -> None:
        burst = FRAME_LIMITS[FrameType.WINDOW_UPDATE].burst
        with RawClient(server) as client:
            client.send(window_update(0, 1) * burst)
            client.expect_alive()
            client.send(window_update(0, 1))
            client.expect_connection_error(ErrorCodes.ENHANCE_YOUR_CALM)

    def test_how_much_is_read_at_once(self, server: MemoryServer) -> None:
        """Much of a body, little of a flood: one that waits holds what was read."""
        with RawClient(server) as client:
            client.expect_alive()
            (connection,) = server.worker._connections.http2()
            receiver = connection._receiver
            assert receiver.recv_size == RECORD_SIZE
            client.send(data(client.open(request_fields("/echo", "POST"), end_stream=False)))
            client.expect_alive()
            assert receiver.recv_size == RECV_SIZE
            client.send(ping() * (FRAME_LIMITS[FrameType.PING].burst // 2))
            advance(0.1)
            assert receiver.recv_size == RECORD_SIZE
            client.send(data(0))
            client.expect_connection_error(ErrorCodes.PROTOCOL_ERROR)
            advance(0.1)
            assert receiver.recv_size == RECV_SIZE  # to be thrown away

    @pytest.mark.parametrize("takes_time", [False, True])
    def test_others_have_a_turn_amid_what_takes_time(
        self, server: MemoryServer, monkeypatch: pytest.MonkeyPatch, takes_time: bool
    ) -> None:
        if takes_time:
            calls = itertools.count()
            clock = SimpleNamespace(monotonic=lambda: now() + next(calls) * 2 * TURN)
            monkeypatch.setattr(connection_module, "time", clock)
        runs = 6
        with RawClient(server) as client:
            client.expect_alive()
            turns = 0

            def take_turns() -> None:
                nonlocal turns
                while True:
                    yield_to_others()
                    turns += 1

            others = gevent.spawn(take_turns)
            client.send(ping() * (runs * MAX_RUN - 1))
            client.expect_alive()
            others.kill()
            assert (turns > runs) == takes_time

    def test_long_header_blocks(self, server: MemoryServer) -> None:
        value = b"y" * 40_000
        long = b"\x00\x06x-long" + bytes(encode_integer(len(value), 7)) + value
        number = LONG_BLOCKS_BURST // len(long)
        with RawClient(server) as client:

            def ask() -> None:
                block, stream_id = client.block(request_fields()) + long, client.new_stream_id()
                client.send(headers(stream_id, block, cuts=range(16_000, len(block), 16_000)))
                assert client.expect_response(stream_id).status == 200

            for _ in range(number - 1):
                assert self.seconds(ask) == 0
            ask()
            least = PENALTY_FOR_TURN * len(long) * DECODING_A_BYTE
            assert least <= self.seconds(ask) < 2 * least
            advance(10)
            assert self.seconds(ask) == 0


class TestHttp1:
    def test_a_response_that_is_not_taken(
        self, serve: Serve, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By the count of its kernel, which a socket pair has not."""
        monkeypatch.setattr("plain_gevent_h2.http1.output.bytes_acknowledged", lambda _sock: 0)
        server = serve(env={"PLAIN_SERVER_MAX_RUNNING_STREAMS": "1"})
        with Client(server.connect("http/1.1")) as client, RawClient(server) as other:
            client.send(request("/endless?name=told1&wait=0&size=100000"))
            client.read_head()
            assert other.request("/").status == 200
        log.expect(logging.DEBUG, "Client does not take its response")

    def test_an_incomplete_body(self, either: MemoryServer) -> None:
        with Client(either.connect("http/1.1")) as client:
            client.send(request("/echo", "Content-Length: 100", method="POST") + b"half")
            answer = client.read()
            assert answer.status_line == "HTTP/1.1 408 Request Timeout"
            assert b"Incomplete request body" in answer.body

    def test_a_client_that_leaves_before_its_error_page(
        self, either: MemoryServer, log: Log
    ) -> None:
        with Client(either.connect("http/1.1")) as client:
            client.send(request("/echo", "Content-Length: 100", method="POST") + b"half")
        advance(1)
        log.expect(logging.DEBUG, "Client left before its error page")
        assert "Traceback" not in either.log()

    def test_a_body_without_room(self, serve: Serve, log: Log) -> None:
        """The client may come again."""
        server = serve(env={"PLAIN_SERVER_MAX_INFLIGHT_BODY_SIZE": "1000"})
        with Client(server.connect("http/1.1")) as client:
            client.send(request("/echo", "Content-Length: 1001", method="POST") + bytes(1001))
            answer = client.read()
            assert (answer.status, answer.all("retry-after")) == (503, ["1"])
            (line,) = (r for r in log._caplog.records if "No room" in r.getMessage())
            error = line.error  # type: ignore[attr-defined]
            assert "1000" in error
            assert error.encode() in answer.body
            assert client.closed()
        assert (line.levelno, line.client[0]) == (logging.WARNING, "127.0.0.1")  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("sent", "status"),
        [
            (request("/", "X: a\x01b"), 400),
            (request("/", "Host: a b"), 400),
            (request("/echo", "Content-Length: 1000000000000", method="POST"), 413),
            (request("/", *(f"X-{i}: {'y' * 8000}" for i in range(9))), 431),
        ],
    )
    def test_one_that_is_refused(
        self, either: MemoryServer, caplog: pytest.LogCaptureFixture, sent: bytes, status: int
    ) -> None:
        caplog.set_level(logging.INFO)
        with Client(either.connect("http/1.1")) as client:
            client.send(sent)
            answer = client.read()
            assert answer.status == status
            assert len(answer.status_line.split()) > 2  # and in words
            assert answer.body
            assert client.closed()
        (line,) = (r for r in caplog.records if r.getMessage().startswith("Invalid request"))
        assert line.levelno == logging.WARNING
        assert line.ip == "127.0.0.1"  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        ("framing", "body", "status"),
        [
            ("Content-Length: 1000000000000", b"", 413),
            ("Transfer-Encoding: chunked", b"x\r\n", 400),
        ],
    )
    def test_one_whose_body_is_refused_is_in_the_access_log(
        self, either: MemoryServer, framing: str, body: bytes, status: int
    ) -> None:
        """Its head is whole: it says who has asked for what."""
        marker = f"refused={status}-{either.port}"
        with Client(either.connect("http/1.1")) as client:
            client.send(request(f"/echo?{marker}", framing, method="POST") + body)
            assert client.read().status == status
            assert client.closed()
        line = TestAccessLog.line(either, marker)
        assert f" status={status} " in line
        assert "127.0.0.1" in line


def test_http2_without_alpn_is_asked_for_http1(either: MemoryServer) -> None:
    """In its own protocol: SETTINGS, and a GOAWAY with HTTP_1_1_REQUIRED."""
    sock = either.connect("http/1.1")
    sock.sendall(PREFACE + settings())
    received = b""
    while more := sock.recv(1000):
        received += more
    why = b"HTTP/2 needs TLS and ALPN"
    goaway = b"\x00\x00" + bytes((8 + len(why),)) + b"\x07\x00" + bytes(4) + bytes(7) + b"\x0d"
    assert received == b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + goaway + why
    told = dict(either.worker.http2_without_alpn._reasons)
    suffix = "" if either.tls else " (--certfile)"
    assert told == {f"HTTP/2 needs TLS and ALPN{suffix}": 1}
    either.worker.http2_without_alpn._reasons.clear()
    sock.close()
