"""One HTTP/1.1 request and the verbs that answer it, on a connection of the test's own."""

import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from plain.http import Request, Response, StreamingResponse, WebSocketResponse

from plain_gevent_h2.app.plain_internals import InvalidHeader, ParsedRequest, http1_response
from plain_gevent_h2.app.request_rules import RequestRules
from plain_gevent_h2.app.spool import SpooledBody
from plain_gevent_h2.app.unread_websockets import UnreadBudget
from plain_gevent_h2.app.upload_budget import UploadBudget
from plain_gevent_h2.http1.output import Output
from plain_gevent_h2.http1.socket_reader import SocketReader
from plain_gevent_h2.http1.stream import Http1Stream
from plain_gevent_h2.limits.header_budget import HeaderBudget
from plain_gevent_h2.limits.unsent import UnsentBytes
from plain_gevent_h2.stream import ClientGone

RULES = RequestRules(
    is_tls=False,
    health_check_path="",
    keepalive_timeout=5,
    max_body_size=None,
    body_memory_size=100_000,
    min_body_rate=0,
)


class Socket:
    def __init__(self) -> None:
        self.sent = b""
        self.resets_on_close = False
        self.is_gone = False
        self.closed = False

    def settimeout(self, timeout: float | None) -> None:
        pass

    def sendall(self, data: bytes) -> None:
        if self.is_gone:
            raise ConnectionResetError
        self.sent += data

    def setsockopt(self, _level: int, _option: int, value: bytes) -> None:
        self.resets_on_close = struct.unpack("ii", value) == (1, 0)


class Connection:
    """As much of a connection, and of its worker, as a stream uses."""

    client = ("127.0.0.1", 50_000)
    server = ("127.0.0.1", 80)

    def __init__(self) -> None:
        self.sock = Socket()
        sock: Any = self.sock
        self.socket_reader = SocketReader(sock)
        self.output = Output(sock, 30.0, UnsentBytes())
        self.headers = HeaderBudget()
        self.uploads = UploadBudget(None)
        self.alive = True
        self.called: list[object] = []
        self.limits = SimpleNamespace(
            headers=self.headers, unread_websockets=UnreadBudget(self.uploads)
        )
        self.worker: Any = self

    def send_error(self, status: int) -> None:
        self.called.append(status)

    def websocket_evicted(self) -> None:
        self.called.append("evicted")

    def end_websocket(self) -> None:
        self.called.append("end")

    def close_at_once(self) -> None:
        self.called.append("close")

    def close_for_headers(self) -> None:
        raise AssertionError


@pytest.fixture
def connection() -> Connection:
    return Connection()


def make(
    connection: Connection,
    *fields: str,
    version: str = "1.1",
    method: str = "GET",
    body: bytes = b"",
    seconds: float = 0.0,
) -> Http1Stream:
    head = "\r\n".join([f"{method} /x HTTP/{version}", "Host: localhost", *fields, "", ""])
    parsed = ParsedRequest(False, head.encode(), connection.client)
    sink = SpooledBody(RULES, connection.uploads, lambda: None)
    if body:
        sink.feed(body)
    sink.end()
    response = http1_response(parsed, connection.output, is_tls=False)
    return Http1Stream(connection, parsed, response, sink, seconds)


async def nothing(_socket: object) -> None:
    """What a view does on its WebSocket."""


def websocket() -> Response:
    request = Request(method="GET", path="/x", headers={"Sec-WebSocket-Key": "A" * 22 + "=="})
    return WebSocketResponse(
        request=request, handler=nothing, subprotocol=None, max_message_size=1000
    )


def streaming() -> Response:
    return StreamingResponse(iter([b"x"]))


def test_the_request_has_its_client_and_its_body(connection: Connection) -> None:
    stream = make(connection, "Content-Length: 4", method="POST", body=b"body", seconds=1.5)
    request = stream.build_request()
    assert (request.method, request.path, request.host) == ("POST", "/x", "localhost")
    assert request.client_ip == "127.0.0.1"
    assert request.body == b"body"
    seconds = {name: value for name, value in vars(request).items() if "ingest" in name}
    assert list(seconds.values()) == [1.5]
    stream.clean_up()


class TestHeaders:
    def test_they_leave_with_the_body(self, connection: Connection) -> None:
        """In one packet; those of a stream leave first, for a client that waits for them."""
        stream = make(connection)
        response = Response("hello")
        response.headers["Content-Length"] = "5"
        stream.send_headers(response, end_stream=False)
        assert connection.sock.sent == b""
        stream.send_data(b"hello")
        assert connection.sock.sent.startswith(b"HTTP/1.1 200 OK\r\n")
        assert connection.sock.sent.endswith(b"\r\n\r\nhello")

    def test_those_of_a_stream_leave_first(self, connection: Connection) -> None:
        make(connection).send_headers(streaming(), end_stream=False)
        assert connection.sock.sent.endswith(b"\r\n\r\n")

    @pytest.mark.parametrize(
        ("value", "close"),
        [(None, False), ("close", True), ("keep-alive, Close", True), ("keep-alive", False)],
    )
    def test_a_view_may_ask_for_the_end_of_the_connection(
        self, connection: Connection, value: str | None, close: bool
    ) -> None:
        """RFC 9112 section 9.6."""
        stream = make(connection)
        response = Response("")
        response.headers["Content-Length"] = "0"
        if value is not None:
            response.headers["Connection"] = value
        stream.send_headers(response, end_stream=True)
        assert (b"\r\nConnection: close\r\n" in connection.sock.sent) == close
        assert (b"\r\nConnection: keep-alive\r\n" in connection.sock.sent) != close
        assert stream.keep_alive != close

    def test_so_does_a_worker_that_shuts_down(self, connection: Connection) -> None:
        connection.alive = False
        stream = make(connection)
        stream.send_headers(Response("", status_code=204), end_stream=True)
        assert b"\r\nConnection: close\r\n" in connection.sock.sent
        assert not stream.keep_alive

    def test_a_status_line_that_would_be_two(self, connection: Connection) -> None:
        """Nothing is sent: an error page may be."""

        class Odd(Response):
            reason_phrase = "OK\r\nX: y"

        stream = make(connection)
        with pytest.raises(InvalidHeader, match=r"status line: '200 OK"):
            stream.send_headers(Odd("x"), end_stream=False)
        connection.output.flush()
        assert connection.sock.sent == b""
        assert not stream.headers_sent


class TestEnd:
    @pytest.mark.parametrize(
        ("version", "method", "response", "resets"),
        [
            # Nothing but the close tells the end of the body (RFC 9112 section 6.3).
            ("1.0", "GET", streaming, True),
            ("1.1", "GET", streaming, False),
            ("1.0", "HEAD", streaming, False),
            ("1.1", "GET", websocket, False),
        ],
    )
    def test_a_close_before_it_is_a_reset_where_it_would_look_whole(
        self,
        connection: Connection,
        version: str,
        method: str,
        response: Callable[[], Response],
        resets: bool,
    ) -> None:
        stream = make(connection, version=version, method=method)
        stream.send_headers(response(), end_stream=False)
        assert connection.sock.resets_on_close == resets
        assert stream.is_under_way
        stream.end()
        assert not connection.sock.resets_on_close
        assert not stream.is_under_way

    @pytest.mark.parametrize("version", ["1.0", "1.1"])
    def test_of_a_whole_response(self, connection: Connection, version: str) -> None:
        stream = make(connection, version=version)
        assert not stream.is_under_way
        stream.send_headers(streaming(), end_stream=False)
        stream.send_data(b"abc")
        stream.end()
        assert connection.sock.sent.endswith(
            b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n" if version == "1.1" else b"\r\n\r\nabc"
        )
        assert stream.keep_alive == (version == "1.1")
        stream.clean_up()
        assert connection.called == []
        assert stream.connection_may_go_on.is_set()

    @pytest.mark.parametrize("client_is_there", [True, False])
    def test_a_response_that_cannot_be_completed(
        self, connection: Connection, client_is_there: bool
    ) -> None:
        """What was written leaves, its last chunk does not, and the connection is closed."""
        stream = make(connection)
        response = Response("hello")
        response.headers["Content-Length"] = "5"
        stream.send_headers(response, end_stream=False)
        stream.keep_alive = True
        connection.sock.is_gone = not client_is_there
        stream.abort()
        assert connection.sock.sent.endswith(b"\r\n\r\n" if client_is_there else b"")
        assert connection.called == ["close"]
        assert stream.keep_alive is False

    def test_one_that_is_stopped_is_closed_too(self, connection: Connection) -> None:
        stream = make(connection)
        stream.send_headers(streaming(), end_stream=False)
        stream.clean_up()
        assert connection.called == ["close"]

    def test_one_that_has_not_begun_is_not(self, connection: Connection) -> None:
        """It may be answered with an error page."""
        stream = make(connection)
        stream.clean_up()
        assert connection.called == []

    def test_what_it_holds_is_given_back(self, connection: Connection) -> None:
        stream = make(connection, "Content-Length: 4", method="POST", body=b"body")
        assert connection.headers.charge(connection, 5000)
        stream.header_bytes = 5000
        assert connection.uploads.used == 4
        stream.clean_up()
        assert connection.headers.used == connection.uploads.used == 0
        assert not connection.headers._held

    def test_when_its_client_has_left_its_connection_goes_on(self, connection: Connection) -> None:
        """A view that goes on takes up none."""
        stream = make(connection)
        stream.send_headers(streaming(), end_stream=False)
        connection.sock.is_gone = True
        with pytest.raises(ClientGone) as raised:
            stream.send_data(b"x")
        assert isinstance(raised.value.__cause__, ConnectionResetError)
        assert stream.gone_at is not None
        assert stream.connection_may_go_on.is_set()


class TestUpgrade:
    def test_the_client_may_send_once_it_has_the_101(self, connection: Connection) -> None:
        stream = make(connection)
        transport = stream.upgrade(websocket())
        assert connection.sock.sent.startswith(b"HTTP/1.1 101 ")
        assert connection.sock.sent.endswith(b"\r\n\r\n")
        assert transport is stream.websocket_transport
        assert transport.is_accepted
        assert stream.connection_may_go_on.is_set()  # its greenlet reads on
        before = connection.sock.sent
        stream.send_data(b"\x81\x01x")  # as it is, without chunks
        assert connection.sock.sent == before + b"\x81\x01x"
        transport.feed(b"y" * 100)
        assert connection.uploads.used == 100
        transport.evict()
        assert connection.called == ["evicted"]
        assert connection.uploads.used == 0

    def test_at_its_end_our_side_is_closed(self, connection: Connection) -> None:
        stream = make(connection)
        stream.upgrade(websocket())
        before = connection.sock.sent
        stream.end()
        stream.clean_up()
        assert connection.called == ["end"]
        assert connection.sock.sent == before
        assert not stream.keep_alive

    def test_one_that_is_stopped_is_closed_at_once(self, connection: Connection) -> None:
        stream = make(connection)
        stream.upgrade(websocket())
        stream.clean_up()
        assert connection.called == ["close"]
