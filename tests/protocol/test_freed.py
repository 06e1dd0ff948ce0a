"""What a client leaves is freed when its connection ends: no cycle waits for the collector."""

import gc
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from attacks import websocket_frame
from http1client import Client, request
from memory_server import MemoryServer
from raw import RawClient, data, request_fields
from virtual_time import advance
from ws import connect_fields, upgrade_request

from plain_gevent_h2.app.spool import Spool, SpooledBody
from plain_gevent_h2.http1.connection import Http1Connection
from plain_gevent_h2.http1.stream import Http1Stream
from plain_gevent_h2.http2.connection import Http2Connection
from plain_gevent_h2.http2.stream import Http2Stream
from plain_gevent_h2.http2.streams import Streams

Serve = Callable[..., MemoryServer]

KINDS = (Http1Connection, Http1Stream, Http2Connection, Http2Stream, Streams, Spool, SpooledBody)

#: Seconds after which a worker has ended all that its client has left.
END = 60


def alive() -> Counter[str]:
    return Counter(type(found).__name__ for found in gc.get_objects() if type(found) in KINDS)


@pytest.fixture(autouse=True)
def freed() -> Iterator[None]:
    gc.collect()
    before = alive()
    gc.disable()
    try:
        yield
        advance(END)
        assert alive() == before
    finally:
        gc.enable()


class TestNoDisk:
    """An error that is raised again has a traceback, and with it the stream."""

    @pytest.fixture
    def without(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> MemoryServer:
        monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
        return serve(env={"PLAIN_SERVER_BODY_MAX_MEMORY_SIZE": "10"})

    def test_within_a_body(self, without: MemoryServer) -> None:
        with RawClient(without) as client:
            stream = client.open(request_fields("/echo", "POST"), end_stream=False)
            client.send(data(stream, bytes(100), end=False))
            advance(0.1)
            client.send(data(stream, bytes(100), end=False))
            assert client.expect_response(stream).status == 500

    def test_at_the_end_of_a_body(self, without: MemoryServer) -> None:
        with RawClient(without) as client:
            stream = client.open(request_fields("/echo", "POST"), end_stream=False)
            client.send(data(stream, bytes(100)))
            assert client.expect_response(stream).status == 500

    def test_over_http1(self, without: MemoryServer) -> None:
        with Client(without.connect("http/1.1")) as client:
            client.send(request("/echo", "Content-Length: 100", method="POST") + bytes(100))
            assert client.read().status == 500


class TestWebSocket:
    def test_over_http2(self, serve: Serve) -> None:
        with RawClient(serve()) as client:
            stream = client.open(connect_fields("/ws/echo"), end_stream=False)
            client.send(data(stream, websocket_frame(b"hello"), end=False))
            client.expect_data(stream, 1)

    def test_over_http1(self, serve: Serve) -> None:
        with Client(serve().connect("http/1.1")) as client:
            client.send(upgrade_request("/ws/echo"))
            assert client.read_head()[0].startswith("HTTP/1.1 101 ")
            client.send(websocket_frame(b"hello"))
            advance(0.1)


def test_get(serve: Serve) -> None:
    server = serve()
    with RawClient(server) as client:
        assert client.request("/").status == 200
    with Client(server.connect("http/1.1")) as client:
        client.send(request("/"))
        assert client.read().status == 200
