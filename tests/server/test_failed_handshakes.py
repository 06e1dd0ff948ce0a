"""What is said of clients that do not speak TLS, or do where there is none."""

import ssl
from collections.abc import Callable
from contextlib import suppress

import pytest
from h2.errors import ErrorCodes
from harness import Server

from plain_gevent_h2.http2.frames import PREFACE, FrameType, pack_frame


def test_failed_handshakes_are_in_the_log(serve: Callable[..., Server]) -> None:
    server = serve()
    for _ in range(3):
        with server.connect_tcp() as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with suppress(ConnectionResetError):
                sock.recv(100)
    server.wait_log('commonest="HTTP without TLS"')
    assert server.log().count("TLS handshakes failed") == 1
    assert "[WARNING] TLS handshakes failed count=" in server.log()


def test_tls_to_a_port_without_it_is_in_the_log(serve: Callable[..., Server]) -> None:
    server = serve(plaintext=True)
    context = ssl.create_default_context()
    with server.connect_tcp() as sock, suppress(ssl.SSLError, OSError):
        context.wrap_socket(sock, server_hostname="localhost")
    server.wait_log('commonest="TLS to a port without TLS (--certfile)"')


class TestHttp2ByPriorKnowledge:
    """A client of HTTP/2 that did not ask by ALPN is told so, in frames."""

    @pytest.mark.parametrize("plaintext", [True, False])
    def test_the_client_and_the_log_are_told(
        self, serve: Callable[..., Server], plaintext: bool
    ) -> None:
        server = serve(plaintext=plaintext)
        with server.connect() as sock:
            sock.sendall(PREFACE + pack_frame(FrameType.SETTINGS, 0, 0))
            answer = b"".join(iter(lambda: sock.recv(1000), b""))
        assert answer.startswith(pack_frame(FrameType.SETTINGS, 0, 0))
        assert answer[9 + 3] == FrameType.GOAWAY
        assert int.from_bytes(answer[9 + 9 + 4 :][:4]) == ErrorCodes.HTTP_1_1_REQUIRED
        assert answer.endswith(b"HTTP/2 needs TLS and ALPN")
        server.wait_log("HTTP/2 was spoken where it is not served")
