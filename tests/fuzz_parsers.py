"""What takes a client's bytes apart, given any bytes: frames, HPACK, header fields, chunks.

Each target raises nothing but what its caller expects, or an `AssertionError`. `test_fuzz.py` runs
them on what hypothesis makes up, `fuzz_guided.py` on what atheris does.
"""

from collections.abc import Callable, Iterable

from hpack import Decoder, HPACKError, OversizedHeaderListError
from plain.server.http import sink
from plain.server.http.errors import ChunkedFramingError

from plain_gevent_h2.http1.chunked import ChunkedDecoder
from plain_gevent_h2.http2.faults import ConnectionFault
from plain_gevent_h2.http2.frame_filter import FrameFilter
from plain_gevent_h2.http2.frames import FRAME_HEADER_SIZE, PREFACE, ErrorCodes
from plain_gevent_h2.http2.headers import (
    MalformedRequest,
    RefusedRequest,
    check_trailers,
    parse_request,
)
from plain_gevent_h2.http2.hpack import MAX_FIELD_LINES, BoundedDecoder

MAX_FRAME_SIZE = 16384


def _read(pieces: Iterable[bytes]) -> list[object]:
    """What a reader makes of the pieces, with what goes to h2 in a row put together."""

    def check(stream_id: int, size: int, length: int, *, ends: bool) -> ErrorCodes | None:
        return ErrorCodes.PROTOCOL_ERROR if (stream_id + size + ends) % 7 == 6 else None

    frame_filter = FrameFilter(MAX_FRAME_SIZE, check, lambda _kind: None)
    found: list[object] = []
    try:
        for piece in pieces:
            for item in frame_filter.feed(piece):
                if isinstance(item, list) and found and isinstance(found[-1], list):
                    found[-1] += item
                elif item:
                    found.append(item)
    except ConnectionFault as fault:
        found.append(str(fault))
    return found


def frames(data: bytes) -> None:
    """The frames are the same however the bytes arrive, and nothing is read past a fault."""
    cut = data[0] if data else 1
    for sent in (data, PREFACE + data, PREFACE + b"\0\0\0\4\0\0\0\0\0" + data):
        whole = _read([sent])
        assert whole == _read([sent[:cut], sent[cut:]])
        assert whole == _read(sent[i : i + 1] for i in range(len(sent)))
        frames = [frame for item in whole if isinstance(item, list) for frame in item]
        assert sum(FRAME_HEADER_SIZE + len(frame[-1]) for frame in frames) <= len(sent)


def block(data: bytes) -> None:
    """We decode what hpack does, twice the same, or refuse it as it does."""
    ours, theirs = BoundedDecoder(65536), Decoder(65536)
    for decoders_block in (data, data):
        outcomes: list[object] = []
        for decoder in (ours, theirs):
            try:
                outcomes.append(list(decoder.decode(decoders_block, raw=True)))
            except HPACKError as exc:
                outcomes.append(type(exc))
        if outcomes[0] is OversizedHeaderListError and isinstance(outcomes[1], list):
            assert len(outcomes[1]) > MAX_FIELD_LINES
            return
        assert outcomes[0] == outcomes[1]
        if isinstance(outcomes[0], type):
            return


def request(data: bytes) -> None:
    """What comes through is a request that could be written as HTTP/1.1 without harm."""
    try:
        fields = [(bytes(n), bytes(v)) for n, v in BoundedDecoder(65536).decode(data, raw=True)]
    except HPACKError:
        return
    try:
        check_trailers(fields)
    except MalformedRequest:
        pass
    else:
        assert not any(name.startswith(b":") for name, _ in fields)
    fields = [field for field in fields if field[0] != b"content-length"]  # h2 checks it
    for extra in ([], _REQUEST):
        try:
            head = parse_request([*extra, *fields], 65536)
        except (MalformedRequest, RefusedRequest):
            continue
        for text in (head.method, head.path, *(part for field in head.fields for part in field)):
            assert not set(text) & set("\r\n\0")
            assert text.encode("latin-1").decode("latin-1") == text
        assert not set(head.method + head.path) & set(" \t")
        assert head.path.isascii()
        assert head.method == head.method.upper()
        assert head.path.startswith("/") or (head.method, head.path) == ("OPTIONS", "*")
        names = [name for name, _ in head.fields]
        assert names == [name.lower() for name in names]
        assert not any("_" in name for name in names)
        assert names.count("host") <= 1
        assert "transfer-encoding" not in names


_REQUEST = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"a")]


def _chunks(pieces: Iterable[bytes]) -> tuple[bytes, bytes | None, bytes]:
    """The body in the pieces, its trailers if it is whole, and what comes after it."""
    decoder, buffer, body = ChunkedDecoder(), bytearray(), b""
    for piece in pieces:
        buffer += piece
        while not decoder.finished and (data := decoder.take(buffer)):
            body += data
    return (body, decoder.trailers, bytes(buffer)) if decoder.finished else (body, None, b"")


def chunks(data: bytes) -> None:
    """Ours are those that Plain finds, however the bytes arrive, or we refuse them."""
    for sent in (data, b"3\r\nabc\r\n" + data, b"0\r\n" + data):
        theirs = sink.ChunkedDecoder()
        try:
            ours = _chunks([sent])
        except ChunkedFramingError:
            continue
        assert ours == _chunks(sent[i : i + 1] for i in range(len(sent)))
        body = theirs.feed(sent)
        assert ours == (
            (body, theirs.trailers, theirs.leftover) if theirs.finished else (body, None, b"")
        )


TARGETS: dict[str, Callable[[bytes], None]] = {
    "frames": frames,
    "block": block,
    "request": request,
    "chunks": chunks,
}
