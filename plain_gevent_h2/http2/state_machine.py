"""The `h2` state machine, as this server sets it up, and what its errors mean."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import h2.errors
from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection, _decode_headers
from h2.events import Event, StreamReset
from h2.exceptions import (
    DenialOfServiceError,
    FlowControlError,
    FrameDataMissingError,
    ProtocolError,
    StreamClosedError,
)
from h2.frame_buffer import FrameBuffer
from h2.settings import ChangedSetting, SettingCodes, Settings
from h2.stream import H2Stream, StreamClosedBy, StreamInputs, StreamState
from hpack.exceptions import HPACKError
from hyperframe.exceptions import InvalidDataError, InvalidFrameError
from hyperframe.frame import FRAMES, DataFrame, Frame, HeadersFrame

from plain_gevent_h2.config import Config

from .frames import (
    END_HEADERS,
    END_STREAM,
    MAX_STREAM_ID,
    PADDED,
    ErrorCodes,
    FrameType,
    RawFrame,
    frame_header,
    pack_frame,
    rst_stream,
    window_update,
)
from .hpack import BoundedDecoder, MemoEncoder

#: The connection's receive window, in bytes: more than a fast network holds in flight, and what
#: the bodies of one connection may have waiting for the disk. (What waits counts here too until it
#: is written: 16 bodies with windows of 1 MiB stop the others.) Bodies in memory, and what is
#: thrown away, give it back at once.
CONNECTION_WINDOW = 16 * 1024 * 1024

#: The receive window that a client counts with until it has our SETTINGS, in bytes (RFC
#: 9113 section 6.9.2).
DEFAULT_WINDOW = 65535

#: Closed streams that `h2` remembers (its default is 65,536: 7.6 MB for a connection).
CLOSED_STREAMS_REMEMBERED = 1024

_H2_CONFIG = H2Configuration(
    client_side=False,
    header_encoding=None,
    # headers.py checks requests, with the stream as the scope of an error, and builds
    # responses that need no check.
    validate_inbound_headers=False,
    normalize_inbound_headers=False,
    validate_outbound_headers=False,
    normalize_outbound_headers=False,
)

#: The states of a stream that sends DATA and stays in them.
_SENDS_DATA = (StreamState.HALF_CLOSED_REMOTE, StreamState.OPEN)


class HeadersDiscarded(Event):
    """HEADERS came on a stream that we had reset."""


def _stream_error(stream_id: int, code: ErrorCodes) -> StreamClosedError:
    """What makes `h2` send a RST_STREAM, and tell of it in a `StreamReset`."""
    error = StreamClosedError(stream_id)
    error.error_code = h2.errors.ErrorCodes(code)
    error._events = [StreamReset(stream_id=stream_id, error_code=code, remote_reset=False)]
    return error


class _H2Stream(H2Stream):
    """A stream of `h2`, but for what `h2` takes for a fault of the connection.

    A malformed request is a fault of its stream (RFC 9113 section 8.1.1).
    """

    def _initialize_content_length(self, headers: Any) -> None:
        """`Receiver` compares it with what comes."""

    def receive_headers(self, headers: Any, end_stream: bool, header_encoding: Any) -> Any:
        if end_stream or not self.state_machine.headers_received:
            return super().receive_headers(headers, end_stream, header_encoding)
        # Trailers that do not end their stream (section 8.1).
        self.state_machine.process_input(StreamInputs.RECV_HEADERS)  # raises if it is closed
        self.reset_stream(ErrorCodes.PROTOCOL_ERROR)
        raise _stream_error(self.stream_id, ErrorCodes.PROTOCOL_ERROR)


class StateMachine(H2Connection):
    """The state machine of `h2` for one connection."""

    MAX_CLOSED_STREAMS = CLOSED_STREAMS_REMEMBERED
    incoming_buffer: "_SplitFrames"
    _look_for_closed_at = 0  # number of streams at which those that are closed are looked for

    @property
    def open_inbound_streams(self) -> int:
        """The number of streams, perhaps with closed ones.

        `h2` compares it with a limit, which it has none of here, as each stream opens. To count
        those that are open it goes through all: with 1,000 of them a third of a request's cost.
        """
        if len(self.streams) < self._look_for_closed_at:
            return len(self.streams)
        return self.forget_closed_streams()

    def frame_headers(
        self, stream_id: int, fields: Iterable[tuple[bytes, bytes]], *, end_stream: bool
    ) -> None:
        """Have a response's header fields in `data_to_send()`. Called once for each stream.

        In place of `send_headers()`: `headers.py` has made them ready to send, so there is nothing
        for `h2` to look for in them (an interim status, a method). Its frame objects took 8 % of a
        small request.
        """
        stream = self._get_stream_by_id(stream_id)
        if self.state_machine.state is not ConnectionState.SERVER_OPEN:
            self.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
        stream.state_machine.process_input(StreamInputs.SEND_HEADERS)
        if end_stream:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        block = self.encoder.encode(fields)
        kind, flags = FrameType.HEADERS, END_STREAM if end_stream else 0
        while len(block) > (size := self.max_outbound_frame_size):
            self._data_to_send += pack_frame(kind, flags, stream_id, block[:size])
            kind, flags, block = FrameType.CONTINUATION, 0, block[size:]
        self._data_to_send += pack_frame(kind, flags | END_HEADERS, stream_id, block)

    def frame_data_header(self, stream_id: int, size: int, *, end_stream: bool) -> bytes:
        """The header of a DATA frame, for which the caller writes the data after it.

        In place of `send_data()`, which copies the data five times over. What `data_to_send()`
        had before goes first.
        """
        stream = self._get_stream_by_id(stream_id)
        if size > min(self.outbound_flow_control_window, stream.outbound_flow_control_window):
            raise FlowControlError(f"{size} bytes for stream {stream_id}")
        # In these states it changes nothing, and takes 2 us of the 16 that a full record does.
        if self.state_machine.state is not ConnectionState.SERVER_OPEN:
            self.state_machine.process_input(ConnectionInputs.SEND_DATA)
        if stream.state_machine.state not in _SENDS_DATA:
            stream.state_machine.process_input(StreamInputs.SEND_DATA)
        if end_stream:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        self.outbound_flow_control_window -= size
        stream.outbound_flow_control_window -= size
        return frame_header(FrameType.DATA, END_STREAM if end_stream else 0, stream_id, size)

    def forget_closed_streams(self) -> int:
        """Give up 2 KiB for each. Returns the number of those that are open."""
        count = super().open_inbound_streams
        self._look_for_closed_at = 2 * len(self.streams) + 16
        return count

    def _begin_new_stream(self, stream_id: int, allowed_ids: Any) -> H2Stream:
        stream = super()._begin_new_stream(stream_id, allowed_ids)
        stream.__class__ = _H2Stream  # h2 has no other place to name it
        return stream

    def receive_frames(self, frames: Iterable[RawFrame]) -> list[Event]:
        """What `receive_data()` does, with frames that are taken apart already."""
        self.incoming_buffer.frames = frames
        try:
            return self.receive_data(b"")
        finally:
            self.incoming_buffer.frames = ()  # they may be large, and the connection idle for long

    def _terminate_connection(self, error_code: Any) -> None:
        """Send nothing more. The GOAWAY is the connection's to send, with the right code."""
        self.state_machine.process_input(ConnectionInputs.SEND_GOAWAY)

    def connection_over(self) -> None:
        """Receive no more: drop the table of this object's methods, which hold the object."""
        self._frame_dispatch_table.clear()

    def _receive_headers_frame(self, frame: HeadersFrame) -> tuple[list[Frame], list[Event]]:
        """RFC 9113 section 5.1: what was under way as we reset its stream is discarded.

        Its header block changes the compression state all the same. Priorities are not followed
        (section 5.3.2), but for RFC 7540 section 5.3.1: no stream depends on itself.
        """
        has_priority = "PRIORITY" in frame.flags
        if frame.stream_id > self.highest_inbound_stream_id and not has_priority:
            return super()._receive_headers_frame(frame)  # nearly every request
        depends_on_itself = has_priority and frame.depends_on == frame.stream_id
        frame.flags.discard("PRIORITY")
        closed_by = self._stream_closed_by(frame.stream_id)
        if closed_by is StreamClosedBy.SEND_RST_STREAM:
            _decode_headers(self.decoder, frame.data)
            return [], [HeadersDiscarded()]
        if closed_by is StreamClosedBy.RECV_RST_STREAM:
            _decode_headers(self.decoder, frame.data)
            raise _stream_error(frame.stream_id, ErrorCodes.STREAM_CLOSED)
        frames, events = super()._receive_headers_frame(frame)
        if depends_on_itself and (stream := self.streams[frame.stream_id]).open:
            stream.reset_stream(ErrorCodes.PROTOCOL_ERROR)
            raise _stream_error(frame.stream_id, ErrorCodes.PROTOCOL_ERROR)
        return frames, events

    def settle_late_data(self, stream_id: int, length: int) -> bool:
        """Settle DATA on a stream that is closed. False if it is not, and `h2` is to see the DATA.

        RFC 9113 section 5.1: what was under way as we reset its stream is discarded, as HEADERS
        are. Else the stream is reset. Only the connection's window is given back. `length` is what
        flow control counts, in bytes. Raises `FlowControlError`.

        `h2` would answer with a reset each time, and takes 31 us in place of 3: 20 clients that
        sent nothing else kept the worker busy for 38 s before they were closed, and do for 7 s.
        """
        if self.state_machine.state is not ConnectionState.SERVER_OPEN:
            return False
        if not self._is_closed(stream_id):
            return False
        window = self._inbound_flow_control_window_manager
        window.window_consumed(length)
        if increment := window.process_bytes(length):
            self._data_to_send += window_update(increment)
        if self._stream_closed_by(stream_id) is not StreamClosedBy.SEND_RST_STREAM:
            self._data_to_send += rst_stream(stream_id, ErrorCodes.STREAM_CLOSED)
        return True

    def _is_closed(self, stream_id: int) -> bool:
        """Whether a stream of the client's is closed, which `h2` may have forgotten since."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            return stream.closed
        return stream_id <= self.highest_inbound_stream_id and stream_id % 2 == 1


class _ClientSettings(Settings):
    """A client's SETTINGS. What it sends is in force at once (RFC 9113 section 6.5.3).

    `h2` keeps a queue for each value, for settings that wait for an ACK: 4 KiB a connection.
    """

    def __init__(self) -> None:
        super().__init__(client=True)
        self._values = {key: values[0] for key, values in self._settings.items()}
        self._settings.clear()
        self._changed: dict[SettingCodes | int, ChangedSetting] = {}

    def acknowledge(self) -> dict[SettingCodes | int, ChangedSetting]:
        changed, self._changed = self._changed, {}
        return changed

    def __getitem__(self, key: SettingCodes | int) -> int:
        return self._values[key]

    def __setitem__(self, key: SettingCodes | int, value: int) -> None:
        self.validate_received_setting(key, value)
        self._changed[key] = ChangedSetting(key, self._values.get(key), value)
        self._values[key] = value

    def __iter__(self) -> Iterator[SettingCodes | int]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class _SplitFrames(FrameBuffer):
    """What `FrameFilter` hands on: frames that are split already, and of a size that we take.

    The order in a header block and the number of its frames are checked here again, by `h2`.

    The content is left out of the text that `h2` makes of each frame for its log. That nobody
    keeps the log does not save the work: 12 us for 16 KiB, a sixth of an upload.
    """

    def __init__(self) -> None:
        super().__init__()
        self.frames: Iterable[RawFrame] = ()

    def add_data(self, data: Any) -> None:
        """Nothing: `frames` is set in its place."""

    def __iter__(self) -> Iterator[Frame]:  # type: ignore[override]  # it is no iterator itself
        for raw in self.frames:
            frame = _plain_data(*raw) if raw[0] == FrameType.DATA else None
            if frame is None or self._headers_buffer:
                frame = self._update_header_buffer(_parse(*raw))
            if frame is not None:
                frame._body_repr = str  # type: ignore[method-assign]
                yield frame


def _plain_data(_kind: int, flags: int, stream_id: int, payload: bytes) -> Frame | None:
    """DATA without padding: 3 us less of the 70 that 16 KiB take."""
    if flags & PADDED or not stream_id:
        return None
    frame = DataFrame(stream_id, payload)
    if flags & END_STREAM:
        frame.flags.add("END_STREAM")
    return frame


def _parse(kind: int, flags: int, stream_id: int, payload: bytes) -> Frame:
    """What `FrameBuffer` makes of a frame that it has split."""
    try:
        frame = FRAMES[kind](stream_id)
        frame.parse_flags(flags)
        frame.parse_body(memoryview(payload))
    except InvalidDataError as exc:
        raise ProtocolError("a frame's content is not what it may be") from exc
    except InvalidFrameError as exc:
        raise FrameDataMissingError("a frame's content is missing") from exc
    return frame


@lru_cache
def _settings(config: Config, max_concurrent_streams: int, initial_window_size: int) -> Settings:
    """Our SETTINGS. One value for all connections: they never change, and take 4 KiB."""
    return Settings(
        client=False,
        initial_values={
            SettingCodes.MAX_CONCURRENT_STREAMS: max_concurrent_streams,
            SettingCodes.INITIAL_WINDOW_SIZE: initial_window_size,
            SettingCodes.MAX_FRAME_SIZE: config.max_frame_size,
            SettingCodes.MAX_HEADER_LIST_SIZE: config.max_header_list_size,
            SettingCodes.ENABLE_CONNECT_PROTOCOL: 1,  # WebSockets (RFC 8441)
        },
    )


def new_state_machine(config: Config) -> StateMachine:
    """A state machine that has our preface (RFC 9113 section 3.4) to send.

    `h2` takes a stream past MAX_CONCURRENT_STREAMS for a fault of the connection; so it is
    told of no limit, and the connection refuses just that stream.
    """
    machine = StateMachine(_H2_CONFIG)
    machine.incoming_buffer = _SplitFrames()
    machine.remote_settings = _ClientSettings()
    machine.encoder = MemoEncoder()
    machine.local_settings = _settings(
        config, config.max_concurrent_streams, config.initial_window_size
    )
    machine.initiate_connection()
    machine.increment_flow_control_window(CONNECTION_WINDOW - DEFAULT_WINDOW)
    if config.initial_window_size >= DEFAULT_WINDOW:
        machine.local_settings = _settings(config, MAX_STREAM_ID, config.initial_window_size)
    else:
        # In force once the client has acknowledged it: not a value to share.
        machine.local_settings = _settings.__wrapped__(config, MAX_STREAM_ID, DEFAULT_WINDOW)
        machine.local_settings[SettingCodes.INITIAL_WINDOW_SIZE] = config.initial_window_size
    # A list past our limit but within this one is decoded, and answered with a 431.
    machine.decoder = BoundedDecoder(2 * config.max_header_list_size, config.max_header_list_size)
    return machine


def error_code(exc: ProtocolError) -> ErrorCodes:
    """The error code for what `h2` raised (RFC 9113 section 7)."""
    if isinstance(exc, DenialOfServiceError):
        return ErrorCodes.ENHANCE_YOUR_CALM
    if isinstance(exc.__cause__, HPACKError | IndexError | UnicodeDecodeError):
        return ErrorCodes.COMPRESSION_ERROR  # section 4.3; h2 says PROTOCOL_ERROR
    return ErrorCodes(exc.error_code)
