"""The ClientHello of OpenSSL, and the records of a handshake."""

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


def records(content: bytes, size: int = 2**14) -> bytes:
    """Messages of a handshake in records of `size` bytes (RFC 8446 section 5.1)."""
    pieces = [content[i : i + size] for i in range(0, len(content), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2) + piece for piece in pieces)
