"""The filter before `h2`: it splits what a peer sends into frames and settles some of them itself.

`h2` does not take a GOAWAY and stay open, treats some stream errors as connection errors,
and names some errors wrongly. `FrameFilter` checks each frame's header first: it raises
`ConnectionFault` for a violation it can tell from there, hands frames that `h2` handles on
in runs, and gives the others to its caller. `h2` does not parse the headers again.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from .faults import ConnectionFault, StreamFault
from .frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER_SIZE,
    MAX_STREAM_ID,
    PADDED,
    PREFACE,
    ErrorCodes,
    FrameType,
    RawFrame,
    parse_frame_header,
)
from .token_buckets import SMALL_DATA

#: Frames, and bytes of them, that are handed on at once: the most that a reader does before
#: it can give way.
MAX_RUN = 16
MAX_RUN_BYTES = 4096

#: CONTINUATION frames for one header block (CVE-2024-27316). A block of 64 KiB, the default
#: limit, needs three.
MAX_CONTINUATIONS = 32


#: Bytes of a header block, as sent: twice the default limit of a header list, which no client
#: makes longer by compressing it.
MAX_BLOCK_SIZE = 128 * 1024


#: Bytes below which DATA is small.
SMALL_SIZE = 128


#: Frames for `h2`, in the order in which they came.
type Run = list[RawFrame]


class Settled(Enum):
    """What a `DataCheck` says of a frame that is done with."""

    SETTLED = auto()


class DataCheck(Protocol):
    """What becomes of DATA.

    It returns an error code for the DATA's stream, `SETTLED` if nothing more is to be done, or
    `None` if `h2` is to see it. `length` is what flow control counts, `size` the same without
    padding, in bytes.
    """

    def __call__(
        self, stream_id: int, size: int, length: int, *, ends: bool
    ) -> ErrorCodes | Settled | None: ...


class Count(Protocol):
    def __call__(self, kind: int, /) -> None: ...


@dataclass(frozen=True, slots=True)
class GoAway:
    """The peer is going away (RFC 9113 section 6.8). Its streams are still to be served."""

    code: int


class FrameFilter:
    """The frames of one connection, in the order they arrived.

    `max_frame_size` is what we told the peer in our SETTINGS, in bytes. `check_data` is
    asked about DATA, with everything before it handed on. `count` counts a frame of a kind that has
    a limit, and may raise `ConnectionFault`. A header block of more than `max_block_size` bytes
    does: decoding 540 KB of it kept the hub for 61 ms.
    """

    def __init__(
        self,
        max_frame_size: int,
        check_data: DataCheck,
        count: Count,
        max_block_size: int = MAX_BLOCK_SIZE,
    ) -> None:
        self._max_frame_size = max_frame_size
        self._max_block_size = max_block_size
        self._check_data_of_stream = check_data
        self._count = count
        self._buffer = bytearray()
        self._preface_seen = False
        self._settings_seen = False
        # The stream whose header block is open: only its CONTINUATION may follow.
        self._block_stream_id = 0
        self._continuations = 0  # of that block
        self._block_size = 0  # its bytes so far
        self._finished_block = 0  # bytes of the longest that has ended lately
        self._highest_stream_id = 0  # that the peer has opened

    @property
    def preface_seen(self) -> bool:
        """Whether the client has sent its whole preface, SETTINGS included."""
        return self._settings_seen

    @property
    def unfinished_block(self) -> int:
        """Bytes of a header block whose end is still to come."""
        return self._block_size if self._block_stream_id else 0

    def take_finished_block(self) -> int:
        """Bytes of the longest header block that has ended since this was last called."""
        size, self._finished_block = self._finished_block, 0
        return size

    def feed(self, data: bytes) -> Iterator[Run | StreamFault | GoAway]:
        """Yield what is complete: frames for `h2`, and what it should not see.

        The frames are few (`MAX_RUN`), perhaps none. Raises `ConnectionFault`, after everything
        that came before the violation was yielded.
        """
        self._buffer += data
        if not self._preface_seen and not self._take_preface():
            return
        run: Run = []  # that h2 is to see
        start = pos = frames = 0  # where the run begins, and how many frames it took
        try:
            while (header := self._header_at(pos)) is not None:
                kind, flags, stream_id, end = header
                self._check_order(kind, flags, stream_id)
                if kind in _HEADER_BLOCK:
                    self._check_block(kind, flags, end - pos - FRAME_HEADER_SIZE)
                if kind not in _UNLIMITED:
                    self._count(kind)
                if kind == FrameType.HEADERS and stream_id > self._highest_stream_id:
                    self._highest_stream_id = stream_id
                if kind == FrameType.DATA and run:
                    yield run
                    run = []
                    start = pos
                item = self._check(header, pos)
                pos = end
                frames += 1
                if isinstance(item, tuple):
                    run.append(item)
                    item = None
                if item is None and frames < MAX_RUN and end - start < MAX_RUN_BYTES:
                    continue
                yield run
                run = []
                start = end
                frames = 0
                if item is not None:
                    yield item
            if run:
                yield run
        except ConnectionFault:
            yield run
            raise
        finally:
            del self._buffer[:pos]

    def _check(
        self, header: tuple[int, int, int, int], pos: int
    ) -> RawFrame | StreamFault | GoAway | None:
        """The frame at `pos` if `h2` is to see it, perhaps another in its place, or a fault."""
        kind, flags, stream_id, end = header
        if kind == FrameType.DATA:
            outcome = self._check_data(flags, stream_id, pos, end)
            if outcome is not None:
                return None if outcome is Settled.SETTLED else outcome
        elif kind == FrameType.WINDOW_UPDATE and end - pos == FRAME_HEADER_SIZE + 4:
            # The reserved bit is to be ignored (RFC 9113 section 6.9); h2 does not.
            self._buffer[pos + FRAME_HEADER_SIZE] &= 0x7F
        payload = bytes(memoryview(self._buffer)[pos + FRAME_HEADER_SIZE : end])
        if kind in _CHECKED and (kind != FrameType.HEADERS or flags & PADDED):
            item = _CHECKED[kind](flags, stream_id, payload, self._highest_stream_id)
            if item is not None:
                return item
        return (kind, flags, stream_id, payload) if kind in _FOR_H2 else None

    def _check_data(
        self, flags: int, stream_id: int, pos: int, end: int
    ) -> StreamFault | Settled | None:
        length = size = end - pos - FRAME_HEADER_SIZE
        if flags & PADDED and length:
            size -= 1 + self._buffer[pos + FRAME_HEADER_SIZE]
            if size < 0:
                return None  # too much padding: h2 says so
        if size < SMALL_SIZE and not flags & END_STREAM:
            self._count(FrameType.DATA if size <= 0 else SMALL_DATA)
        outcome = self._check_data_of_stream(stream_id, size, length, ends=bool(flags & END_STREAM))
        if outcome is None or outcome is Settled.SETTLED:
            return outcome
        return StreamFault(stream_id, outcome, unseen=length)

    def _header_at(self, pos: int) -> tuple[int, int, int, int] | None:
        """Type, flags, stream and end of the frame at `pos`; None if it is not all here."""
        buffer = self._buffer
        if len(buffer) - pos < FRAME_HEADER_SIZE:
            return None
        kind, flags, stream_id, length = parse_frame_header(buffer, pos)
        if length > self._max_frame_size:
            raise ConnectionFault(ErrorCodes.FRAME_SIZE_ERROR, f"frame of {length} bytes")
        end = pos + FRAME_HEADER_SIZE + length
        return None if len(buffer) < end else (kind, flags, stream_id, end)

    def _take_preface(self) -> bool:
        """Check the client connection preface (RFC 9113 section 3.4); True once it is whole."""
        buffer = self._buffer
        if not PREFACE.startswith(buffer[: len(PREFACE)]):
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "invalid connection preface")
        if len(buffer) < len(PREFACE):
            return False
        del buffer[: len(PREFACE)]
        self._preface_seen = True
        return True

    def _check_block(self, kind: int, flags: int, size: int) -> None:
        """Give up on a header block that is too long, before any of it is decoded."""
        if kind == FrameType.CONTINUATION:
            size += self._block_size
        self._block_size = size
        if size > self._max_block_size:
            reason = f"header block of more than {self._max_block_size} bytes"
            raise ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, reason)
        if size > self._finished_block and flags & END_HEADERS:
            self._finished_block = size

    def _check_order(self, kind: int, flags: int, stream_id: int) -> None:
        """What may come next, whatever is in it (RFC 9113 sections 3.4 and 6.10)."""
        if self._block_stream_id:
            if kind != FrameType.CONTINUATION or stream_id != self._block_stream_id:
                raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "frame inside a header block")
            self._continuations += 1
            if self._continuations > MAX_CONTINUATIONS:
                raise ConnectionFault(ErrorCodes.ENHANCE_YOUR_CALM, "too many CONTINUATION frames")
            if flags & END_HEADERS:
                self._block_stream_id = 0
        elif kind == FrameType.CONTINUATION:
            raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "CONTINUATION outside a header block")
        elif not self._settings_seen:
            if kind != FrameType.SETTINGS or flags & ACK:
                raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self._settings_seen = True
        elif kind == FrameType.HEADERS and not flags & END_HEADERS:
            self._block_stream_id = stream_id
            self._continuations = 0


#: Frames that `h2` handles. PRIORITY is deprecated and ignored (RFC 9113 section 5.3.2),
#: as frames of unknown types are (section 4.1).
_FOR_H2 = frozenset(
    (
        FrameType.DATA,
        FrameType.HEADERS,
        FrameType.RST_STREAM,
        FrameType.SETTINGS,
        FrameType.PUSH_PROMISE,
        FrameType.PING,
        FrameType.WINDOW_UPDATE,
        FrameType.CONTINUATION,
    )
)


#: Frames that bring a header block.
_HEADER_BLOCK = (FrameType.HEADERS, FrameType.CONTINUATION)

#: Frames that are not counted one by one: a request's own (but for DATA without a byte).
_UNLIMITED = frozenset(
    (FrameType.DATA, FrameType.HEADERS, FrameType.CONTINUATION, FrameType.PUSH_PROMISE)
)

#: The settings that `h2` knows: RFC 9113 section 6.5.2 and RFC 8441.
_KNOWN_SETTINGS = frozenset((1, 2, 3, 4, 5, 6, 8))
_SETTING = struct.Struct(">HL")


def _check_padded_headers(
    flags: int, stream_id: int, payload: bytes, _highest_stream_id: int
) -> RawFrame | None:
    """RFC 9113 section 6.2: a fragment may be all padding, which `h2` refuses. Take it off."""
    if not payload or payload[0] >= len(payload):
        return None  # too much of it: h2 says so
    payload = payload[1 : len(payload) - payload[0]]
    return FrameType.HEADERS, flags & ~PADDED, stream_id, payload


def _check_priority(
    _flags: int, stream_id: int, payload: bytes, highest_stream_id: int
) -> StreamFault | None:
    """RFC 9113 section 6.3. On a stream that is idle there is nothing to reset."""
    if stream_id == 0:
        raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "PRIORITY on stream 0")
    code = None
    if len(payload) != 5:
        code = ErrorCodes.FRAME_SIZE_ERROR
    elif int.from_bytes(payload[:4]) & MAX_STREAM_ID == stream_id:
        code = ErrorCodes.PROTOCOL_ERROR  # RFC 7540 section 5.3.1: it depends on itself
    if code is None:
        return None
    if stream_id > highest_stream_id:
        raise ConnectionFault(code, "malformed PRIORITY")
    return StreamFault(stream_id, code)


def _check_rst_stream(_flags: int, stream_id: int, payload: bytes, highest_stream_id: int) -> None:
    """RFC 9113 section 6.4: resetting an idle stream is a connection error; `h2` ignores it."""
    if len(payload) == 4 and stream_id > highest_stream_id:
        raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "RST_STREAM on an idle stream")


def _check_settings(
    flags: int, stream_id: int, payload: bytes, _highest_stream_id: int
) -> RawFrame | None:
    """RFC 9113 section 6.5: an ACK with a payload, and settings of unknown meaning.

    `h2` calls the first a PROTOCOL_ERROR, and keeps the others, each in 0.7 KB: a peer
    could make it keep all 65,536.
    """
    if stream_id == 0 and flags & ACK and payload:
        raise ConnectionFault(ErrorCodes.FRAME_SIZE_ERROR, "SETTINGS ACK with a payload")
    if stream_id != 0 or len(payload) % _SETTING.size:
        return None  # h2 says so
    settings = list(_SETTING.iter_unpack(payload))
    known = [setting for setting in settings if setting[0] in _KNOWN_SETTINGS]
    if len(known) == len(settings):
        return None
    payload = b"".join(_SETTING.pack(*setting) for setting in known)
    return FrameType.SETTINGS, flags, stream_id, payload


def _check_goaway(_flags: int, stream_id: int, payload: bytes, _highest_stream_id: int) -> GoAway:
    """RFC 9113 section 6.8."""
    if stream_id != 0:
        raise ConnectionFault(ErrorCodes.PROTOCOL_ERROR, "GOAWAY on a stream")
    if len(payload) < 8:
        raise ConnectionFault(ErrorCodes.FRAME_SIZE_ERROR, "GOAWAY too short")
    return GoAway(int.from_bytes(payload[4:8]))


def _check_window_update(
    _flags: int, stream_id: int, payload: bytes, highest_stream_id: int
) -> StreamFault | None:
    """RFC 9113 section 6.9: an increment of 0 on a stream is that stream's error only."""
    if len(payload) != 4 or not 0 < stream_id <= highest_stream_id:
        return None
    if int.from_bytes(payload) & MAX_STREAM_ID:
        return None
    return StreamFault(stream_id, ErrorCodes.PROTOCOL_ERROR)


#: Frames whose payload is checked: what is found takes the frame's place, None lets it go on.
_CHECKED: dict[int, Callable[[int, int, bytes, int], RawFrame | StreamFault | GoAway | None]] = {
    FrameType.HEADERS: _check_padded_headers,
    FrameType.PRIORITY: _check_priority,
    FrameType.RST_STREAM: _check_rst_stream,
    FrameType.SETTINGS: _check_settings,
    FrameType.GOAWAY: _check_goaway,
    FrameType.WINDOW_UPDATE: _check_window_update,
}
