"""A short soak; `scripts/soak` runs a long one."""

import struct
from collections.abc import Callable
from socket import SO_LINGER, SOL_SOCKET

import httpx
from h2.errors import ErrorCodes
from h2client import Client
from harness import WAIT, Server, wait_for
from inside import Inside
from raw import RawClient, ping, request_fields
from soak import ENV, soak


def test_nothing_is_left_behind(serve: Callable[..., Server]) -> None:
    server = serve("--no-access-log", env=ENV)
    assert soak(server, 20, seed=1) == []


def test_a_connection_leaves_nothing_to_the_garbage_collector(serve: Callable[..., Server]) -> None:
    """What lived for long would wait for one that comes after millions of objects."""
    server = serve(env=ENV)
    with Inside(server) as inside:
        before = inside.count(collect=False)["alive"]
        for _ in range(10):
            with Client(server) as client:
                assert client.get("/").body == b"hello"
                assert client.get("/chunks?n=3&size=10").status == 200
                client.send("/bytes?n=1000000")
            with RawClient(server) as leaving:
                leaving.open(request_fields("/chunks?n=1000&size=10000"))
                leaving.sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            with RawClient(server) as broken:
                broken.send(ping(b"too short"))
                broken.expect_connection_error(ErrorCodes.FRAME_SIZE_ERROR)
            with httpx.Client(verify=server.tls_context(), timeout=WAIT) as client1:
                assert client1.get(server.url + "/").content == b"hello"
        # As many as there were, and perhaps one that is still served.
        wait_for(lambda: inside.count(collect=False)["alive"] == before, "end of the connections")
