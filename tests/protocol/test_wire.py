"""What a view can put on the wire: never another field, line or response than one of its own."""

from urllib.parse import quote

import pytest
from load_client import Http1Client, Http2Client
from serving import Serving

#: What would split an HTTP/1.1 answer, or end its line for some reader.
CONTROLS = (
    "a\r\nX-Injected: 1",
    "a\r\n\r\nHTTP/1.1 200 OK",
    "a\nb",
    "a\rb",
    "a\0b",
    "a\x0bb",
    "a\x7fb",
)

#: The parts of a response that a view has a say in. HTTP/2 has no reason phrase.
PARTS = ("value", "content-type", "cookie-name", "cookie-value", "cookie-path")

BAD_NAMES = ("", " ", "a b", "a:b", ":status", "a\r\nb", "a\n", "a\0", "a\x7f", "\xe9", "a(b)")


def path(part: str, value: str) -> str:
    return f"/lengths/wire?part={part}&value={quote(value)}"


def expect_500(server: Serving, part: str, value: str, *, http2: bool = True) -> None:
    logged = len(server.log())
    with Http1Client(server) as old:
        answer = old.get(path(part, value))
        assert answer.status == 500
        assert "x-injected" not in answer.headers
        if answer.headers["connection"] == "close":
            assert old.receive() is None
        else:  # it was the view itself that failed
            assert old.get("/").body == b"hello"
    if http2:
        with Http2Client(server) as client:
            assert client.get(path(part, value)).status == 500
            assert client.get("/").body == b"hello"
    assert server.log()[logged:].count("[ERROR] ") == (2 if http2 else 1)


@pytest.mark.parametrize("value", CONTROLS)
@pytest.mark.parametrize("part", PARTS)
def test_values(server: Serving, part: str, value: str) -> None:
    expect_500(server, part, value)


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names(server: Serving, name: str) -> None:
    expect_500(server, "name", name)


class TestReasonPhrase:
    @pytest.mark.parametrize("reason", [*CONTROLS, "\u65e5\u672c"])
    def test_one_that_is_no_text_of_a_line_is_a_500(self, server: Serving, reason: str) -> None:
        logged = len(server.log())
        expect_500(server, "reason", reason, http2=False)
        log = server.log()[logged:]
        assert 'Error handling request path="/lengths/wire"' in log
        assert "InvalidHeader: Invalid HTTP Header: \"status line: '200 " in log

    @pytest.mark.parametrize("reason", ["Fine", "", "all is well\t(really)", "caf\xe9"])
    def test_others_are_sent(self, server: Serving, reason: str) -> None:
        with Http1Client(server) as old:
            old.send(path("reason", reason))
            assert old.sock.recv(65536).startswith(f"HTTP/1.1 200 {reason}\r\n".encode("latin-1"))

    def test_http2_has_none(self, server: Serving) -> None:
        with Http2Client(server) as client:
            answer = client.get(path("reason", "a\r\nX-Injected: 1"))
            assert (answer.status, bytes(answer.body)) == (200, b"body")
            assert "x-injected" not in answer.headers


class TestConnection:
    """It is a list of options, and `close` among them goes before all (RFC 9112 section 9.3)."""

    @pytest.mark.parametrize(
        ("fields", "version", "closes"),
        [
            (["keep-alive, close"], "1.1", True),
            (["close, TE"], "1.1", True),
            (["TE, Close"], "1.1", True),
            (["TE,\tclose ,"], "1.1", True),
            (["TE", "close"], "1.1", True),
            (["keep-alive", "close"], "1.1", True),
            (["keep-alive, TE"], "1.1", False),
            (["closed, TE"], "1.1", False),
            (["", ""], "1.1", False),
            (["keep-alive, TE"], "1.0", False),
            (["TE", "Keep-Alive"], "1.0", False),
            (["keep-alive, close"], "1.0", True),
            (["TE, trailers"], "1.0", True),
        ],
    )
    def test_of_a_request(
        self, server: Serving, fields: list[str], version: str, closes: bool
    ) -> None:
        with Http1Client(server) as client:
            lines = [f"GET / HTTP/{version}", "Host: localhost"]
            lines += [f"Connection: {field}" for field in fields]
            client.sock.sendall("\r\n".join([*lines, "\r\n"]).encode())
            self.check(client, closes)

    @pytest.mark.parametrize(
        ("value", "closes"),
        [("close", True), ("Close, X-Hop", True), ("keep-alive, close", True), ("closed", False)],
    )
    def test_of_a_view(self, server: Serving, value: str, closes: bool) -> None:
        with Http1Client(server) as client:
            client.send(path("connection", value))
            self.check(client, closes)
        with Http2Client(server) as http2:
            assert "connection" not in http2.get(path("connection", value)).headers
            assert http2.get("/").body == b"hello"

    @staticmethod
    def check(client: Http1Client, closes: bool) -> None:
        answer = client.receive()
        assert answer is not None
        assert answer.headers["connection"] == ("close" if closes else "keep-alive")
        if closes:
            assert client.receive() is None
            assert client.end == "clean"
        else:
            assert client.get("/").body == b"hello"
