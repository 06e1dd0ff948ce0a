"""HTTP/1.1 as it is on the wire: connections, framing, and the same answers as Plain's own."""

import hashlib
import json
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pytest
from h2client import Client as Http2Client
from harness import WAIT, Server, free_port, wait_for


class Answer(NamedTuple):
    """A response. `raw` is all of it as it came, chunk framing included."""

    status_line: str
    headers: list[tuple[str, str]]  # names in lower case
    body: bytes
    raw: bytes

    @property
    def status(self) -> int:
        return int(self.status_line.split()[1])

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Client:
    """One HTTP/1.1 connection. Reads each response by its framing alone."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(WAIT)
        self._file = sock.makefile("rb")
        self._raw = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._file.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def _line(self) -> bytes:
        line = self._file.readline()
        self._raw += line
        if not line.endswith(b"\r\n"):
            raise EOFError(f"the connection ended after {bytes(self._raw)!r}")
        return line[:-2]

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        self._raw += data
        if len(data) < size:
            raise EOFError(f"the connection ended after {bytes(self._raw)!r}")
        return data

    def read_head(self) -> tuple[str, list[tuple[str, str]]]:
        self._raw.clear()
        status_line = self._line().decode("latin-1")
        headers = []
        while line := self._line().decode("latin-1"):
            name, _, value = line.partition(":")
            headers.append((name.lower(), value.strip()))
        return status_line, headers

    def read_chunk(self) -> bytes:
        """One chunk of a chunked body; empty at its end."""
        data = self._take(int(self._line(), 16))
        assert self._line() == b""
        return data

    def read(self, method: str = "GET") -> Answer:
        """The response to a `method` request."""
        status_line, headers = self.read_head()
        fields = dict(headers)
        body = b""
        if method == "HEAD" or re.search(" (1..|204|304) ", status_line):
            pass
        elif fields.get("transfer-encoding") == "chunked":
            while chunk := self.read_chunk():
                body += chunk
        elif "content-length" in fields:
            body = self._take(int(fields["content-length"]))
        else:
            body = self._file.read()
            self._raw += body
        return Answer(status_line, headers, body, bytes(self._raw))

    def get(self, path: str = "/", *fields: str, method: str = "GET") -> Answer:
        self.send(request(path, *fields, method=method))
        return self.read(method)

    def closed(self) -> bool:
        """Wait for what comes next: True if it is the end of the connection."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True


def request(
    path: str = "/", *fields: str, method: str = "GET", version: str = "1.1", body: bytes = b""
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + body


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return body + b"0\r\n" + trailers + b"\r\n"


def post_chunked(body: bytes, path: str = "/echo") -> bytes:
    return request(path, "Transfer-Encoding: chunked", method="POST") + body


def echo(body: bytes) -> dict[str, object]:
    """What the view `Echo` answers to `body`."""
    return {
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "content_length": str(len(body)),
    }


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Plain's own worker, for comparison."""
    with Server(None, tmp=tmp_path_factory.mktemp("plain"), worker=None) as running:
        yield running


@pytest.fixture
def client(either: Server) -> Iterator[Client]:
    with Client(either.connect("http/1.1")) as connected:
        yield connected


class TestConnection:
    def test_several_requests_on_one_connection(self, client: Client) -> None:
        for i in range(5):
            answer = client.get(f"/bytes?n={i}")
            assert (answer.status, answer.body) == (200, b"x" * i)
            assert answer.all("connection") == ["keep-alive"]

    def test_without_alpn_a_tls_client_gets_http_1(self, server: Server) -> None:
        with Client(server.connect()) as client:
            assert client.get().body == b"hello"

    def test_pipelined_requests_are_answered_in_order(self, client: Client) -> None:
        body = b"b" * 1000
        client.send(
            request("/sleep?s=0.1")
            + request("/echo", method="POST", body=body)
            + request("/", method="HEAD")
            + post_chunked(chunked(b"one", b"two"))
            + request("/bytes?n=3")
        )
        assert client.read().body == b"slept"
        assert json.loads(client.read().body) == echo(body)
        assert client.read("HEAD").all("content-length") == ["5"]
        assert json.loads(client.read().body) == echo(b"onetwo")
        assert client.read().body == b"xxx"

    def test_1000_pipelined_requests(self, client: Client) -> None:
        client.send(request("/bytes?n=2") * 1000)
        assert [client.read().body for _ in range(1000)] == [b"xx"] * 1000

    def test_connection_close(self, client: Client) -> None:
        client.send(request("/", "Connection: close") + request("/"))
        answer = client.read()
        assert answer.all("connection") == ["close"]
        assert client.closed()

    def test_nothing_is_served_behind_a_refused_request(self, client: Client) -> None:
        """What follows bad framing may be the rest of its body: request smuggling."""
        client.send(post_chunked(b"zz\r\n") + request("/"))
        assert client.read().status == 400
        assert client.closed()

    def test_empty_lines_before_a_request(self, client: Client) -> None:
        """RFC 9112 section 2.2."""
        client.send(b"\r\n\r\n" + request("/"))
        assert client.read().body == b"hello"

    def test_a_crlf_after_a_body_does_not_end_the_keep_alive(self, client: Client) -> None:
        """Some clients send one (RFC 9112 section 2.2). Plain keeps the connection idle then.

        A request whose head has begun has 2 s to go on; a CRLF must not count as one.
        """
        client.send(request("/echo", method="POST", body=b"body") + b"\r\n")
        assert client.read().status == 200
        client.sock.settimeout(3)
        with pytest.raises(TimeoutError):
            client.sock.recv(1)
        client.sock.settimeout(WAIT)
        client.send(request("/"))
        assert client.sock.recv(15) == b"HTTP/1.1 200 OK"

    def test_a_request_in_single_bytes(self, client: Client) -> None:
        whole = (
            request("/echo", method="POST", body=b"body")
            + post_chunked(chunked(b"one", b"two", trailers=b"X-Trailer: 1\r\n"))
            + request("/")
        )
        for i in range(len(whole)):
            client.send(whole[i : i + 1])
        assert json.loads(client.read().body) == echo(b"body")
        assert json.loads(client.read().body) == echo(b"onetwo")
        assert client.read().body == b"hello"

    @pytest.mark.parametrize(
        "part",
        [
            b"",
            b"GET /",
            request("/")[:-2],
            request("/echo", "Content-Length: 100", method="POST") + b"half",
            post_chunked(b"ff\r\nhalf"),
            request("/bytes?n=50000000"),
        ],
        ids=["at-once", "line", "headers", "body", "chunk", "response"],
    )
    def test_a_client_that_leaves_in_the_middle(self, either: Server, part: bytes) -> None:
        tracebacks = either.log().count("Traceback")
        with Client(either.connect("http/1.1")) as leaving:
            leaving.send(part)
        with Client(either.connect("http/1.1")) as client:
            assert client.get().body == b"hello"
        assert either.log().count("Traceback") == tracebacks

    def test_half_closed_client_gets_its_answer(self, plaintext: Server) -> None:
        with Client(plaintext.connect()) as client:
            client.send(request("/sleep?s=0.1"))
            client.sock.shutdown(socket.SHUT_WR)
            assert client.read().body == b"slept"
            assert client.closed()

    def test_an_incomplete_body_is_a_408(self, plaintext: Server) -> None:
        with Client(plaintext.connect()) as client:
            client.send(request("/echo", "Content-Length: 100", method="POST") + b"half")
            client.sock.shutdown(socket.SHUT_WR)
            assert client.read().status == 408
            assert client.closed()

    @pytest.mark.parametrize("block", [False, True], ids=["yields", "blocks"])
    def test_a_body_is_closed_when_its_client_leaves(self, either: Server, block: bool) -> None:
        name = f"http1-{either.port}-{block}"

        def ended() -> bool:
            with Client(either.connect("http/1.1")) as other:
                return name in json.loads(other.get("/watched").body)["ended"]

        with Client(either.connect("http/1.1")) as client:
            client.send(request(f"/endless?name={name}{'&block=1' if block else ''}"))
            client.read_head()
            assert client.read_chunk() == b"e" * 1000
            assert not ended()
        wait_for(ended, "end of the body")


class TestHttp10:
    def test_it_closes(self, client: Client) -> None:
        client.send(request("/", version="1.0"))
        answer = client.read()
        assert answer.status_line == "HTTP/1.0 200 OK"
        assert (answer.body, answer.all("connection")) == (b"hello", ["close"])
        assert client.closed()

    def test_keep_alive_on_demand(self, client: Client) -> None:
        for _ in range(3):
            client.send(request("/", "Connection: keep-alive", version="1.0"))
            answer = client.read()
            assert (answer.body, answer.all("connection")) == (b"hello", ["keep-alive"])

    def test_a_stream_ends_with_the_connection(self, client: Client) -> None:
        client.send(request("/chunks?n=3&size=2", "Connection: keep-alive", version="1.0"))
        answer = client.read()
        assert answer.body == b"aabbcc"
        assert not answer.all("transfer-encoding")
        assert answer.all("connection") == ["close"]

    def test_no_host_is_needed(self, client: Client) -> None:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.read().status == 200


class TestLaterMinorVersions:
    """RFC 9110 section 2.5: answered with the highest version that the server has."""

    @pytest.mark.parametrize("version", ["1.2", "1.9"])
    def test_they_are_served_as_1_1(self, client: Client, version: str) -> None:
        for _ in range(2):
            client.send(request("/", version=version))
            assert client.read().status_line == "HTTP/1.1 200 OK"
        client.send(request("/chunks?n=3&size=2", version=version))
        assert ("transfer-encoding", "chunked") in client.read().headers
        client.send(request("/", "Connection: close", version=version))
        assert client.read().status == 200
        assert client.closed()

    def test_a_host_is_needed(self, client: Client) -> None:
        client.send(b"GET / HTTP/1.2\r\n\r\n")
        assert client.read().status_line.startswith("HTTP/1.1 400 ")


def test_a_head_has_the_limit_of_http_2(client: Client) -> None:
    client.send(lines(GET, HOST, *(f"X-{i}: {'x' * 8000}" for i in range(8))))
    assert client.read().status == 200
    client.send(lines(GET, HOST, *(f"X-{i}: {'x' * 8000}" for i in range(9))))
    assert client.read().status == 431
    assert client.closed()


def test_a_content_type_of_no_known_encoding(client: Client) -> None:
    assert client.get("/", "Content-Type: a; b*=''%ff").status == 400


class TestScheme:
    """The connection's, unless a proxy that is trusted says otherwise."""

    @pytest.mark.parametrize("target", ["/meta", "http://localhost/meta", "https://localhost/meta"])
    def test_it_is_not_the_targets(self, client: Client, either: Server, target: str) -> None:
        scheme = "https" if either.tls else "http"
        assert json.loads(client.get(target).body)["scheme"] == scheme

    def test_a_trusted_proxys_field(self, serve: Callable[..., Server]) -> None:
        server = serve(env={"PLAIN_HTTPS_PROXY_HEADER": "X-Forwarded-Proto: https"})
        with Http2Client(server) as http2:
            for forwarded in ("http", "https"):
                answer = http2.get("/meta", (("x-forwarded-proto", forwarded),))
                assert json.loads(answer.body)["scheme"] == forwarded


class TestChunkedRequests:
    @pytest.mark.parametrize(
        ("body", "decoded"),
        [
            (chunked(), b""),
            (chunked(b"one", b"two"), b"onetwo"),
            (chunked(b"x" * 300_000, b"y"), b"x" * 300_000 + b"y"),
            (chunked(b"x", trailers=b"X-Sum: 1\r\nX-Other: 2\r\n"), b"x"),
            (b'3;name=value;other="a b"\r\nabc\r\n0;last\r\n\r\n', b"abc"),
            (b"3 ;name\r\nabc\r\n0\r\n\r\n", b"abc"),
            (b"00000A\r\n0123456789\r\n000\r\n\r\n", b"0123456789"),
            (chunked(*(b"%d" % i for i in range(5000))), b"".join(b"%d" % i for i in range(5000))),
        ],
        ids=["empty", "two", "large", "trailers", "extensions", "bws", "zeros", "many"],
    )
    def test_body_is_decoded(self, client: Client, body: bytes, decoded: bytes) -> None:
        for _ in range(2):  # the second one shows that the first was taken in to its end
            client.send(post_chunked(body))
            assert json.loads(client.read().body) == echo(decoded)


class TestExpectContinue:
    def test_100_before_the_body(self, client: Client) -> None:
        for value in ("100-continue", "something, 100-Continue"):
            client.send(request("/echo", f"Expect: {value}", "Content-Length: 4", method="POST"))
            assert client.read().raw == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.send(b"body")
            assert json.loads(client.read().body) == echo(b"body")

    def test_before_a_chunked_body(self, client: Client) -> None:
        client.send(
            request("/echo", "Expect: 100-continue", "Transfer-Encoding: chunked", method="POST")
        )
        assert client.read().status == 100
        client.send(chunked(b"body"))
        assert json.loads(client.read().body) == echo(b"body")

    def test_not_in_http_10(self, client: Client) -> None:
        """RFC 9110 section 10.1.1: an HTTP/1.0 client knows no interim responses."""
        fields = ("Expect: 100-continue", "Content-Length: 4")
        client.send(request("/echo", *fields, method="POST", version="1.0") + b"body")
        assert client.read().status == 200

    def test_no_100_for_a_request_that_is_refused(self, client: Client) -> None:
        client.send(
            request("/echo", "Expect: 100-continue", "Content-Length: 99999999999", method="POST")
        )
        assert client.read().status == 413
        assert client.closed()


class TestResponses:
    @pytest.mark.parametrize(
        "path", ["/", "/bytes?n=100000", "/chunks?n=3", "/file?n=300000", "/nowhere"]
    )
    def test_head_has_no_body(self, client: Client, path: str) -> None:
        head = client.get(path, method="HEAD")
        get = client.get(path)  # would read the body of the HEAD, were there one
        assert head.status == get.status
        assert head.all("content-type") == get.all("content-type")

    def test_head_has_the_length(self, client: Client) -> None:
        assert client.get("/bytes?n=1234", method="HEAD").all("content-length") == ["1234"]

    @pytest.mark.parametrize("status", [204, 304])
    def test_statuses_without_a_body(self, client: Client, status: int) -> None:
        for _ in range(2):
            answer = client.get(f"/statuses?kind={status}")
            assert answer.status == status
            assert not answer.all("content-length")
            assert not answer.all("transfer-encoding")
            assert answer.all("connection") == ["keep-alive"]

    def test_each_cookie_has_its_own_field(self, client: Client) -> None:
        answer = client.get("/statuses?kind=cookies")
        assert answer.all("set-cookie") == ["a=1; Path=/", "b=2; HttpOnly; Path=/"]

    def test_each_chunk_arrives_when_it_is_yielded(self, client: Client, either: Server) -> None:
        """The view goes on after a chunk only when the test, having read it, says so."""
        name = f"http1-chunks-{either.port}"
        client.send(request(f"/bodies/gated-chunks?name={name}"))
        _, headers = client.read_head()
        assert ("transfer-encoding", "chunked") in headers
        with Client(either.connect("http/1.1")) as other:
            for i in range(3):
                assert client.read_chunk() == b"chunk %d" % i
                other.get(f"/bodies/gates?open={name}-{i}")
        assert client.read_chunk() == b""
        assert client.get().body == b"hello"

    @pytest.mark.parametrize("n", [0, 1, 65535, 65536, 3_000_001])
    def test_bodies_of_every_size(self, client: Client, n: int) -> None:
        answer = client.get(f"/bytes?n={n}")
        assert answer.body == b"x" * n
        assert client.get().body == b"hello"

    def test_file(self, client: Client) -> None:
        answer = client.get("/file?n=1000000")
        assert answer.all("content-length") == ["1000000"]
        assert answer.body == bytes(i % 251 for i in range(1000)) * 1000


class TestFailures:
    def test_view_and_middleware(self, client: Client) -> None:
        for path in ("/statuses?kind=raise", "/middleware-error"):
            answer = client.get(path)
            assert (answer.status, answer.all("connection")) == (500, ["keep-alive"])
        assert client.get().body == b"hello"

    @pytest.mark.parametrize("path", ["/failing-body?after=0", "/statuses?kind=bad-header"])
    def test_before_the_first_byte_it_is_plains_500(
        self, client: Client, plain: Server, path: str
    ) -> None:
        """Plain calls a response's bad header a bad request (400); a 500 is what it is."""
        answer = client.get(path)
        with Client(plain.connect()) as other:
            assert answer.raw == other.get("/failing-body?after=0").raw
        assert answer.status == 500
        assert client.closed()

    def test_after_the_first_chunk_the_body_is_cut_short(self, client: Client) -> None:
        """No last chunk: the client can tell that the body is not whole."""
        client.send(request("/failing-body?after=2"))
        status_line, _ = client.read_head()
        assert status_line == "HTTP/1.1 200 OK"
        assert [client.read_chunk(), client.read_chunk()] == [b"chunk", b"chunk"]
        assert client.closed()

    def test_the_traceback_is_logged_once(self, serve: Callable[..., Server]) -> None:
        server = serve(plaintext=True)
        with Client(server.connect()) as client:
            client.send(request("/failing-body?after=2"))
            client.read_head()
            assert [client.read_chunk(), client.read_chunk()] == [b"chunk", b"chunk"]
            assert client.closed()
        assert server.log().count("RuntimeError: the body failed on purpose") == 1


GET = "GET / HTTP/1.1"
POST = "POST /echo HTTP/1.1"
HOST = "Host: localhost"


def lines(*of: str) -> bytes:
    return "\r\n".join([*of, "\r\n"]).encode("latin-1")


#: What Plain's own server refuses.
BAD_REQUESTS: dict[str, bytes] = {
    # the request line
    "two-words": lines("GET /", HOST),
    "one-word": lines("GET", HOST),
    "no-target": lines("GET  HTTP/1.1", HOST),
    "space-in-target": lines("GET /a b HTTP/1.1", HOST),
    "bad-target": lines("GET http://[::1 HTTP/1.1", HOST),
    "line-too-long": lines(f"GET /{'x' * 5000} HTTP/1.1", HOST),
    "short-method": lines("GE / HTTP/1.1", HOST),
    "long-method": lines(f"{'G' * 21} / HTTP/1.1", HOST),
    "lower-case-method": lines("get / HTTP/1.1", HOST),
    "bad-method": lines("G(T / HTTP/1.1", HOST),
    "hash-in-method": lines("GE#T / HTTP/1.1", HOST),
    "space-before-method": lines(" GET / HTTP/1.1", HOST),
    "no-version": lines("GET / HTTP", HOST),
    "bad-version": lines("GET / HTTP/1.10", HOST),
    "version-0.9": lines("GET / HTTP/0.9", HOST),
    "version-2": lines("GET / HTTP/2.0", HOST),
    "version-3": lines("GET / HTTP/3.0", HOST),
    "lower-case-version": lines("GET / http/1.1", HOST),
    "binary": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "markup": lines("<script>alert(1)</script> / HTTP/1.1", HOST),
    # header fields
    "no-host": lines(GET),
    "two-hosts": lines(GET, HOST, HOST),
    "space-in-host": lines(GET, "Host: local host"),
    "100-fields-and-host": lines(GET, HOST, *(f"X-{i}: {i}" for i in range(100))),
    "field-too-large": lines(GET, HOST, f"X-Large: {'x' * 8200}"),
    "head-too-large": lines(GET, HOST, *(f"X-{i}: {'x' * 8000}" for i in range(99)))[:-2]
    + b"X-Last: " + b"x" * 200_000,
    "obs-fold": lines(GET, HOST, "X-Folded: a", " b"),
    "fold-first": lines(GET, " " + HOST),
    "space-before-colon": lines(GET, HOST, "X-Space : a"),
    "no-colon": lines(GET, HOST, "X-No-Colon"),
    "no-name": lines(GET, HOST, ": a"),
    "bad-name": lines(GET, HOST, "X(Y): a"),
    "non-ascii-name": lines(GET, HOST, "X-\xdf: a"),
    "nul-in-value": lines(GET, HOST, "X-Nul: a\0b"),
    "cr-in-value": lines(GET, HOST, "X-Cr: a\rb"),
    "lf-in-value": lines(GET, HOST, "X-Lf: a\nX-Smuggled: b"),
    "markup-in-name": lines(GET, HOST, "<b>: a"),
    # framing
    "length-and-chunked": lines(POST, HOST, "Content-Length: 3", "Transfer-Encoding: chunked"),
    "two-lengths": lines(POST, HOST, "Content-Length: 3", "Content-Length: 4"),
    "same-length-twice": lines(POST, HOST, "Content-Length: 3", "Content-Length: 3"),
    "list-of-lengths": lines(POST, HOST, "Content-Length: 3, 3"),
    "negative-length": lines(POST, HOST, "Content-Length: -1"),
    "plus-length": lines(POST, HOST, "Content-Length: +3"),
    "hex-length": lines(POST, HOST, "Content-Length: 0x3"),
    "underscore-length": lines(POST, HOST, "Content-Length: 1_0"),
    "superscript-length": lines(POST, HOST, "Content-Length: \xb2"),
    "empty-length": lines(POST, HOST, "Content-Length:"),
    "length-over-the-limit": lines(POST, HOST, "Content-Length: 10485761"),
    "unknown-coding": lines(POST, HOST, "Transfer-Encoding: xchunked"),
    "chunked-twice": lines(POST, HOST, "Transfer-Encoding: chunked, chunked"),
    "chunked-in-two-fields": lines(
        POST, HOST, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"
    ),
    "chunked-not-last": lines(POST, HOST, "Transfer-Encoding: chunked, gzip"),
    "chunked-then-identity": lines(POST, HOST, "Transfer-Encoding: chunked, identity"),
    "chunked-in-http-1.0": lines("POST /echo HTTP/1.0", HOST, "Transfer-Encoding: chunked"),
    "chunk-size": post_chunked(b"xyz\r\nabc\r\n0\r\n\r\n"),
    "chunk-size-0x": post_chunked(b"0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk-size-negative": post_chunked(b"-3\r\nabc\r\n0\r\n\r\n"),
    "chunk-size-space": post_chunked(b"3 \r\nabc\r\n0\r\n\r\n"),
    "chunk-size-empty": post_chunked(b"\r\nabc\r\n0\r\n\r\n"),
    "chunk-size-line": post_chunked(b"3;" + b"x" * 9000 + b"\r\nabc\r\n0\r\n\r\n"),
    "chunk-too-long": post_chunked(b"3\r\nabcd\r\n0\r\n\r\n"),
    "chunk-bare-lf": post_chunked(b"3\nabc\n0\n\n\r\n"),
    "chunked-trailer": post_chunked(chunked(b"abc", trailers=b"no colon\r\n")),
    "chunked-trailer-name": post_chunked(chunked(b"abc", trailers=b"X Y: a\r\n")),
    "chunked-trailers-too-large": post_chunked(
        chunked(b"abc", trailers=b"X-Large: " + b"x" * 9000 + b"\r\n")
    ),
    "chunked-over-the-limit": post_chunked(b"a00001\r\n" + b"x" * 0xA00001 + b"\r\n0\r\n\r\n"),
    # HEAD: an error without its page
    "head-bad-field": lines("HEAD / HTTP/1.1", HOST, "X-Space : a"),
    "head-field-too-large": lines("HEAD / HTTP/1.1", HOST, f"X-Large: {'x' * 8200}"),
}  # fmt: skip

BODY = b"3\r\nabc\r\n0\r\n\r\n"

#: What Plain's own server takes, and a proxy before it may take for something else.
AMBIGUOUS_REQUESTS: dict[str, bytes] = {
    # RFC 9112 section 6.3: chunked is not the last coding
    "te-gzip": lines(POST, HOST, "Transfer-Encoding: gzip"),
    "te-gzip-and-length": lines(POST, HOST, "Transfer-Encoding: gzip", "Content-Length: 3"),
    "te-identity": lines(POST, HOST, "Transfer-Encoding: identity"),
    "te-identity-and-length": lines(
        POST, HOST, "Transfer-Encoding: identity", "Content-Length: 3"
    ) + b"abc",
    "te-identity-in-http-1.0": lines(
        "POST /echo HTTP/1.0", "Connection: keep-alive", "Transfer-Encoding: identity",
        "Content-Length: 3",
    ) + b"abc",
    # spaces that Python takes off, and others do not
    **{
        f"te-space-{ord(space):02x}": lines(POST, HOST, f"Transfer-Encoding: chunked{space}") + BODY
        for space in "\x0b\x0c\x1c\x1f\x85\xa0"
    },
    "te-space-first": lines(POST, HOST, "Transfer-Encoding: \x0bchunked") + BODY,
    # control characters
    **{
        f"target-{ord(char):02x}": lines(f"GET /meta?a{char}b HTTP/1.1", HOST)
        for char in "\x00\x01\t\n\r\x1f\x7f"
    },
    **{
        f"value-{ord(char):02x}": lines(GET, HOST, f"X-Control: a{char}b")
        for char in "\x01\x0b\x1f\x7f"
    },
    "control-in-host": lines(GET, "Host: a\x01b"),
    # RFC 9112 section 3.2.2
    "other-host": lines("GET http://example.com/ HTTP/1.1", HOST),
    "other-port": lines("GET http://localhost:81/ HTTP/1.1", HOST),
    "user-in-target": lines("GET http://a@localhost/ HTTP/1.1", HOST),
    # RFC 9112 section 3.2, and as over HTTP/2
    **{
        f"host-{ord(char):02x}": lines(GET, f"Host: exa{char}mple") for char in '<">/?#@\\\x80\xe9'
    },
    # RFC 9112 section 7.1.1
    **{
        f"extension-{ord(char):02x}": post_chunked(f"3;a{char}b\r\nabc\r\n0\r\n\r\n".encode())
        for char in "\x00\n\r\x7f"
    },
    "extension-of-the-last-chunk": post_chunked(b"3\r\nabc\r\n0;\n\r\n\r\n"),
}  # fmt: skip

#: Odd but good: answered, and by Plain's own server in the same way.
GOOD_REQUESTS: dict[str, bytes] = {
    "get": lines("GET / HTTP/1.1", HOST),
    "head": lines("HEAD / HTTP/1.1", HOST),
    "head-stream": lines("HEAD /chunks HTTP/1.1", HOST),
    "http-1.0": lines("GET / HTTP/1.0"),
    "http-1.0-keep-alive": lines("GET / HTTP/1.0", "Connection: keep-alive"),
    "http-1.0-stream": lines("GET /chunks HTTP/1.0", "Connection: keep-alive"),
    "http-1.0-204": lines("GET /statuses?kind=204 HTTP/1.0", "Connection: keep-alive"),
    "close": lines("GET / HTTP/1.1", HOST, "Connection: Close"),
    "absolute-target": lines("GET http://localhost/bytes?n=3 HTTP/1.1", HOST),
    "absolute-target-with-port": lines("GET http://localhost:80/bytes?n=3 HTTP/1.1", HOST),
    "asterisk": lines("OPTIONS * HTTP/1.1", HOST),
    "two-slashes": lines("GET //bytes?n=3 HTTP/1.1", HOST),
    "percent": lines("GET /%62ytes?n=3 HTTP/1.1", HOST),
    "fragment": lines("GET /bytes?n=3#f HTTP/1.1", HOST),
    "not-utf-8": lines("GET /\xff HTTP/1.1", HOST),
    "unknown-method": lines("BREW / HTTP/1.1", HOST),
    "options": lines("OPTIONS / HTTP/1.1", HOST),
    "100-fields": lines(GET, HOST, *(f"X-{i}: {i}" for i in range(99))),
    "field-of-the-limit": lines(GET, HOST, f"X-Large: {'x' * 8179}"),
    "line-of-the-limit": lines(f"GET /{'x' * (4094 - 14)} HTTP/1.1", HOST),
    "empty-value": lines(GET, HOST, "X-Empty:"),
    "stream": lines("GET /chunks HTTP/1.1", HOST),
    "empty-stream": lines("GET /chunks?n=0 HTTP/1.1", HOST),
    "file": lines("GET /file?n=100000 HTTP/1.1", HOST),
    "empty-body": lines("GET /bytes?n=0 HTTP/1.1", HOST),
    "204": lines("GET /statuses?kind=204 HTTP/1.1", HOST),
    "304": lines("GET /statuses?kind=304 HTTP/1.1", HOST),
    "308": lines("GET /statuses?kind=308 HTTP/1.1", HOST),
    "404": lines("GET /nowhere HTTP/1.1", HOST),
    "405": lines("POST / HTTP/1.1", HOST, "Content-Length: 0"),
    "500": lines("GET /statuses?kind=raise HTTP/1.1", HOST),
    "500-middleware": lines("GET /middleware-error HTTP/1.1", HOST),
    "cookies": lines("GET /statuses?kind=cookies HTTP/1.1", HOST),
    "bad-cookie": lines(GET, HOST, "Cookie: a=1; =; b"),
    "empty-host": lines(GET, "Host:"),
    "host-of-any-name": lines("GET /meta HTTP/1.1", "Host: my_app.Example:8000"),
    "te-gzip-chunked": lines(POST, HOST, "Transfer-Encoding: gzip, chunked") + chunked(b"abc"),
    "te-in-two-fields": lines(
        POST, HOST, "Transfer-Encoding: gzip", "Transfer-Encoding: chunked"
    ) + chunked(b"abc"),
    "chunk-extensions": post_chunked(b'3;a=b ; c="d\te\xe9"\r\nabc\r\n00 ;\r\n\r\n'),
    "trailers": post_chunked(chunked(b"abc", trailers=b"X-A: 1\r\nX-B: 2\r\n")),
    "te-upper-case": lines(POST, HOST, "Transfer-Encoding: CHUNKED") + chunked(b"abc"),
    "upgrade-h2c": lines(GET, HOST, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"),
    "meta": lines(
        "GET /meta?a=%20b&a HTTP/1.1", HOST, "X-Twice: 1", "x-twice: 2", "Cookie: a=1",
        "Cookie: b=2", "X_Under: dropped", "X-Latin: \xe9",
    ),
}  # fmt: skip


def answer_of(server: Server, sent: bytes) -> Answer:
    with Client(server.connect("http/1.1")) as client:
        client.send(sent)
        return client.read(sent.split(b" ", 1)[0].decode("latin-1"))


class TestSameAsPlain:
    """Plain's own server, beside ours, is what tells the right answer."""

    @pytest.mark.parametrize("name", BAD_REQUESTS)
    def test_bad_requests(self, client: Client, plain: Server, name: str) -> None:
        sent = BAD_REQUESTS[name]
        client.send(sent)
        answer = client.read("HEAD" if sent.startswith(b"HEAD") else "GET")
        assert answer.raw == answer_of(plain, sent).raw
        assert answer.status in (400, 413, 431, 501)
        assert client.closed()

    @pytest.mark.parametrize("name", GOOD_REQUESTS)
    def test_good_requests(self, plaintext: Server, plain: Server, name: str) -> None:
        ours, theirs = (self._comparable(s, GOOD_REQUESTS[name]) for s in (plaintext, plain))
        assert ours == theirs

    @pytest.mark.parametrize("name", AMBIGUOUS_REQUESTS)
    def test_stricter_than_plain(self, client: Client, name: str) -> None:
        client.send(AMBIGUOUS_REQUESTS[name] + lines(GET, HOST))
        assert client.read().status == 400
        assert client.closed()

    @staticmethod
    def _comparable(server: Server, sent: bytes) -> tuple[str, list[tuple[str, str]], bytes]:
        """The answer without what differs from second to second, or from server to server."""
        answer = answer_of(server, sent)
        headers = sorted((key, value) for key, value in answer.headers if key != "date")
        assert len(headers) < len(answer.headers)
        return answer.status_line, headers, answer.body.replace(b"%d" % server.port, b"PORT")


def connect_tls(server: Server, raw: socket.socket, *alpn: str) -> socket.socket:
    raw.settimeout(WAIT)
    return server.tls_context(*alpn).wrap_socket(raw, server_hostname="localhost")


def connect_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(WAIT)
    sock.connect(str(path))
    return sock


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A path short enough for a unix socket (108 bytes).

    Tests name it before `serve`, since the folder must outlive the server.
    """
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "s"


class _Socket:
    """Stands for a `Server` where `Http2Client` asks it for a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def connect(self, *alpn: str) -> socket.socket:
        return self._sock


def http2_get(sock: socket.socket, path: str) -> bytes:
    with Http2Client(_Socket(sock)) as client:  # type: ignore[arg-type]
        return bytes(client.get(path).body)


class TestBinds:
    def test_ipv6(self, serve: Callable[..., Server]) -> None:
        port = free_port(socket.AF_INET6)
        server = serve(bind=f"[::1]:{port}")

        def connect(*alpn: str) -> socket.socket:
            return connect_tls(server, socket.create_connection(("::1", port), WAIT), *alpn)

        with Client(connect("http/1.1")) as client:
            first = json.loads(client.get("/meta").body)
        second = json.loads(http2_get(connect("h2"), "/meta"))
        for meta in (first, second):
            assert meta["client_ip"] == meta["server_name"] == "::1"
            assert meta["server_port"] == str(port)

    @pytest.mark.parametrize("worker", ["gevent-h2", None], ids=["ours", "plain"])
    def test_unix_socket(
        self, socket_path: Path, serve: Callable[..., Server], worker: str | None
    ) -> None:
        serve(plaintext=True, bind=f"unix:{socket_path}", worker=worker)
        with Client(connect_unix(socket_path)) as client:
            meta = json.loads(client.get("/meta").body)
            assert (meta["client_ip"], meta["host"]) == ("", "localhost")
            assert (meta["server_name"], meta["server_port"]) == ("localhost", "80")
            client.send(b"GE / HTTP/1.1\r\n\r\n")
            assert client.read().status == 400

    def test_unix_socket_with_tls(self, socket_path: Path, serve: Callable[..., Server]) -> None:
        server = serve(bind=f"unix:{socket_path}")
        with Client(connect_tls(server, connect_unix(socket_path), "http/1.1")) as client:
            assert client.get().body == b"hello"
        meta = json.loads(http2_get(connect_tls(server, connect_unix(socket_path), "h2"), "/meta"))
        assert (meta["client_ip"], meta["host"]) == ("", "localhost")
        assert (meta["server_name"], meta["server_port"]) == ("localhost", "443")

    def test_several(self, socket_path: Path, serve: Callable[..., Server]) -> None:
        port, port6 = free_port(), free_port(socket.AF_INET6)
        binds = (f"127.0.0.1:{port}", f"[::1]:{port6}", f"unix:{socket_path}")
        server = serve(*(word for bind in binds for word in ("--bind", bind)), plaintext=True)
        sockets = [
            server.connect(),
            socket.create_connection(("127.0.0.1", port), WAIT),
            socket.create_connection(("::1", port6), WAIT),
            connect_unix(socket_path),
        ]
        for sock in sockets:
            with Client(sock) as client:
                assert client.get().body == b"hello"


class TestHealthcheck:
    ENV = {"PLAIN_HEALTHCHECK_PATH": "/up"}  # noqa: RUF012

    def test_http_1(self, serve: Callable[..., Server]) -> None:
        ours = serve(plaintext=True, env=self.ENV)
        plain = serve(plaintext=True, env=self.ENV, worker=None)
        for sent in (
            request("/up"),
            request("/up?query"),
            request("/up", method="HEAD"),
            request("/up", method="POST", body=b"body"),
            request("/up", "Content-Length: 99999999999", method="POST"),
            b"GET /up HTTP/1.1\r\n\r\n",
        ):
            with Client(ours.connect()) as client:
                client.send(sent)
                answer = client.read("HEAD" if sent.startswith(b"HEAD") else "GET")
                assert answer.status == 200
                assert answer.raw == answer_of(plain, sent).raw
                assert client.closed()
        assert answer_of(ours, request("/upper")).status == 404

    def test_http_2(self, serve: Callable[..., Server]) -> None:
        server = serve(env=self.ENV)
        with Http2Client(server) as client:
            for path in ("/up", "/up?query"):
                answer = client.get(path)
                assert (answer.status, answer.body, answer.ended) == (200, b"ok", True)
            head = client.finish(client.send("/up", "HEAD"))[0]
            assert (head.status, head.body, head.ended) == (200, b"", True)
            post = client.send("/up", "POST", (("content-length", "4"),), end_stream=False)
            client.until(lambda: client.answers[post].ended, "answer before the body")
            client.h2.send_data(post, b"body", end_stream=True)
            client.flush()
            assert client.get("/upper").status == 404
            assert client.get("/").body == b"hello"
