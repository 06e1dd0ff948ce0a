"""The frames of HTTP/2 as bytes (RFC 9113 section 4): their types, packed and taken apart."""

import struct
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

FRAME_HEADER_SIZE = 9

#: The highest stream identifier: "every stream may still be processed" in a GOAWAY.
MAX_STREAM_ID = 2**31 - 1


class FrameType(IntEnum):
    """Frame types of RFC 9113 section 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class ErrorCodes(IntEnum):
    """Error codes of RFC 9113 section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


ACK = 0x1
END_STREAM = 0x1
END_HEADERS = 0x4
PADDED = 0x8

_HEADER = struct.Struct(">HBBBL")

#: A frame taken apart: its type, flags, stream and payload.
type RawFrame = tuple[int, int, int, bytes]


def error_name(code: int) -> str:
    """The name of `code`, which may be any number if it is a peer's."""
    return ErrorCodes(code).name if code in _ERROR_CODES else "unknown"


_ERROR_CODES = frozenset(ErrorCodes)


def goaway(last_stream_id: int, code: ErrorCodes, debug: bytes = b"") -> bytes:
    """A GOAWAY frame, in bytes. Written beside `h2`, which takes one for the end."""
    return pack_frame(FrameType.GOAWAY, 0, 0, struct.pack(">LL", last_stream_id, code) + debug)


def window_update(increment: int) -> bytes:
    """A WINDOW_UPDATE of the connection, in bytes, for DATA that `h2` did not see."""
    return pack_frame(FrameType.WINDOW_UPDATE, 0, 0, struct.pack(">L", increment))


def rst_stream(stream_id: int, code: ErrorCodes) -> bytes:
    """A RST_STREAM frame (RFC 9113 section 6.4)."""
    return pack_frame(FrameType.RST_STREAM, 0, stream_id, code.to_bytes(4))


def pack_frame(kind: int, flags: int, stream_id: int, payload: bytes | memoryview = b"") -> bytes:
    return b"".join((frame_header(kind, flags, stream_id, len(payload)), payload))


def frame_header(kind: int, flags: int, stream_id: int, size: int) -> bytes:
    return _HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream_id)


def parse_frame_header(buffer: bytearray, pos: int = 0) -> tuple[int, int, int, int]:
    """Type, flags, stream and length of content of the frame at `pos`, whose header is there."""
    high, low, kind, flags, stream_id = _HEADER.unpack_from(buffer, pos)
    return kind, flags, stream_id & MAX_STREAM_ID, (high << 8) | low
