"""The locust user of plain_gevent_h2.load, against real servers; the locust files are run whole."""

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import hpack
import pytest
from harness import TESTS, WAIT, Server, free_port, wait_for
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    RstStreamFrame,
    SettingsFrame,
)
from load_client import REFUSED_STREAM
from raw import PREFACE

Serve = Callable[..., Server]

LOAD = TESTS.parent / "load"

#: Seconds for a first run of scripts/load, which installs the package.
SETUP = 300.0


def start(scenario: str, host: str, **attributes: object) -> subprocess.Popen[str]:
    command = [sys.executable, "http2_user.py", scenario, host, json.dumps(attributes)]
    return subprocess.Popen(
        command, cwd=TESTS, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def outcome(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, errors = process.communicate(timeout=2 * WAIT)
    assert process.returncode == 0, errors
    answer: dict[str, Any] = json.loads(output)
    return answer


def visit(server: "Server | Script", scenario: str, **attributes: object) -> dict[str, Any]:
    return outcome(start(scenario, server.url, ca_file=str(server.certfile), **attributes))


class TestRequests:
    def test_get(self, server: Server) -> None:
        told = visit(server, "get")
        first, second, content_type = told["result"]
        assert (first["status"], first["text"], first["error"]) == (200, "hello", "")
        assert content_type.startswith("text/plain")
        assert second["size"] == 3_000_000
        assert 0 < second["ttfb"] <= second["elapsed"]
        assert told["rows"]["GET home"] == {"requests": 1, "failures": 0, "bytes": 5}
        assert told["rows"]["GET large"] == {"requests": 1, "failures": 0, "bytes": 3_000_000}
        assert told["rows"]["GET TTFB large"]["requests"] == 1
        assert told["total"] == {"requests": 2, "failures": 0}

    def test_headers_and_cookies(self, server: Server) -> None:
        meta = visit(server, "meta")["result"]
        assert meta["query"] == "a=1"
        assert meta["headers"]["X-Test"] == "yes"
        assert meta["cookies"] == {"a": "1", "b": "2"}

    def test_responses_without_a_body(self, server: Server) -> None:
        told = visit(server, "statuses")
        assert [(a["status"], a["error"]) for a in told["result"]] == [
            (200, ""),
            (204, ""),
            (304, ""),
        ]

    def test_bodies(self, server: Server) -> None:
        whole, pieces, as_json, empty, form, files = visit(server, "bodies")["result"]
        assert whole["length"] == 5_000_000
        assert whole["content_length"] == "5000000"
        assert pieces["length"] == 3_000_000
        assert as_json["length"] == len('{"a": 1}')
        assert empty["length"] == 0
        assert form["fields"] == {"a": ["1"], "b": ["ü&"]}
        assert files["fields"] == {"a": ["1"]}
        assert (files["files"]["f"]["name"], files["files"]["f"]["size"]) == ("a.txt", 7)

    def test_stream(self, server: Server) -> None:
        told = visit(server, "stream")
        result = told["result"]
        assert result["chunks"] == ["aaaaa", "bbbbb", "ccccc"]
        assert result["size"] == told["rows"]["GET large"]["bytes"] == 50_000_000
        # The chunks are 2 s apart: the first did not wait for the others.
        assert result["whole"] >= 4000
        assert result["ttfb"] <= result["whole"] - 1000

    def test_events(self, server: Server) -> None:
        told = visit(server, "events")
        assert told["result"]["heard"] == ["0", "1", "2"]
        assert told["result"]["after"]["text"] == "hello"
        assert told["total"] == {"requests": 2, "failures": 0}

        def clocks() -> str:
            return str(visit(server, "clocks")["result"])

        wait_for(lambda: clocks() == "0", "end of the stream on the server")

    def test_failures(self, server: Server) -> None:
        told = visit(server, "failures")
        assert told["errors"] == {
            "missing": "status 404",
            "raises": "status 500",
            "breaks off": "reset by the server: INTERNAL_ERROR",
            "late": "timed out",
            "stream breaks off": "reset by the server: INTERNAL_ERROR",
            "called a failure": "not what I wanted",
        }
        assert told["total"] == {"requests": 8, "failures": 6}
        assert told["rows"]["GET stream breaks off"]["bytes"] == 10
        assert told["result"]["text"] == "hello"

    def test_streams_wait_for_their_turn(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_H2_MAX_CONCURRENT_STREAMS": "5"})
        told = visit(server, "at_once")
        assert told["total"] == {"requests": 100, "failures": 0}
        assert told["result"] == 4

    def test_users_share_connections(self, server: Server) -> None:
        told = visit(server, "at_once", shared_connections=2)
        assert told["total"] == {"requests": 100, "failures": 0}
        assert told["result"] == 2


class TestCertificate:
    def test_is_checked(self, server: Server) -> None:
        told = outcome(start("one_get", server.url))
        assert "the certificate is not valid: self-signed" in told["result"]["error"]
        assert told["total"] == {"requests": 1, "failures": 1}

    def test_its_name_is_checked(self, server: Server) -> None:
        host = server.url.replace("127.0.0.1", "127.1")  # the same address by another name
        told = outcome(start("one_get", host, ca_file=str(server.certfile)))
        assert "the certificate is not valid: Hostname mismatch" in told["result"]["error"]

    def test_unless_asked_not_to(self, server: Server) -> None:
        told = outcome(start("one_get", server.url, verify=False))
        assert told["result"]["text"] == "hello"

    def test_http_1_is_refused(self, serve: Serve) -> None:
        server = serve("--http-protocols", "h1")
        told = visit(server, "one_get")
        assert "does not speak HTTP/2" in told["result"]["error"]

    def test_nobody_listens(self) -> None:
        told = outcome(start("one_get", f"https://127.0.0.1:{free_port()}"))
        assert told["result"]["error"] == "cannot connect: Connection refused"


class TestGoaway:
    def test_renewed_connections_lose_no_request(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_H2_MAX_REQUESTS_PER_CONNECTION": "50"})
        told = visit(server, "busy")
        assert told["errors"] == {}
        assert told["total"] == {"requests": 2000, "failures": 0}

    def test_recycled_workers_lose_no_request(self, serve: Serve) -> None:
        server = serve(env={"TEST_MAX_REQUESTS": "500"})
        told = visit(server, "until_recycled")
        assert told["errors"] == {}
        assert told["total"]["failures"] == 0
        assert told["result"] >= 2

    def test_a_draining_server_answers_what_is_in_flight(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        server, gate = serve(), tmp_path / "gate"
        client = start(
            "gated", server.url, ca_file=str(server.certfile), default_headers={"x-gate": str(gate)}
        )
        wait_for(gate.with_suffix(".reached").exists, "start of the view")
        server.signal(signal.SIGTERM)
        wait_for(lambda: not listens(server), "start of the drain")
        gate.touch()
        told = outcome(client)
        assert told["result"]["text"] == "xxxxx"
        assert server.wait() == 0


def listens(server: Server) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", server.port)) == 0


class Script:
    """A server that does what a test says, for one connection after another."""

    def __init__(self, tls: tuple[Path, Path], *connections: Callable[["Peer"], None]) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        context.set_alpn_protocols(["h2"])
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(WAIT)
        self._connections = connections
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.certfile = tls[0]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._listener:
            for behave in self._connections:
                raw, _ = self._listener.accept()
                raw.settimeout(WAIT)
                # The client may leave as it likes; the test sees by its answers what it did.
                with suppress(OSError), self._context.wrap_socket(raw, server_side=True) as sock:
                    behave(Peer(sock))


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._file = sock.makefile("rwb")
        self._file.read(len(PREFACE))
        self.encoder = hpack.Encoder()
        self.send(SettingsFrame())

    def send(self, *frames: Frame) -> None:
        for frame in frames:
            self._file.write(frame.serialize())
        self._file.flush()

    def next(self, kind: type[Frame]) -> Frame:
        """The next frame of this kind."""
        while True:
            frame, length = Frame.parse_frame_header(memoryview(self._file.read(9)))
            frame.parse_body(memoryview(self._file.read(length)))
            if isinstance(frame, kind):
                return frame

    def request(self) -> int:
        return self.next(HeadersFrame).stream_id

    def headers(self, stream: int, *fields: tuple[str, str], end: bool = False) -> HeadersFrame:
        block = self.encoder.encode(fields or [(":status", "200")])
        flags = ["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"]
        return HeadersFrame(stream, data=block, flags=flags)

    def answer(self, stream: int, body: bytes) -> None:
        self.send(self.headers(stream), DataFrame(stream, data=body, flags=["END_STREAM"]))

    def wait_closed(self) -> None:
        while self._file.read(1):
            pass


class TestServersOfAllKinds:
    """What Plain's server does seldom or never."""

    def test_a_refused_stream_is_sent_again(self, tls: tuple[Path, Path]) -> None:
        def refuse_once(peer: Peer) -> None:
            peer.send(RstStreamFrame(peer.request(), error_code=REFUSED_STREAM))
            peer.answer(peer.request(), b"again")
            peer.wait_closed()

        told = visit(Script(tls, refuse_once), "one_get")
        assert told["result"]["text"] == "again"
        assert told["total"] == {"requests": 1, "failures": 0}

    def test_but_not_for_ever(self, tls: tuple[Path, Path]) -> None:
        def refuse(peer: Peer) -> None:
            for _ in range(4):
                peer.send(RstStreamFrame(peer.request(), error_code=REFUSED_STREAM))
            peer.wait_closed()

        told = visit(Script(tls, refuse), "one_get")
        assert told["result"]["error"] == "reset by the server: REFUSED_STREAM"

    def test_goaway_moves_what_it_leaves_out(self, tls: tuple[Path, Path]) -> None:
        def leave(peer: Peer) -> None:
            peer.request()
            peer.send(GoAwayFrame(0, last_stream_id=0))
            peer.wait_closed()

        def stay(peer: Peer) -> None:
            peer.answer(peer.request(), b"moved")
            peer.answer(peer.request(), b"stayed")
            peer.wait_closed()

        told = visit(Script(tls, leave, stay), "twice")
        assert [a["text"] for a in told["result"]] == ["moved", "stayed"]

    def test_goaway_lets_its_last_stream_end(self, tls: tuple[Path, Path]) -> None:
        def leave(peer: Peer) -> None:
            stream = peer.request()
            peer.send(GoAwayFrame(0, last_stream_id=2**31 - 1))
            peer.send(GoAwayFrame(0, last_stream_id=stream))
            peer.answer(stream, b"served")
            peer.wait_closed()

        def stay(peer: Peer) -> None:
            peer.answer(peer.request(), b"elsewhere")
            peer.wait_closed()

        told = visit(Script(tls, leave, stay), "twice")
        assert [a["text"] for a in told["result"]] == ["served", "elsewhere"]

    def test_a_lost_connection_is_a_failure(self, tls: tuple[Path, Path]) -> None:
        def vanish(peer: Peer) -> None:
            peer.send(peer.headers(peer.request()))

        def stay(peer: Peer) -> None:
            peer.answer(peer.request(), b"back")
            peer.wait_closed()

        told = visit(Script(tls, vanish, stay), "twice")
        assert "connection" in told["errors"]["/first"]
        assert told["result"][1]["text"] == "back"

    def test_a_short_body_is_a_failure(self, tls: tuple[Path, Path]) -> None:
        def cut(peer: Peer) -> None:
            stream = peer.request()
            peer.send(peer.headers(stream, (":status", "200"), ("content-length", "9")))
            peer.send(DataFrame(stream, data=b"short", flags=["END_STREAM"]))
            peer.wait_closed()

        told = visit(Script(tls, cut), "one_get")
        assert "another length" in told["result"]["error"]

    def test_every_form_of_a_response(self, tls: tuple[Path, Path]) -> None:
        """Early hints, a header list in parts, padding, an unknown frame, and trailers."""

        def answer(peer: Peer) -> None:
            stream = peer.request()
            peer.send(peer.headers(stream, (":status", "103"), ("link", "</a.css>")))
            block = peer.encoder.encode([(":status", "200"), ("x-long", "y" * 100)])
            unknown = ExtensionFrame(0xBE, 0, body=b"?")
            unknown.body_len = 1  # hyperframe leaves it at 0
            peer.send(
                HeadersFrame(stream, data=block[:7]),
                ContinuationFrame(stream, data=block[7:], flags=["END_HEADERS"]),
                DataFrame(stream, data=b"pad", pad_length=20, flags=["PADDED"]),
                DataFrame(stream, data=b"", pad_length=3, flags=["PADDED"]),
                unknown,
                DataFrame(stream, data=b"ded"),
                peer.headers(stream, ("x-trailer", "z"), end=True),
            )
            peer.wait_closed()

        told = visit(Script(tls, answer), "one_get")
        assert (told["result"]["status"], told["result"]["text"]) == (200, "padded")

    def test_an_early_answer_ends_an_upload(self, tls: tuple[Path, Path]) -> None:
        """The server opens no window, so the upload could go on for ever."""

        def refuse(peer: Peer) -> None:
            stream = peer.request()
            peer.send(peer.headers(stream, (":status", "413"), end=True))
            assert peer.next(RstStreamFrame).stream_id == stream
            peer.answer(peer.request(), b"after")
            peer.wait_closed()

        told = visit(Script(tls, refuse), "upload")
        assert told["errors"] == {"/": "status 413"}
        assert told["result"][1]["text"] == "after"


@pytest.fixture(scope="module")
def app(tls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tls, project=LOAD / "project", tmp=tmp_path_factory.mktemp("load")) as running:
        yield running


def locust(app: Server, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", str(LOAD / "locust" / f"{name}.py")]
    command += ["--headless", "--users", "5", "--spawn-rate", "20"]
    return for_a_moment([*command, "--host", app.url, *options], timeout=4 * WAIT)


def for_a_moment(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    for seconds in ("4s", "20s"):
        done = subprocess.run(
            [*command, "--run-time", seconds],
            capture_output=True,
            text=True,
            check=False,
            **options,
        )
        if "there was no" not in done.stderr:
            break  # else the machine may be too slow for a request of each kind
    return done


class TestLocustFiles:
    """Each for a moment. How fast the machine is must not matter here."""

    def run(self, app: Server, name: str, *options: str) -> None:
        trust = ("--ca-file", str(app.certfile))
        done = locust(app, name, *trust, "--max-p95", "30000", *options)
        assert done.returncode == 0, done.stderr + done.stdout
        assert done.stderr.rstrip().endswith("PASSED")

    @pytest.mark.parametrize("name", ["browse", "api", "events", "uploads"])
    def test_passes(self, app: Server, name: str) -> None:
        self.run(app, name)

    def test_mix_in_two_processes(self, app: Server) -> None:
        port = str(free_port())
        ports = ("--master-bind-port", port, "--master-port", port)
        self.run(app, "mix", "--users", "20", "--processes", "2", *ports)

    def test_too_slow(self, app: Server) -> None:
        done = locust(app, "api", "--ca-file", str(app.certfile), "--max-p95", "20")
        assert done.returncode == 1
        assert "p95 of GET quick is" in done.stderr

    def test_too_many_failures(self, app: Server) -> None:
        """None succeeds, since the certificate is not known."""
        done = locust(app, "browse")
        assert done.returncode == 1
        assert "the certificate is not valid" in done.stdout + done.stderr
        # Below the tables.
        verdict = done.stderr.rpartition("Error report")[2]
        assert "requests failed, more than 0.10%" in verdict

    @pytest.mark.parametrize("arguments", [[], ["nosuch"], ["--help"]], ids=str)
    def test_the_files_are_named(self, arguments: list[str]) -> None:
        command = [sys.executable, str(LOAD / "locust" / "run.py"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "usage: scripts/load {api,browse,events,mix,uploads} " in done.stdout + done.stderr
        assert ("Uploads: small ones" in done.stdout) == (arguments == ["--help"])

    def test_the_script(self) -> None:
        script = str(TESTS.parent / "scripts" / "load")
        done = for_a_moment(
            [script, "browse", "-u", "5", "--max-p95", "30000"],
            env={**os.environ, "PYTHON": sys.executable},
            timeout=SETUP,
        )
        assert done.returncode == 0, done.stderr + done.stdout
