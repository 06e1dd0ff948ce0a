"""Frames as bytes, as hyperframe reads them (RFC 9113 section 4)."""

import pytest
from hyperframe.frame import Frame, GoAwayFrame, WindowUpdateFrame

from plain_gevent_h2.http2.frames import (
    FRAME_HEADER_SIZE,
    MAX_STREAM_ID,
    ErrorCodes,
    FrameType,
    error_name,
    frame_header,
    goaway,
    pack_frame,
    parse_frame_header,
    window_update,
)


def read(frame: bytes) -> Frame:
    """The one frame that there is."""
    found, size = Frame.parse_frame_header(memoryview(frame[:FRAME_HEADER_SIZE]))
    assert len(frame) == FRAME_HEADER_SIZE + size
    found.parse_body(memoryview(frame[FRAME_HEADER_SIZE:]))
    assert not found.flags
    return found


@pytest.mark.parametrize("last", [0, 5, MAX_STREAM_ID])
@pytest.mark.parametrize("debug", [b"", b"why"])
def test_goaway(last: int, debug: bytes) -> None:
    frame = goaway(last, ErrorCodes.ENHANCE_YOUR_CALM, debug)
    # The flags are unused (section 6.8), and so not read by hyperframe.
    assert parse_frame_header(bytearray(frame)) == (FrameType.GOAWAY, 0, 0, 8 + len(debug))
    found = read(frame)
    assert isinstance(found, GoAwayFrame)
    assert (found.stream_id, found.last_stream_id) == (0, last)
    assert (found.error_code, found.additional_data) == (ErrorCodes.ENHANCE_YOUR_CALM, debug)


def test_a_goaway_without_debug_data() -> None:
    assert goaway(1, ErrorCodes.NO_ERROR) == goaway(1, ErrorCodes.NO_ERROR, b"")


@pytest.mark.parametrize("increment", [1, 2**31 - 1])
def test_window_update(increment: int) -> None:
    frame = window_update(increment)
    assert parse_frame_header(bytearray(frame)) == (FrameType.WINDOW_UPDATE, 0, 0, 4)
    found = read(frame)
    assert isinstance(found, WindowUpdateFrame)
    assert (found.stream_id, found.window_increment) == (0, increment)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65535, 65536, 2**24 - 1])
def test_a_header_is_read_as_it_was_written(size: int) -> None:
    header = frame_header(FrameType.DATA, 0xA5, MAX_STREAM_ID, size)
    assert len(header) == FRAME_HEADER_SIZE
    read_back = parse_frame_header(bytearray(b"xx" + header), 2)
    assert read_back == (FrameType.DATA, 0xA5, MAX_STREAM_ID, size)


def test_the_reserved_bit_is_ignored() -> None:
    header = bytearray(frame_header(FrameType.PING, 0, 7, 8))
    header[5] |= 0x80
    assert parse_frame_header(header) == (FrameType.PING, 0, 7, 8)


def test_a_frame_without_payload_is_its_header() -> None:
    assert pack_frame(FrameType.SETTINGS, 1, 0) == frame_header(FrameType.SETTINGS, 1, 0, 0)


def test_codes_have_names_and_those_of_peers_may_have_none() -> None:
    for code in ErrorCodes:
        assert error_name(code) == error_name(int(code)) == code.name
    assert error_name(0xE) == error_name(2**32 - 1) == "unknown"
