"""The ClientHello of OpenSSL."""

import ssl
from contextlib import suppress


def client_hello(*alpn: str) -> bytes:
    """The record with the ClientHello of Python's `ssl`."""
    context = ssl.create_default_context()
    if alpn:
        context.set_alpn_protocols(alpn)
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()
