"""TLS: the server's context, and the handshake of one connection."""

import ssl
from collections.abc import Sequence
from contextlib import suppress

import gevent
from gevent import socket as gsocket
from plain.exceptions import ImproperlyConfigured

#: Seconds a client has for its TLS handshake. Plain's own worker gives 10 as well.
HANDSHAKE_TIMEOUT = 10.0

#: TLS 1.2 suites that RFC 9113 section 9.2.2 lets HTTP/2 use: ephemeral key exchange and
#: an AEAD cipher. (TLS 1.3 has no others, and is set up apart from this.)
TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def server_context(
    certfile: str | None, keyfile: str | None, protocols: Sequence[str]
) -> ssl.SSLContext:
    """A context for TLS 1.2 and up that offers `protocols` (ALPN names) in their order.

    Raises `ImproperlyConfigured`, in one line, if the certificate or key does not load.
    """
    if certfile is None:
        raise ImproperlyConfigured("--keyfile needs --certfile.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS12_CIPHERS)
    # RFC 9113 section 9.2.1: no compression, no renegotiation.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(list(protocols))
    try:
        context.load_cert_chain(certfile, keyfile)
    except (OSError, ssl.SSLError) as exc:
        raise ImproperlyConfigured(
            f"--certfile {certfile} (--keyfile {keyfile}) does not load: {exc}"
        ) from exc
    return context


def handshake(sock: gsocket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Do the TLS handshake on an accepted connection, in the calling greenlet.

    Raises `OSError` (of which `ssl.SSLError` is one) if it fails or takes longer than
    `HANDSHAKE_TIMEOUT` seconds.
    """
    with gevent.Timeout(HANDSHAKE_TIMEOUT, TimeoutError("TLS handshake")):
        return context.wrap_socket(sock, server_side=True)


def close_our_side(sock: gsocket.socket) -> None:
    """Say that nothing more comes, in TLS and in TCP, without waiting for the peer.

    What the peer still sends is to be read before the socket is closed: closing it with
    bytes unread would make the kernel send a reset, which can destroy our last bytes.
    """
    timeout = sock.gettimeout()
    sock.settimeout(0.0)
    try:
        if isinstance(sock, ssl.SSLSocket):
            sock.unwrap()  # sends close_notify, then would wait for the peer's
    except (OSError, ValueError):
        pass
    finally:
        sock.settimeout(timeout)
    with suppress(OSError):
        gsocket.socket.shutdown(sock, gsocket.SHUT_WR)
