"""The chunked coding of a request's body (RFC 9112 section 7.1), a byte at a time and at once."""

import pytest
from plain.server.http.errors import ChunkedFramingError
from plain.server.http.sink import CHUNK_SIZE_LINE_MAX, MAX_TRAILER_SIZE

from plain_gevent_h2.http1.chunked import ChunkedDecoder


def decode(wire: bytes, piece: int) -> tuple[ChunkedDecoder, bytes, bytes]:
    """The decoder, the body and the bytes that are left, of `wire` in pieces of so many bytes."""
    decoder, buffer, body = ChunkedDecoder(), bytearray(), b""
    for start in range(0, len(wire), piece):
        buffer += wire[start : start + piece]
        while not decoder.finished and (data := decoder.take(buffer)):
            body += data
    return decoder, body, bytes(buffer)


pieces = pytest.mark.parametrize("piece", [1, 2, 3, 7, 10**6])


@pieces
@pytest.mark.parametrize(
    ("wire", "body", "trailers"),
    [
        (b"0\r\n\r\n", b"", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello", b""),
        (b"1\r\na\r\n2\r\nbc\r\n000\r\n\r\n", b"abc", b""),
        (b"A\r\n0123456789\r\nb\r\n0123456789a\r\n0\r\n\r\n", b"01234567890123456789a", b""),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n", b""),
        (b"1f\r\n" + b"x" * 31 + b"\r\n0\r\n\r\n", b"x" * 31, b""),
        (b"0\r\nx: y\r\n\r\n", b"", b"x: y"),
        (b"1\r\na\r\n0\r\nx: y\r\nz: \xff\r\n\r\n", b"a", b"x: y\r\nz: \xff"),
        (b'1;x\r\na\r\n0 ;\ty="\xe9"\r\n\r\n', b"a", b""),
        (b"1 \t;\r\na\r\n0\r\n\r\n", b"a", b""),
    ],
)
def test_bodies(wire: bytes, body: bytes, trailers: bytes, piece: int) -> None:
    decoder, got, left = decode(wire, piece)
    assert (decoder.finished, got, decoder.trailers, left) == (True, body, trailers, b"")
    # What is not here yet is waited for, at each byte.
    for end in range(len(wire)):
        decoder, got, _ = decode(wire[:end], piece)
        assert not decoder.finished
        assert body.startswith(got)


def test_what_comes_after_it_stays() -> None:
    decoder, _, left = decode(b"1\r\na\r\n0\r\n\r\nGET / HTTP/1.1", 10**6)
    assert decoder.finished
    assert left == b"GET / HTTP/1.1"
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
    for trailers in (b"", b"x: y\r\n"):
        decoder, _, left = decode(b"0\r\n" + trailers + b"\r\n" + request, 10**6)
        assert decoder.trailers == trailers[:-2]
        assert left == request


def test_a_chunk_is_taken_as_it_arrives() -> None:
    decoder, buffer = ChunkedDecoder(), bytearray(b"6\r\nabc")
    assert decoder.take(buffer) == b"abc"
    assert decoder.take(buffer) == b""
    buffer += b"def\r\n1\r\ng"
    assert decoder.take(buffer) == b"def"
    assert decoder.take(buffer) == b"g"  # one chunk at a time


@pieces
@pytest.mark.parametrize(
    "wire",
    [
        b"x\r\n",
        b"\r\n",
        b"-1\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b"1_0\r\n",
        b" 1\r\na\r\n",
        b"1 \r\na\r\n",
        b"1;\n\r\na\r\n",
        b"1;\x7f\r\na\r\n",
        b"1;\0\r\na\r\n",
        b"1\n\r\na\r\n",
        b"1\r\nab\r\n",
        b"1\r\na\n\r\n",
        b"1\r\na\rb",
        b"1\r\na0\r\n\r\n",
    ],
)
def test_what_is_no_chunk(wire: bytes, piece: int) -> None:
    line = wire.partition(b"\r\n")[0]
    why = "missing CRLF after chunk data" if line == b"1" else f"bad chunk size {line!r}"
    with pytest.raises(ChunkedFramingError) as raised:
        decode(wire, piece)
    assert str(raised.value) == str(ChunkedFramingError(why))


def test_of_a_long_line_the_start_is_told() -> None:
    line = b"x" * 40
    with pytest.raises(ChunkedFramingError, match=f": bad chunk size {line[:32]!r}$"):
        decode(line + b"\r\n", 100)


def test_before_the_end_there_are_no_trailers() -> None:
    assert decode(b"1\r\na\r\n0\r\nx: y\r\n", 100)[0].trailers == b""


def test_a_size_is_as_long_as_its_line_may_be() -> None:
    """Wherever the reads are cut."""
    longest = b"1;" + b"x" * (CHUNK_SIZE_LINE_MAX - 2)
    for piece in (1, 100, 10**6):
        assert decode(longest + b"\r\na\r\n0\r\n\r\n", piece)[1] == b"a"
        for end in (b"\r", b""):
            assert not decode(longest + end, piece)[0].finished
        for end in (b"x\r\na", b"xx", b"\rx"):
            with pytest.raises(ChunkedFramingError, match=r": chunk size line too long$"):
                decode(longest + end, piece)


def test_trailers_are_as_long_as_they_may_be() -> None:
    longest = b"x: " + b"y" * (MAX_TRAILER_SIZE - 3)
    for piece in (1000, 1001, 10**6):
        decoder, _, left = decode(b"0\r\n" + longest + b"\r\n\r\nnext", piece)
        assert decoder.trailers == longest
        assert b"next".startswith(left)
        for end in (b"", b"\r", b"\r\n", b"\r\n\r"):
            assert not decode(b"0\r\n" + longest + end, piece)[0].finished
        for end in (b"y\r\n\r\n", b"yyyy"):
            with pytest.raises(ChunkedFramingError, match=r": trailer section too large$"):
                decode(b"0\r\n" + longest + end, piece)
