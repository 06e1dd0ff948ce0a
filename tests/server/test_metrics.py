"""What the worker tells OpenTelemetry."""

import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from attacks import ATTACKS
from h2.errors import ErrorCodes
from h2client import Client
from harness import WAIT, Server, wait_for
from hyperframe.frame import GoAwayFrame
from load_client import Http1Client
from raw import WINDOW, RawClient, headers, request_fields, rst_stream, window_update
from tools import need


@pytest.fixture(scope="module")
def spans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {"TEST_SPANS": str(tmp_path_factory.mktemp("spans") / "spans")}


@pytest.fixture
def counted(serve: Callable[..., Server], tmp_path: Path) -> Server:
    # No floor: uploads stay open.
    floor = {"PLAIN_SERVER_BODY_MIN_BYTES_PER_SECOND": "0"}
    return serve(env={"TEST_SPANS": str(tmp_path / "spans")} | floor)


def points(client: Client, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(client.get(f"/metric?name={name}").body)
    return found


def value(client: Client, name: str, **attributes: str) -> float:
    """The sum of the points with these attributes, dots written as underscores."""
    wanted = {key.replace("_", "."): text for key, text in attributes.items()}
    matching = [p for p in points(client, name) if wanted.items() <= p.items()]
    return float(sum(p.get("value", p.get("count", 0)) for p in matching))


def test_open_connections_and_active_requests(counted: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    connections = "plain.server.open_connections"
    active = "http.server.active_requests"
    with Client(counted) as client:
        with Client(counted) as other, Http1Client(counted) as old:
            assert other.get("/").status == 200
            assert old.get("/").status == 200
            assert value(client, connections, network_protocol_version="2") == 2
            assert value(client, connections, network_protocol_version="1.1") == 1
            assert value(client, active) == 1  # the one that asks
            waiting = [other.send(f"/life/gate?gate={gate}") for _ in range(5)]
            wait_for(lambda: value(client, active, http_request_method="GET") == 6, "5 more")
            gate.touch()
            other.finish(*waiting)
            assert value(client, active, url_scheme="https") == 1
        wait_for(lambda: value(client, connections) == 1, "end of the others")


def test_resets_by_either_side_and_their_causes(counted: Server) -> None:
    name = "plain.server.http2.stream_resets"
    with Client(counted) as client, RawClient(counted) as raw:
        stream = raw.open(request_fields("/sleep?s=5"))
        raw.send(rst_stream(stream, ErrorCodes.CANCEL))
        raw.send(rst_stream(raw.open(request_fields("/sleep?s=5")), 0xDEADBEEF))
        raw.expect_stream_error(raw.open([(":method", "GET")]), ErrorCodes.PROTOCOL_ERROR)
        stream = raw.open(request_fields("/sleep?s=5"))
        raw.send(window_update(stream, 2**31 - 1))
        raw.expect_stream_error(stream, ErrorCodes.FLOW_CONTROL_ERROR)
        for by, code in (
            ("client", "CANCEL"),
            ("client", "unknown"),
            ("server", "PROTOCOL_ERROR"),
            ("server", "FLOW_CONTROL_ERROR"),
        ):
            assert value(client, name, plain_reset_by=by, error_type=code) == 1, (by, code)


def test_refused_streams(counted: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with Client(counted) as client, RawClient(counted) as raw:
        streams = [raw.open(request_fields(f"/life/gate?gate={gate}")) for _ in range(103)]
        for stream in streams[100:]:
            raw.expect_stream_error(stream, ErrorCodes.REFUSED_STREAM)
        assert value(client, "plain.server.http2.refused_streams") == 3
        gate.touch()


def test_active_streams(counted: Server) -> None:
    name = "plain.server.http2.active_streams"
    with Client(counted) as client:
        assert value(client, name) == 1  # the one that asks
        with RawClient(counted) as raw, Client(counted) as other:
            for _ in range(3):  # their requests go on
                raw.open(request_fields("/echo", "POST"), end_stream=False)
            raw.expect_alive()
            other.send("/sleep?s=30")
            wait_for(lambda: value(client, name) == 5, "4 more")
            raw.send(rst_stream(1))
            wait_for(lambda: value(client, name) == 4, "end of the one that was reset")
        wait_for(lambda: value(client, name) == 1, "end of the others")


#: Attacks, and the reason that is given for each.
REASONS = {
    "rapid-reset": "too many RST_STREAM frames",
    "made-you-reset-by-zero-window-update": "too many RST_STREAM frames",
    "continuation-flood": "too many CONTINUATION frames",
    "http2-bomb": "Oversized header block: more than 500 field lines",
    "ping": "too many PING frames",
    "settings": "too many SETTINGS frames",
    "empty-data": "too many DATA frames",
    "unknown-frames": "too many unknown frames",
}


def abusive(client: Client) -> Counter[str]:
    """The connections that were closed for abuse so far, by reason."""
    found = points(client, "plain.server.abusive_connections")
    return Counter({point["error.type"]: point["value"] for point in found})


def expect_one_report(
    server: Server, client: Client, reason: str, port: int, before: Counter[str]
) -> None:
    """One line in the log, with the address and the reason, and one more in the metric."""
    wait_for(lambda: "abuse" in server.log(), "line in the log")
    assert abusive(client) == before + Counter([reason])
    (line,) = (line for line in server.log().splitlines() if "abuse" in line)
    assert "WARNING" in line
    assert "127.0.0.1" in line
    assert str(port) in line
    assert reason in line


@pytest.mark.parametrize("name", REASONS)
def test_a_connection_closed_for_abuse_is_logged_once_with_its_address(
    shared: Callable[..., Server], spans: dict[str, str], name: str
) -> None:
    server = shared(env=spans)
    with Client(server) as client, RawClient(server) as raw:
        before = abusive(client)
        port = raw.sock.getsockname()[1]
        attack = ATTACKS[name]()
        # Again, where so many took so long that the token bucket was refilled meanwhile.
        while not raw.received(GoAwayFrame):
            raw.send_bytes(b"".join(next(attack) for _ in range(3000)))
            with suppress(TimeoutError):
                while raw.receive(time.monotonic() + 1):
                    pass
        raw.expect_connection_error(ErrorCodes.ENHANCE_YOUR_CALM)
        expect_one_report(server, client, REASONS[name], port, before)


def test_one_who_does_not_read_the_answers_is_logged(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    server = serve(
        env={
            "TEST_SPANS": str(tmp_path / "spans"),
            "PLAIN_SERVER_SEND_TIMEOUT": "2",
            "PLAIN_SERVER_H2_MAX_CONCURRENT_STREAMS": "10000",
        }
    )
    with Client(server) as client, RawClient(server) as raw:
        # 15 MB of header fields: more than the kernel takes for a client that does not read.
        block = raw.block(request_fields("/statuses?kind=long-headers&n=1", "HEAD"))
        again = raw.block(request_fields("/statuses?kind=long-headers&n=1", "HEAD"))
        raw.send(headers(1, block))
        raw.send(*(headers(stream_id, again) for stream_id in range(3, 6000, 2)))
        port = raw.sock.getsockname()[1]
        expect_one_report(server, client, "answers that are not read", port, Counter())
        # Its streams and greenlets end, and their places come back. (The one that is left asks.)
        for name in ("plain.server.http2.active_streams", "http.server.active_requests"):
            wait_for(lambda: value(client, name) == 1, name)  # noqa: B023


@pytest.mark.parametrize("requests", [False, True])
def test_a_flood_of_key_updates_is_logged(
    shared: Callable[..., Server], spans: dict[str, str], requests: bool
) -> None:
    """TLS records without data (RFC 8446 section 4.6.3): "K" sends one.

    Some requests in between make no difference.
    """
    server = shared(env=spans)
    command = [need("openssl"), "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_3"]
    with (
        Client(server) as client,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        ) as attacker,
    ):
        before = abusive(client)
        assert attacker.stdin is not None
        assert attacker.stdout is not None

        def say(text: bytes, wanted: bytes) -> None:
            attacker.stdin.write(text)  # type: ignore[union-attr]
            output = b""
            while wanted not in output and (piece := attacker.stdout.read(1000)):  # type: ignore[union-attr]
                output += piece

        openssl = psutil.Process(attacker.pid)
        port = wait_for(openssl.net_connections, "connection")[0].laddr.port
        deadline = time.monotonic() + WAIT
        with suppress(BrokenPipeError):  # the server has closed
            while "abuse" not in server.log() and time.monotonic() < deadline:
                if requests:
                    say(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"hello")
                for _ in range(100):
                    say(b"K\n", b"KEYUPDATE")
        attacker.kill()
        expect_one_report(server, client, "TLS records without data", port, before)


def test_time_blocked_on_flow_control(counted: Server) -> None:
    name = "plain.server.http2.flow_control.blocked"
    with Client(counted) as client, RawClient(counted, {WINDOW: 0}) as raw:
        stream = raw.open(request_fields("/bytes?n=200000"))
        assert value(client, name) == 0
        raw.send(window_update(0, 200_000), window_update(stream, 200_000))
        assert len(raw.expect_response(stream).body) == 200_000
        wait_for(lambda: value(client, name) == 1, "one response that waited")
