"""What would freeze the worker and does not, and what is said of it when something does."""

import contextlib
import hashlib
import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from h2client import Client
from harness import WAIT, Server, wait_for
from load_client import Http1Client

Serve = Callable[..., Server]

WAYS_TO_WAIT = (
    "sleep",
    "socket",
    "requests",
    "queue",
    "lock",
    "event",
    "thread",
    "subprocess",
    "select",
    "asyncio",
    "loop",
    "swallowing",
)


def wait_for_end_of_block(server: Server, timeout: float = WAIT) -> str:
    """The log with the line that says how long the hub was blocked by a request."""
    said = re.compile(r"Worker was blocked for [\d.]+ s by GET")
    return wait_for(
        lambda: server.log() if said.search(server.log()) else "", "end of block", timeout
    )


def block(server: Server, client: Client, where: str) -> tuple[float, str]:
    """Block the hub until the watch has seen it: how long, and the log.

    A call that keeps the GIL keeps the watch from looking. On a busy machine the hub may be two
    turns further once it can.
    """
    for _ in range(5):
        blocked = float(client.get(f"/hub/block?s=1.5&in={where}").body)
        with contextlib.suppress(AssertionError):
            return blocked, wait_for_end_of_block(server, timeout=3)
    raise AssertionError("no block was seen")


def three_times(server: Server) -> list[float]:
    """Seconds that three requests blocked the hub, or none as long as there are fewer."""
    times = re.findall(r"Worker was blocked for ([\d.]+) s by GET", server.log())
    return [float(seconds) for seconds in times] if len(times) >= 3 else []


class TestHashing:
    @pytest.mark.parametrize("kind", ["pbkdf2", "scrypt", "argon2", "bcrypt"])
    def test_others_run_meanwhile(self, server: Server, kind: str) -> None:
        with Client(server) as client:
            answer = json.loads(client.get(f"/hub/hash?kind={kind}").body)
        # One a millisecond; with the hub blocked, one for each hash of 28 to 100 ms at the most.
        assert answer["ticks"] > 3 * answer["digests"]
        if kind == "pbkdf2":
            expected = hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 200_000).hex()
            assert answer["digest"] == expected

    def test_errors_are_the_same(self, shared: Serve) -> None:
        server = shared(env={})
        with Client(server) as client:
            assert client.get("/hub/hash-error").body.startswith(b"ValueError")
        assert "Traceback" not in server.log()  # a view's own affair


class TestAsyncio:
    @pytest.mark.parametrize("how", ["run", "runner", "anyio", "loop"])
    def test_100_blocking_views_at_once(self, server: Server, how: str) -> None:
        with Client(server) as client:
            streams = [client.send(f"/hub/asyncio-run?n={n}&how={how}") for n in range(100)]
            bodies = [answer.body for answer in client.finish(*streams)]
        factor = 6 if how == "runner" else 3
        assert bodies == [str(factor * n).encode() for n in range(100)]

    def test_an_async_view_goes_to_threads_and_back(self, server: Server) -> None:
        with Client(server) as client:
            streams = [client.send(f"/hub/async-threads?n={n}") for n in range(100)]
            for n, answer in enumerate(client.finish(*streams)):
                assert json.loads(answer.body) == [n, n, n, 3 * n, 3 * n, 3 * n]

    @pytest.mark.parametrize("path", ["async-client", "async-client-in-async"])
    def test_an_async_client_in_a_view(self, server: Server, path: str) -> None:
        with Client(server) as client:
            streams = [client.send(f"/hub/{path}") for _ in range(100)]
            for answer in client.finish(*streams):
                assert answer.body == b"slept slept"


class TestBlockedHub:
    @pytest.mark.parametrize("where", ["python", "c", "gil"])
    def test_the_log_names_the_view_and_its_request(
        self, serve: Serve, tmp_path: Path, where: str
    ) -> None:
        server = serve(env={"TEST_SPANS": str(tmp_path / "spans")})
        with Client(server) as client:
            blocked, log = block(server, client, where)
            assert re.search(r"Worker blocked for over 0\.1 s by GET /hub/block \(\d", log)
            assert re.search(r'hub_views\.py", line \d+, in get', log)
            # Its age at that moment is in no line about the whole.
            seconds = re.findall(r"Worker was blocked for ([\d.]+) s by GET \S+ *$", log, re.M)
            assert max(map(float, seconds)) > blocked - 0.01
            (point,) = json.loads(client.get("/metric?name=plain.server.hub.blocked").body)
        # One, and one more each time that a busy machine stops the worker for so long.
        assert 1 <= point["count"] <= server.log().count("Worker was blocked for")

    def test_a_short_block_is_not_blamed_on_what_runs_next(self, shared: Serve) -> None:
        server = shared(env={})
        with Client(server) as client:
            for _ in range(10):
                client.get("/hub/block?s=0.22")
                client.finish(*[client.send("/sleep?s=0.01") for _ in range(20)])
        blamed = re.findall(r"Worker blocked for over 0\.1 s by (GET \S+|no request)", server.log())
        # All but one or two: a busy machine may keep the watch from looking in time.
        assert blamed.count("GET /hub/block") >= 7

    def test_each_of_several_has_its_own_time(self, shared: Serve) -> None:
        server = shared(env={})
        with Client(server) as client:
            streams = [client.send("/hub/block?s=0.5") for _ in range(3)]
            longest = max(float(answer.body) for answer in client.finish(*streams))
            times = wait_for(lambda: three_times(server), "three times")
        assert max(times) < longest + 0.4

    @pytest.mark.parametrize("patch", ["", "warm.patch"], ids=["cold hub", "warm hub"])
    def test_beside_the_monitor_of_gevent(self, serve: Serve, tmp_path: Path, patch: str) -> None:
        """It begins to watch with the hub's first turn, which an app may cause as it loads."""
        (tmp_path / "warm.py").write_text("import gevent\ndef patch(): gevent.sleep(0)")
        environment = {"PYTHONPATH": str(tmp_path), "PLAIN_SERVER_GEVENT_PATCH": patch}
        server = serve(env={"GEVENT_MONITOR_THREAD_ENABLE": "true", **environment})
        with Client(server) as client:
            client.get("/hub/block?s=1.5")
        wait_for_end_of_block(server)
        server.wait_log("appears to be blocked")

    def test_views_that_wait_are_not_named(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_HUB_BLOCKED_SECONDS": "2"})
        with Client(server) as client:
            client.finish(*[client.send("/sleep?s=5") for _ in range(50)])
        assert "by GET" not in server.log()

    def test_it_can_be_turned_off(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_HUB_BLOCKED_SECONDS": "0"})
        with Client(server) as client:
            client.get("/hub/block?s=0.7")
        assert "blocked for" not in server.log()


def stack_of(log: str, kind: str, *marks: str) -> str:
    """The one stack of `kind` that has all `marks`, from its number on."""
    found = re.findall(rf"Stack of (\d+ {re.escape(kind)} .*(?:\n .*)*)", log)
    (stack,) = [text for text in found if all(mark in text for mark in marks)]
    return str(stack).rstrip()


class TestStacks:
    @pytest.mark.parametrize("to", ["arbiter", "worker"])
    def test_sigusr2_writes_equal_ones_once(self, serve: Serve, to: str) -> None:
        server = serve()
        pid = server.worker().pid
        with Client(server) as client:
            waiting = [client.send(f"/sleep?s=6&n={n}") for n in range(8)]
            client.finish(client.send("/"))
            if to == "arbiter":
                server.signal(signal.SIGUSR2)
            else:
                server.worker().send_signal(signal.SIGUSR2)
            server.wait_log("native thread(s) (pid:")
            assert all(answer.body == b"slept" for answer in client.finish(*waiting))
        log = server.log()
        assert f"Stacks (pid: {pid}): 8 request(s); " in log
        stack = stack_of(log, "request(s)")
        assert stack.startswith(f"8 request(s) (pid: {pid}):\n")
        assert len(re.findall(r"^  GET /sleep \(\d+\.\d\d s\)$", stack, re.MULTILINE)) == 5
        assert re.search(
            r'younger\n  File ".*views\.py", line \d+, in get\n +time\.sleep.*$', stack
        )
        assert "and 3 younger" in stack

    def test_the_oldest_are_named_first(self, serve: Serve) -> None:
        server = serve()
        with Client(server) as client:
            for n in range(7):
                client.send(f"/hub/sleep/{n}?s=6")
                client.finish(client.send("/"))
            server.worker().send_signal(signal.SIGUSR2)
            server.wait_log("native thread(s) (pid:")
        named = re.findall(r"GET /hub/sleep/(\d)", stack_of(server.log(), "request(s)"))
        assert named == ["0", "1", "2", "3", "4"]

    def test_an_async_view_and_an_async_stream_show_where_they_wait(self, serve: Serve) -> None:
        server = serve()
        with Client(server) as client:
            paths = ("/hub/async-wait?s=0.2", "/hub/async-nested", "/hub/async-events")
            client.get(paths[0])  # the loop runs
            for path in paths[1:]:
                client.send(path)
            client.until(lambda: client.answers[5].body == b"event", "event")
            server.worker().send_signal(signal.SIGUSR2)
            server.wait_log("native thread(s) (pid:")
        log = server.log()
        nested = stack_of(log, "request(s)", "GET /hub/async-nested")
        assert re.search(r"s\)\n  Its task:\n.*in get\n.*\n.*in _deeper\n", nested)
        events = stack_of(log, "request(s)", "GET /hub/async-events")
        assert re.search(r"s\)\n  Its task:\n.*in _events\n.*\n.*in _deeper\n", events)

    def test_each_kind_is_named(self, serve: Serve) -> None:
        """What an app starts beside its requests, and a proxy that lets nobody look at it."""
        server = serve()
        with Client(server) as client:
            assert client.get("/hub/beside").body == b"started"
            assert client.get("/hub/beside-async").body == b"started"
            server.worker().send_signal(signal.SIGUSR2)
            server.wait_log("other greenlet(s) (pid:")
        log = server.log()
        for kind, place in (
            ("other greenlet(s)", "in in_a_greenlet"),
            ("other asyncio task(s)", "in in_a_task"),
            ("native thread(s)", "in in_a_native_thread"),
            ("greenlet(s) of the asyncio loop's thread", "in run_forever"),
            ("idle greenlet(s), for the next requests", "stream_greenlets.py"),
        ):
            assert stack_of(log, kind, place)
        assert "Traceback" not in log


class TestDeadline:
    def test_past_its_deadline_a_view_is_a_503(self, shared: Serve) -> None:
        server = shared(env={})
        with Client(server) as client:
            answer = client.get("/hub/wait-briefly?s=20&name=late")
            assert answer.status == 503
            assert ("retry-after", "1") in answer.headers
            # Middleware has seen it.
            assert answer.all("x-test-middleware") == ["seen"]
            assert json.loads(client.get("/hub/stopped").body) == ["late"]
            assert client.get("/hub/wait-briefly?s=0").body == b"waited"
        line = next(x for x in server.log().splitlines() if "Request deadline passed" in x)
        assert "/hub/wait-briefly" in line
        assert "GET" in line

    @pytest.mark.parametrize("protocol", ["h2", "http/1.1"])
    @pytest.mark.parametrize("how", WAYS_TO_WAIT)
    def test_whatever_it_waits_for(self, server: Server, how: str, protocol: str) -> None:
        with (Client if protocol == "h2" else Http1Client)(server) as client:
            assert client.get(f"/hub/wait-for?how={how}").status == 503
            assert how in json.loads(client.get("/hub/stopped").body)

    def test_a_loop_is_stopped_before_the_view_closes_it(self, server: Server) -> None:
        with Client(server) as client:
            assert client.get("/hub/wait-for?how=loop").status == 503
            assert "loop closed" in json.loads(client.get("/hub/stopped").body)

    def test_an_async_view(self, server: Server) -> None:
        with Client(server) as client:
            assert client.get("/hub/async-wait?s=20&name=late-async").status == 503
            assert "late-async" in json.loads(client.get("/hub/stopped").body)
            assert client.get("/hub/async-wait?s=0").body == b"waited"

    def test_over_http1(self, server: Server) -> None:
        with Http1Client(server) as client:
            assert client.get("/hub/wait-briefly?s=20").status == 503
            assert client.get("/").body == b"hello"

    def test_the_setting_does_not_cut_a_body(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_REQUEST_DEADLINE": "0.3"})
        with Client(server) as client:
            assert client.get("/hub/long-body").body == b"part " * 4

    def test_a_view_of_its_own_deadline_has_its_body_cut(self, server: Server) -> None:
        with Client(server) as client:
            answer = client.get("/hub/cut-body?parts=2")
            assert (answer.status, answer.body) == (200, b"part part ")
            assert answer.reset == ErrorCodes.INTERNAL_ERROR
            assert client.get("/hub/cut-body?parts=0").status == 503
            stopped = json.loads(client.get("/hub/stopped").body)
            assert {"body 0", "body 2"} <= set(stopped)
            answer = client.get("/hub/async-cut-body")
            assert (answer.body, answer.reset) == (b"event", ErrorCodes.INTERNAL_ERROR)
        lines = [x for x in server.log().splitlines() if "Request deadline passed" in x]
        assert sum("cut-body" in line for line in lines) == 3
        with server.connect("http/1.1") as sock:
            sock.sendall(b"GET /hub/cut-body?parts=2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            with contextlib.suppress(OSError):
                while data := sock.recv(10_000):
                    received += data
            assert received.count(b"part ") == 2
            assert b"\r\n0\r\n\r\n" not in received  # not the end of a whole body

    def test_the_setting_is_for_all_views_but_those_that_have_their_own(self, serve: Serve) -> None:
        server = serve(env={"PLAIN_SERVER_REQUEST_DEADLINE": "0.5"})
        with Client(server) as client:
            long = client.send("/hub/wait-long?s=1.5")
            assert client.get("/hub/wait?s=20").status == 503
            assert client.finish(long)[0].body == b"waited"

    def test_off_by_default(self, server: Server) -> None:
        with Client(server) as client:
            assert client.get("/hub/wait?s=1").body == b"waited"

    def test_a_reset_stream_past_its_deadline_hurts_nobody(self, server: Server) -> None:
        with Client(server) as client:
            stream = client.send("/hub/wait-briefly?s=20&name=reset")
            assert client.get("/").body == b"hello"  # it has begun
            client.h2.reset_stream(stream, ErrorCodes.CANCEL)
            client.flush()
            wait_for(
                lambda: "reset" in json.loads(client.get("/hub/stopped").body), "end of the view"
            )
