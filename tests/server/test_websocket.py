"""WebSockets over HTTP/1.1 (RFC 6455) and HTTP/2 (RFC 8441), each by clients of others."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2client import Client
from harness import Server, wait_for
from hyperframe.frame import SettingsFrame
from raw import RawClient, data, request_fields, rst_stream
from websockets.exceptions import ConnectionClosed, InvalidStatus
from ws import Http2Socket, connect_fields, http1

protocols = pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
Serve = Callable[..., Server]


@contextmanager
def socket(server: Server, protocol: str, path: str) -> Iterator[Any]:
    """A socket with `send`, `recv` and `close`, over either protocol."""
    if protocol == "h2":
        with RawClient(server) as client, Http2Socket(client, path) as sock:
            assert sock.status == 200
            yield sock
    else:
        with http1(server, path) as sock:
            yield sock


def close_code(sock: Any) -> int:
    if isinstance(sock, Http2Socket):
        code = sock.until_closed()
        assert code is not None
        return code
    with suppress(ConnectionClosed):
        while True:
            sock.recv()
    assert sock.close_code is not None
    return int(sock.close_code)


def events(server: Server, name: str) -> list[str]:
    with Client(server) as client:
        found: list[str] = json.loads(client.get(f"/ws/events?name={name}").body)["events"]
    return found


@protocols
class TestMessages:
    def test_text_and_binary_of_every_size(self, server: Server, protocol: str) -> None:
        with socket(server, protocol, "/ws/echo") as sock:
            for size in (0, 1, 125, 126, 65535, 65536, 3_000_000):
                sock.send("x" * size)
                assert sock.recv() == "x" * size
                sock.send(b"\xff" * size)
                assert sock.recv() == b"\xff" * size

    def test_many_small_messages_keep_their_order(self, server: Server, protocol: str) -> None:
        with socket(server, protocol, "/ws/echo") as sock:
            for start in range(0, 1000, 100):
                for i in range(start, start + 100):
                    sock.send(str(i))
                assert [sock.recv() for _ in range(100)] == [
                    str(i) for i in range(start, start + 100)
                ]

    def test_the_view_has_its_request_and_context(self, server: Server, protocol: str) -> None:
        name = f"context-{protocol[0:2]}"
        with socket(server, protocol, f"/ws/echo?name={name}") as sock:
            sock.send("name")
            assert sock.recv() == name
            assert events(server, name) == ["open https GET"]

    def test_the_client_closes(self, server: Server, protocol: str) -> None:
        name = f"bye-{protocol[0:2]}"
        with socket(server, protocol, f"/ws/echo?name={name}") as sock:
            sock.send("one")
            assert sock.recv() == "one"
            sock.close(4321)
            if protocol == "h2":
                assert sock.until_closed() == 4321
                sock.client.expect_alive()
        wait_for(lambda: "closed 4321" in events(server, name), "end of the view")

    def test_the_view_closes(self, server: Server, protocol: str) -> None:
        with socket(server, protocol, "/ws/echo") as sock:
            sock.send("close")
            assert close_code(sock) == 4000

    def test_a_view_that_fails_closes_with_1011(self, shared: Serve, protocol: str) -> None:
        server = shared(env={})
        with socket(server, protocol, "/ws/echo") as sock:
            sock.send("fail")
            assert close_code(sock) == 1011
        assert server.log().count("ValueError: as asked") == 1

    def test_a_client_that_vanishes(self, server: Server, protocol: str) -> None:
        name = f"vanish-{protocol[0:2]}"
        if protocol == "h2":
            with RawClient(server) as client, Http2Socket(client, f"/ws/echo?name={name}"):
                pass  # the connection is closed under it
        else:
            sock = http1(server, f"/ws/echo?name={name}")
            sock.socket.close()
        wait_for(lambda: "closed 1006" in events(server, name), "end of the view")

    def test_a_view_that_works_on_is_cancelled(self, server: Server, protocol: str) -> None:
        name = f"ticks-{protocol[0:2]}"
        with socket(server, protocol, f"/ws/ticks?name={name}") as sock:
            assert [sock.recv() for _ in range(3)] == ["tick"] * 3
        wait_for(lambda: "cleaned up" in events(server, name), "end of the view")

    def test_what_the_client_does_not_read_blocks_the_view(
        self, server: Server, protocol: str
    ) -> None:
        name = f"flood-{protocol[0:2]}"
        with ExitStack() as stack:
            if protocol == "h2":
                client = stack.enter_context(RawClient(server))
                stack.enter_context(Http2Socket(client, f"/ws/flood?name={name}", reads=False))
            else:
                stack.enter_context(http1(server, f"/ws/flood?name={name}", max_queue=1))
            counts = [-1]

            def settled() -> bool:
                counts.append(len(events(server, name)))
                return counts[-1] > 0 and counts[-5:] == [counts[-1]] * 5

            wait_for(settled, "a view that waits")
            # 64 KiB each: kernel buffers of some megabytes hold a part of it over HTTP/1.1.
            assert counts[-1] < (20 if protocol == "h2" else 300)
        wait_for(lambda: "ended" in events(server, name), "end of the view")

    def test_what_the_view_does_not_read_blocks_the_client(
        self, serve: Serve, protocol: str
    ) -> None:
        """Memory stays bounded, and nothing is lost."""
        server = serve()
        worker = server.worker()
        with socket(server, protocol, "/ws/deaf") as sock, Client(server) as other:
            assert other.get("/").body == b"hello"
            memory = worker.memory_info().rss
            raw = sock.client if protocol == "h2" else None
            if raw is not None:
                for _ in range(15):  # just under the window of 1 MiB
                    sock.send(b"x" * 65536)
                raw.expect_alive()
            else:
                for _ in range(15):
                    sock.send(b"x" * 65536)
            assert other.get("/").body == b"hello"
            assert worker.memory_info().rss < memory + 8 * 1024 * 1024
            wait_for(lambda: other.get("/ws/open-gate").status == 200, "the gate")
            sock.send(b"last")
            assert sock.recv() == str(15 * 65536 + 4)

    def test_refused_by_the_view(self, server: Server, protocol: str) -> None:
        if protocol == "h2":
            with RawClient(server) as client:
                stream = client.open(connect_fields("/ws/refused"), end_stream=False)
                assert client.finish(stream).status == 403
                client.expect_alive()
        else:
            with pytest.raises(InvalidStatus) as refused:
                http1(server, "/ws/refused")
            assert refused.value.response.status_code == 403

    def test_another_origin_is_refused(self, server: Server, protocol: str) -> None:
        if protocol == "h2":
            with RawClient(server) as client:
                origin = ("origin", "https://evil.example")
                fields = connect_fields("/ws/echo", origin, ("sec-fetch-site", "cross-site"))
                stream = client.open(fields, end_stream=False)
                assert client.finish(stream).status == 403
        else:
            with pytest.raises(InvalidStatus) as refused:
                http1(
                    server,
                    "/ws/echo",
                    origin="https://evil.example",
                    additional_headers={"Sec-Fetch-Site": "cross-site"},
                )
            assert refused.value.response.status_code == 403

    def test_a_drain_closes_with_1001(self, serve: Serve, protocol: str) -> None:
        server = serve()
        with socket(server, protocol, "/ws/echo?name=drain") as sock:
            sock.send("one")
            assert sock.recv() == "one"
            server.signal(signal.SIGTERM)
            assert close_code(sock) == 1001
            if protocol == "h2":
                sock.client.expect_close()
        assert server.wait() == 0

    def test_the_access_log_has_one_line(self, shared: Serve, protocol: str) -> None:
        server = shared(env={})
        with socket(server, protocol, "/ws/echo?name=logged") as sock:
            sock.send("close")
            close_code(sock)

        def lines() -> list[str]:
            return [line for line in server.log().splitlines() if "name=logged" in line]

        wait_for(lines, "line of the access log")
        assert len(lines()) == 1
        assert " status=101 " in lines()[0]


class TestHttp1:
    def test_without_tls(self, shared: Serve) -> None:
        with http1(shared(env={}, plaintext=True), "/ws/echo") as sock:
            sock.send("plain")
            assert sock.recv() == "plain"

    def test_subprotocol(self, server: Server) -> None:
        with http1(server, "/ws/echo", subprotocols=["unknown", "other", "chat"]) as sock:
            assert sock.subprotocol == "other"

    def test_ping_of_the_client_is_answered(self, server: Server) -> None:
        with http1(server, "/ws/echo") as sock:
            assert sock.ping().wait(10)

    def test_one_that_is_silent_for_long_is_kept(self, serve: Serve) -> None:
        """The time limit is for what the client does not take."""
        server = serve(env={"PLAIN_SERVER_SEND_TIMEOUT": "1"})
        with http1(server, "/ws/echo") as sock:
            for message in ("one", "two", "three"):
                sock.send(message)
                assert sock.recv() == message
            with pytest.raises(TimeoutError):
                sock.recv(2.5)
            sock.send("four")
            assert sock.recv() == "four"

    def test_frames_behind_the_handshake_are_refused(self, shared: Serve) -> None:
        server = shared(env={}, plaintext=True)
        request = (
            b"GET /ws/echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        with server.connect() as sock:
            sock.sendall(request + b"\x81\x80\x00\x00\x00\x00")
            assert sock.recv(100).startswith(b"HTTP/1.1 503")

    def test_the_server_closes_the_connection_behind_it(self, serve: Serve) -> None:
        server = serve()
        worker = server.worker()
        with Client(server) as client:
            assert client.get("/").status == 200
            files = worker.num_fds()
            for _ in range(20):
                with http1(server, "/ws/echo") as sock:
                    sock.send("close")
                    assert close_code(sock) == 4000
            assert client.get("/").status == 200
            # The asyncio loop of the first one keeps some files of its own.
            wait_for(lambda: worker.num_fds() <= files + 6, "end of the connections")


class TestHttp2:
    def test_it_is_offered(self, server: Server) -> None:
        with RawClient(server) as client:
            client.expect(SettingsFrame, keep=True)
            assert client.server_settings[SettingsFrame.ENABLE_CONNECT_PROTOCOL] == 1

    def test_100_on_one_connection_beside_requests(self, server: Server) -> None:
        with RawClient(server) as client:
            sockets = [Http2Socket(client, "/ws/echo") for _ in range(90)]
            for i, sock in enumerate(sockets):
                sock.send(f"message {i}")
            assert client.request("/").body == b"hello"
            for i, sock in enumerate(sockets):
                assert sock.recv() == f"message {i}"
            for sock in sockets:
                sock.close()
            for sock in sockets:
                assert sock.until_closed() == 1000
            assert client.request("/").body == b"hello"

    def test_subprotocol_and_no_field_of_http1(self, server: Server) -> None:
        with (
            RawClient(server) as client,
            Http2Socket(client, "/ws/echo", ("sec-websocket-protocol", "chat")) as sock,
        ):
            assert sock.headers["sec-websocket-protocol"] == "chat"
            assert not {"sec-websocket-accept", "upgrade", "connection"} & sock.headers.keys()

    def test_a_reset_by_the_client_ends_the_view_and_no_other(self, server: Server) -> None:
        with RawClient(server) as client:
            sock = Http2Socket(client, "/ws/ticks?name=reset")
            other = Http2Socket(client, "/ws/echo")
            assert sock.recv() == "tick"
            client.send(rst_stream(sock.stream_id, ErrorCodes.CANCEL))
            wait_for(lambda: "cleaned up" in events(server, "reset"), "end of the view")
            other.send("still here")
            assert other.recv() == "still here"

    def test_the_end_of_the_stream_is_the_end_of_the_socket(self, server: Server) -> None:
        """RFC 8441 section 5: without a close, as an orderly TCP close would be."""
        with RawClient(server) as client:
            sock = Http2Socket(client, "/ws/echo?name=half")
            client.send(data(sock.stream_id, b"", end=True))
            sock.until_closed()
            wait_for(lambda: "closed 1006" in events(server, "half"), "end of the view")
            client.expect_alive()

    def test_the_whole_connection_window_comes_back(self, server: Server) -> None:
        """17 MB and more, of which the view refuses to take the most."""
        with RawClient(server) as client:
            for _ in range(20):
                stream = client.open(connect_fields("/ws/refused"), end_stream=False)
                for _ in range(60):
                    client.send(data(stream, b"x" * 16000, end=False))
                client.expect_alive()
            assert client.request("/").body == b"hello"

    def test_other_protocols_are_not_implemented(self, server: Server) -> None:
        with RawClient(server) as client:
            fields = [
                (name, "connect-udp" if name == ":protocol" else value)
                for name, value in connect_fields("/ws/echo")
            ]
            assert client.finish(client.open(fields, end_stream=False)).status == 501
            client.expect_alive()

    @pytest.mark.parametrize("missing", [":protocol", ":scheme", ":path", ":authority"])
    def test_malformed(self, server: Server, missing: str) -> None:
        with RawClient(server) as client:
            fields = [field for field in connect_fields("/ws/echo") if field[0] != missing]
            stream = client.open(fields, end_stream=False)
            client.expect_stream_error(stream, ErrorCodes.PROTOCOL_ERROR)

    def test_protocol_without_connect_is_malformed(self, server: Server) -> None:
        with RawClient(server) as client:
            fields = [(":protocol", "websocket"), *request_fields("/ws/echo")]
            client.expect_stream_error(client.open(fields), ErrorCodes.PROTOCOL_ERROR)

    @pytest.mark.parametrize("path", ["/", "/watched?key=connect", "/ws/echo?maintenance"])
    def test_what_is_no_websocket_refuses_a_connect(self, server: Server, path: str) -> None:
        """No 2xx, with which the page would be the socket's first bytes."""
        with RawClient(server) as client:
            response = client.finish(client.open(connect_fields(path), end_stream=False))
            assert response.status == 405
            assert ("sec-websocket-version", "13") in response.headers
            client.expect_alive()

    def test_another_version_is_refused(self, server: Server) -> None:
        with RawClient(server) as client:
            fields = [
                (name, "8" if name == "sec-websocket-version" else value)
                for name, value in connect_fields("/ws/echo")
            ]
            assert client.finish(client.open(fields, end_stream=False)).status == 405

    def test_other_answers_to_a_connect_stay(self, server: Server) -> None:
        with RawClient(server) as client:
            for path, status in (("/nowhere", 404), ("/middleware-error", 500)):
                stream = client.open(connect_fields(path), end_stream=False)
                assert client.finish(stream).status == status
