"""HTTP/1.1 as it is on the wire: connections, framing, and what is refused."""

import hashlib
import json
import socket
from collections.abc import Callable, Iterator

import pytest
from h2client import Client as Http2Client
from harness import WAIT, wait_for
from http1client import Client, chunked, lines, post_chunked, request
from serving import Serving


def method_of(sent: bytes) -> str:
    return sent.split(b" ", 1)[0].decode("latin-1")


def echo(body: bytes) -> dict[str, object]:
    """What the view `Echo` answers to `body`."""
    return {
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "content_length": str(len(body)),
    }


@pytest.fixture
def client(either: Serving) -> Iterator[Client]:
    with Client(either.connect("http/1.1")) as connected:
        yield connected


class TestConnection:
    def test_several_requests_on_one_connection(self, client: Client) -> None:
        for i in range(5):
            answer = client.get(f"/bytes?n={i}")
            assert (answer.status, answer.body) == (200, b"x" * i)
            assert answer.all("connection") == ["keep-alive"]

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
    def test_a_client_that_leaves_in_the_middle(self, either: Serving, part: bytes) -> None:
        tracebacks = either.log().count("Traceback")
        with Client(either.connect("http/1.1")) as leaving:
            leaving.send(part)
        with Client(either.connect("http/1.1")) as client:
            assert client.get().body == b"hello"
        assert either.log().count("Traceback") == tracebacks

    def test_half_closed_client_gets_its_answer(self, plaintext: Serving) -> None:
        with Client(plaintext.connect()) as client:
            client.send(request("/sleep?s=0.1"))
            client.sock.shutdown(socket.SHUT_WR)
            assert client.read().body == b"slept"
            assert client.closed()

    def test_an_incomplete_body_is_a_408(self, plaintext: Serving) -> None:
        with Client(plaintext.connect()) as client:
            client.send(request("/echo", "Content-Length: 100", method="POST") + b"half")
            client.sock.shutdown(socket.SHUT_WR)
            assert client.read().status == 408
            assert client.closed()

    @pytest.mark.parametrize("method", ["HEAD", "GET"])
    def test_the_workers_own_error_page_has_a_body_but_for_head(
        self, plaintext: Serving, method: str
    ) -> None:
        """RFC 9110 section 9.3.2. That of a 408 is none of Plain's."""
        with Client(plaintext.connect()) as client:
            client.send(request("/echo", "Content-Length: 100", method=method) + b"half")
            client.sock.shutdown(socket.SHUT_WR)
            answer = client.read(method)
            assert answer.status == 408
            assert int(answer.all("content-length")[0]) > 0
            assert bool(answer.body) == (method == "GET")
            assert client.closed()

    @pytest.mark.parametrize("block", [False, True], ids=["yields", "blocks"])
    def test_a_body_is_closed_when_its_client_leaves(self, either: Serving, block: bool) -> None:
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
    def test_it_is_not_the_targets(self, client: Client, either: Serving, target: str) -> None:
        scheme = "https" if either.tls else "http"
        assert json.loads(client.get(target).body)["scheme"] == scheme

    def test_a_trusted_proxys_field(self, serve: Callable[..., Serving]) -> None:
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

    def test_each_chunk_arrives_when_it_is_yielded(self, client: Client, either: Serving) -> None:
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
    def test_before_the_first_byte_it_is_a_500(self, client: Client, path: str) -> None:
        assert client.get(path).status == 500
        assert client.closed()

    def test_after_the_first_chunk_the_body_is_cut_short(self, client: Client) -> None:
        """No last chunk: the client can tell that the body is not whole."""
        client.send(request("/failing-body?after=2"))
        status_line, _ = client.read_head()
        assert status_line == "HTTP/1.1 200 OK"
        assert [client.read_chunk(), client.read_chunk()] == [b"chunk", b"chunk"]
        assert client.closed()

    def test_the_traceback_is_logged_once(self, serve: Callable[..., Serving]) -> None:
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


#: The status of each of these that is not 200.
GOOD_STATUSES = {
    "asterisk": 400,
    "two-slashes": 308,
    "http-1.0-204": 204,
    "not-utf-8": 404,
    "unknown-method": 405,
    "line-of-the-limit": 404,
    "204": 204,
    "304": 304,
    "308": 308,
    "404": 404,
    "405": 405,
    "500": 500,
    "500-middleware": 500,
}


class TestRequests:
    """`server/test_same_as_plain.py` compares the answers with those of Plain's own server."""

    @pytest.mark.parametrize("name", BAD_REQUESTS)
    def test_bad(self, client: Client, name: str) -> None:
        sent = BAD_REQUESTS[name]
        client.send(sent)
        assert client.read(method_of(sent)).status in (400, 413, 431, 501)
        assert client.closed()

    @pytest.mark.parametrize("name", GOOD_REQUESTS)
    def test_good(self, client: Client, name: str) -> None:
        sent = GOOD_REQUESTS[name]
        client.send(sent)
        answer = client.read(method_of(sent))
        assert answer.status == GOOD_STATUSES.get(name, 200)
        if answer.all("connection") == ["close"]:
            assert client.closed()
        else:
            assert client.get().body == b"hello"

    @pytest.mark.parametrize("name", AMBIGUOUS_REQUESTS)
    def test_ambiguous(self, client: Client, name: str) -> None:
        """Stricter than Plain's own."""
        client.send(AMBIGUOUS_REQUESTS[name] + lines(GET, HOST))
        assert client.read().status == 400
        assert client.closed()


#: What a health check at /up answers, whatever else the request says.
HEALTH_CHECKS = [
    request("/up"),
    request("/up?query"),
    request("/up", method="HEAD"),
    request("/up", method="POST", body=b"body"),
    request("/up", "Content-Length: 99999999999", method="POST"),
    b"GET /up HTTP/1.1\r\n\r\n",
]


class TestHealthcheck:
    ENV = {"PLAIN_HEALTHCHECK_PATH": "/up"}  # noqa: RUF012

    def test_http_1(self, serve: Callable[..., Serving]) -> None:
        server = serve(plaintext=True, env=self.ENV)
        for sent in HEALTH_CHECKS:
            with Client(server.connect()) as client:
                client.send(sent)
                is_head = sent.startswith(b"HEAD")
                answer = client.read("HEAD" if is_head else "GET")
                assert (answer.status, answer.body) == (200, b"" if is_head else b"ok")
                assert client.closed()
        with Client(server.connect()) as client:
            assert client.get("/upper").status == 404

    def test_http_2(self, serve: Callable[..., Serving]) -> None:
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
