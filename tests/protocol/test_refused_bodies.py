"""Requests whose body is not taken, and what the log says of them."""

import logging
from collections.abc import Callable

import pytest
from http1client import Client, request
from memory_server import MemoryServer
from raw import RawClient, data, request_fields
from virtual_time import advance

Serve = Callable[..., MemoryServer]

NO_ROOM = "No room for a request's body (see SERVER_MAX_INFLIGHT_BODY_SIZE)"


class TestNoRoom:
    """The worker's budget is used up. That is no fault of the client's."""

    @pytest.fixture
    def full(self, serve: Serve) -> MemoryServer:
        return serve(env={"PLAIN_SERVER_MAX_INFLIGHT_BODY_SIZE": "1000"})

    def check_log(self, server: MemoryServer) -> None:
        (line,) = (line for line in server.log().splitlines() if NO_ROOM in line)
        assert "In-flight request bodies exceeded 1000 bytes" in line
        assert "127.0.0.1" in line  # the client
        assert "Invalid request" not in server.log()

    def test_over_http2(self, full: MemoryServer) -> None:
        with RawClient(full) as client:
            stream = client.open(request_fields("/echo", "POST"), end_stream=False)
            client.send(data(stream, bytes(1001)))
            assert client.expect_response(stream).status == 503
        self.check_log(full)

    @pytest.mark.parametrize(
        ("framing", "body"),
        [
            ("Content-Length: 1001", bytes(1001)),
            ("Transfer-Encoding: chunked", b"3e9\r\n" + bytes(1001) + b"\r\n0\r\n\r\n"),
        ],
    )
    def test_over_http1(self, full: MemoryServer, framing: str, body: bytes) -> None:
        with Client(full.connect("http/1.1")) as client:
            client.send(request("/echo", framing, method="POST") + body)
            answer = client.read()
            assert (answer.status, answer.all("connection")) == (503, ["close"])
            assert client.closed()
        self.check_log(full)
        (access,) = (line for line in full.log().splitlines() if "/echo" in line)
        assert "status=503" in access


class TestClientThatLeaves:
    def test_there_is_no_answer(
        self, plaintext: MemoryServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Its connection is reset: what it leaves unread is a 100."""
        caplog.set_level(logging.DEBUG, "plain.server")
        fields = ("Content-Length: 100", "Expect: 100-continue")
        with Client(plaintext.connect()) as client:
            client.send(request("/echo", *fields, method="POST") + b"half")
            advance(0.1)
        advance(0.1)
        assert not plaintext.worker.left()
        messages = [record.getMessage() for record in caplog.records]
        assert not [m for m in messages if "error page" in m], messages
