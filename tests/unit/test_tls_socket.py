"""TLS on one socket, whose other end is a client of the test's own."""

import socket
import ssl
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import gevent
import pytest
from certificate import make_certificate
from clock import Clock
from gevent import socket as gsocket
from plain.exceptions import ImproperlyConfigured

from plain_gevent_h2.net import tls_socket
from plain_gevent_h2.net.client_hello import NO_APPLICATION_PROTOCOL
from plain_gevent_h2.net.fairness import HandshakeTurns, yield_to_others
from plain_gevent_h2.net.tcp import bytes_acknowledged, close_our_side, enable_keepalive, reset
from plain_gevent_h2.net.tls_context import (
    NoCommonProtocol,
    ProxyHeader,
    server_context,
    why_handshake_failed,
)
from plain_gevent_h2.net.tls_socket import (
    HANDSHAKE_TIMEOUT,
    HANDSHAKE_WAIT,
    MAX_RECORDS,
    RECORD_SIZE,
    RECORDS_WITHOUT_DATA_BURST,
    RECORDS_WITHOUT_DATA_REFILL,
    RecordFlood,
    TlsSocket,
)

PROTOCOLS = ("h2", "http/1.1")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An RSA certificate: more suites are left for the settings to refuse than with ECDSA."""
    return make_certificate(tmp_path_factory.mktemp("rsa"), rsa=2048)


@pytest.fixture(scope="module")
def context(files: tuple[Path, Path]) -> ssl.SSLContext:
    return server_context(str(files[0]), str(files[1]), PROTOCOLS)


def client_context(*alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn:
        context.set_alpn_protocols(alpn)
    return context


class Client:
    """A client whose records are in the test's hands before they are on the wire."""

    def __init__(self, sock: gsocket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.sock.sendall(self._outgoing.read())
                self._incoming.write(self.sock.recv(65536))
            else:
                break
        self.sock.sendall(self._outgoing.read())

    def records(self, *contents: bytes) -> bytes:
        """One record for each."""
        for content in contents:
            self.tls.write(content)
        return self._outgoing.read()

    def read(self, size: int) -> bytes:
        """`size` bytes of what the server sends, or what comes before its close_notify."""
        data = b""
        while len(data) < size:
            try:
                more = self.tls.read(size - len(data))
                if not more:
                    break
                data += more
            except ssl.SSLWantReadError:
                received = self.sock.recv(65536)
                assert received, data
                self._incoming.write(received)
        return data


def spawn(function: Callable[[], object]) -> "gevent.Greenlet[..., object]":
    greenlet = gevent.spawn(function)
    yield_to_others()
    return greenlet


type Connect = Callable[..., tuple[TlsSocket, Client]]


@pytest.fixture
def sockets() -> Iterator[tuple[gsocket.socket, gsocket.socket]]:
    first, second = gsocket.socketpair()
    with first, second, gevent.Timeout(10):
        yield first, second


@pytest.fixture
def pair(
    sockets: tuple[gsocket.socket, gsocket.socket], context: ssl.SSLContext
) -> tuple[TlsSocket, Client]:
    """Both ends, after their handshake. (Without tickets: those are bytes that no test sends.)"""
    server = TlsSocket(sockets[0], context, PROTOCOLS, HandshakeTurns())
    client = Client(sockets[1], client_context("h2"))
    handshake = spawn(server.handshake)
    handshake.link_exception(lambda _: sockets[0].close())  # the client waits no more
    client.handshake()
    handshake.get()
    return server, client


class TestContext:
    def test_no_compression_no_renegotiation_and_all_that_is_off_by_default(
        self, context: ssl.SSLContext
    ) -> None:
        """RFC 9113 section 9.2.1."""
        default = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).options
        added = ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        assert context.options == default | added
        assert context.options & added == added

    @pytest.mark.parametrize(
        "suite",
        [
            "AES128-GCM-SHA256",
            "AES256-SHA",
            "AES128-CCM",
            "ECDHE-RSA-AES128-SHA",
            "ECDHE-RSA-AES128-SHA256",
            "ECDHE-RSA-AES256-SHA384",
        ],
    )
    def test_suites_that_http2_forbids(
        self, context: ssl.SSLContext, files: tuple[Path, Path], suite: str
    ) -> None:
        """RFC 9113 appendix A: no ephemeral keys, or no AEAD. OpenSSL itself would take each."""
        assert self._agree(self._lax(files), suite) == suite
        with pytest.raises(ssl.SSLError):
            self._agree(context, suite)

    @pytest.mark.parametrize(
        "suite",
        [
            "ECDHE-RSA-AES128-GCM-SHA256",
            "ECDHE-RSA-AES256-GCM-SHA384",
            "ECDHE-RSA-CHACHA20-POLY1305",
        ],
    )
    def test_suites_that_http2_allows(self, context: ssl.SSLContext, suite: str) -> None:
        assert self._agree(context, suite) == suite

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
    def test_old_versions(
        self, context: ssl.SSLContext, files: tuple[Path, Path], version: ssl.TLSVersion
    ) -> None:
        lax = self._lax(files)
        lax.minimum_version = version
        self._agree(lax, "ALL", version)
        with pytest.raises(ssl.SSLError):
            self._agree(context, "ALL", version)

    @staticmethod
    def _lax(files: tuple[Path, Path]) -> ssl.SSLContext:
        lax = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        lax.load_cert_chain(*files)
        lax.set_ciphers("ALL:@SECLEVEL=0")
        return lax

    @staticmethod
    def _agree(
        context: ssl.SSLContext, suite: str, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    ) -> str:
        """The suite that a client with this one alone and the server agree on."""
        theirs = client_context()
        theirs.minimum_version = version
        theirs.maximum_version = version
        theirs.set_ciphers(f"{suite}:@SECLEVEL=0")
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = theirs.wrap_bio(back, there, server_hostname="localhost")
        server = context.wrap_bio(there, back, server_side=True)
        for _ in range(3):
            for side in (client, server):
                with suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        cipher = server.cipher()
        assert cipher is not None
        return cipher[0]

    def test_no_compression_and_no_renegotiation(self, context: ssl.SSLContext) -> None:
        """RFC 9113 section 9.2.1."""
        assert context.options & ssl.OP_NO_COMPRESSION
        assert context.options & ssl.OP_NO_RENEGOTIATION

    def test_a_key_needs_a_certificate(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"^--keyfile needs --certfile\.$"):
            server_context(None, "key.pem", PROTOCOLS)

    def test_a_certificate_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "cert.pem").write_text("no certificate")
        with pytest.raises(ImproperlyConfigured, match="has no certificate"):
            server_context(str(tmp_path / "cert.pem"), None, PROTOCOLS)


class TestHandshake:
    @pytest.fixture
    def server(
        self, sockets: tuple[gsocket.socket, gsocket.socket], context: ssl.SSLContext
    ) -> TlsSocket:
        return TlsSocket(sockets[0], context, PROTOCOLS, HandshakeTurns())

    @pytest.fixture
    def peer(self, sockets: tuple[gsocket.socket, gsocket.socket]) -> gsocket.socket:
        return sockets[1]

    @pytest.mark.parametrize(
        ("offered", "agreed"),
        [
            (["h2", "http/1.1"], "h2"),
            (["http/1.1", "h2"], "h2"),
            (["http/1.1"], "http/1.1"),
            (["http/1.0"], "http/1.1"),
            (["ftp", "h2"], "h2"),
            ([], None),
        ],
    )
    def test_protocols(
        self, server: TlsSocket, peer: gsocket.socket, offered: list[str], agreed: str | None
    ) -> None:
        handshake = spawn(server.handshake)
        Client(peer, client_context(*offered)).handshake()
        handshake.get()
        assert server.protocol == agreed

    @pytest.mark.parametrize(
        ("served", "offered"),
        [(("h2",), "http/1.1"), (("h2",), "http/1.0"), (("http/1.1",), "h2"), (PROTOCOLS, "ftp")],
    )
    def test_none_in_common(
        self,
        sockets: tuple[gsocket.socket, gsocket.socket],
        files: tuple[Path, Path],
        served: tuple[str, ...],
        offered: str,
    ) -> None:
        """RFC 7301 section 3.2: a fatal alert, and no answer of another protocol."""
        context = server_context(str(files[0]), str(files[1]), served)
        handshake = spawn(TlsSocket(sockets[0], context, served, HandshakeTurns()).handshake)
        with pytest.raises(ssl.SSLError, match=r"(?i)no application protocol"):
            Client(sockets[1], client_context(offered)).handshake()
        with pytest.raises(NoCommonProtocol, match=r"ALPN offers \[b") as raised:
            handshake.get()
        assert why_handshake_failed(raised.value) == "no protocol in common (ALPN)"

    def test_the_alert_is_on_the_wire(self, server: TlsSocket, peer: gsocket.socket) -> None:
        handshake = spawn(server.handshake)
        out = ssl.MemoryBIO()
        client = client_context("ftp").wrap_bio(ssl.MemoryBIO(), out, server_hostname="x")
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        peer.sendall(out.read())
        assert peer.recv(100) == NO_APPLICATION_PROTOCOL
        with pytest.raises(NoCommonProtocol):
            handshake.get()

    @pytest.mark.parametrize(
        ("sent", "why"),
        [
            (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP without TLS"),
            (b"\0" * 100, "what came was not TLS"),
            (b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", "the PROXY protocol is not supported"),
        ],
    )
    def test_what_is_no_tls(
        self, server: TlsSocket, peer: gsocket.socket, sent: bytes, why: str
    ) -> None:
        peer.sendall(sent)
        with pytest.raises(ssl.SSLError) as raised:
            server.handshake()
        assert why_handshake_failed(raised.value) == why
        assert not isinstance(raised.value, ProxyHeader) or raised.value.args == ("PROXY protocol",)

    def test_a_reason_without_words_of_its_own(self) -> None:
        exc = ssl.SSLError()
        exc.reason = "BAD_KEY_SHARE"
        assert why_handshake_failed(exc) == "bad key share"
        exc.reason = None  # type: ignore[assignment]
        assert why_handshake_failed(exc) == "unknown"
        assert why_handshake_failed(ProxyHeader()) == "the PROXY protocol is not supported"

    def test_a_client_that_leaves(self, server: TlsSocket, peer: gsocket.socket) -> None:
        peer.close()
        with pytest.raises(ConnectionResetError, match=r"^closed in the TLS handshake$"):
            server.handshake()

    def test_in_pieces_of_three_bytes(self, server: TlsSocket, peer: gsocket.socket) -> None:
        # Each piece takes `HANDSHAKE_WAIT` of the client's ten seconds, and a ClientHello with a
        # post-quantum key share (OpenSSL 3.5) has 1,500 bytes.
        handshake = spawn(server.handshake)
        out, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context("h2").wrap_bio(back, out, server_hostname="x")
        while client.version() is None or not handshake.ready():
            with suppress(ssl.SSLWantReadError):
                client.do_handshake()
            while piece := out.read(3):
                peer.sendall(piece)
                yield_to_others()
            if client.version() is None or not handshake.ready():
                back.write(peer.recv(65536))
        handshake.get()
        assert server.protocol == "h2"

    def test_a_client_that_is_late(
        self, server: TlsSocket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tls_socket, "HANDSHAKE_TIMEOUT", 0.02)
        with pytest.raises(TimeoutError, match=r"^TLS handshake$"):
            server.handshake()


class TestPatience:
    """How long a client may keep a handshake waiting, with time that the test sets."""

    @pytest.fixture
    def server(
        self, sockets: tuple[gsocket.socket, gsocket.socket], context: ssl.SSLContext
    ) -> TlsSocket:
        return TlsSocket(sockets[0], context, PROTOCOLS, HandshakeTurns())

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        return Clock.of(tls_socket, monkeypatch)

    def test_each_wait_takes_of_it(self, server: TlsSocket, clock: Clock) -> None:
        def wait() -> None:
            clock.now += 4

        left = server._wait_for_client(wait, HANDSHAKE_TIMEOUT)
        assert left == pytest.approx(HANDSHAKE_TIMEOUT - 4 - HANDSHAKE_WAIT)

    def test_what_comes_late_to_a_busy_hub_takes_half(
        self, server: TlsSocket, clock: Clock
    ) -> None:
        def wait() -> None:
            clock.now += 60

        assert server._wait_for_client(wait, 8.0) == pytest.approx(4 - HANDSHAKE_WAIT)

    @pytest.mark.usefixtures("clock")
    def test_a_thousand_pieces_have_an_end(self, server: TlsSocket) -> None:
        left = HANDSHAKE_TIMEOUT
        for _ in range(int(HANDSHAKE_TIMEOUT / HANDSHAKE_WAIT) - 2):
            left = server._wait_for_client(lambda: None, left)
        assert left == pytest.approx(2 * HANDSHAKE_WAIT)
        with pytest.raises(TimeoutError):
            server._wait_for_client(lambda: None, HANDSHAKE_WAIT)


class TestRecords:
    @pytest.mark.parametrize("piece", [1, 4, 5, 6, 1000, RECORD_SIZE, 10**6])
    @pytest.mark.parametrize("sizes", [[1], [1] * 200, [16384] * 4, [1, 16384, 3, 7000] * 5])
    def test_what_is_sent_arrives_however_it_is_cut(
        self, pair: tuple[TlsSocket, Client], sizes: list[int], piece: int
    ) -> None:
        server, client = pair
        contents = [bytes([i % 256]) * size for i, size in enumerate(sizes)]
        wire = client.records(*contents)
        if len(wire) // piece > 5000:
            piece = len(wire) // 5000

        def send() -> None:
            for start in range(0, len(wire), piece):
                client.sock.sendall(wire[start : start + piece])

        sending = gevent.spawn(send)
        got = b""
        while len(got) < sum(sizes):
            data = server.recv(3000)
            assert 0 < len(data) <= 3000
            got += data
        assert got == b"".join(contents)
        sending.get()

    def test_one_read_takes_so_many_records(self, pair: tuple[TlsSocket, Client]) -> None:
        server, client = pair
        wire = client.records(*[b"x"] * 3 * MAX_RECORDS)
        client.sock.sendall(wire)
        sizes: list[int] = []
        while sum(sizes) < 3 * MAX_RECORDS:
            sizes.append(len(server.recv(RECORD_SIZE)))
        assert max(sizes) <= MAX_RECORDS
        assert len(sizes) < 20

    @pytest.mark.parametrize("size", [1, 999, 1000, 1001, 1500, 1999])
    def test_one_read_takes_so_many_bytes(self, pair: tuple[TlsSocket, Client], size: int) -> None:
        """If so many are here, and no more."""
        server, client = pair
        sent = b"x" * 1000 + b"y" * 1000
        client.sock.sendall(client.records(sent[:1000], sent[1000:]))
        assert server.recv(size) == sent[:size]
        assert server.recv(2000) == sent[size:]

    def test_one_read_takes_what_is_here(self, pair: tuple[TlsSocket, Client]) -> None:
        """Of all records, though OpenSSL is given no more than so many bytes of them at once."""
        server, client = pair
        contents = [bytes([i]) * 10_000 for i in range(5)]
        client.sock.sendall(client.records(*contents))
        assert server.recv(10**6) == b"".join(contents)

    def test_nothing_is_kept_of_what_was_read(self, pair: tuple[TlsSocket, Client]) -> None:
        """Even an empty view keeps all that it was cut from."""
        server, client = pair
        for _ in range(2):
            client.sock.sendall(client.records(b"x" * 10_000, b"y" * 10_000))
            assert len(server.recv(10**6)) == 20_000
            assert type(server._received) is bytes
            assert server._received == b""

    def test_no_read_waits_with_data_in_hand(self, pair: tuple[TlsSocket, Client]) -> None:
        server, client = pair
        wire = client.records(b"first", b"second")
        for cut in (1, 3, 8):
            client.sock.sendall(wire[:-cut])
            assert server.recv(100) == b"first"
            client.sock.sendall(wire[-cut:])
            assert server.recv(100) == b"second"
            wire = client.records(b"first", b"second")

    def test_the_end(self, pair: tuple[TlsSocket, Client]) -> None:
        server, client = pair
        client.sock.sendall(client.records(b"last"))
        client.sock.shutdown(socket.SHUT_WR)
        assert server.recv(100) == b"last"
        assert server.recv(100) == b""

    @pytest.mark.parametrize("cut", [3, 20])
    def test_the_end_within_a_record(self, pair: tuple[TlsSocket, Client], cut: int) -> None:
        server, client = pair
        client.sock.sendall(client.records(b"x" * 100)[:cut])
        client.sock.shutdown(socket.SHUT_WR)
        assert server.recv(100) == b""
        assert server.recv(100) == b""

    def test_close_notify_is_the_end(self, pair: tuple[TlsSocket, Client]) -> None:
        server, client = pair
        with pytest.raises(ssl.SSLWantReadError):
            client.tls.unwrap()
        client.sock.sendall(client.records())
        assert server.recv(100) == b""

    def test_what_comes_before_a_record_that_is_none_is_read_and_then_the_end(
        self, pair: tuple[TlsSocket, Client]
    ) -> None:
        server, client = pair
        client.sock.sendall(client.records(b"last") + b"\x17\x03\x03\x00\x20" + b"x" * 32)
        assert server.recv(100) == b"last"
        assert server.recv(100) == b""

    def test_what_is_no_record_is_an_error(self, pair: tuple[TlsSocket, Client]) -> None:
        server, client = pair
        client.sock.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        with pytest.raises(ssl.SSLError):
            server.recv(100)
        # The alert that says so is sent with what comes next.
        server.flush()
        assert client.sock.recv(100)


def record(size: int) -> bytes:
    return b"\x17\x03\x03" + struct.pack(">H", size) + bytes(size)


class TestPieces:
    """How much of what was received OpenSSL gets at once."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Clock:
        return Clock.of(tls_socket, monkeypatch)

    @pytest.fixture
    def server(
        self, clock: Clock, sockets: tuple[gsocket.socket, gsocket.socket], context: ssl.SSLContext
    ) -> TlsSocket:
        return TlsSocket(sockets[0], context, PROTOCOLS, HandshakeTurns())

    def test_whole_records_and_a_part(self, server: TlsSocket) -> None:
        wire = record(100) + record(50)
        assert server._end_of_piece(wire[:109]) == 105  # a header cut short stays
        assert server._end_of_piece(wire[105:130]) == 25
        assert server._end_of_piece(wire[130:] + b"\x17") == 30
        assert server._end_of_piece(wire[:110]) == 110
        assert server._end_of_piece(wire[110:]) == 50

    def test_no_more_than_so_many_records(self, server: TlsSocket) -> None:
        assert server._end_of_piece(record(1) * (MAX_RECORDS + 1)) == 6 * MAX_RECORDS
        assert server._end_of_piece(record(1)) == 6

    def test_no_more_than_so_many_bytes(self, server: TlsSocket) -> None:
        wire = record(10_000) * 3
        assert server._end_of_piece(wire) == RECORD_SIZE
        assert server._end_of_piece(wire[RECORD_SIZE:]) == 30_015 - RECORD_SIZE

    def test_records_without_data_are_counted(self, server: TlsSocket, clock: Clock) -> None:
        for _ in range(RECORDS_WITHOUT_DATA_BURST // 50):
            server._end_of_piece(record(0) * 50)
        with pytest.raises(RecordFlood, match=r"^TLS records without data$"):
            server._end_of_piece(record(0))
        clock.now += 1
        # The one above counts, too.
        server._end_of_piece(record(0) * (RECORDS_WITHOUT_DATA_REFILL - 51))
        server._end_of_piece(record(0) * 50)
        with pytest.raises(RecordFlood):
            server._end_of_piece(record(0))

    def test_time_forgives_no_more_than_there_was(self, server: TlsSocket, clock: Clock) -> None:
        clock.now += 3600
        for _ in range(RECORDS_WITHOUT_DATA_BURST // 50):
            server._end_of_piece(record(0) * 50)
        clock.now += 3600
        server._end_of_piece(record(0))
        for _ in range(RECORDS_WITHOUT_DATA_BURST // 50):
            server._end_of_piece(record(0) * 50)
        with pytest.raises(RecordFlood):
            server._end_of_piece(record(0))

    def test_those_with_data_are_not_and_forgive_none_of_the_others(
        self, pair: tuple[TlsSocket, Client], clock: Clock
    ) -> None:
        """The clock stands still: no time refills the bucket."""
        server, client = pair
        server._refilled_at = clock.now
        for _ in range(RECORDS_WITHOUT_DATA_BURST // 50 - 1):
            server._end_of_piece(record(0) * 50)
            client.sock.sendall(client.records(*[b"x"] * 10))
            assert b"".join(server.recv(1) for _ in range(10)) == b"x" * 10
        server._end_of_piece(record(0) * 40)  # the handshake had some
        with pytest.raises(RecordFlood):
            server._end_of_piece(record(0) * 10)

    def test_those_with_data_are_not(self, pair: tuple[TlsSocket, Client]) -> None:
        server, client = pair
        for _ in range(2 * RECORDS_WITHOUT_DATA_BURST // 50):
            client.sock.sendall(client.records(*[b"x"] * 50))
            assert server.recv(RECORD_SIZE) == b"x" * 50


class TestSending:
    def test_a_large_response_in_records(self, pair: tuple[TlsSocket, Client]) -> None:
        server, client = pair
        body = bytes(range(256)) * 4000
        sending = gevent.spawn(server.sendall, body)
        assert client.read(len(body)) == body
        sending.get()

    def test_without_waiting(self, pair: tuple[TlsSocket, Client]) -> None:
        server, client = pair
        body = bytes(range(256)) * 8000
        server.encrypt(memoryview(body))
        assert not server.send_now()  # more than the kernel takes
        assert not server.send_now()
        flushing = spawn(server.flush)
        assert not server.send_now()  # it is the other's to send
        assert client.read(len(body)) == body
        flushing.get()
        server.encrypt(b"more")
        assert server.send_now()
        assert client.read(4) == b"more"
        server.settimeout(None)

    def test_two_greenlets_that_send(self, pair: tuple[TlsSocket, Client]) -> None:
        """One after the other: records must not be mixed, nor sent twice."""
        server, client = pair
        bodies = [bytes([i]) * 2**20 for i in range(3)]
        sending = []
        for body in bodies:
            server.encrypt(body)
            sending.append(spawn(server.flush))
        assert client.read(3 * 2**20) == b"".join(bodies)
        gevent.joinall(sending, raise_error=True)
        assert server.send_now()

    def test_afterwards_a_read_waits_as_before(self, pair: tuple[TlsSocket, Client]) -> None:
        server, client = pair
        server.encrypt(b"x")
        assert server.send_now()
        reading = spawn(lambda: server.recv(10))
        assert not reading.ready()
        client.sock.sendall(client.records(b"y"))
        assert reading.get() == b"y"

    def test_what_was_not_taken_is_still_there_after_an_error(
        self, pair: tuple[TlsSocket, Client]
    ) -> None:
        server, client = pair
        server.encrypt(b"x")
        client.sock.close()
        with pytest.raises(OSError, match="pipe"):
            server.flush()
        with pytest.raises(OSError, match="pipe"):
            server.send_now()

    def test_closing_our_side_waits_for_nobody(self, pair: tuple[TlsSocket, Client]) -> None:
        """The kernel's buffer is full. What waits there is sent before the end."""
        server, client = pair
        server.settimeout(5.0)
        body = bytes(2**22)
        server.encrypt(body)
        assert not server.send_now()
        server.settimeout(5.0)
        close_our_side(server)
        assert server.underlying.gettimeout() == 5.0
        with pytest.raises(AssertionError):  # the end comes first
            client.read(len(body))

    def test_nor_does_it_raise(self, pair: tuple[TlsSocket, Client]) -> None:
        server, client = pair
        client.sock.close()
        close_our_side(server)
        close_our_side(server)
        server.close()
        close_our_side(server)

    def test_what_the_peer_has_not_taken_is_known(self, pair: tuple[TlsSocket, Client]) -> None:
        server, client = pair
        server.encrypt(b"x")
        server.flush()
        client.read(1)  # and what the handshake has left
        assert server.unsent() == 0
        server.encrypt(bytes(1000))
        assert server.send_now()
        held = server.unsent()
        server.encrypt(bytes(10_000))
        assert server.send_now()
        if sys.platform.startswith("linux"):
            assert 1000 <= held <= server.unsent() - 10_000
        client.read(11_000)
        assert server.unsent() == 0

    def test_our_side_is_closed(self, pair: tuple[TlsSocket, Client]) -> None:
        server, client = pair
        close_our_side(server)
        assert client.read(1) == b""
        assert client.sock.recv(1) == b""
        wire = client.records(b"late")
        client.sock.sendall(wire)
        assert server.recv(1000) == wire  # to be thrown away
        server.encrypt(b"")
        client.sock.close()
        assert server.recv(1000) == b""


class TestTcp:
    """What is told to the kernel, and asked of it."""

    @pytest.fixture
    def ends(self) -> Iterator[tuple[gsocket.socket, gsocket.socket]]:
        with gsocket.create_server(("127.0.0.1", 0)) as listener:
            ours = gsocket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        with ours, theirs, gevent.Timeout(60):
            yield ours, theirs

    @pytest.fixture(params=["TLS", "TCP"])
    def ours(
        self,
        request: pytest.FixtureRequest,
        ends: tuple[gsocket.socket, gsocket.socket],
        context: ssl.SSLContext,
    ) -> gsocket.socket | TlsSocket:
        return (
            TlsSocket(ends[0], context, PROTOCOLS, HandshakeTurns())
            if request.param == "TLS"
            else ends[0]
        )

    def test_a_reset(
        self, ours: gsocket.socket | TlsSocket, ends: tuple[gsocket.socket, gsocket.socket]
    ) -> None:
        reset(ours)
        with pytest.raises(ConnectionResetError):
            ends[1].recv(1)

    def test_our_side_alone_is_closed(
        self, ours: gsocket.socket | TlsSocket, ends: tuple[gsocket.socket, gsocket.socket]
    ) -> None:
        close_our_side(ours)
        while ends[1].recv(100):
            pass
        ends[1].sendall(b"x")
        assert ours.recv(1) == b"x"

    def test_the_peer_is_probed(
        self, ours: gsocket.socket | TlsSocket, ends: tuple[gsocket.socket, gsocket.socket]
    ) -> None:
        enable_keepalive(ours)
        sock = ends[0]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 10

    def test_what_is_acknowledged(
        self, ours: gsocket.socket | TlsSocket, ends: tuple[gsocket.socket, gsocket.socket]
    ) -> None:
        before = bytes_acknowledged(ours)
        if before is None:
            return  # not on this system
        ends[0].sendall(b"x" * 1000)
        assert ends[1].recv(2000) == b"x" * 1000
        with gevent.Timeout(10):
            while bytes_acknowledged(ours) != before + 1000:
                yield_to_others()

    def test_a_unix_socket_has_none_of_it(
        self, sockets: tuple[gsocket.socket, gsocket.socket]
    ) -> None:
        enable_keepalive(sockets[0])
        assert bytes_acknowledged(sockets[0]) is None
