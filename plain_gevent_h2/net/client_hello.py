"""Reads a TLS ClientHello as far as the names that it offers by ALPN (RFC 7301).

If no name is common, OpenSSL goes on without a protocol, as it does for a client that offers no
names. But a client that offers only `ftp` would take the answer for FTP (ALPACA), so it is refused.
"""

from collections.abc import Iterator

#: Bytes of a ClientHello that are parsed. OpenSSL itself takes no larger one.
MAX_SIZE = 128 * 1024

#: The record that refuses a client with no common name: a fatal alert, no_application_protocol.
NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"

#: How a connection starts with the PROXY protocol, in its two versions.
_PROXY_HEADERS = (b"PROXY", b"\r\n\r\n\x00")

_RECORD_HEADER = 5
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_ALPN = 16


class ClientHello:
    """The first message of a handshake, as its bytes arrive."""

    def __init__(self) -> None:
        self._records = bytearray()
        self._message = bytearray()
        self.complete = False  # or it is no ClientHello, which OpenSSL reports
        self.alpn: list[bytes] | None = None  # the names offered; None without the extension
        self.is_proxy_header = False

    def feed(self, data: bytes | memoryview) -> None:
        """Take more of what the client has sent."""
        if self.complete:
            return
        self._records += data
        try:
            self.complete = self._take_records()
            if self.complete:
                self.alpn = _alpn(bytes(self._message))
        except ValueError:
            self.complete = True
        if self.complete:
            self._records.clear()
            self._message.clear()

    def _take_records(self) -> bool:
        """Move the records that are whole into the message; True if that is whole, too.

        Raises `ValueError` for what is no ClientHello.
        """
        records = self._records
        while len(records) >= _RECORD_HEADER:
            end = _RECORD_HEADER + int.from_bytes(records[3:5])
            self.is_proxy_header = records.startswith(_PROXY_HEADERS)
            if records[0] != _HANDSHAKE:
                raise ValueError  # no handshake
            if len(records) < end:
                break
            self._message += records[_RECORD_HEADER:end]
            del records[:end]
            if len(self._message) >= 4:
                if self._message[0] != _CLIENT_HELLO:
                    raise ValueError  # no ClientHello
                if len(self._message) >= 4 + int.from_bytes(self._message[1:4]):
                    return True
        if len(self._message) + len(records) > MAX_SIZE:
            raise ValueError  # too long
        return False


class _Reader:
    """Bytes that are read from their start. Raises `ValueError` past their end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise ValueError  # cut short
        taken, self._at = self._data[self._at : end], end
        return taken

    def vector(self, length_size: int) -> bytes:
        """What follows its own length, a number of `length_size` bytes."""
        return self.take(int.from_bytes(self.take(length_size)))

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)


def _alpn(message: bytes) -> list[bytes] | None:
    """The ALPN names of a ClientHello (RFC 8446 section 4.1.2). Raises `ValueError`."""
    hello = _Reader(_Reader(message[1:]).vector(3))
    hello.take(2 + 32)  # version, random
    hello.vector(1)  # session id
    hello.vector(2)  # cipher suites
    hello.vector(1)  # compression methods
    if hello.at_end:
        return None
    extensions = _Reader(hello.vector(2))
    while not extensions.at_end:
        kind, content = int.from_bytes(extensions.take(2)), extensions.vector(2)
        if kind == _ALPN:
            return list(_names(_Reader(_Reader(content).vector(2))))
    return None


def _names(names: _Reader) -> Iterator[bytes]:
    while not names.at_end:
        yield names.vector(1)
