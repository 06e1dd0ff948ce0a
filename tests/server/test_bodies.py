"""Request bodies: taken in before the view runs, within Plain's limits, on both protocols."""

import hashlib
import http.client
import json
import os
import select
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlencode

import httpx
import psutil
import pytest
from h2.errors import ErrorCodes
from h2client import Answer, Client
from harness import WAIT, Server, wait_for
from hyperframe.frame import HeadersFrame
from raw import RawClient, data, headers, request_fields

PROTOCOLS = {"h2": "HTTP/2", "http/1.1": "HTTP/1.1"}

protocols = pytest.mark.parametrize("protocol", PROTOCOLS)

#: For uploads that stay open: below the floor a busy machine would soon be.
NO_FLOOR = {"PLAIN_SERVER_BODY_MIN_BYTES_PER_SECOND": "0"}


def echo(body: bytes) -> dict[str, object]:
    """What the view `Echo` answers to `body`."""
    return {
        "length": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
        "content_length": str(len(body)),
    }


def http_client(server: Server, protocol: str) -> httpx.Client:
    return httpx.Client(
        http1=protocol != "h2",
        http2=protocol == "h2",
        verify=server.tls_context() if server.tls else False,
        base_url=server.url,
        timeout=WAIT,
    )


def http1(server: Server) -> http.client.HTTPConnection:
    """An HTTP/1.1 connection whose requests are sent piece by piece."""
    connection = http.client.HTTPConnection("localhost")
    connection.sock = server.connect("http/1.1")
    return connection


def begin_post(connection: http.client.HTTPConnection, path: str, name: str, value: str) -> None:
    """Send the head of a POST that has the field `name`, and nothing of its body."""
    connection.putrequest("POST", path)
    connection.putheader(name, value)
    connection.endheaders()


def finish_post(connection: http.client.HTTPConnection) -> tuple[int, bytes]:
    """The status and the body of the answer, which ends with the connection."""
    assert connection.sock is not None
    with connection.sock.makefile("rb") as file:
        head, _, page = file.read().partition(b"\r\n\r\n")
    connection.close()
    return int(head.split()[1]), page


def post(client: Client, body: bytes, path: str = "/echo", *, end: bool = True) -> int:
    """Send a POST without a length as fast as the windows let it; return its stream."""
    stream = client.send(path, "POST", end_stream=False)
    send_body(client, stream, body, end=end)
    return stream


def send_body(client: Client, stream: int, body: bytes, *, end: bool = True) -> None:
    """Send `body`, waiting for WINDOW_UPDATEs; stop early if the stream has been answered."""
    answer = client.answers[stream]
    sent = 0
    while sent < len(body):
        client.until(
            lambda: client.h2.local_flow_control_window(stream) > 0 or answer.headers, "window"
        )
        if answer.headers:
            return
        window = client.h2.local_flow_control_window(stream)
        size = min(window, client.h2.max_outbound_frame_size, len(body) - sent)
        client.h2.send_data(stream, body[sent : sent + size])
        client.flush()
        sent += size
    if end:
        client.h2.end_stream(stream)
        client.flush()


def finish(client: Client, stream: int) -> Answer:
    return client.finish(stream)[0]


def reached(server: Server, name: str) -> bool:
    """Whether a view waits, or waited, at the gate `name`."""
    with Client(server) as client:
        return name in json.loads(client.get("/bodies/gates").body)["reached"]


def open_gate(server: Server, name: str) -> None:
    with Client(server) as client:
        assert client.get(f"/bodies/gates?open={name}").status == 200


class TestUploads:
    @protocols
    @pytest.mark.parametrize("size", [1, 1000, 65_536, 1_048_576, 1_048_577, 3_000_000])
    @pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
    def test_the_view_gets_the_body_and_its_length(
        self, server: Server, protocol: str, size: int, declared: bool
    ) -> None:
        body = os.urandom(size)

        def parts() -> Iterator[bytes]:
            for start in range(0, size, 50_000):
                yield body[start : start + 50_000]

        with http_client(server, protocol) as client:
            for _ in range(2):
                response = client.post("/echo", content=body if declared else parts())
                assert response.http_version == PROTOCOLS[protocol]
                assert response.json() == echo(body)

    @protocols
    def test_empty(self, server: Server, protocol: str) -> None:
        with http_client(server, protocol) as client:
            assert client.post("/echo", content=b"").json() == echo(b"")
            undeclared = client.post("/echo", content=iter(())).json()
        assert undeclared["length"] == 0
        # Plain's own worker fills it in for a chunked body only.
        assert undeclared["content_length"] == {"h2": None, "http/1.1": "0"}[protocol]

    def test_trailers(self, server: Server) -> None:
        with Client(server) as client:
            stream = post(client, b"body", end=False)
            client.h2.send_headers(stream, [("x-trailer", "1")], end_stream=True)
            client.flush()
            assert json.loads(finish(client, stream).body) == echo(b"body")

    def test_empty_data_frames(self, server: Server) -> None:
        with Client(server) as client:
            stream = client.send("/echo", "POST", end_stream=False)
            for part in (b"", b"one", b"", b"two", b""):
                client.h2.send_data(stream, part)
            client.h2.send_data(stream, b"", end_stream=True)
            client.flush()
            assert json.loads(finish(client, stream).body) == echo(b"onetwo")

    def test_padded_data(self, server: Server) -> None:
        """Padding counts for the windows (RFC 9113 section 6.1), and is no part of the body."""
        with Client(server) as client:
            stream = client.send("/echo", "POST", end_stream=False)
            for _ in range(5000):  # 1.3 MB of flow control, past the stream's window
                client.until(lambda: client.h2.local_flow_control_window(stream) > 300, "window")
                client.h2.send_data(stream, b"x", pad_length=255)
                client.flush()
            client.h2.end_stream(stream)
            client.flush()
            assert json.loads(finish(client, stream).body) == echo(b"x" * 5000)

    @protocols
    def test_the_body_can_be_read_as_a_file(self, server: Server, protocol: str) -> None:
        with http_client(server, protocol) as client:
            response = client.post("/bodies/read-parts", content=b"0123456789" + b"x" * 2_000_000)
        assert response.json() == {"first": "0123456789", "rest": 2_000_000}

    def test_a_length_that_is_not_the_bodys_fails_its_stream_alone(self, server: Server) -> None:
        """RFC 9113 section 8.1.1: a malformed request is an error of the stream."""
        with Client(server) as client:
            beside = client.send("/sleep?s=0.3")
            for declared, sent in ((5, b"123"), (5, b"1234567")):
                fields = (("content-length", str(declared)),)
                stream = client.send("/echo", "POST", fields, end_stream=False)
                client.h2.send_data(stream, sent, end_stream=True)
                client.flush()
                assert finish(client, stream).reset == ErrorCodes.PROTOCOL_ERROR
            assert finish(client, beside).body == b"slept"


class TestForms:
    @protocols
    def test_urlencoded(self, server: Server, protocol: str) -> None:
        with http_client(server, protocol) as client:
            response = client.post("/bodies/form", data={"name": "é & =", "many": ["1", "2"]})
        assert response.json() == {"fields": {"name": ["é & ="], "many": ["1", "2"]}, "files": {}}

    @protocols
    def test_urlencoded_of_undeclared_length(self, server: Server, protocol: str) -> None:
        content = urlencode({"name": "value"}).encode()
        with http_client(server, protocol) as client:
            response = client.post(
                "/bodies/form",
                content=iter([content[:5], content[5:]]),
                headers={"Content-Type": "application/x-www-form-urlencoded"},
            )
        assert response.json()["fields"] == {"name": ["value"]}

    @protocols
    @pytest.mark.parametrize("size", [0, 10, 5_000_000])  # the last one: a file on disk
    @pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
    def test_multipart_with_files(
        self, server: Server, protocol: str, size: int, declared: bool
    ) -> None:
        content = os.urandom(size)
        form = httpx.Request(
            "POST",
            "https://localhost/",
            data={"title": "x", "tags": ["a", "b"]},
            files={"photo": ("é.png", content, "image/png"), "note": ("n.txt", b"note")},
        )
        body = form.read()
        with http_client(server, protocol) as client:
            response = client.post(
                "/bodies/form",
                content=body if declared else iter([body[:1000], body[1000:]]),
                headers={"Content-Type": form.headers["Content-Type"]},
            )
        assert response.http_version == PROTOCOLS[protocol]
        answer = response.json()
        assert answer["fields"] == {"title": ["x"], "tags": ["a", "b"]}
        assert answer["files"]["photo"] == {
            "name": "é.png",
            "type": "image/png",
            "size": size,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        assert answer["files"]["note"]["size"] == 4


class TestWindows:
    """A client that obeys its windows is given new ones as its data is taken in."""

    @pytest.mark.parametrize("window", [1000, 65_535, 1_048_576])
    def test_an_upload_larger_than_the_window(
        self, shared: Callable[..., Server], window: int
    ) -> None:
        server = shared(env={"PLAIN_SERVER_H2_INITIAL_WINDOW_SIZE": str(window)})
        body = os.urandom(window * 5)
        with Client(server) as client:
            client.get("/")  # and with it, the server's SETTINGS
            stream = client.send("/echo", "POST", end_stream=False)
            assert client.h2.local_flow_control_window(stream) == window
            send_body(client, stream, body)
            assert json.loads(finish(client, stream).body) == echo(body)

    def test_uploads_side_by_side(self, server: Server) -> None:
        """20 MB on ten streams, more than the connection's window, in turns."""
        body = os.urandom(2_000_000)
        with Client(server) as client:
            streams = [client.send("/echo", "POST", end_stream=False) for _ in range(10)]
            for start in range(0, len(body), 100_000):
                for stream in streams:
                    send_body(client, stream, body[start : start + 100_000], end=False)
            for stream in streams:
                client.h2.end_stream(stream)
            client.flush()
            for answer in client.finish(*streams):
                assert json.loads(answer.body) == echo(body)

    def test_a_stalled_upload_delays_no_other_stream(self, shared: Callable[..., Server]) -> None:
        server = shared(env=NO_FLOOR)
        with Client(server) as client:
            stalled = [post(client, b"half", end=False) for _ in range(50)]
            for _ in range(10):
                assert client.get("/").body == b"hello"
                assert json.loads(finish(client, post(client, b"y" * 100_000)).body) == echo(
                    b"y" * 100_000
                )
            for stream in stalled:
                send_body(client, stream, b"-done")
            for answer in client.finish(*stalled):
                assert json.loads(answer.body) == echo(b"half-done")


class TestRequestLimit:
    """`SERVER_MAX_REQUEST_BODY_SIZE`: a 413."""

    ENV = {"PLAIN_SERVER_MAX_REQUEST_BODY_SIZE": "100000"} | NO_FLOOR

    @protocols
    @pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
    def test_the_limit_itself_is_allowed(
        self, shared: Callable[..., Server], protocol: str, declared: bool
    ) -> None:
        server = shared(env=self.ENV)
        body = b"x" * 100_000
        with http_client(server, protocol) as client:
            response = client.post("/echo", content=body if declared else iter([body]))
        assert response.json() == echo(body)

    def test_declared_over_http2(self, shared: Callable[..., Server]) -> None:
        """Answered before any of the body is sent, and only that stream is affected."""
        server = shared(env=self.ENV)
        with Client(server) as client:
            beside = post(client, b"half", end=False)
            refused = client.send(
                "/echo", "POST", (("content-length", "100001"),), end_stream=False
            )
            answer = client.answers[refused]
            client.until(lambda: answer.ended, "answer before the body")
            assert (answer.status, answer.body) == (413, b"<h1>413</h1>")
            send_body(client, beside, b"-done")
            assert json.loads(finish(client, beside).body) == echo(b"half-done")
            client.until(lambda: answer.reset is not None, "reset of the refused stream")
            assert answer.reset == ErrorCodes.NO_ERROR
            assert client.get("/").body == b"hello"

    def test_undeclared_over_http2(self, shared: Callable[..., Server]) -> None:
        server = shared(env=self.ENV)
        with Client(server) as client:
            beside = post(client, b"half", end=False)
            refused = post(client, b"x" * 100_000, end=False)
            assert client.get("/").body == b"hello"
            assert not client.answers[refused].headers
            client.h2.send_data(refused, b"x")
            client.flush()
            answer = client.answers[refused]
            client.until(lambda: answer.ended, "answer")
            assert (answer.status, answer.body) == (413, b"<h1>413</h1>")
            send_body(client, beside, b"-done")
            assert json.loads(finish(client, beside).body) == echo(b"half-done")

    def test_a_client_that_sends_on_is_reset_in_the_end(
        self, shared: Callable[..., Server]
    ) -> None:
        """Its data is thrown away and the windows given back; then RST_STREAM, NO_ERROR.

        RFC 9113 section 8.1. An RST_STREAM at once would hit frames already on their way.
        """
        server = shared(env=self.ENV)
        sent = 0
        with Client(server) as client:
            while sent < 20_000_000:  # more than the connection's window
                stream = self._refused(client)
                thrown_away = self._send_until_reset(client, stream)
                sent += thrown_away
                assert thrown_away > 100_000
                assert client.answers[stream].reset == ErrorCodes.NO_ERROR
                assert client.answers[stream].body == b"<h1>413</h1>"
            body = b"x" * 100_000
            assert json.loads(finish(client, post(client, body)).body) == echo(body)

    @staticmethod
    def _refused(client: Client, method: str = "POST") -> int:
        """A stream whose request has its answer before its body."""
        fields = (("content-length", "50000000"),)
        stream = client.send("/echo", method, fields, end_stream=False)
        answer = client.answers[stream]
        client.until(lambda: answer.ended, "answer before the body")
        assert answer.status == 413
        return stream

    @staticmethod
    def _send_until_reset(client: Client, stream: int) -> int:
        """Send a body for as long as the stream is open; return its size."""
        answer, sent = client.answers[stream], 0

        def can_go_on() -> bool:
            return answer.reset is not None or client.h2.local_flow_control_window(stream) >= 16_384

        while sent < 50_000_000:
            client.until(can_go_on, "window or reset")
            if answer.reset is not None:
                break
            client.h2.send_data(stream, b"x" * 16_384)
            client.flush()
            sent += 16_384
            if select.select([client.sock], [], [], 0)[0]:
                client.receive()
        return sent

    def test_the_answer_to_head_has_no_body(self, shared: Callable[..., Server]) -> None:
        server = shared(env=self.ENV)
        with Client(server) as client:
            stream = self._refused(client, "HEAD")
            assert client.answers[stream].body == b""

    def test_the_client_that_ends_its_refused_body_is_not_reset(
        self, shared: Callable[..., Server]
    ) -> None:
        server = shared(env=self.ENV)
        with Client(server) as client:
            client.get("/")  # and with it, the server's SETTINGS: a window of 1 MiB
            for _ in range(3):
                stream = client.send("/echo", "POST", end_stream=False)
                for part in range(11):
                    client.h2.send_data(stream, b"x" * 10_000, end_stream=part == 10)
                client.flush()
                answer = finish(client, stream)
                assert (answer.status, answer.body) == (413, b"<h1>413</h1>")
                assert client.get("/").body == b"hello"
                assert answer.reset is None

    def test_the_answer_waits_for_a_window(self, shared: Callable[..., Server]) -> None:
        """The request may end while its answer cannot be sent yet."""
        server = shared(env=self.ENV)
        with Client(server, window=0) as client:
            head = client.send("/", "HEAD")
            assert finish(client, head).status == 200  # and with it, the server's SETTINGS
            stream = client.send("/echo", "POST", end_stream=False)
            for part in range(11):
                client.h2.send_data(stream, b"x" * 10_000, end_stream=part == 10)
            client.flush()
            answer = client.answers[stream]
            client.until(lambda: answer.headers, "head of the answer")
            assert (answer.status, answer.body) == (413, b"")
            client.h2.increment_flow_control_window(100, stream)
            client.flush()
            assert finish(client, stream).body == b"<h1>413</h1>"

    def test_declared_over_http1(self, shared: Callable[..., Server]) -> None:
        server = shared(env=self.ENV)
        connection = http1(server)
        begin_post(connection, "/echo", "Content-Length", "100001")
        status, page = finish_post(connection)
        assert status == 413
        assert b"Request body is too large (100001 &gt; 100000)" in page
        server.wait_log("status=413")  # in the access log, as Plain's own worker has it

    def test_undeclared_over_http1(self, shared: Callable[..., Server]) -> None:
        server = shared(env=self.ENV)
        connection = http1(server)
        begin_post(connection, "/echo", "Transfer-Encoding", "chunked")
        connection.send(b"186a0\r\n" + b"x" * 100_000 + b"\r\n1\r\n")
        connection.send(b"x")
        status, page = finish_post(connection)
        assert status == 413
        assert b"Request body is too large (100001 &gt; 100000)" in page
        server.wait_log("status=413")

    @pytest.mark.parametrize("plaintext", [False, True], ids=["tls", "plaintext"])
    @pytest.mark.parametrize(
        ("head", "status"),
        [
            ("POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000", 413),
            ("POST /echo HTTP/1.1\r\nContent-Length: 3000000", 400),
            ("POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked", 400),
        ],
        ids=["limit", "head", "chunk"],
    )
    def test_a_page_reaches_an_http1_client_that_sends_on(
        self, shared: Callable[..., Server], plaintext: bool, head: str, status: int
    ) -> None:
        """The rest of the body is read and thrown away, or a TCP reset could destroy the page.

        All of it is sent at once: some is there already when the server refuses it.
        """
        server = shared(env=self.ENV, plaintext=plaintext)
        for _ in range(3):
            connection = http1(server)
            assert connection.sock is not None
            connection.sock.sendall(head.encode() + b"\r\n\r\n" + b"x" * 3_000_000)
            assert finish_post(connection)[0] == status

    @protocols
    def test_without_a_limit_the_budget_is_one(
        self, shared: Callable[..., Server], protocol: str
    ) -> None:
        """A body that can never fit is a 413, not a 503 that asks for another try."""
        env = {
            "PLAIN_SERVER_MAX_REQUEST_BODY_SIZE": "null",
            "PLAIN_SERVER_MAX_INFLIGHT_BODY_SIZE": "100000",
        }
        with http_client(shared(env=env), protocol) as client:
            assert client.post("/echo", content=b"x" * 100_000).status_code == 200
            assert client.post("/echo", content=iter([b"x" * 100_001])).status_code == 413


class TestBudget:
    """`SERVER_MAX_INFLIGHT_BODY_SIZE`: a 503, and the budget is given back."""

    ENV = {"PLAIN_SERVER_MAX_INFLIGHT_BODY_SIZE": "1000000"}  # noqa: RUF012
    FULL = b"x" * 1_000_000  # takes the whole budget

    def test_over_http2(self, shared: Callable[..., Server]) -> None:
        server = shared(env=self.ENV)
        with Client(server) as client:
            held = post(client, b"x" * 600_000, "/bodies/hold?name=held")
            wait_for(lambda: reached(server, "held"), "view that holds its body")
            half = post(client, b"y" * 400_000, end=False)
            refused = post(client, b"z")
            answer = finish(client, refused)
            assert (answer.status, answer.body) == (503, b"<h1>503</h1>")
            assert answer.all("retry-after") == ["1"]
            # The others know nothing of it.
            client.h2.end_stream(half)
            client.flush()
            assert json.loads(finish(client, half).body) == echo(b"y" * 400_000)
            open_gate(server, "held")
            assert json.loads(finish(client, held).body) == {"length": 600_000}
            assert json.loads(finish(client, post(client, self.FULL)).body) == echo(self.FULL)

    def test_over_http1(self, shared: Callable[..., Server]) -> None:
        server = shared(env=self.ENV)
        held, refused = http1(server), http1(server)
        held.request("POST", "/bodies/hold?name=held-1.1", b"x" * 600_000)
        wait_for(lambda: reached(server, "held-1.1"), "view that holds its body")
        begin_post(refused, "/echo", "Content-Length", "600000")
        refused.send(b"x" * 600_000)
        response = refused.getresponse()
        assert (response.status, response.getheader("Retry-After")) == (503, "1")
        assert b"In-flight request bodies exceeded 1000000 bytes" in response.read()
        refused.close()
        open_gate(server, "held-1.1")
        assert json.loads(held.getresponse().read()) == {"length": 600_000}
        held.request("POST", "/echo", self.FULL)
        assert json.loads(held.getresponse().read()) == echo(self.FULL)
        held.close()

    @pytest.mark.parametrize("how", ["reset", "leave"])
    def test_a_half_sent_body_is_given_back_over_http2(
        self, shared: Callable[..., Server], how: str
    ) -> None:
        server = shared(env=self.ENV)
        with Client(server) as other:
            with Client(server) as client:
                stream = post(client, b"x" * 600_000, end=False)
                client.get("/")  # what came before it is taken in
                assert finish(other, post(other, self.FULL)).status == 503
                if how == "reset":
                    client.h2.reset_stream(stream, ErrorCodes.CANCEL)
                    client.flush()
                    assert finish(client, post(client, self.FULL)).status == 200
            wait_for(
                lambda: finish(other, post(other, self.FULL)).status == 200, "budget for a body"
            )

    @pytest.mark.parametrize("framing", ["Content-Length", "Transfer-Encoding"])
    def test_a_half_sent_body_is_given_back_over_http1(
        self, shared: Callable[..., Server], framing: str
    ) -> None:
        server = shared(env=self.ENV)
        connection = http1(server)
        if framing == "Content-Length":
            begin_post(connection, "/echo", framing, "900000")
            connection.send(b"x" * 600_000)
        else:
            begin_post(connection, "/echo", framing, "chunked")
            connection.send(b"ffffff\r\n" + b"x" * 600_000)

        with http_client(server, "http/1.1") as other:

            def status() -> int:
                return other.post("/echo", content=self.FULL).status_code

            wait_for(lambda: status() == 503, "budget used up")
            connection.close()
            wait_for(lambda: status() == 200, "budget for a body")

    @protocols
    def test_every_kind_of_end_gives_the_budget_back(
        self, shared: Callable[..., Server], protocol: str
    ) -> None:
        """A leak of one body would leave no room for the last one."""
        server = shared(env=self.ENV | {"PLAIN_SERVER_MAX_REQUEST_BODY_SIZE": "1000000"})
        with http_client(server, protocol) as client:
            for path, status in (
                ("/echo", 200),
                ("/", 405),
                ("/nowhere", 404),
                ("/middleware-error", 500),
            ):
                response = client.post(path, content=self.FULL)
                assert response.status_code == status
            assert client.post("/echo", content=iter([self.FULL, b"x"])).status_code == 413
            assert client.post("/echo", content=self.FULL).status_code == 200

    def test_a_reset_while_the_view_runs(self, shared: Callable[..., Server]) -> None:
        """The view may still read its body, so the budget comes back when it ends."""
        server = shared(env=self.ENV)
        with Client(server) as client:
            stream = post(client, self.FULL, "/bodies/hold?name=reset")
            wait_for(lambda: reached(server, "reset"), "view that holds its body")
            client.h2.reset_stream(stream, ErrorCodes.CANCEL)
            client.flush()
            assert finish(client, post(client, b"x")).status == 503
            open_gate(server, "reset")
            wait_for(
                lambda: finish(client, post(client, self.FULL)).status == 200, "budget for a body"
            )


class TestBrokenUploads:
    def test_trailers_that_end_a_body_of_the_wrong_length_give_it_back(
        self, serve: Callable[..., Server]
    ) -> None:
        server = serve(env={"PLAIN_SERVER_MAX_INFLIGHT_BODY_SIZE": "100000"})
        with RawClient(server) as client:
            for _ in range(3):
                fields = request_fields("/echo", "POST", ("content-length", "60000"))
                stream = client.open(fields, end_stream=False)
                for _ in range(3):
                    client.send(data(stream, b"x" * 16000, end=False))
                client.send(headers(stream, client.block([("x-end", "1")]), end_stream=True))
                client.expect_stream_error(stream, ErrorCodes.PROTOCOL_ERROR)
        with http_client(server, "h2") as client:
            assert client.post("/echo", content=b"x" * 90_000).status_code == 200


class TestManyUploads:
    def test_100_connections_of_100_uploads_at_the_budget(
        self, serve: Callable[..., Server]
    ) -> None:
        """160 MB of bodies, of which 50 MB may be in flight: the others are 503s."""
        budget, size = 50_000_000, 16_000
        # No floor: on a busy machine all of it takes so long that the first would be 408s.
        server = serve(env={"PLAIN_SERVER_MAX_INFLIGHT_BODY_SIZE": str(budget)} | NO_FLOOR)
        worker = server.worker()
        with ExitStack() as stack:
            other = stack.enter_context(Client(server))
            assert other.get("/").body == b"hello"
            memory = worker.memory_info().rss
            clients = []
            for _ in range(100):
                client = stack.enter_context(RawClient(server))
                clients.append(client)
                for _ in range(100):
                    stream = client.open(request_fields("/echo", "POST"), end_stream=False)
                    client.send(data(stream, b"x" * size, end=False))
                client.expect_alive()  # all of it has been taken in or refused
                assert other.get("/").body == b"hello"

            def is_used_up() -> bool:
                """By those that have no answer: some gave way to later ones."""
                held = 100 * 100
                for client in clients:
                    client.expect_alive()
                    answers = client.received(HeadersFrame)
                    statuses = {dict(client.fields(frame))[":status"] for frame in answers}
                    assert statuses <= {"503"}
                    held -= len(answers)
                return held * size <= budget < (held + 1) * size

            wait_for(is_used_up, "budget used up and kept")
            # With what a stream takes beside its body.
            assert worker.memory_info().rss < memory + budget + 10_000 * 20_000
        with Client(server) as later:

            def accepted() -> bool:
                stream = later.send("/echo", "POST", end_stream=False)
                later.h2.send_data(stream, b"x" * 10_000, end_stream=True)
                later.flush()
                return later.finish(stream)[0].status == 200

            wait_for(accepted, "an upload after the attack")


class TestRateFloor:
    def test_a_stalled_upload_is_a_408(self, serve: Callable[..., Server]) -> None:
        """Both protocols beside each other, since Plain's grace is 5 s."""
        env = {"PLAIN_SERVER_BODY_MIN_BYTES_PER_SECOND": "1000"}
        server = serve(env=env)
        dripping = http1(serve(env=env, plaintext=True))
        begin_post(dripping, "/echo", "Content-Length", "100000")
        with Client(server) as client:
            silent = post(client, b"half", end=False)
            answer = client.answers[silent]
            # A byte every 0.1 s, so that no single read waits for long.
            while not select.select([dripping.sock], [], [], 0.1)[0]:
                dripping.send(b"x")
            client.until(lambda: answer.ended, "answer to the silent stream")
            assert (answer.status, answer.body) == (408, b"<h1>408</h1>")
            # The connection serves on, and an upload above the floor is none of its business.
            assert json.loads(finish(client, post(client, b"quick")).body) == echo(b"quick")
        status, page = finish_post(dripping)
        assert status == 408
        assert b"Incomplete request body" in page

    def test_no_floor(self, serve: Callable[..., Server]) -> None:
        """Then an idle connection with half a request on it is closed as any idle one."""
        server = serve(
            env={
                "PLAIN_SERVER_BODY_MIN_BYTES_PER_SECOND": "0",
                "PLAIN_SERVER_KEEPALIVE_TIMEOUT": "1",
            }
        )
        with Client(server) as client:
            post(client, b"half", end=False)
            client.until(lambda: client.goaways, "GOAWAY")


def spooled(worker: psutil.Process) -> int:
    """How many anonymous files in the folder of temporary files `worker` has open."""
    count = 0
    for descriptor in Path(f"/proc/{worker.pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except FileNotFoundError:
            continue
        count += target.startswith("/tmp/") and target.endswith("(deleted)")
    return count


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
class TestSpool:
    """Past `SERVER_BODY_MAX_MEMORY_SIZE` a body is on disk."""

    ENV = {"TMPDIR": "/tmp", "PLAIN_SERVER_BODY_MAX_MEMORY_SIZE": "200000"}  # noqa: RUF012

    @protocols
    def test_a_large_body_is_on_disk_while_it_is_needed(
        self, shared: Callable[..., Server], protocol: str
    ) -> None:
        server = shared(env=self.ENV)
        worker = server.worker()
        assert spooled(worker) == 0
        for size, files in ((200_000, 0), (200_001, 1), (3_000_000, 1)):
            name = f"spool-{protocol}-{size}"
            path = f"/bodies/hold?name={name}"
            if protocol == "h2":
                with Client(server) as client:
                    stream = post(client, b"x" * size, path)
                    wait_for(lambda: reached(server, name), "view that holds its body")  # noqa: B023
                    assert spooled(worker) == files
                    open_gate(server, name)
                    answer = bytes(finish(client, stream).body)
            else:
                connection = http1(server)
                connection.request("POST", path, b"x" * size)
                wait_for(lambda: reached(server, name), "view that holds its body")  # noqa: B023
                assert spooled(worker) == files
                open_gate(server, name)
                answer = connection.getresponse().read()
                connection.close()
            assert json.loads(answer) == {"length": size}
            wait_for(lambda: spooled(worker) == 0, "end of the file")

    @protocols
    def test_a_reset_upload_leaves_no_file(
        self, shared: Callable[..., Server], protocol: str
    ) -> None:
        server = shared(env=self.ENV)
        worker = server.worker()
        if protocol == "h2":
            with Client(server) as client:
                stream = post(client, b"x" * 300_000, end=False)
                wait_for(lambda: spooled(worker) == 1, "file")
                client.h2.reset_stream(stream, ErrorCodes.CANCEL)
                client.flush()
                wait_for(lambda: spooled(worker) == 0, "end of the file")
        else:
            connection = http1(server)
            begin_post(connection, "/echo", "Content-Length", "1000000")
            connection.send(b"x" * 300_000)
            wait_for(lambda: spooled(worker) == 1, "file")
            connection.close()
            wait_for(lambda: spooled(worker) == 0, "end of the file")

    @protocols
    def test_a_slow_disk_blocks_nobody_else(
        self, serve: Callable[..., Server], protocol: str
    ) -> None:
        """Each read and write takes a second; the worker says if it was blocked for half of it."""
        slow = {
            "PLAIN_SERVER_GEVENT_PATCH": "app.slow_disk.patch",
            "PLAIN_SERVER_HUB_BLOCKED_SECONDS": "0.5",
        }
        server = serve(env=self.ENV | slow)
        body = b"x" * 900_000
        if protocol == "h2":
            with Client(server) as client:
                stream = post(client, body)
                assert client.get("/").body == b"hello"
                # The disk has written all, and all of the window has come back.
                again = post(client, body)
                answers = client.finish(stream, again)
                assert [json.loads(answer.body) for answer in answers] == [echo(body)] * 2
        else:
            connection = http1(server)
            connection.request("POST", "/echo", body)
            assert json.loads(connection.getresponse().read()) == echo(body)
            connection.close()
        # A busy machine blocks the worker too, elsewhere.
        assert "slow_disk.py" not in server.log()
        wait_for(lambda: spooled(server.worker()) == 0, "end of the files")

    def test_a_reset_while_the_disk_writes_gives_all_back(
        self, serve: Callable[..., Server]
    ) -> None:
        """More is sent, and reset unwritten, than the connection's window of 16 MiB."""
        slow = {"PLAIN_SERVER_GEVENT_PATCH": "app.slow_disk.patch"}
        server = serve(env=self.ENV | slow)
        with Client(server) as client:
            for _ in range(50):  # of each, 200,000 bytes stay in memory
                stream = post(client, b"x" * 600_000, end=False)
                client.h2.reset_stream(stream, ErrorCodes.CANCEL)
                client.flush()
            assert json.loads(finish(client, post(client, b"last")).body) == echo(b"last")
            wait_for(lambda: spooled(server.worker()) == 0, "end of the files")

    @staticmethod
    def _server_with_little_disk(shared: Callable[..., Server]) -> Server:
        """Files of the worker end at 1,000,000 bytes, which stands for a full disk.

        The other limits are small: whatever a failure leaks, the next requests will miss.
        """
        limits = {
            "PLAIN_SERVER_MAX_INFLIGHT_BODY_SIZE": "2000000",
            "PLAIN_SERVER_H2_MAX_CONCURRENT_STREAMS": "2",
            "PLAIN_SERVER_MAX_RUNNING_STREAMS": "2",
        }
        server = shared(env=TestSpool.ENV | NO_FLOOR | limits)
        server.worker().rlimit(psutil.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        return server

    # What fills the disk, in DATA frames of these sizes. A failed write may leave bytes in
    # the file's buffer, and then closing the file fails too. With the last one, the disk is
    # only seen to be full when the body, received whole, is flushed.
    @pytest.mark.parametrize(
        "sizes",
        [[16_384] * 100, [1000] * 1500, [10_000] * 100 + [100]],
        ids=["large-frames", "small-frames", "at-the-end"],
    )
    def test_a_full_disk_is_a_500_of_its_stream(
        self, shared: Callable[..., Server], sizes: list[int]
    ) -> None:
        server = self._server_with_little_disk(shared)
        with Client(server) as client:
            beside = post(client, b"half", end=False)
            for _ in range(3):
                refused = client.send("/echo", "POST", end_stream=False)
                for size in sizes:
                    send_body(client, refused, b"x" * size, end=False)
                if early := client.answers[refused].headers:
                    client.h2.reset_stream(refused, ErrorCodes.NO_ERROR)
                else:
                    client.h2.end_stream(refused)
                client.flush()
                answer = client.answers[refused]
                client.until(lambda: answer.ended or early, "answer")  # noqa: B023
                assert answer.status == 500
            send_body(client, beside, b"-done")
            assert json.loads(finish(client, beside).body) == echo(b"half-done")
            body = b"x" * 900_000
            assert json.loads(finish(client, post(client, body)).body) == echo(body)
        wait_for(lambda: spooled(server.worker()) == 0, "end of the files")
        self._expect_a_line_each(server, 3)

    @pytest.mark.parametrize(
        "sizes", [[1_500_000], [1_000_000, 100]], ids=["in-the-middle", "at-the-end"]
    )
    def test_a_full_disk_is_a_500_over_http1(
        self, shared: Callable[..., Server], sizes: list[int]
    ) -> None:
        server = self._server_with_little_disk(shared)
        for _ in range(3):
            refused = http1(server)
            begin_post(refused, "/echo", "Content-Length", str(sum(sizes)))
            for size in sizes:
                refused.send(b"x" * size)
            assert finish_post(refused)[0] == 500
        connection = http1(server)
        connection.request("POST", "/echo", b"x" * 900_000)
        assert json.loads(connection.getresponse().read()) == echo(b"x" * 900_000)
        connection.close()
        wait_for(lambda: spooled(server.worker()) == 0, "end of the files")
        self._expect_a_line_each(server, 3)

    @protocols
    def test_without_a_folder_for_files_what_fits_in_memory_is_served(
        self, serve: Callable[..., Server], tmp_path: Path, protocol: str
    ) -> None:
        """A container that is read-only, with no TMPDIR that is not."""
        (tmp_path / "read_only.py").write_text(
            "import tempfile\ndef patch(): tempfile._candidate_tempdir_list = lambda: ['/nowhere']"
        )
        patch = {"PYTHONPATH": str(tmp_path), "PLAIN_SERVER_GEVENT_PATCH": "read_only.patch"}
        server = serve(env=self.ENV | patch)
        small, large = b"x" * 200_000, b"x" * 200_001
        if protocol == "h2":
            with Client(server) as client:
                for _ in range(2):
                    assert finish(client, post(client, large)).status == 500
                    assert json.loads(finish(client, post(client, small)).body) == echo(small)
        else:
            for body, status in ((large, 500), (small, 200), (large, 500)):
                connection = http1(server)
                connection.request("POST", "/echo", body)
                assert connection.getresponse().status == status
                connection.close()
        self._expect_a_line_each(server, 2)

    @staticmethod
    def _expect_a_line_each(server: Server, count: int) -> None:
        assert server.log().count("could not be written to a temporary file (see TMPDIR)") == count
        assert "Traceback" not in server.log()
