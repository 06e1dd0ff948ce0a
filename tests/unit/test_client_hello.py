"""The names that a TLS ClientHello offers by ALPN, in records of any size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tls_hello import client_hello, records

from plain_gevent_h2.net.client_hello import MAX_SIZE, ClientHello


def vector(content: bytes, size: int) -> bytes:
    return len(content).to_bytes(size) + content


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2) + vector(content, 2)


def alpn(*names: bytes) -> bytes:
    return extension(16, vector(b"".join(vector(name, 1) for name in names), 2))


#: An extension that is not read, and whose content looks like another.
OTHER = extension(0, alpn(b"other"))

PARAMETERS = b"\x03\x03" + b"r" * 32 + vector(b"session", 1) + vector(b"\x13\x01", 2) + b"\x01\x00"


def message(*extensions: bytes, kind: int = 1) -> bytes:
    return bytes([kind]) + vector(PARAMETERS + vector(b"".join(extensions), 2), 3)


def feed(wire: bytes, piece: int = 10**6) -> ClientHello:
    hello = ClientHello()
    for i in range(0, len(wire), piece):
        hello.feed(memoryview(wire)[i : i + piece])
    return hello


@pytest.mark.parametrize("piece", [1, 4, 5, 10**6])
@pytest.mark.parametrize("size", [1, 3, 4, 50, 2**14])
def test_the_names_however_they_arrive(size: int, piece: int) -> None:
    wire = records(message(OTHER, alpn(b"h2", b"http/1.1"), OTHER), size)
    hello = feed(wire, piece)
    assert hello.complete
    assert hello.alpn == [b"h2", b"http/1.1"]
    assert not hello.is_proxy_header
    assert not feed(wire[:-1], piece).complete


@pytest.mark.parametrize("piece", [1, 7, 10**6])
@pytest.mark.parametrize("size", [1, 50, 2**14])
@pytest.mark.parametrize("names", [(), ("ftp",), ("h2", "http/1.1")], ids=str)
def test_that_of_openssl(names: tuple[str, ...], size: int, piece: int) -> None:
    wire = records(client_hello(*names)[5:], size)
    hello = feed(wire, piece)
    assert hello.complete
    assert hello.alpn == ([name.encode() for name in names] or None)
    assert not feed(wire[:-1], piece).complete


OF_OPENSSL = client_hello("ftp", "h2")
OCTETS = st.tuples(st.integers(0, len(OF_OPENSSL) - 1), st.integers(0, 255))


@given(st.lists(OCTETS, max_size=8))
def test_one_with_changed_octets_is_for_openssl_to_refuse(changes: list[tuple[int, int]]) -> None:
    wire = bytearray(OF_OPENSSL)
    for position, octet in changes:
        wire[position] = octet
    feed(bytes(wire))


def test_at_first_nothing_is_known() -> None:
    hello = ClientHello()
    assert (hello.complete, hello.alpn, hello.is_proxy_header) == (False, None, False)


@pytest.mark.parametrize("hello", [message(OTHER), message(), b"\x01" + vector(PARAMETERS, 3)])
def test_without_the_extension(hello: bytes) -> None:
    got = feed(records(hello))
    assert (got.complete, got.alpn) == (True, None)


def test_no_names_are_not_the_same_as_no_extension() -> None:
    assert feed(records(message(alpn()))).alpn == []


def test_what_follows_it_is_left_alone() -> None:
    wire = records(message(alpn(b"h2")))
    hello = feed(wire + b"GET")
    assert hello.alpn == [b"h2"]
    hello.feed(records(message(alpn(b"ftp"))))
    assert hello.alpn == [b"h2"]
    # In the same record, too.
    assert feed(records(message(alpn(b"h2")) + message(alpn(b"ftp")))).alpn == [b"h2"]


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"\x17\x03\x03\x00\x00", id="no handshake"),
        pytest.param(b"GET / HTTP/1.1\r\n", id="HTTP"),
        pytest.param(records(message(alpn(b"h2"), kind=2)), id="no ClientHello"),
        pytest.param(records(b"\x02\x00\x00\x05"), id="no ClientHello, by its header"),
        pytest.param(records(b"\x01\x00\x00\x00"), id="no bytes"),
        pytest.param(records(message(alpn(b"h2")))[:5] + b"\x02\0\0\0" + b"x" * 200, id="another"),
        pytest.param(records(message(extension(16, b"\x00\x05\x02h2"))), id="cut list"),
        pytest.param(records(message(extension(16, b"\x00\x03\x09h2"))), id="cut name"),
        pytest.param(records(message(b"\x00\x10\x00\x09h2")), id="cut extension"),
        pytest.param(records(b"\x01\x00\x00\x02\x03\x03"), id="cut parameters"),
    ],
)
def test_what_is_none_is_for_openssl_to_refuse(wire: bytes) -> None:
    hello = feed(wire)
    assert (hello.complete, hello.alpn, hello.is_proxy_header) == (True, None, False)
    hello.feed(records(message(alpn(b"h2"))))
    assert hello.alpn is None


@pytest.mark.parametrize(
    "start", [b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", b"\r\n\r\n\x00\r\nQUIT\n"]
)
def test_the_header_of_a_proxy_is_known(start: bytes) -> None:
    hello = feed(start, 1)
    assert (hello.complete, hello.is_proxy_header) == (True, True)
    assert not feed(start[:4]).complete


def test_one_that_is_too_long_is_given_up() -> None:
    """A message that tells a length of 16 MiB, in records of one byte and in large ones."""
    endless = b"\x01" + (2**24 - 1).to_bytes(3) + bytes(2 * MAX_SIZE)
    for size in (100, 2**14):
        hello, fed = ClientHello(), 0
        wire = records(endless, size)
        while not hello.complete:
            hello.feed(wire[fed : fed + 1000])
            fed += 1000
        assert MAX_SIZE < fed < MAX_SIZE * 1.1
        assert hello.alpn is None


def test_the_longest_that_is_taken() -> None:
    padding = [extension(21, bytes(60_000)), alpn(b"h2")]
    assert feed(records(message(*padding)), 1000).alpn == [b"h2"]
