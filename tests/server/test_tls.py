"""TLS: versions, ciphers, ALPN (RFC 9113 section 9.2)."""

import select
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import raw
from certificate import make_certificate
from harness import WAIT, Server, wait_for
from inside import Inside
from raw import RawClient, request_fields
from tls_hello import client_hello, records
from tools import need


def handshake(server: Server, *options: str, say: str = "") -> tuple[int, str]:
    """What `openssl s_client` makes of it: exit code and output."""
    command = [need("openssl"), "s_client", "-connect", f"127.0.0.1:{server.port}", *options]
    done = subprocess.run(
        command, input=say, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def with_rsa(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    tmp = tmp_path_factory.mktemp("rsa")
    with Server(make_certificate(tmp, rsa=2048), tmp=tmp) as running:
        yield running


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(server: Server, version: str) -> None:
    # Security level 0, or the client would refuse it by itself.
    code, output = handshake(server, version, "-cipher", "DEFAULT:@SECLEVEL=0")
    assert code != 0
    assert "alert protocol version" in output


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_http2_over_either_version(server: Server, version: ssl.TLSVersion) -> None:
    context = server.tls_context("h2")
    context.minimum_version = context.maximum_version = version
    tcp = socket.create_connection(("127.0.0.1", server.port), 10)
    with context.wrap_socket(tcp, server_hostname="localhost") as sock:
        assert sock.selected_alpn_protocol() == "h2"
        assert sock.version() == version.name.replace("_", ".")
        assert sock.compression() is None


@pytest.mark.parametrize(
    "ciphers",
    [
        "AES128-GCM-SHA256",  # no ephemeral keys
        "ECDHE-RSA-AES128-SHA",  # no AEAD
        "ECDHE-RSA-AES256-SHA384",
        "DHE-RSA-AES128-SHA",
        "ECDHE-ECDSA-AES128-SHA",
        "AES256-SHA",
    ],
)
def test_ciphers_that_http2_forbids_are_refused(
    server: Server, with_rsa: Server, ciphers: str
) -> None:
    """RFC 9113 appendix A. Whatever the kind of the certificate's key, as each suite wants one."""
    for each in (server, with_rsa):
        code, output = handshake(each, "-tls1_2", "-cipher", f"{ciphers}:@SECLEVEL=0")
        assert code != 0
        assert "handshake failure" in output


def test_a_cipher_that_http2_allows_is_not(with_rsa: Server) -> None:
    cipher = "ECDHE-RSA-AES128-GCM-SHA256"
    code, output = handshake(with_rsa, "-tls1_2", "-cipher", cipher)
    assert code == 0
    assert cipher in output


def test_renegotiation_is_refused(server: Server) -> None:
    code, output = handshake(server, "-tls1_2", say="R\n")
    assert "RENEGOTIATING" in output
    assert "no renegotiation" in output
    assert code != 0


def test_key_update(server: Server) -> None:
    """RFC 8446 section 4.6.3: "K" asks for new keys of both sides."""
    command = [need("openssl"), "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_3"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"K\n")
        for wanted, then in ((b"KEYUPDATE", b"GET / HTTP/1.0\r\nHost: x\r\n\r\n"), (b"hello", b"")):
            output = b""
            while wanted not in output:
                piece = client.stdout.read(1000)
                assert piece, output
                output += piece
            client.stdin.write(then)


def test_handshakes_that_come_at_once_leave_others_their_turn(server: Server) -> None:
    """Copies of a ClientHello cost a client nothing, and the server 0.4 ms each."""
    outgoing = ssl.MemoryBIO()
    client = server.tls_context("h2").wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="x")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    address, worker = ("127.0.0.1", server.port), server.worker()
    for _ in range(5):  # a test that is held up finds all of them answered, but not each time
        with RawClient(server) as other, ExitStack() as stack:
            other.expect_alive()
            worker.suspend()  # until all of them have come
            hellos = [stack.enter_context(socket.create_connection(address)) for _ in range(400)]
            for sock in hellos:
                sock.sendall(hello)
            worker.resume()
            for _ in range(10):  # the first may come before any of them
                assert other.request("/").body == b"hello"
            answered, _, _ = select.select(hellos, [], [], 0)
            early = len(answered)
            while len(answered) < len(hellos):  # later, all of them are
                answered, _, _ = select.select(hellos, [], [], 1)
        if early < len(hellos):
            break
    assert early < len(hellos)


def test_a_handshake_that_the_server_is_late_for(server: Server) -> None:
    """The client has 10 s for its part: what the hub was busy for is not its fault."""
    with server.connect_tcp() as sock, RawClient(server) as blocking:  # accepted in this order
        blocking.open(request_fields("/hub/block?s=11"))
        with server.tls_context().wrap_socket(sock, server_hostname="localhost") as tls:
            tls.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert tls.recv(65536).startswith(b"HTTP/1.1 200 OK")


class ByRecord:
    """A TLS client whose records are in our hands before they are on the wire."""

    def __init__(self, server: Server, alpn: str, version: ssl.TLSVersion) -> None:
        self.sock = socket.create_connection(("127.0.0.1", server.port), WAIT)
        context = server.tls_context(alpn)
        context.minimum_version = context.maximum_version = version
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._complete(self._tls.do_handshake)

    def _complete[T](self, step: Callable[[], T]) -> T:
        """Do `step`, with what has to be sent and received for it."""
        while True:
            try:
                done = step()
            except ssl.SSLWantReadError:
                self.sock.sendall(self._outgoing.read())
                data = self.sock.recv(65536)
                assert data, "the server has closed"
                self._incoming.write(data)
            else:
                self.sock.sendall(self._outgoing.read())
                return done

    def record(self, data: bytes) -> bytes:
        self._tls.write(data)
        return self._outgoing.read()

    def expect(self, data: bytes) -> None:
        received = b""
        while data not in received:
            received += self._complete(lambda: self._tls.read(65536))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_end_inside_a_record_header(server: Server, version: ssl.TLSVersion) -> None:
    """What came before it is served, and nobody else is held up."""
    client = ByRecord(server, "http/1.1", version)
    with client.sock, RawClient(server) as other:
        request = client.record(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.sock.sendall(request + request[:3])
        client.expect(b"hello")
        client.sock.sendall(client.record(b"GET")[:2])
        client.sock.shutdown(socket.SHUT_WR)
        other.expect_alive()
        while client.sock.recv(65536):
            pass


def test_a_record_header_in_two_parts_on_an_idle_connection(shared: Callable[..., Server]) -> None:
    """Between them the reader gives up its greenlet."""
    server = shared(env={})
    with Inside(server) as inside:
        client = ByRecord(server, "h2", ssl.TLSVersion.TLSv1_3)
        with client.sock:
            client.sock.sendall(client.record(raw.PREFACE + raw.settings()))

            def is_parked() -> bool:
                counted = inside.count()
                parked = counted["alive"]["Greenlet"] == inside.before["alive"]["Greenlet"]
                return bool(parked and counted["connections"] == 1)

            wait_for(is_parked, "parked reader")
            ping = client.record(raw.ping(b"in parts"))
            client.sock.sendall(ping[:3])
            with RawClient(server) as other:  # not served before the reader has had its turn
                other.expect_alive()
            wait_for(is_parked, "parked reader")
            client.sock.sendall(ping[3:])
            client.expect(raw.ping(b"in parts", ack=True))


def test_without_alpn_it_is_http1(server: Server) -> None:
    with server.connect() as sock:
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.selected_alpn_protocol() is None
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "offered", [["ftp"], ["imap", "pop3"], ["h3"], ["H2", "http/0.9"]], ids=str
)
def test_a_client_that_offers_nothing_we_have(
    server: Server, offered: list[str], version: ssl.TLSVersion
) -> None:
    """RFC 7301 section 3.2: it could take our answer for one of its own protocol."""
    context = server.tls_context(*offered)
    context.minimum_version = context.maximum_version = version
    with server.connect_tcp() as sock, pytest.raises(ssl.SSLError) as caught:
        context.wrap_socket(sock, server_hostname="localhost")
    assert "no application protocol" in str(caught.value).lower().replace("_", " ")
    with server.connect(*offered, "http/1.1") as sock:
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.selected_alpn_protocol() == "http/1.1"
    assert "Unexpected" not in server.log()


@pytest.mark.parametrize("offered", [["http/1.0"], ["spdy/3", "http/1.0"]], ids=str)
def test_a_client_that_offers_http_1_0(server: Server, offered: list[str]) -> None:
    with server.connect(*offered) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.selected_alpn_protocol() == "http/1.0"
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.0 200")
    with server.connect("http/1.0", "http/1.1") as sock:
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.selected_alpn_protocol() == "http/1.1"


def test_openssl_sees_the_alert(server: Server) -> None:
    code, output = handshake(server, "-alpn", "ftp")
    assert code
    assert "no application protocol" in output


def test_the_alert_comes_however_the_client_hello_arrives(server: Server) -> None:
    for data in (client_hello("ftp"), records(client_hello("ftp")[5:], 20)):
        with server.connect_tcp() as sock:
            for i in range(0, len(data), 100):
                sock.sendall(data[i : i + 100])
            received = b""
            while more := sock.recv(100):
                received += more
            assert received == bytes([21, 3, 3, 0, 2, 2, 120])


def test_with_h2_alone_a_client_without_alpn_is_turned_away(serve: Callable[..., Server]) -> None:
    """It would get HTTP/1.1."""
    server = serve("--http-protocols", "h2")
    with server.connect() as sock:
        assert sock.recv(100) == b""
    with server.connect_tcp() as sock, pytest.raises(ssl.SSLError, match="no application protocol"):
        server.tls_context("http/1.1").wrap_socket(sock, server_hostname="localhost")


def test_plain_text_on_a_tls_port_hurts_nobody(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), 10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while sock.recv(1000):
            pass
    with RawClient(server) as client:
        assert client.request("/").body == b"hello"
    assert "Unexpected" not in server.log()
