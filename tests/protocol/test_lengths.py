"""What a response's Content-Length promises is what is sent, or the client can tell."""

from collections.abc import Iterator
from urllib.parse import quote

import pytest
from h2.errors import ErrorCodes
from load_client import Answer, Http1Client, Http2Client
from serving import Serving

type Client = Http1Client | Http2Client

KINDS = ("whole", "stream", "async")


@pytest.fixture(params=[Http2Client, Http1Client], ids=["h2", "http/1.1"])
def client(server: Serving, request: pytest.FixtureRequest) -> Iterator[Client]:
    with request.param(server) as connected:
        yield connected


def promise(kind: str, promised: str, *sent: int) -> str:
    sizes = ",".join(map(str, sent))
    return f"/lengths/promise?kind={kind}&promised={quote(promised)}&sent={sizes}"


def expect_cut(client: Client, path: str, body: bytes) -> None:
    """The response has `body` and no end; over HTTP/1.1 no other can be taken for the rest."""
    if isinstance(client, Http2Client):
        answer = client.get(path)
        assert answer.status == 200
        assert body.startswith(
            answer.body
        )  # a reset overtakes what its connection has not sent yet
        assert answer.reset == ErrorCodes.INTERNAL_ERROR
        expect_hello(client)
        return
    client.send(path)
    client.send("/")
    received = read_to_end(client)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    rest = received.partition(b"\r\n\r\n")[2]
    assert rest == body


def read_to_end(client: Http1Client) -> bytes:
    received = b""
    try:
        while piece := client.sock.recv(65536):
            received += piece
    except OSError:  # a reset, or no close_notify
        pass
    return received


def expect_hello(client: Client) -> None:
    assert client.get("/").body == b"hello"


def expect_500(answer: Answer) -> None:
    assert answer.status == 500
    assert b"x" * 5 not in answer.body


class TestTooShort:
    @pytest.mark.parametrize("kind", KINDS)
    def test_it_is_cut_and_logged(self, server: Serving, client: Client, kind: str) -> None:
        logged = len(server.log())
        expect_cut(client, promise(kind, "10", 3, 2), b"xxxxx")
        log = server.log()[logged:]
        assert "[ERROR] Response body failed" in log
        assert 'path="/lengths/promise"' in log
        assert "BodyTooShort: the body ended after 5 of 10 bytes (Content-Length)" in log

    def test_without_a_chunk_it_is_a_500(self, client: Client) -> None:
        """As is every body that fails before its first one."""
        expect_500(client.get(promise("stream", "10")))

    @pytest.mark.parametrize("kind", ["whole", "async"])
    def test_without_a_byte(self, client: Client, kind: str) -> None:
        expect_cut(client, promise(kind, "10"), b"")

    @pytest.mark.parametrize("size", [1, 300_000])
    def test_a_file_that_was_truncated(self, client: Client, size: int) -> None:
        expect_cut(client, f"/lengths/changed-file?n={size}", b"x" * size)


class TestTooLong:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("sent", [(16,), (8, 8), (10, 6), (10, 0, 6)])
    def test_it_ends_where_it_said(
        self, server: Serving, client: Client, kind: str, sent: tuple[int, ...]
    ) -> None:
        logged = len(server.log())
        answer = client.get(promise(kind, "10", *sent))
        assert (answer.status, bytes(answer.body), answer.ended) == (200, b"x" * 10, True)
        expect_hello(client)
        log = server.log()[logged:]
        assert "[WARNING] Response body is longer than its Content-Length and is cut" in log
        assert 'path="/lengths/promise"' in log

    @pytest.mark.parametrize("kind", KINDS)
    def test_of_nothing(self, client: Client, kind: str) -> None:
        answer = client.get(promise(kind, "0", 5))
        assert (answer.status, bytes(answer.body), answer.ended) == (200, b"", True)
        expect_hello(client)

    def test_a_file_that_has_grown(self, server: Serving, client: Client) -> None:
        """It is no fault of the view, so the log says nothing."""
        logged = len(server.log())
        answer = client.get("/lengths/changed-file?n=900000")
        assert bytes(answer.body) == b"x" * 600_000
        expect_hello(client)
        assert "longer" not in server.log()[logged:]


class TestKept:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("sent", [(), (10,), (3, 0, 7)])
    def test_the_whole_body_is_sent(self, client: Client, kind: str, sent: tuple[int, ...]) -> None:
        answer = client.get(promise(kind, f" {sum(sent)}", *sent))
        assert answer.headers["content-length"] == str(sum(sent))
        assert bytes(answer.body) == b"x" * sum(sent)
        expect_hello(client)


class TestJunk:
    @pytest.mark.parametrize("kind", [*KINDS, "304"])
    @pytest.mark.parametrize("junk", ["-1", "5, 6"])
    def test_it_is_a_500(self, server: Serving, client: Client, kind: str, junk: str) -> None:
        logged = len(server.log())
        expect_500(client.get(promise(kind, junk, *([5] if kind in KINDS else []))))
        log = server.log()[logged:]
        assert 'Error handling request path="/lengths/promise"' in log
        assert f"InvalidHeader: Invalid HTTP Header: \"Content-Length: '{junk}'\"" in log


class TestWithoutABody:
    """HEAD, 204 and 304: a length is not that of what follows."""

    def test_head(self, server: Serving) -> None:
        with Http2Client(server) as client:
            for promised, status in (("10", 200), ("-1", 500)):
                answer = client.answer(client.open(promise("stream", promised, 5), "HEAD"))
                assert (answer.status, answer.ended) == (status, True)
        with Http1Client(server) as old:
            path = promise("stream", "10", 5)
            old.sock.sendall(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += old.sock.recv(65536)
            assert b"\r\nContent-Length: 10\r\n" in head
            expect_hello(old)

    @pytest.mark.parametrize("promised", ["10", "-1"])
    def test_204(self, server: Serving, promised: str) -> None:
        """It may have no Content-Length (RFC 9110 section 8.6)."""
        self.check(server, promise("204", promised), "204", None)

    def test_304(self, server: Serving) -> None:
        """Its Content-Length is that of the 200 (RFC 9110 section 8.6)."""
        self.check(server, promise("304", "10"), "304", "10")

    @staticmethod
    def check(server: Serving, path: str, status: str, length: str | None) -> None:
        with Http2Client(server) as client:
            answer = client.get(path)
            assert (answer.headers[":status"], answer.ended) == (status, True)
            assert answer.headers.get("content-length") == length
        with Http1Client(server) as old:
            old.send(path)
            old.send("/")
            old.sock.settimeout(10)
            received = b""
            while not received.endswith(b"\r\n\r\nhello"):
                received += old.sock.recv(65536)
            head, _, rest = received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 " + status.encode())
            assert (b"Content-Length: 10" in head) == (length is not None)
            assert rest.startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("value", ["chunked", "identity", "gzip, chunked"])
def test_a_transfer_coding_is_not_for_a_view_to_say(client: Client, value: str) -> None:
    answer = client.get(f"/lengths/wire?part=Transfer-Encoding&value={quote(value)}")
    assert (bytes(answer.body), answer.headers["content-length"]) == (b"body", "4")
    assert "transfer-encoding" not in answer.headers
    expect_hello(client)
