"""WebSockets over HTTP/1.1 (RFC 6455) and HTTP/2 (RFC 8441), on a clock that takes no time.

`server/test_websocket_clients.py` has the `websockets` library, over TLS, and threads;
`server/test_websocket_unread.py` has attacks.
"""

import json
import logging
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha1

import gevent
import pytest
from attacks import websocket_frame
from h2.errors import ErrorCodes
from harness import WAIT
from http1client import Client
from hyperframe.frame import GoAwayFrame, RstStreamFrame, SettingsFrame
from memory_server import MemoryServer
from raw import RawClient, data, request_fields, rst_stream
from virtual_time import advance, now
from websockets.frames import Opcode
from ws import Http1Socket, Http2Socket, Socket, connect_fields, frame_bytes, upgrade_request

from plain_gevent_h2.app.bounded_websocket import MESSAGE_BACKLOG
from plain_gevent_h2.app.plain_internals import LINGER_CLOSE_TIMEOUT
from plain_gevent_h2.app.unread_websockets import MAX_UNREAD
from plain_gevent_h2.app.websocket import MAX_EARLY
from plain_gevent_h2.http1.connection import WEBSOCKET_BACKLOG
from plain_gevent_h2.http1.stream import Http1Stream
from plain_gevent_h2.http2.timeouts import DISCARD_TIMEOUT
from plain_gevent_h2.net.fairness import SWEEP_INTERVAL
from plain_gevent_h2.net.tls_socket import RECV_SIZE

Serve = Callable[..., MemoryServer]

protocols = pytest.mark.parametrize("protocol", ["http/1.1", "h2"])

#: Seconds by which a timeout may be late: it is seen by a sweep, and the next one after it.
LATE = 2 * SWEEP_INTERVAL + 0.1

#: Seconds of Plain's: between pings, until a pong is missed, until a send that makes no progress is
#: given up, until an answer to a close is missed, and until a view that waits for something else is
#: cancelled.
PING_INTERVAL = PING_TIMEOUT = 20.0
WRITE_TIMEOUT = 20.0
CLOSE_TIMEOUT = 5.0
VIEW_GRACE = 1.0


@contextmanager
def connect(server: MemoryServer, protocol: str, path: str = "/ws/echo") -> Iterator[Socket]:
    with ExitStack() as stack:
        if protocol == "h2":
            client = stack.enter_context(RawClient(server))
            sock: Socket = stack.enter_context(Http2Socket(client, path))
        else:
            sock = stack.enter_context(Http1Socket(server, path))
        assert sock.status == (200 if protocol == "h2" else 101)
        yield sock


def refusal(
    server: MemoryServer, protocol: str, path: str, headers: dict[str, str] | None = None
) -> int:
    """The status of the answer to a handshake that is refused."""
    headers = headers or {}
    if protocol == "h2":
        with RawClient(server) as client:
            fields = connect_fields(path, *headers.items())
            return client.finish(client.open(fields, end_stream=False)).status
    with Client(server.connect("http/1.1")) as client:
        client.send(upgrade_request(path, *(f"{n}: {v}" for n, v in headers.items())))
        return client.read().status


def events(server: MemoryServer, name: str) -> list[str]:
    """What the view of that name has done."""
    with RawClient(server) as client:
        found: list[str] = json.loads(client.request(f"/ws/events?name={name}").body)["events"]
        return found


def wait_for_event(server: MemoryServer, name: str, event: str) -> None:
    for _ in range(100):
        if event in events(server, name):
            return
        advance(0.1)
    raise AssertionError(f"no {event!r} in {events(server, name)}")


def expect_close(sock: Socket, code: int, reason: str = "") -> None:
    """The server closes with this code, and then its side of the stream or connection."""
    assert sock.until_closed(2 * WAIT) == code
    assert sock._protocol.close_rcvd is not None
    assert (sock._protocol.close_rcvd.code, sock._protocol.close_rcvd.reason) == (code, reason)
    assert sock.ended


@protocols
class TestHandshake:
    def test_the_view_has_its_request_and_context(
        self, server: MemoryServer, protocol: str
    ) -> None:
        name = f"context-{protocol}"
        with connect(server, protocol, f"/ws/echo?name={name}") as sock:
            sock.send("name")
            assert sock.recv() == name
            assert events(server, name) == ["open https GET"]

    def test_refused_by_the_view(self, server: MemoryServer, protocol: str) -> None:
        assert refusal(server, protocol, "/ws/refused") == 403

    def test_another_origin_is_refused(self, server: MemoryServer, protocol: str) -> None:
        fields = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
        assert refusal(server, protocol, "/ws/echo", fields) == 403

    def test_the_access_log_has_one_line(self, server: MemoryServer, protocol: str) -> None:
        name = f"logged-{protocol}"
        with connect(server, protocol, f"/ws/echo?name={name}") as sock:
            sock.send("close")
            sock.until_closed()
        lines = [line for line in server.log().splitlines() if f"name={name}" in line]
        assert len(lines) == 1
        assert " status=101 " in lines[0]


@protocols
class TestMessages:
    def test_many_small_messages_keep_their_order(
        self, server: MemoryServer, protocol: str
    ) -> None:
        with connect(server, protocol) as sock:
            for start in range(0, 1000, 100):
                messages = [str(i) for i in range(start, start + 100)]
                for message in messages:
                    sock.send(message)
                assert [sock.recv() for _ in messages] == messages

    @pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1_000_000])
    def test_of_every_size(self, server: MemoryServer, protocol: str, size: int) -> None:
        with connect(server, protocol) as sock:
            for message in ("x" * size, b"\xff" * size):
                sock.send(message)
                assert sock.recv() == message

    def test_in_fragments(self, server: MemoryServer, protocol: str) -> None:
        """RFC 6455 section 5.4: some may be empty, and a character may be in two."""
        euro = "€".encode()
        with connect(server, protocol) as sock:
            sock.send_frame(Opcode.TEXT, b"5 " + euro[:1], fin=False)
            sock.send_frame(Opcode.CONT, b"", fin=False)
            sock.send_frame(Opcode.CONT, euro[1:])
            assert sock.recv() == "5 €"
            sock.send_frame(Opcode.BINARY, b"", fin=False)
            sock.send_frame(Opcode.CONT, b"\xff" * 500, fin=False)
            sock.send_frame(Opcode.CONT, b"")
            assert sock.recv() == b"\xff" * 500

    def test_a_ping_between_fragments_is_answered(
        self, server: MemoryServer, protocol: str
    ) -> None:
        with connect(server, protocol) as sock:
            sock.send_frame(Opcode.TEXT, b"be", fin=False)
            sock.send_frame(Opcode.PING, b"are you there")
            sock.send_frame(Opcode.PONG, b"unasked for")
            sock.send_frame(Opcode.CONT, b"hind")
            assert sock.recv() == "behind"
            pongs = [(frame.opcode, frame.data) for frame in sock.control]
            assert pongs == [(Opcode.PONG, b"are you there")]

    def test_byte_by_byte(self, server: MemoryServer, protocol: str) -> None:
        with connect(server, protocol) as sock:
            for byte in frame_bytes(0x81, b"slowly"):
                sock.send_bytes(bytes([byte]))
                advance(0.01)
            assert sock.recv() == "slowly"


#: What a client must not send, and why not.
FAULTS = {
    "not masked (5.1)": frame_bytes(0x81, b"x", masked=False),
    "reserved bit 1 (5.2)": frame_bytes(0xC1, b"x"),
    "reserved bit 3 (5.2)": frame_bytes(0x91, b"x"),
    "reserved opcode 3 (5.2)": frame_bytes(0x83, b"x"),
    "reserved opcode 11 (5.2)": frame_bytes(0x8B, b""),
    "fragment of a ping (5.5)": frame_bytes(0x09, b""),
    "fragment of a close (5.5)": frame_bytes(0x08, b""),
    "ping of 126 bytes (5.5)": frame_bytes(0x89, bytes(126)),
    "continuation of nothing (5.4)": frame_bytes(0x80, b"x"),
    "continuation of nothing, unfinished (5.4)": frame_bytes(0x00, b"x"),
    "text in a text (5.4)": frame_bytes(0x01, b"x") + frame_bytes(0x81, b"x"),
    "binary in a text (5.4)": frame_bytes(0x01, b"x") + frame_bytes(0x82, b"x"),
    "text in an empty binary (5.4)": frame_bytes(0x02, b"") + frame_bytes(0x01, b"x"),
    "continuation after the last (5.4)": frame_bytes(0x81, b"") + frame_bytes(0x80, b"x"),
    "close of one byte (5.5.1)": frame_bytes(0x88, b"\x03"),
    "close with a reason of bad UTF-8 (5.5.1)": frame_bytes(0x88, b"\x03\xe8\xff"),
    **{
        f"close with {code} (7.4)": frame_bytes(0x88, code.to_bytes(2))
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)
    },
}

#: Texts that are not UTF-8 (RFC 3629 section 3), as fragments.
NO_TEXTS = {
    "lone continuation byte": [b"\x80"],
    "character cut by the end": [b"\xe2\x82"],
    "character cut by the end, in two": [b"\xe2", b"\x82"],
    "surrogate": [b"\xed\xa0\x80"],
    "overlong slash": [b"\xc0\xaf"],
    "past the last character": [b"\xf4\x90\x80\x80"],
    "bad byte in the last fragment": [b"good", b"", b"\xff"],
}


@protocols
class TestFaults:
    @pytest.mark.parametrize("name", FAULTS)
    def test_a_broken_rule_closes_with_1002(
        self, server: MemoryServer, protocol: str, name: str
    ) -> None:
        view = f"{name}-{protocol}".replace(" ", "-")
        with connect(server, protocol, f"/ws/echo?name={view}") as sock:
            sock.send_bytes(FAULTS[name])
            assert sock.until_closed() == 1002
            assert sock.ended
            wait_for_event(server, view, "closed 1002")

    @pytest.mark.parametrize("name", NO_TEXTS)
    def test_text_that_is_not_utf_8_closes_with_1007(
        self, server: MemoryServer, protocol: str, name: str
    ) -> None:
        *first, last = NO_TEXTS[name]
        opcode = Opcode.TEXT
        with connect(server, protocol) as sock:
            for fragment in first:
                sock.send_frame(opcode, fragment, fin=False)
                opcode = Opcode.CONT
            sock.send_frame(opcode, last)
            expect_close(sock, 1007, "Invalid UTF-8")

    def test_such_bytes_may_be_binary(self, server: MemoryServer, protocol: str) -> None:
        with connect(server, protocol) as sock:
            for fragments in NO_TEXTS.values():
                sock.send_frame(Opcode.BINARY, b"".join(fragments))
                assert sock.recv() == b"".join(fragments)


@protocols
class TestSize:
    """`websocket_max_message_size`, which is 1,000 bytes here."""

    def test_a_message_of_the_limit(self, server: MemoryServer, protocol: str) -> None:
        with connect(server, protocol, "/ws/small") as sock:
            sock.send(b"x" * 1000)
            assert sock.recv() == b"x" * 1000
            sock.send_frame(Opcode.BINARY, b"x" * 600, fin=False)
            sock.send_frame(Opcode.CONT, b"x" * 400)
            assert sock.recv() == b"x" * 1000

    @pytest.mark.parametrize(
        "raw",
        [
            frame_bytes(0x82, bytes(1001)),
            frame_bytes(0x82, b"", size=2**40),  # the header is enough
            frame_bytes(0x02, bytes(600)) + frame_bytes(0x80, bytes(401)),
            frame_bytes(0x02, bytes(600)) + frame_bytes(0x00, bytes(401)),
        ],
        ids=["one frame", "a header", "the last fragment", "a fragment"],
    )
    def test_a_larger_one_closes_with_1009(
        self, server: MemoryServer, protocol: str, raw: bytes
    ) -> None:
        with connect(server, protocol, "/ws/small") as sock:
            sock.send_bytes(raw)
            expect_close(sock, 1009, "Message too big")


@protocols
class TestEnd:
    @pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1014, 3000, 3999, 4000, 4999])
    def test_the_client_closes(self, server: MemoryServer, protocol: str, code: int) -> None:
        name = f"bye-{code}-{protocol}"
        with connect(server, protocol, f"/ws/echo?name={name}") as sock:
            sock.close(code)
            expect_close(sock, code)
            wait_for_event(server, name, f"closed {code}")

    def test_the_client_closes_without_a_code(self, server: MemoryServer, protocol: str) -> None:
        """RFC 6455 section 7.1.5: 1005 is what the view sees, and never sent."""
        name = f"bye-{protocol}"
        with connect(server, protocol, f"/ws/echo?name={name}") as sock:
            sock.send_frame(Opcode.CLOSE)
            expect_close(sock, 1000)
            wait_for_event(server, name, "closed 1005")

    def test_nothing_behind_the_clients_close_is_read(
        self, server: MemoryServer, protocol: str
    ) -> None:
        with connect(server, protocol) as sock:
            sock.send_bytes(frame_bytes(0x88, b"\x03\xe8") + frame_bytes(0x81, b"late"))
            expect_close(sock, 1000)

    def test_the_view_closes(self, server: MemoryServer, protocol: str) -> None:
        with connect(server, protocol) as sock:
            sock.send("close")
            expect_close(sock, 4000, "as asked")

    def test_a_view_that_fails_closes_with_1011(self, serve: Serve, protocol: str) -> None:
        server = serve()
        with connect(server, protocol) as sock:
            sock.send("fail")
            expect_close(sock, 1011, "Internal error")
        assert server.log().count("ValueError: as asked") == 1

    @pytest.mark.parametrize("raw", [b"", b"\x81", frame_bytes(0x81, b"half")[:-2]])
    def test_the_client_ends_its_side_without_a_close(
        self, server: MemoryServer, protocol: str, raw: bytes
    ) -> None:
        """RFC 8441 section 5: END_STREAM is what an orderly TCP close would be."""
        name = f"half-{len(raw)}-{protocol}"
        with connect(server, protocol, f"/ws/echo?name={name}") as sock:
            sock.send_bytes(raw, end=True)
            sock.until_closed()
            assert sock.ended
            wait_for_event(server, name, "closed 1006")

    def test_a_client_that_vanishes(self, server: MemoryServer, protocol: str) -> None:
        name = f"vanish-{protocol}"
        with connect(server, protocol, f"/ws/echo?name={name}"):
            pass
        wait_for_event(server, name, "closed 1006")

    def test_a_view_that_works_on_is_cancelled(self, server: MemoryServer, protocol: str) -> None:
        name = f"ticks-{protocol}"
        with connect(server, protocol, f"/ws/ticks?name={name}") as sock:
            assert [sock.recv() for _ in range(3)] == ["tick"] * 3
        wait_for_event(server, name, "cleaned up")


@protocols
class TestTimeouts:
    def test_one_whose_pings_are_answered_goes_on(self, serve: Serve, protocol: str) -> None:
        """No timeout of the server's is for a WebSocket that is silent."""
        server = serve(
            env={"PLAIN_SERVER_SEND_TIMEOUT": "1", "PLAIN_SERVER_KEEPALIVE_TIMEOUT": "1"}
        )
        with connect(server, protocol) as sock:
            for message in ("one", "two", "three"):
                sock.send(message)
                assert sock.recv() == message
            with pytest.raises((TimeoutError, AssertionError)):
                sock.recv(30 * PING_INTERVAL + 1)
            pings = [frame for frame in sock.control if frame.opcode is Opcode.PING]
            assert len(pings) == 30
            sock.send("four")
            assert sock.recv() == "four"

    def test_a_missing_pong_closes_with_1001(self, serve: Serve, protocol: str) -> None:
        with connect(serve(), protocol) as sock:
            began = now()
            sock.answers = False
            expect_close(sock, 1001, "Ping timeout")
            assert now() - began == pytest.approx(PING_INTERVAL + PING_TIMEOUT)

    def test_a_view_that_does_not_read_is_told_with_1008(self, serve: Serve, protocol: str) -> None:
        """Its client's pong is behind what nobody reads."""
        with connect(serve(), protocol, "/ws/deaf") as sock:
            began = now()
            sock.send(bytes(MESSAGE_BACKLOG))
            sock.send(b"")
            expect_close(sock, 1008, "Receive buffer full: the handler stopped reading")
            assert now() - began == pytest.approx(PING_INTERVAL + PING_TIMEOUT + VIEW_GRACE)

    def test_a_close_that_is_not_answered(self, serve: Serve, protocol: str) -> None:
        with connect(serve(), protocol) as sock:
            sock.answers = False
            began = now()
            sock.send("close")
            expect_close(sock, 4000, "as asked")
            assert now() - began == pytest.approx(CLOSE_TIMEOUT)

    def test_a_client_that_stays_after_the_end(self, serve: Serve, protocol: str) -> None:
        """Over HTTP/1.1 the connection is closed, over HTTP/2 the stream is reset."""
        server = serve()
        held = "open streams" if protocol == "h2" else "connections"
        with connect(server, protocol) as sock:
            sock.send("close")
            sock.until_closed()
            assert server.worker.left()[held] == 1
            advance(LINGER_CLOSE_TIMEOUT + DISCARD_TIMEOUT + LATE)
            assert held not in server.worker.left()

    def test_a_client_that_reads_nothing_ends_the_view(self, serve: Serve, protocol: str) -> None:
        server = serve(env={"PLAIN_SERVER_SEND_TIMEOUT": "10"})
        name = f"flood-{protocol}"
        with ExitStack() as stack:
            path = f"/ws/flood?name={name}"
            if protocol == "h2":
                client = stack.enter_context(RawClient(server))
                stack.enter_context(Http2Socket(client, path, reads=False))
            else:
                stack.enter_context(Http1Socket(server, path))
            advance(5)
            sent = events(server, name)
            assert set(sent) == {"sent"}
            advance(4)
            assert events(server, name) == sent  # the view waits
            advance(4)
            assert events(server, name) == [*sent, "ended"]


class TestSlowReader:
    def test_a_send_that_is_not_taken_ends_the_view_first(self, serve: Serve) -> None:
        """Plain gives up after 20 s. The stream ends as any that is not read."""
        server = serve(env={"PLAIN_SERVER_SEND_TIMEOUT": "40"})
        with RawClient(server) as client:
            sock = Http2Socket(client, "/ws/flood?name=not-taken", reads=False)
            advance(WRITE_TIMEOUT - 1)
            assert "ended" not in events(server, "not-taken")
            advance(2)
            assert "ended" in events(server, "not-taken")
            advance(40 - WRITE_TIMEOUT - 2)
            assert server.worker.left()["open streams"] == 1
            advance(1 + LATE)
            client.expect_stream_error(sock.stream_id, ErrorCodes.CANCEL)


@protocols
class TestLimits:
    """What clients may leave unread."""

    def test_the_server_stops_reading_what_the_view_does_not(
        self, serve: Serve, protocol: str
    ) -> None:
        """And nothing is lost."""
        server = serve()
        size = 64 * 1024
        with connect(server, protocol, "/ws/deaf") as sock:

            def flood() -> None:
                for _ in range(100):
                    sock.send(bytes(size))

            sending = gevent.spawn(flood)
            advance(1)
            held = server.worker.left()["bytes of bodies"]
            if isinstance(sock, Http2Socket):
                window = sock.client.server_settings[SettingsFrame.INITIAL_WINDOW_SIZE]
                assert held <= MESSAGE_BACKLOG + 2 * size + window
            else:
                # Beside a frame that is under way, and one read from the socket.
                assert held <= MESSAGE_BACKLOG + WEBSOCKET_BACKLOG + 2 * size + RECV_SIZE
            assert not sending.ready()
            with RawClient(server) as other:
                assert other.request("/ws/open-gate").status == 200
            sending.get(timeout=WAIT)
            sock.send(b"last")
            assert sock.recv() == str(100 * size + 4)

    def test_those_that_hold_most_are_evicted(
        self, serve: Serve, protocol: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Over HTTP/2 by a reset, over HTTP/1.1 by a close with 1013."""
        caplog.set_level(logging.DEBUG, "plain.server")
        server = serve()
        size = 2**20 - 14
        with ExitStack() as stack:
            socks = [stack.enter_context(connect(server, protocol, "/ws/deaf")) for _ in range(20)]
            for sock in socks:
                sock.send_bytes(websocket_frame(bytes(size)))
                advance(0.1)
            assert server.worker.left()["bytes of bodies"] <= MAX_UNREAD + size
            evicted = []
            for sock in socks:
                with suppress(AssertionError, TimeoutError, EOFError):
                    sock.recv(2 * VIEW_GRACE)
                if sock.reset == ErrorCodes.ENHANCE_YOUR_CALM or sock.close_code == 1013:
                    evicted.append(sock)
            # As many as bring what is held to the low water: the oldest, but for the largest.
            assert evicted == socks[1:6]
        lines = [r for r in caplog.records if r.getMessage() == "WebSocket holds too much"]
        assert len(lines) == 5
        assert {line.client[0] for line in lines} == {"127.0.0.1"}  # type: ignore[attr-defined]
        assert {line.levelno for line in lines} == {logging.DEBUG}


def test_a_reset_ends_a_view_that_leaves_messages_unread(serve: Serve) -> None:
    """The reader waits for room for one more: it does not see the end by itself."""
    server = serve()
    with RawClient(server) as client:
        stream = client.open(connect_fields("/ws/deaf"), end_stream=False)
        for _ in range(10):
            client.send(data(stream, websocket_frame(bytes(10_000)), end=False))
        client.expect_alive()
        assert server.worker.left()["bytes of bodies"] > MESSAGE_BACKLOG
        client.send(rst_stream(stream))
        advance(VIEW_GRACE + 0.1)
        assert server.worker.left() == {"connections": 1}


class TestBeforeTheViewAccepts:
    """A client may send nothing yet (RFC 6455 section 4.1)."""

    def test_over_http1_it_is_a_503(self, plaintext: MemoryServer) -> None:
        with Client(plaintext.connect("http/1.1")) as client:
            client.send(upgrade_request("/ws/echo") + frame_bytes(0x81, b""))
            assert client.read().status == 503

    def test_some_bytes_are_kept_for_it(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            stream = client.open(connect_fields("/ws/slow-to-accept?s=0.5"), end_stream=False)
            client.send(data(stream, websocket_frame(b"early"), end=False))
            assert client.expect_data(stream, 1)[0].data == b"\x82\x05early"

    def test_more_are_a_reset(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            stream = client.open(connect_fields("/ws/slow-to-accept?s=3"), end_stream=False)
            for _ in range(MAX_EARLY // 16000 + 1):
                client.send(data(stream, bytes(16000), end=False))
            client.expect_stream_error(stream, ErrorCodes.ENHANCE_YOUR_CALM)
            client.expect_alive()

    def test_a_drip_is_a_reset(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            path = connect_fields("/ws/slow-to-accept?s=25")
            silent, drip = client.open(path, end_stream=False), client.open(path, end_stream=False)
            client.send(data(drip, b"x", end=False))
            client.expect_stream_error(drip, ErrorCodes.ENHANCE_YOUR_CALM)
            client.expect_alive()
            assert not [frame for frame in client.frames if frame.stream_id == silent]


class TestHttp1:
    def test_without_tls(self, plaintext: MemoryServer) -> None:
        with Http1Socket(plaintext, "/ws/echo") as sock:
            sock.send("plain")
            assert sock.recv() == "plain"

    def test_subprotocol(self, server: MemoryServer) -> None:
        fields = "Sec-WebSocket-Protocol: unknown, other, chat"
        with Http1Socket(server, "/ws/echo", fields) as sock:
            assert sock.headers["sec-websocket-protocol"] == "other"

    def test_the_key_is_accepted(self, server: MemoryServer) -> None:
        """RFC 6455 section 4.2.2."""
        with Http1Socket(server, "/ws/echo") as sock:
            digest = sha1(b"AAAAAAAAAAAAAAAAAAAAAA==258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
            assert sock.headers["sec-websocket-accept"] == b64encode(digest).decode()

    @pytest.mark.parametrize(
        ("line", "other"),
        [
            ("Upgrade: websocket", "Upgrade: h2c"),
            ("Connection: Upgrade", "Connection: keep-alive"),
            ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 8"),
            ("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Key: AAAA"),
        ],
    )
    def test_what_is_no_handshake_is_a_get(
        self, server: MemoryServer, line: str, other: str
    ) -> None:
        """Plain's view decides: this one has no `get()`."""
        request = upgrade_request("/ws/echo").replace(line.encode(), other.encode())
        with Client(server.connect("http/1.1")) as client:
            client.send(request)
            assert client.read().status == 405

    def test_one_that_is_accepted_as_the_drain_begins_is_told(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The 101 waits for its client: there is no transport yet that could be told."""
        flush = Http1Stream._flush
        server = serve()

        def slow(stream: Http1Stream) -> None:
            if stream.websocket_transport is None:
                server.drain()
                advance(1.0)
            flush(stream)

        monkeypatch.setattr(Http1Stream, "_flush", slow)
        with connect(server, "http/1.1") as sock:
            expect_close(sock, 1001, "Server shutting down")


class TestHttp2:
    def test_it_is_offered(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            client.expect(SettingsFrame, keep=True)
            assert client.server_settings[SettingsFrame.ENABLE_CONNECT_PROTOCOL] == 1

    def test_many_on_one_connection_beside_requests(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            sockets = [Http2Socket(client, "/ws/echo") for _ in range(90)]
            for i, sock in enumerate(sockets):
                sock.send(f"message {i}")
            assert client.request("/").body == b"hello"
            for i, sock in enumerate(sockets):
                assert sock.recv() == f"message {i}"
                sock.close()
            for sock in sockets:
                assert sock.until_closed() == 1000
            assert client.request("/").body == b"hello"

    def test_subprotocol_and_no_field_of_http1(self, server: MemoryServer) -> None:
        with (
            RawClient(server) as client,
            Http2Socket(client, "/ws/echo", ("sec-websocket-protocol", "chat")) as sock,
        ):
            assert sock.headers["sec-websocket-protocol"] == "chat"
            assert not {"sec-websocket-accept", "upgrade", "connection"} & sock.headers.keys()
            assert {"server", "date"} <= sock.headers.keys()

    def test_a_reset_by_the_client_ends_the_view_and_no_other(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            sock = Http2Socket(client, "/ws/ticks?name=reset")
            other = Http2Socket(client, "/ws/echo")
            assert sock.recv() == "tick"
            client.send(rst_stream(sock.stream_id, ErrorCodes.CANCEL))
            wait_for_event(server, "reset", "cleaned up")
            other.send("still here")
            assert other.recv() == "still here"

    def test_the_whole_connection_window_comes_back(self, server: MemoryServer) -> None:
        """17 MB and more, of which the view refuses to take the most."""
        with RawClient(server) as client:
            for _ in range(20):
                stream = client.open(connect_fields("/ws/refused"), end_stream=False)
                for _ in range(60):
                    client.send(data(stream, b"x" * 16000, end=False))
                client.expect_alive()
            assert client.request("/").body == b"hello"

    def test_other_protocols_are_not_implemented(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            fields = [
                (name, "connect-udp" if name == ":protocol" else value)
                for name, value in connect_fields("/ws/echo")
            ]
            assert client.finish(client.open(fields, end_stream=False)).status == 501
            client.expect_alive()

    @pytest.mark.parametrize("missing", [":protocol", ":scheme", ":path", ":authority"])
    def test_malformed(self, server: MemoryServer, missing: str) -> None:
        with RawClient(server) as client:
            fields = [field for field in connect_fields("/ws/echo") if field[0] != missing]
            stream = client.open(fields, end_stream=False)
            client.expect_stream_error(stream, ErrorCodes.PROTOCOL_ERROR)

    def test_protocol_without_connect_is_malformed(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            fields = [(":protocol", "websocket"), *request_fields("/ws/echo")]
            client.expect_stream_error(client.open(fields), ErrorCodes.PROTOCOL_ERROR)

    @pytest.mark.parametrize("path", ["/", "/watched?key=connect", "/ws/echo?maintenance"])
    def test_what_is_no_websocket_refuses_a_connect(self, server: MemoryServer, path: str) -> None:
        """No 2xx, with which the page would be the socket's first bytes."""
        with RawClient(server) as client:
            response = client.finish(client.open(connect_fields(path), end_stream=False))
            assert response.status == 405
            assert ("sec-websocket-version", "13") in response.headers
            client.expect_alive()

    def test_nor_does_its_view_run(self, server: MemoryServer) -> None:
        """It would do for nothing what a GET asks for."""
        with RawClient(server) as client:
            fields = connect_fields("/slow?name=connected&s=0")
            assert client.finish(client.open(fields, end_stream=False)).status == 405
            assert "connected" not in json.loads(client.request("/watched").body)["began"]

    def test_another_version_is_refused(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            fields = [
                (name, "8" if name == "sec-websocket-version" else value)
                for name, value in connect_fields("/ws/echo")
            ]
            assert client.finish(client.open(fields, end_stream=False)).status == 405

    def test_other_answers_to_a_connect_stay(self, server: MemoryServer) -> None:
        with RawClient(server) as client:
            for path, status in (("/nowhere", 404), ("/middleware-error", 500)):
                stream = client.open(connect_fields(path), end_stream=False)
                assert client.finish(stream).status == status


class TestRequestsOfAConnection:
    """`SERVER_H2_MAX_REQUESTS_PER_CONNECTION` ends a connection after its last stream."""

    @pytest.fixture
    def limited(self, serve: Serve) -> MemoryServer:
        return serve(env={"PLAIN_SERVER_H2_MAX_REQUESTS_PER_CONNECTION": "3"})

    @pytest.mark.parametrize("number", [0, 1, 2])
    def test_a_websocket_goes_on(self, limited: MemoryServer, number: int) -> None:
        """Whether it came before the limit or is the last request itself."""
        with RawClient(limited) as client:
            for _ in range(number):
                assert client.request().body == b"hello"
            with Http2Socket(client, "/ws/echo") as sock:
                for _ in range(2 - number):
                    assert client.request().body == b"hello"
                advance(5)
                for message in ("still", "here"):
                    sock.send(message)
                    assert sock.recv() == message
                goaways = [frame for frame in client.frames if isinstance(frame, GoAwayFrame)]
                assert [frame.last_stream_id for frame in goaways] == [2**31 - 1, 5]
                reset = client.expect(RstStreamFrame, client.open())
                assert reset.error_code == ErrorCodes.REFUSED_STREAM
                sock.close()
                expect_close(sock, 1000)
            assert not client.expect_close()[2:]

    def test_the_end_of_the_worker_closes_it(self, limited: MemoryServer) -> None:
        with RawClient(limited) as client, Http2Socket(client, "/ws/echo") as sock:
            for _ in range(2):
                assert client.request().body == b"hello"
            advance(5)
            limited.drain()
            expect_close(sock, 1001, "Server shutting down")
            client.expect_close()


@protocols
class TestDrain:
    def test_it_closes_with_1001(self, serve: Serve, protocol: str) -> None:
        server = serve()
        with connect(server, protocol) as sock:
            sock.send("one")
            assert sock.recv() == "one"
            server.drain()
            expect_close(sock, 1001, "Server shutting down")
        advance(5)
        assert server.has_ended()

    def test_a_close_that_is_not_answered_takes_what_is_left_of_the_drain(
        self, serve: Serve, protocol: str
    ) -> None:
        server = serve(env={"PLAIN_SERVER_GRACEFUL_TIMEOUT": "8"})
        with connect(server, protocol) as sock:
            sock.answers = False
            server.drain()
            began = now()
            expect_close(sock, 1001, "Server shutting down")
            assert now() - began < CLOSE_TIMEOUT
        advance(5)
        assert server.has_ended()

    def test_a_view_that_accepts_too_late_is_a_503(self, serve: Serve, protocol: str) -> None:
        server = serve()
        answers: list[int] = []
        asking = gevent.spawn(
            lambda: answers.append(refusal(server, protocol, "/ws/slow-to-accept?s=2"))
        )
        advance(1)
        server.drain()
        asking.join()
        assert answers == [503]
