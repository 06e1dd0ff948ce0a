"""How a worker lives and dies: blocked hubs, signals, limits, crashes, and what is logged."""

import inspect
import json
import os
import re
import resource
import signal
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
from app import life_views
from h2client import Client
from harness import WAIT, Server, wait_for
from hpack import Encoder
from load_client import (
    INTERNAL_ERROR,
    NO_ERROR,
    Http1Client,
    Http2Client,
    Load,
    connect,
)
from plain.server.workers._memory import profile_path
from raw import RawClient, headers, request_fields

from plain_gevent_h2.limits.idle_connections import LEAST_IDLE

Serve = Callable[..., Server]

#: Seconds for "at once": well under the 30 of the graceful timeout.
AT_ONCE = 10.0

STARTED = "Server worker started"


def pid_of(client: Http2Client) -> int:
    return int(client.get("/life/pid").body)


def catches_sigusr1(worker: psutil.Process) -> bool:
    status = Path(f"/proc/{worker.pid}/status").read_text()
    caught = int(re.findall(r"^SigCgt:\s*(\w+)", status, re.MULTILINE)[0], 16)
    return bool(caught >> (signal.SIGUSR1 - 1) & 1)


def new_worker(server: Server, old: int) -> int:
    """The pid of the worker that took the place of `old`, once it answers."""
    wait_for(lambda: server.log().count(STARTED) > 1, "replacement of the worker")
    with Http2Client(server) as client:
        pid = pid_of(client)
    assert pid != old
    return pid


def wait_until_busy(worker: psutil.Process) -> None:
    """Until it has computed for longer than it does for any other request."""

    def computed() -> float:
        return sum(worker.cpu_times()[:2])

    since = computed()
    wait_for(lambda: computed() > since + 0.3, "busy worker")


def test_workers_with_a_blocked_hub_are_killed_and_replaced(serve: Serve) -> None:
    # More than a few seconds: on a busy machine three workers may take that long to start.
    server = serve("--timeout", "10", "--workers", "3")
    wait_for(lambda: server.log().count(STARTED) >= 3, "all workers")
    blocked: dict[str, int] = {}
    clients = []
    # A blocked worker takes no connection, so each view blocks another one.
    for view in ("spin", "hash", "one-hash"):
        client = Http2Client(server)
        clients.append(client)
        blocked[view] = pid_of(client)
        client.open(f"/life/{view}")
        wait_until_busy(psutil.Process(blocked[view]))
    for client in clients:
        client.until_closed()
    wait_for(lambda: server.log().count(STARTED) >= 6, "replacements", 3 * WAIT)
    with Http2Client(server) as client:
        assert pid_of(client) not in blocked.values()
    wait_for(lambda: not any(map(psutil.pid_exists, blocked.values())), "end of the old workers")

    log = server.log()
    # Others too, if the machine is so busy that they do not start in time.
    assert {int(pid) for pid in re.findall(r"WORKER TIMEOUT pid=(\d+)", log)} >= {*blocked.values()}
    for view, name in (("spin", "Spin"), ("hash", "Hash")):
        # Where it was blocked: the view's file and function.
        stack = log.partition(f"Worker {blocked[view]} was blocked")[2].partition("[")[0]
        line = inspect.getsourcelines(getattr(life_views, name).get)[1]
        numbers = [int(n) for n in re.findall(r'life_views\.py", line (\d+), in get', stack)]
        assert any(0 < n - line < 4 for n in numbers), f"{view} is not in:\n{stack}"
    # In one call into C only the watch from another thread sees anything.
    assert re.search(r"Worker blocked for over 0\.1 s by GET /life/one-hash", log)


class TestSignals:
    @pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGQUIT])
    def test_sigint_and_sigquit_stop_at_once(
        self, serve: Serve, sig: signal.Signals, tmp_path: Path
    ) -> None:
        server = serve()
        with Http2Client(server) as client:
            client.open(f"/life/gate?gate={tmp_path}/gate")
            wait_for((tmp_path / "gate.reached").exists, "start of the view")
            stream_id = client.open("/life/endless")
            client.until(lambda: client.answers[stream_id].body, "first chunk")
            worker = server.worker()
            server.signal(sig)
            assert server.wait(AT_ONCE) == 0
            wait_for(lambda: not worker.is_running(), "end of the worker")
            client.until_closed()

    def test_sigquit_of_a_worker_whose_hub_is_blocked(self, serve: Serve) -> None:
        server = serve()
        with Http2Client(server) as client:
            worker = server.worker()
            client.open("/life/spin")
            wait_until_busy(worker)
            worker.send_signal(signal.SIGQUIT)
            client.until_closed(AT_ONCE)
            new_worker(server, worker.pid)

    def test_sigusr1_three_times_writes_the_memory_profile(
        self, serve: Serve, tmp_path: Path
    ) -> None:
        server = serve("--workers", "2", env={"TMPDIR": str(tmp_path)})
        wait_for(lambda: server.log().count(STARTED) == 2, "second worker")
        # A worker that is starting ignores the signal.
        wait_for(lambda: all(map(catches_sigusr1, server.workers())), "signal handlers")

        def is_logged_twice(line: str) -> bool:
            return server.log().count(line) == 2

        for phase in ("STARTED", "MIDPOINT", "STOPPED"):
            server.signal(signal.SIGUSR1)  # the arbiter forwards it
            line = f"Memory recording {phase}"
            wait_for(partial(is_logged_twice, line), line)
        for worker in server.workers():
            profile = json.loads((tmp_path / Path(profile_path(worker.pid)).name).read_text())
            assert profile["pid"] == worker.pid
            assert profile["rss_after"] > 0
        with Http2Client(server) as client:
            assert client.get("/").body == b"hello"


class TestArbiterGone:
    def test_workers_go_away_by_themselves(self, serve: Serve) -> None:
        server = serve("--workers", "2")
        wait_for(lambda: server.log().count(STARTED) == 2, "second worker")
        workers = server.workers()
        assert len(workers) == 2
        with Http2Client(server) as client:
            stream_id = client.open("/life/endless")
            client.until(lambda: client.answers[stream_id].body, "first chunk")
            server.signal(signal.SIGKILL)
            server.wait()
            gone, left = psutil.wait_procs(workers, timeout=AT_ONCE)
            for process in left:
                process.kill()
            assert len(gone) == 2


class TestKeepAliveTimeout:
    @pytest.fixture
    def short(self, serve: Serve) -> Server:
        # On a busy machine a worker may take seconds to start, which counts.
        return serve("--timeout", "8", env={"PLAIN_SERVER_KEEPALIVE_TIMEOUT": "3"})

    def test_idle_connections_are_closed(self, short: Server) -> None:
        with Http2Client(short) as unused, Http2Client(short) as client, Http1Client(short) as old:
            for _ in range(2):
                assert client.get("/").body == b"hello"
                assert old.get("/").body == b"hello"
            for http2, last_stream_id in ((unused, 0), (client, 3)):
                http2.until_closed()
                assert http2.end == "clean"
                (goaway,) = http2.goaways
                assert goaway.error_code == NO_ERROR
                assert goaway.last_stream_id == last_stream_id
                assert http2.frames[-1] is goaway
            assert old.receive() is None
            assert old.end == "clean"

    def test_busy_stream_is_not_cut(self, short: Server) -> None:
        """Nor is a view that waits for longer than `--timeout` a blocked hub."""
        begun = len(short.log())  # it may have started too slowly at first
        with Http2Client(short) as slow, Http2Client(short) as body, Http1Client(short) as old:
            waiting = slow.open("/sleep?s=9")
            streaming = body.open("/chunks?n=3&wait=4")
            old.send("/sleep?s=9")
            assert slow.answer(waiting).body == b"slept"
            assert body.answer(streaming).body == b"aaaaabbbbbccccc"
            answer = old.receive()
            assert answer is not None
            assert answer.body == b"slept"
            # Idle from here on.
            for client in (slow, body):
                client.until_closed()
                assert client.goaways[-1].last_stream_id == 1
        assert "WORKER TIMEOUT" not in short.log()[begun:]


class TestLimits:
    def test_connection_past_the_limit_is_closed_and_the_worker_recovers(
        self, serve: Serve
    ) -> None:
        server = serve(env={"PLAIN_SERVER_CONNECTIONS": "2"})

        def is_answered() -> bool:
            try:
                with Http2Client(server) as client:
                    return client.get("/").status == 200
            except (OSError, AssertionError):
                return False

        with Http2Client(server) as first:
            with Http2Client(server) as second:
                assert first.get("/").body == b"hello"
                assert second.get("/").body == b"hello"
                for _ in range(3):
                    with pytest.raises(ssl.SSLError, match="ALERT_INTERNAL_ERROR"):
                        connect(server, "h2")
                assert server.log().count("at connection capacity") == 1
                assert first.get("/").body == b"hello"
                assert second.get("/").body == b"hello"
            wait_for(is_answered, "answer on a new connection")
            assert first.get("/").body == b"hello"
        assert server.log().count("at connection capacity") == 1

    @pytest.mark.parametrize("idle", ["h2", "half a head", "half a preface", "no handshake"])
    def test_the_longest_idle_make_room(self, serve: Serve, tmp_path: Path, idle: str) -> None:
        server = serve(env={"PLAIN_SERVER_CONNECTIONS": "6"})
        gate = tmp_path / "gate"
        with ExitStack() as stack:
            busy = stack.enter_context(Http2Client(server))
            streams = [busy.open(f"/life/gate?gate={gate}"), busy.open("/life/endless")]
            wait_for(gate.with_suffix(".reached").exists, "start of the view")
            longest = stack.enter_context(Http2Client(server))
            assert longest.get("/").body == b"hello"
            for _ in range(4):
                self._stay_idle(stack, server, idle)
            for _ in range(5):
                newcomer = wait_for(lambda: self._newcomer(server), "room for a connection")
                stack.enter_context(newcomer)
            longest.until_closed()
            assert longest.end == "clean"
            (goaway,) = longest.goaways
            assert (goaway.error_code, goaway.last_stream_id) == (NO_ERROR, 1)
            gate.touch()
            assert busy.answer(streams[0]).status == 200
            assert not busy.end
            assert not busy.answers[streams[1]].over
        assert "Traceback" not in server.log()

    @staticmethod
    def _stay_idle(stack: ExitStack, server: Server, how: str) -> None:
        if how == "h2":
            client = stack.enter_context(Http2Client(server))
            assert client.get("/").body == b"hello"
        elif how == "no handshake":
            sock = stack.enter_context(server.connect_tcp())
            sock.sendall(b"\x16\x03\x01")
        else:
            protocol = "h2" if how == "half a preface" else "http/1.1"
            sock = stack.enter_context(connect(server, protocol))
            sock.sendall(b"PRI * HTT" if protocol == "h2" else b"GET / HTTP/1.1\r\nHost: ")

    @staticmethod
    def _newcomer(server: Server) -> Http2Client | None:
        """A new connection that is served; None if it is turned away."""
        client = None
        try:
            client = Http2Client(server)
            assert client.get("/").body == b"hello"
        except (OSError, AssertionError):
            if client is not None:
                client.close()
            return None
        return client

    def test_busy_connections_make_no_room(self, serve: Serve, tmp_path: Path) -> None:
        server = serve(env={"PLAIN_SERVER_CONNECTIONS": "1"})
        gate = tmp_path / "gate"
        with Http2Client(server) as busy:
            stream = busy.open(f"/life/gate?gate={gate}")
            wait_for(gate.with_suffix(".reached").exists, "start of the view")
            ends_at = time.monotonic() + LEAST_IDLE + 1
            while time.monotonic() < ends_at:
                with pytest.raises(ssl.SSLError, match="ALERT_INTERNAL_ERROR"):
                    connect(server, "h2")
            gate.touch()
            assert busy.answer(stream).status == 200

    def test_idle_connections_leave_descriptors_for_files(self, serve: Serve) -> None:
        server = serve()
        with Http2Client(server) as client:
            old = pid_of(client)
        # A worker that starts now has it from the arbiter.
        psutil.Process(server.pid).rlimit(resource.RLIMIT_NOFILE, (48, 64))
        os.kill(old, signal.SIGTERM)
        worker = psutil.Process(new_worker(server, old))
        assert worker.rlimit(resource.RLIMIT_NOFILE) == (64, 64)
        with ExitStack() as stack, Http1Client(server) as client:
            client.sock.sendall(
                b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n"
            )
            with suppress(OSError):
                for _ in range(64):
                    stack.enter_context(connect(server, "h2"))
            assert worker.num_fds() > 50
            client.sock.sendall(b"x" * 3_000_000)
            answer = client.receive()
            assert answer is not None
            assert answer.status == 200
            assert client.get("/file?n=1000").status == 200
        assert "Traceback" not in server.log()

    def test_without_tls_the_answer_is_a_503(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_CONNECTIONS": "1"}, plaintext=True)
        with httpx.Client() as first, httpx.Client() as second:
            assert first.get(server.url + "/").status_code == 200
            answer = second.get(server.url + "/")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert first.get(server.url + "/").status_code == 200

    def test_connection_for_which_there_is_no_descriptor_is_closed(self, serve: Serve) -> None:
        """The open ones go on, and the worker recovers by itself."""
        server = serve()
        with Http2Client(server) as client:
            pid = pid_of(client)
            worker = psutil.Process(pid)
            _, hard = worker.rlimit(resource.RLIMIT_NOFILE)
            soft = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 1
            worker.rlimit(resource.RLIMIT_NOFILE, (soft, hard))
            with ExitStack() as served:  # those that find a number that was free again
                with suppress(OSError):
                    while True:
                        served.enter_context(connect(server, "h2"))
                for _ in range(20):
                    with pytest.raises(ssl.SSLError, match="ALERT_INTERNAL_ERROR"):
                        connect(server, "h2")
                    assert pid_of(client) == pid
            worker.rlimit(resource.RLIMIT_NOFILE, (hard, hard))
            with Http2Client(server) as other:
                assert pid_of(other) == pid
        assert server.log().count("out of file descriptors") == 1
        assert "Traceback" not in server.log()

    def test_streams_past_the_limit_of_running_ones_wait(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_MAX_RUNNING_STREAMS": "2"})
        with Http2Client(server) as client, Http2Client(server) as other:
            streams = [(c, c.open("/life/at-once")) for _ in range(10) for c in (client, other)]
            bodies = [json.loads(c.answer(stream_id).body) for c, stream_id in streams]
        assert len(bodies) == 20
        assert max(body["most"] for body in bodies) == 2


class TestCrash:
    """What breaks in one place is logged, and nothing else goes down."""

    @pytest.mark.parametrize(
        "what",
        [
            "BaseException",
            "SystemExit",
            "KeyboardInterrupt",
            "GreenletExit",
            "Timeout",
            "CancelledError",
            "GeneratorExit",
        ],
    )
    @pytest.mark.parametrize("view", ["raise", "raise-in-body"])
    def test_view_that_raises_no_exception(
        self, server: Server, tmp_path: Path, what: str, view: str
    ) -> None:
        gate = tmp_path / "gate"
        logged = len(server.log())
        with Http2Client(server) as client, Http2Client(server) as other:
            pid = pid_of(client)
            same, elsewhere = (c.open(f"/life/gate-in-body?gate={gate}") for c in (client, other))
            client.until(lambda: client.answers[same].body, "first chunk")
            other.until(lambda: other.answers[elsewhere].body, "first chunk")
            # The stream itself comes to an end that the client can tell from success.
            broken = client.answer(client.open(f"/life/{view}?what={what}"), 5)
            if view == "raise":
                assert broken.status == 500 or broken.reset == INTERNAL_ERROR
            else:
                assert broken.reset == INTERNAL_ERROR
            gate.touch()
            assert client.answer(same).body == b"firstlast"
            assert other.answer(elsewhere).body == b"firstlast"
            with Http1Client(server) as old:
                old.send(f"/life/{view}?what={what}")
                try:
                    answer = old.receive()
                except EOFError:
                    answer = None
                assert answer is None or answer.status == 500
            assert pid_of(client) == pid
        log = server.log()[logged:]
        assert "Traceback" in log
        assert what in log

    @pytest.mark.parametrize("part", ["reader", "writer", "sweep"])
    def test_connection_that_breaks(self, shared: Serve, part: str) -> None:
        server = shared(env={})
        with Http2Client(server) as client, Http2Client(server) as other:
            pid = pid_of(client)
            assert pid_of(other) == pid
            client.open(f"/life/sabotage?part={part}")

            def is_closed() -> bool:
                client.open("/")
                client.read(0.1)
                return bool(client.end)

            wait_for(is_closed, "close of the connection", AT_ONCE)
            # CPython leaves the reset of one SSLSocket in OpenSSL's queue of errors, where this
            # process's next one would find it. A refused cipher list clears it.
            with suppress(ssl.SSLError):
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers("none-such")
            assert pid_of(other) == pid
        wait_for(lambda: "Traceback" in server.log(), "traceback in the log")
        assert STARTED not in server.log()


@pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
@pytest.mark.parametrize("what", ["timeout", "kill", "throw"])
def test_what_a_request_leaves_running_hits_no_other(
    shared: Serve, what: str, protocol: str
) -> None:
    """Greenlets run one request after another, and these are still there when it happens."""
    server = shared(env={})
    for _ in range(3):
        with Client(server) as client:
            if protocol == "h2":
                left = [client.send(f"/life/leave?what={what}") for _ in range(20)]
                assert {bytes(a.body) for a in client.finish(*left)} == {b"left"}
            else:
                for _ in range(20):
                    with server.connect("http/1.1") as sock:
                        sock.sendall(b"GET /life/leave?what=%b HTTP/1.1\r\n" % what.encode())
                        sock.sendall(b"Host: localhost\r\nConnection: close\r\n\r\n")
                        assert sock.makefile("rb").read().endswith(b"left")
            others = [client.send("/sleep?s=0.3") for _ in range(60)]
            assert {a.status for a in client.finish(*others)} == {200}
    assert "Traceback" not in server.log()


def test_greenlets_run_one_request_after_another(shared: Serve) -> None:
    """Each logs its access, for which `threading` links to its greenlet."""
    turns = []
    with Client(shared(env={})) as client:
        for _ in range(10):
            streams = [client.send("/life/turn") for _ in range(100)]
            turns += [int(answer.body) for answer in client.finish(*streams)]
    assert turns.count(1) <= 100  # no more greenlets than ran at once


def test_who_left_while_all_places_are_taken_is_forgotten(serve: Serve) -> None:
    """1,500 connections that sent a request and left took 35 MB until there was a place."""
    server = serve(env={"PLAIN_SERVER_MAX_RUNNING_STREAMS": "1"})
    worker = server.worker()
    block = Encoder().encode(request_fields("/"))
    with Client(server) as busy:
        busy.get("/")
        memory = worker.memory_info().rss
        running = busy.send("/sleep?s=60")
        for _ in range(500):
            with RawClient(server) as client:
                client.send(*(headers(stream, block) for stream in range(1, 41, 2)))
                client.expect_alive()
        assert worker.memory_info().rss < memory + 8 * 1024 * 1024
        busy.h2.reset_stream(running)


class TestWorkers:
    def test_two_workers_share_the_connections(self, serve: Serve) -> None:
        server = serve("--workers", "2")
        wait_for(lambda: server.log().count(STARTED) == 2, "second worker")
        with Load(server, "/life/pid") as load:
            load.start_http2(connections=8, streams=4)
            load.start_http1(connections=4)
            wait_for(lambda: load.answered > 1000 or load.failures, "answers")
        assert load.failures == []
        # A connection stays with its worker, so count those that come later too.
        pids = {int(body) for body in load.bodies}
        deadline = time.monotonic() + AT_ONCE
        while len(pids) < 2 and time.monotonic() < deadline:
            with Http2Client(server) as client:
                pids.add(pid_of(client))
        assert pids == {worker.pid for worker in server.workers()}

    def test_sigkill_of_one_worker_under_load(self, serve: Serve) -> None:
        server = serve("--workers", "2")
        wait_for(lambda: server.log().count(STARTED) == 2, "second worker")
        clients: dict[int, Http2Client] = {}

        def has_one_on_each() -> bool:
            client = Http2Client(server)
            clients.setdefault(pid_of(client), client)
            return len(clients) == 2

        wait_for(has_one_on_each, "connection to each worker")
        killed, kept = clients
        with Load(server, "/life/pid") as load:
            load.server_is_stopping = True  # connections to the killed worker are lost
            load.start_http2(connections=4, streams=4)
            load.start_http1(connections=4)
            wait_for(lambda: load.answered > 200, "answers")
            os.kill(killed, signal.SIGKILL)
            clients[killed].until_closed()
            # The other worker serves on, on the connection it has and on new ones.
            before = load.answered
            wait_for(lambda: load.answered > before + 200, "answers after the kill")
            assert pid_of(clients[kept]) == kept
            wait_for(lambda: server.log().count(STARTED) == 3, "replacement of the worker")
            assert pid_of(clients[kept]) == kept
        lost_with_it = ("connection ended without GOAWAY", "connection ended within a response")
        assert [f for f in load.failures if not f.startswith(lost_with_it)] == []
        pids = {worker.pid for worker in server.workers()}
        assert len(pids) == 2
        assert kept in pids
        assert killed not in pids


class TestAccessLog:
    @staticmethod
    def lines(server: Server) -> list[str]:
        return re.findall(r"^.*\bRequest (?:\w+=.*)$", server.log(), re.MULTILINE)

    def test_fields_and_responses_that_opt_out(self, shared: Serve) -> None:
        fields = ["method", "url", "status", "size", "ip", "protocol"]
        server = shared(env={"PLAIN_SERVER_ACCESS_LOG_FIELDS": json.dumps(fields)})
        with Http2Client(server) as client, Http1Client(server) as old:
            assert client.get("/life/quiet").body == b"quiet"
            assert client.get("/?q=2").body == b"hello"
            assert old.get("/life/quiet").body == b"quiet"
            assert old.get("/?q=1").body == b"hello"
            assert client.get("/nowhere").status == 404
            wait_for(lambda: len(self.lines(server)) >= 3, "access log")
        assert not any("quiet" in line for line in self.lines(server))
        second, first, missing = self.lines(server)
        for line, protocol in ((second, "2"), (first, "1")):
            assert list(re.findall(r"(\w+)=(?=[\"\w])", line.replace("?q=", "?q"))) == fields
            assert re.search(rf'protocol="?HTTP/{protocol}', line)
            assert re.search(rf'url="?/\?q={protocol}\b', line)
            assert "status=200" in line
            assert "size=5" in line
            assert re.search(r'ip="?127\.0\.0\.1', line)
        assert "status=404" in missing

    def test_size_of_a_streamed_body_and_duration(self, shared: Serve) -> None:
        fields = ["path", "size", "duration_ms"]
        server = shared(env={"PLAIN_SERVER_ACCESS_LOG_FIELDS": json.dumps(fields)})
        with Http2Client(server) as client:
            assert len(client.get("/chunks?n=4&size=100&wait=0.1").body) == 400
            wait_for(lambda: self.lines(server), "access log")
        (line,) = self.lines(server)
        assert "size=400" in line
        duration = re.search(r"duration_ms=(\d+)", line)
        assert duration is not None
        assert int(duration[1]) >= 300

    def test_no_access_log(self, serve: Serve) -> None:
        server = serve("--no-access-log")
        with Http2Client(server) as client, Http1Client(server) as old:
            assert client.get("/").body == b"hello"
            assert old.get("/").body == b"hello"
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "Shutting down" in server.log()
        assert self.lines(server) == []
