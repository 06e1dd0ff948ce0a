"""The chunked transfer coding of HTTP/1.1 requests (RFC 9112 section 7.1)."""

import re

from plain_gevent_h2.app.plain_internals import (
    CHUNK_SIZE_LINE_MAX,
    MAX_TRAILER_SIZE,
    ChunkedFramingError,
)

# An extension has no control character: a proxy in front of the server that takes a bare LF for the
# end of the line would find other chunks, and in them another request (request smuggling).
_SIZE_LINE_RE = re.compile(rb"([0-9A-Fa-f]+)(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")


class ChunkedDecoder:
    """Takes the chunks of one body off a buffer, one at a time.

    Plain's own decoder takes all chunks that are there at once, which can keep the hub for 80 ms
    (256 KiB in chunks of one byte, measured), and lets any extension pass.

    `BodyReader` makes one for each body, and reads `finished` and `trailers`.
    """

    def __init__(self) -> None:
        self.finished = False
        self.trailers = b""  # the lines of the trailers, once it is finished
        self._left = 0  # bytes of the chunk that are still to come
        self._crlf_due = False  # the CRLF after the chunk is still to come
        self._in_trailers = False  # the last chunk has come

    def take(self, buffer: bytearray) -> bytes:
        """Some of the body; no bytes if more has to arrive, or at the end.

        Raises `ChunkedFramingError`.
        """
        if not self._left and not self._next_chunk(buffer):
            return b""
        data = bytes(memoryview(buffer)[: self._left])
        del buffer[: len(data)]
        self._left -= len(data)
        return data

    def _next_chunk(self, buffer: bytearray) -> bool:
        """Take what stands before the data of the next chunk. Return True if that is all here."""
        if self._crlf_due:
            if len(buffer) < 2:
                return False
            if not buffer.startswith(b"\r\n"):
                raise ChunkedFramingError("missing CRLF after chunk data")
            del buffer[:2]
            self._crlf_due = False
        if not self._in_trailers and (line := self._size_line(buffer)) is not None:
            match = _SIZE_LINE_RE.fullmatch(line)
            if match is None:
                raise ChunkedFramingError(f"bad chunk size {line[:32]!r}")
            self._left = int(match[1], 16)
            self._crlf_due = self._left > 0
            self._in_trailers = not self._crlf_due
        if self._in_trailers:
            self._take_trailers(buffer)
        return self._left > 0

    def _size_line(self, buffer: bytearray) -> bytes | None:
        end = buffer.find(b"\r\n", 0, CHUNK_SIZE_LINE_MAX + 2)
        if end < 0:
            if len(buffer) >= CHUNK_SIZE_LINE_MAX + 2:  # part of the CRLF may be here
                raise ChunkedFramingError("chunk size line too long")
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 2]
        return line

    def _take_trailers(self, buffer: bytearray) -> None:
        """Take the trailers if they are all here: an empty line, or lines and an empty line."""
        end = 0 if buffer.startswith(b"\r\n") else buffer.find(b"\r\n\r\n")
        if end > MAX_TRAILER_SIZE or (end < 0 and len(buffer) >= MAX_TRAILER_SIZE + 4):
            raise ChunkedFramingError("trailer section too large")
        if end >= 0:
            self.trailers = bytes(buffer[:end])
            del buffer[: end + (4 if end else 2)]
            self.finished = True
