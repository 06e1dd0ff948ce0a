"""HTTP/2 as a well-behaved client sees it: concurrency, isolation, responses, resets."""

import json
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from h2client import Answer, Client
from harness import WAIT, Server, wait_for
from hyperframe.frame import GoAwayFrame
from inside import Inside
from tools import need, need_curl


def watched(server: Server) -> dict[str, Any]:
    with Client(server) as client:
        found: dict[str, Any] = json.loads(client.get("/watched").body)
    return found


class TestClients:
    """Real clients, each with its own idea of HTTP/2."""

    def test_curl(self, server: Server) -> None:
        output = subprocess.run(
            [need_curl(), "-sS", "--http2", "--cacert", str(server.certfile),
             "-w", "%{http_version}", f"https://localhost:{server.port}/"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert output.stdout == "hello2"

    def test_nghttp(self, server: Server) -> None:
        output = subprocess.run(
            [need("nghttp"), "-nv", f"https://127.0.0.1:{server.port}/bytes?n=300000"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert ":status: 200" in output.stdout
        assert "content-length: 300000" in output.stdout

    @pytest.mark.parametrize("path", ["/", "/bytes?n=100000", "/sleep?s=0.05"])
    def test_h2load(self, server: Server, path: str) -> None:
        output = subprocess.run(
            [need("h2load"), "-n", "1000", "-c", "10", "-m", "20", server.url + path],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "1000 succeeded, 0 failed, 0 errored, 0 timeout" in output.stdout

    def test_httpx(self, server: Server) -> None:
        context = server.tls_context()
        with httpx.Client(http2=True, verify=context, base_url=server.url, timeout=WAIT) as client:
            response = client.post("/echo", content=b"x" * 1_000_000)
        assert response.http_version == "HTTP/2"
        assert response.json()["length"] == 1_000_000


class TestConcurrency:
    def test_100_streams_of_one_connection_run_at_once(self, server: Server) -> None:
        with Client(server) as client:
            streams = [client.send("/together?n=100") for _ in range(100)]
            assert {bytes(a.body) for a in client.finish(*streams)} == {b"together"}

    def test_greenlets_of_a_burst_are_kept_but_not_for_good(
        self, serve: Callable[..., Server]
    ) -> None:
        server = serve()
        with Inside(server) as look, ExitStack() as opened:
            clients = [opened.enter_context(Client(server)) for _ in range(4)]
            streams = [[c.send("/together?n=400") for _ in range(100)] for c in clients]
            for client, sent in zip(clients, streams, strict=True):
                assert {bytes(a.body) for a in client.finish(*sent)} == {b"together"}
            assert look.count()["idle"] > 250
            wait_for(lambda: look.count()["idle"] < 250, "end of idle greenlets")
            assert clients[0].get("/").body == b"hello"

    def test_a_stream_past_the_limit_is_refused_and_the_connection_lives(
        self, server: Server, tmp_path: Path
    ) -> None:
        gate = tmp_path / "gate"
        with Client(server) as client:
            client.h2.remote_settings.max_concurrent_streams = 10_000
            client.h2.remote_settings.acknowledge()
            streams = [client.send(f"/life/gate?gate={gate}") for _ in range(105)]
            refused = client.finish(*streams[100:])
            assert [a.reset for a in refused] == [ErrorCodes.REFUSED_STREAM] * 5
            gate.touch()
            assert {bytes(a.body) for a in client.finish(*streams[:100])} == {b"xxxx"}
            assert client.get("/").body == b"hello"

    def test_a_stream_that_is_not_read_delays_no_other(self, server: Server) -> None:
        """100 downloads whose window is never opened, and requests beside them."""
        with Client(server, window=100, acknowledge=False) as client:
            stalled = [client.send("/bytes?n=1000000") for _ in range(99)]
            client.until(
                lambda: all(len(client.answers[s].body) == 100 for s in stalled), "first windows"
            )
            for _ in range(20):
                assert client.get("/").body == b"hello"
            assert not any(client.answers[s].ended for s in stalled)

    def test_the_view_that_writes_a_stalled_stream_blocks(self, server: Server) -> None:
        """Backpressure: an endless body is not pulled further than a buffer holds."""
        with Client(server, window=1000, acknowledge=False) as client:
            client.send("/endless?name=stalled&size=10000&wait=0")
            wait_for(lambda: watched(server)["chunks"].get("stalled"), "first chunk")
            counts: list[int] = []

            def settled() -> bool:
                counts.append(watched(server)["chunks"]["stalled"])
                return counts[-5:] == [counts[-1]] * 5

            wait_for(settled, "standstill of the body")
            assert counts[-1] < 20  # 64 KiB and a chunk; without a bound it would be thousands
        wait_for(lambda: "stalled" in watched(server)["ended"], "end of the body")

    def test_small_responses_flow_beside_a_download(self, server: Server) -> None:
        with Client(server) as client:
            download = client.send("/bytes?n=30000000")
            client.until(lambda: client.answers[download].body, "start of the download")
            small = 0
            while not client.answers[download].ended:
                assert client.get("/").body == b"hello"
                small += 1
            assert small > 3
            assert len(client.answers[download].body) == 30_000_000

    def test_window_opened_by_settings(self, server: Server) -> None:
        """RFC 9113 section 6.9.2: a larger INITIAL_WINDOW_SIZE opens the windows in use."""
        with Client(server, window=10, acknowledge=False) as client:
            stream = client.send("/bytes?n=30000")
            client.until(lambda: len(client.answers[stream].body) == 10, "first window")
            client.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 60_000})
            client.flush()
            assert len(client.finish(stream)[0].body) == 30_000


class TestResponses:
    @pytest.mark.parametrize("path", ["/", "/bytes?n=200000", "/chunks?n=3", "/file?n=300000"])
    def test_head_has_the_headers_and_no_body(self, server: Server, path: str) -> None:
        with Client(server) as client:
            got = client.get(path)
            head = client.finish(client.send(path, "HEAD"))[0]
        assert head.ended
        assert not head.body
        assert got.body
        assert head.status == got.status == 200
        assert [h for h in head.headers if h[0] != "date"] == [
            h for h in got.headers if h[0] != "date"
        ]

    def test_204_and_304_have_no_body(self, server: Server) -> None:
        with Client(server) as client:
            for status in (204, 304):
                answer = client.get(f"/statuses?kind={status}")
                assert (answer.status, answer.body, answer.ended) == (status, b"", True)
                assert not answer.all("content-length")

    def test_each_cookie_has_its_own_field(self, server: Server) -> None:
        with Client(server) as client:
            cookies = client.get("/statuses?kind=cookies").all("set-cookie")
        assert cookies == ["a=1; Path=/", "b=2; HttpOnly; Path=/"]

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    def test_headers_longer_than_a_frame(self, server: Server, method: str) -> None:
        with Client(server) as client:
            path = "/statuses?kind=long-headers&n=6"
            answer = client.finish(client.send(path, method))[0]
            assert [answer.all(f"x-long-{i}") for i in range(6)] == [["x" * 8000]] * 6
            assert (answer.body, answer.ended) == (b"long" if method == "GET" else b"", True)
            assert client.get("/").body == b"hello"

    def test_308_redirect(self, server: Server) -> None:
        with Client(server) as client:
            answer = client.get("/statuses?kind=308")
        assert (answer.status, answer.all("location")) == (308, ["/elsewhere"])

    def test_one_date_and_one_server_field(self, server: Server) -> None:
        with Client(server) as client:
            answer = client.get("/")
        assert len(answer.all("date")) == len(answer.all("server")) == 1

    def test_errors_of_view_and_middleware_are_500s(self, server: Server) -> None:
        with Client(server) as client:
            assert client.get("/statuses?kind=raise").status == 500
            assert client.get("/middleware-error").status == 500
            assert client.get("/nowhere").status == 404
            assert client.get("/").status == 200

    def test_a_header_that_must_not_reach_the_wire_is_a_500(self, server: Server) -> None:
        with Client(server) as client:
            answer = client.get("/statuses?kind=bad-header")
        assert answer.status == 500
        assert not answer.all("x-bad")
        assert b"never sent" not in answer.body
        server.wait_log('Error handling request path="/statuses"')

    def test_file(self, server: Server) -> None:
        with Client(server) as client:
            answer = client.get("/file?n=1000000")
        assert answer.all("content-length") == ["1000000"]
        assert answer.body == bytes(i % 251 for i in range(1000)) * 1000

    @pytest.mark.parametrize("n", [0, 1, 16384, 16385, 65535, 65536, 1_000_003])
    def test_bodies_of_every_size(self, server: Server, n: int) -> None:
        with Client(server) as client:
            assert client.get(f"/bytes?n={n}").body == b"x" * n

    def test_each_chunk_arrives_when_it_is_yielded(self, server: Server) -> None:
        with Client(server) as client:
            stream = client.send("/endless?name=chunked&size=7&block=1")
            client.until(lambda: len(client.answers[stream].body) == 7, "first chunk")
            assert not client.answers[stream].ended


class TestFailures:
    def test_a_body_that_fails_before_its_first_byte_is_a_500(self, server: Server) -> None:
        with Client(server) as client:
            answer = client.get("/failing-body?after=0")
            assert (answer.status, answer.ended) == (500, True)
        server.wait_log('Response body failed path="/failing-body"')

    def test_a_body_that_fails_later_resets_its_stream_alone(self, server: Server) -> None:
        with Client(server) as client:
            beside = client.send("/sleep?s=0.3")
            answer = client.get("/failing-body?after=2")
            assert (answer.body, answer.reset) == (b"chunkchunk", ErrorCodes.INTERNAL_ERROR)
            assert client.finish(beside)[0].body == b"slept"
        server.wait_log("the body failed on purpose")

    def test_curl_shows_what_came_before_the_failure(self, server: Server) -> None:
        result = subprocess.run(
            [need_curl(), "-si", "--http2", "--cacert", str(server.certfile),
             f"{server.url}/failing-body?after=2"],
            capture_output=True, text=True, timeout=WAIT, check=False,
        )  # fmt: skip
        assert result.returncode == 92  # "stream error in HTTP/2 framing layer"
        assert result.stdout.startswith("HTTP/2 200")
        assert result.stdout.endswith("chunkchunk")

    @pytest.mark.parametrize("how", ["reset", "leave"])
    @pytest.mark.parametrize("body", ["yields", "blocks"])
    def test_a_body_is_closed_when_its_client_goes(
        self, server: Server, how: str, body: str
    ) -> None:
        name = f"{how}-{body}"
        query = {"name": name} | ({"block": "1"} if body == "blocks" else {})
        with Client(server) as client:
            stream = client.send(f"/endless?{urlencode(query)}")
            client.until(lambda: client.answers[stream].body, "first chunk")
            assert name not in watched(server)["ended"]
            if how == "reset":
                client.h2.reset_stream(stream, ErrorCodes.CANCEL)
                client.flush()
                wait_for(lambda: name in watched(server)["ended"], "close of the body")
                assert client.get("/").body == b"hello"
        wait_for(lambda: name in watched(server)["ended"], "close of the body")

    def test_a_view_that_computes_is_let_finish(self, server: Server) -> None:
        with Client(server) as client:
            stream = client.send("/slow?name=computing&s=0.5")
            wait_for(lambda: "computing" in watched(server)["began"], "start of the view")
            client.h2.reset_stream(stream, ErrorCodes.CANCEL)
            client.flush()
        wait_for(lambda: "computing" in watched(server)["ended"], "end of the view")

    def test_goaway_from_the_client_cuts_no_stream(self, server: Server) -> None:
        with Client(server) as client:
            stream = client.send("/sleep?s=2.5")  # for longer than the worker's sweep
            client.sock.sendall(GoAwayFrame(0).serialize())
            answer: Answer = client.finish(stream)[0]
            assert answer.body == b"slept"
            # That of a drain, before the end of the stream, would name a later one: clients built
            # on `h2` take nothing after it.
            client.until(lambda: client.closed, "close of the connection")
            assert [goaway.last_stream_id for goaway in client.goaways] == [stream]
