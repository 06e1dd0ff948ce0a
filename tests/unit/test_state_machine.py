"""The state machine, given frames that are split already, beside `h2` itself."""

import sys
from collections.abc import Iterable

import pytest
import raw
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, PingReceived, RequestReceived, StreamEnded
from h2.exceptions import FrameDataMissingError, ProtocolError
from hpack import Encoder
from http2_config import CONFIG

from plain_gevent_h2.http2.frames import PREFACE, ErrorCodes, FrameType
from plain_gevent_h2.http2.state_machine import StateMachine, error_code, new_state_machine

FIELDS = ((":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", "/"))
BLOCK = Encoder().encode(FIELDS)
TRAILERS = Encoder().encode([("a", "b")])
OPEN = raw.headers(1, BLOCK, end_stream=False)


@pytest.fixture
def machine() -> StateMachine:
    machine = new_state_machine(CONFIG)
    machine.receive_frames(raw.split(raw.settings()))
    machine.data_to_send()
    return machine


def h2_itself() -> H2Connection:
    """As `h2` has it, for the same fields."""
    config = H2Configuration(
        client_side=False, header_encoding=None, validate_inbound_headers=False
    )
    connection = H2Connection(config)
    connection.initiate_connection()
    connection.receive_data(PREFACE + raw.settings())
    connection.data_to_send()
    return connection


def told(events: Iterable[Event]) -> list[tuple[object, ...]]:
    return [
        (type(event), *(getattr(event, name, None) for name in ("stream_id", "data", "ping_data")))
        for event in events
    ]


FRAMES = {
    "a request": raw.headers(1, BLOCK),
    "in pieces": raw.headers(1, BLOCK[:3], end_stream=False, end_headers=False)
    + raw.continuation(1, BLOCK[3:6], end_headers=False)
    + raw.continuation(1, BLOCK[6:]),
    "a body": OPEN + raw.data(1, b"one", end=False) + raw.data(1, b"two"),
    "padding": OPEN + raw.data(1, b"one", end=False, pad=7) + raw.data(1, b"", pad=0),
    "an empty end": OPEN + raw.data(1),
    "trailers": OPEN
    + raw.data(1, b"x", end=False)
    + raw.headers(1, Encoder().encode([("a", "b")])),
    "windows": OPEN + raw.window_update(0, 5) + raw.window_update(1, 7),
    "a ping": raw.ping(b"12345678") + raw.ping(b"87654321", ack=True),
    "a reset": OPEN + raw.rst_stream(1),
    "settings": raw.settings({3: 5, 4: 100}) + raw.settings_ack(),
}


@pytest.mark.parametrize("frames", FRAMES.values(), ids=FRAMES)
def test_events_and_answers_are_those_of_h2(machine: StateMachine, frames: bytes) -> None:
    other = h2_itself()
    assert told(machine.receive_frames(raw.split(frames))) == told(other.receive_data(frames))
    assert machine.data_to_send() == other.data_to_send()


@pytest.mark.parametrize("frames", FRAMES.values(), ids=FRAMES)
def test_frames_may_come_one_by_one(machine: StateMachine, frames: bytes) -> None:
    other = new_state_machine(CONFIG)
    other.receive_frames(raw.split(raw.settings()))
    together = told(other.receive_frames(raw.split(frames)))
    one_by_one: list[Event] = []
    for frame in raw.split(frames):
        one_by_one += machine.receive_frames([frame])
    assert told(one_by_one) == together


def test_what_arrives_is_in_the_events(machine: StateMachine) -> None:
    frames = OPEN + raw.ping(b"12345678") + raw.data(1, b"body", pad=3)
    request, ping, data, end = machine.receive_frames(raw.split(frames))
    assert isinstance(request, RequestReceived)
    assert [(bytes(n), bytes(v)) for n, v in request.headers or ()] == [
        (name.encode(), value.encode()) for name, value in FIELDS
    ]
    assert isinstance(ping, PingReceived)
    assert isinstance(data, DataReceived)
    assert (data.data, data.flow_controlled_length) == (b"body", 8)
    assert isinstance(end, StreamEnded)


#: Frames that end the connection, and the code.
WRONG = {
    "DATA inside a header block": (
        OPEN + raw.headers(1, TRAILERS, end_headers=False) + raw.data(1),
        ErrorCodes.PROTOCOL_ERROR,
    ),
    "a CONTINUATION of another stream": (
        raw.headers(1, BLOCK, end_headers=False) + raw.continuation(3, b""),
        ErrorCodes.PROTOCOL_ERROR,
    ),
    "DATA on stream 0": (raw.data(0, b"x"), ErrorCodes.PROTOCOL_ERROR),
    "DATA of too much padding": (
        OPEN + raw.pack(FrameType.DATA, raw.PADDED, 1, b"\x05xxxx"),
        ErrorCodes.PROTOCOL_ERROR,
    ),
    "a PING too short": (raw.pack(FrameType.PING, 0, 0, b"1234567"), ErrorCodes.FRAME_SIZE_ERROR),
    "SETTINGS on a stream": (raw.pack(FrameType.SETTINGS, 0, 1), ErrorCodes.PROTOCOL_ERROR),
    "a window too large": (raw.window_update(0, 2**31 - 1), ErrorCodes.FLOW_CONTROL_ERROR),
    "a block that is none": (raw.headers(1, b"\x80"), ErrorCodes.COMPRESSION_ERROR),
}


@pytest.mark.parametrize(("frames", "code"), WRONG.values(), ids=WRONG)
def test_a_fault_has_its_code(machine: StateMachine, frames: bytes, code: ErrorCodes) -> None:
    with pytest.raises(ProtocolError) as raised:
        machine.receive_frames(raw.split(frames))
    assert error_code(raised.value) == code


@pytest.mark.parametrize(("frames", "code"), WRONG.values(), ids=WRONG)
def test_h2_says_nothing_after_a_fault_and_all_before_it(
    machine: StateMachine, frames: bytes, code: ErrorCodes
) -> None:
    """The GOAWAY is for the connection to send."""
    with pytest.raises(ProtocolError):
        machine.receive_frames(raw.split(raw.ping(b"12345678") + frames))
    assert machine.data_to_send() == raw.ping(b"12345678", ack=True)
    with pytest.raises(ProtocolError):
        machine.ping(b"12345678")


def test_a_block_of_very_many_frames_is_refused_by_h2_too(machine: StateMachine) -> None:
    first = raw.headers(1, b"", end_headers=False)
    more = raw.continuation(1, b"", end_headers=False)
    with pytest.raises(ProtocolError):
        machine.receive_frames(raw.split(first + 64 * more))


def test_content_that_is_missing_is_said_so(machine: StateMachine) -> None:
    with pytest.raises(FrameDataMissingError):
        machine.receive_frames([(FrameType.RST_STREAM, 0, 1, b"123")])


def test_no_frame_is_kept(machine: StateMachine) -> None:
    """A connection may be idle for long after the last one."""
    payload = bytes(16384)
    before = sys.getrefcount(payload)
    machine.receive_frames(raw.split(OPEN))
    machine.receive_frames([(FrameType.DATA, 0, 1, payload)])
    assert sys.getrefcount(payload) == before
