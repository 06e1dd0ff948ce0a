"""What the worker tells OpenTelemetry."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attacks import ATTACKS
from h2.errors import ErrorCodes
from h2client import Client
from harness import Server, wait_for
from load_client import Http1Client
from raw import RawClient, request_fields, rst_stream, window_update

WINDOW = 4  # SETTINGS_INITIAL_WINDOW_SIZE


@pytest.fixture
def counted(serve: Callable[..., Server], tmp_path: Path) -> Server:
    return serve(env={"TEST_SPANS": str(tmp_path / "spans")})


def points(client: Client, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(client.get(f"/metric?name={name}").body)
    return found


def value(client: Client, name: str, **attributes: str) -> float:
    """The sum of the points with these attributes, dots written as underscores."""
    wanted = {key.replace("_", "."): text for key, text in attributes.items()}
    matching = [p for p in points(client, name) if wanted.items() <= p.items()]
    return sum(p.get("value", p.get("count", 0)) for p in matching)


def test_open_connections_and_active_requests(counted: Server) -> None:
    connections = "plain.server.open_connections"
    active = "http.server.active_requests"
    with Client(counted) as client:
        with Client(counted) as other, Http1Client(counted) as old:
            assert other.get("/").status == 200
            assert old.get("/").status == 200
            assert value(client, connections, network_protocol_version="2") == 2
            assert value(client, connections, network_protocol_version="1.1") == 1
            assert value(client, active) == 1  # the one that asks
            waiting = [other.send("/sleep?s=1") for _ in range(5)]
            wait_for(lambda: value(client, active, http_request_method="GET") == 6, "5 more")
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


def test_refused_streams(counted: Server) -> None:
    with Client(counted) as client, RawClient(counted) as raw:
        streams = [raw.open(request_fields("/sleep?s=1")) for _ in range(103)]
        for stream in streams[100:]:
            raw.expect_stream_error(stream, ErrorCodes.REFUSED_STREAM)
        assert value(client, "plain.server.http2.refused_streams") == 3


def test_connections_closed_for_abuse_are_logged_once_with_their_address(counted: Server) -> None:
    with Client(counted) as client, RawClient(counted) as raw:
        address = raw.sock.getsockname()
        attack = ATTACKS["ping"]()
        raw.send_bytes(b"".join(next(attack) for _ in range(2000)))
        raw.expect_connection_error(ErrorCodes.ENHANCE_YOUR_CALM)
        (point,) = points(client, "plain.server.abusive_connections")
        assert point == {"error.type": "too many PING frames", "value": 1}
        lines = [line for line in counted.log().splitlines() if "abuse" in line]
        assert len(lines) == 1
        assert str(address[1]) in lines[0]
        assert "too many PING frames" in lines[0]


def test_time_blocked_on_flow_control(counted: Server) -> None:
    name = "plain.server.http2.flow_control.blocked"
    with Client(counted) as client, RawClient(counted, {WINDOW: 0}) as raw:
        stream = raw.open(request_fields("/bytes?n=200000"))
        assert value(client, name) == 0
        raw.send(window_update(0, 200_000), window_update(stream, 200_000))
        assert len(raw.expect_response(stream).body) == 200_000
        wait_for(lambda: value(client, name) == 1, "one response that waited")
