"""The state machine, given frames that are split already, beside `h2` itself."""

import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest
import raw
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    DataReceived,
    Event,
    PingReceived,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import FlowControlError, FrameDataMissingError, ProtocolError
from hpack import Encoder, NeverIndexedHeaderTuple
from http2_config import CONFIG

from plain_gevent_h2.http2.frames import (
    FRAME_HEADER_SIZE,
    PREFACE,
    ErrorCodes,
    FrameType,
    pack_frame,
)
from plain_gevent_h2.http2.state_machine import (
    CONNECTION_WINDOW,
    HeadersDiscarded,
    StateMachine,
    error_code,
    new_state_machine,
)

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


def assert_reset(event: Event, stream_id: int, code: ErrorCodes) -> None:
    """It is a stream that the server resets."""
    assert isinstance(event, StreamReset)
    assert (event.stream_id, event.error_code, event.remote_reset) == (stream_id, code, False)


@pytest.mark.parametrize("by", ["client", "server"])
def test_a_late_header_block_changes_the_compression_state(machine: StateMachine, by: str) -> None:
    """RFC 9113 section 4.3: each is decoded, also one on a stream that was reset."""
    encoder = Encoder()
    machine.receive_frames(raw.split(raw.headers(1, encoder.encode(FIELDS), end_stream=False)))
    if by == "client":
        machine.receive_frames(raw.split(raw.rst_stream(1)))
    else:
        machine.reset_stream(1)
    late = raw.headers(1, encoder.encode([("x-state", "kept")]))
    machine.data_to_send()
    (event,) = machine.receive_frames(raw.split(late))
    if by == "client":
        assert_reset(event, 1, ErrorCodes.STREAM_CLOSED)
        assert machine.data_to_send() == raw.rst_stream(1, ErrorCodes.STREAM_CLOSED)
    else:
        assert isinstance(event, HeadersDiscarded)
        assert machine.data_to_send() == b""
    block = encoder.encode([*FIELDS, ("x-state", "kept")])
    assert len(block) == len(FIELDS) + 1  # all from the tables
    request, _ = machine.receive_frames(raw.split(raw.headers(3, block)))
    assert isinstance(request, RequestReceived)
    assert (b"x-state", b"kept") in (request.headers or ())


def test_a_block_of_very_many_frames_is_refused_by_h2_too(machine: StateMachine) -> None:
    first = raw.headers(1, b"", end_headers=False)
    more = raw.continuation(1, b"", end_headers=False)
    with pytest.raises(ProtocolError):
        machine.receive_frames(raw.split(first + 64 * more))


def test_content_that_is_missing_is_said_so(machine: StateMachine) -> None:
    with pytest.raises(FrameDataMissingError, match=r"^a frame's content is missing$"):
        machine.receive_frames([(FrameType.RST_STREAM, 0, 1, b"123")])
    with pytest.raises(ProtocolError, match=r"^a frame's content is not what it may be$"):
        machine.receive_frames([(FrameType.WINDOW_UPDATE, 0, 1, bytes(4))])


def test_no_frame_is_kept(machine: StateMachine) -> None:
    """A connection may be idle for long after the last one."""
    payload = bytes(16384)
    before = sys.getrefcount(payload)
    machine.receive_frames(raw.split(OPEN))
    machine.receive_frames([(FrameType.DATA, 0, 1, payload)])
    assert sys.getrefcount(payload) == before


def make_client() -> H2Connection:
    """A client, and a stream on which it has sent a request."""
    client = H2Connection(H2Configuration(client_side=True, header_encoding=None))
    client.initiate_connection()
    client.send_headers(1, FIELDS, end_stream=False)
    return client


class TestResponses:
    STATUS = (b":status", b"200")

    @pytest.fixture
    def client(self, machine: StateMachine) -> H2Connection:
        client = make_client()
        preface = client.data_to_send()[len(PREFACE) :]
        machine.receive_frames(raw.split(preface))
        client.receive_data(raw.settings() + machine.data_to_send())
        client.data_to_send()
        return client

    @pytest.mark.parametrize("size", [10, 16_000, 20_000, 40_000])
    @pytest.mark.parametrize("end_stream", [False, True])
    def test_header_fields(
        self, machine: StateMachine, client: H2Connection, size: int, end_stream: bool
    ) -> None:
        """In as many frames as they need, after what was to be sent before."""
        fields = [self.STATUS, NeverIndexedHeaderTuple(b"x", b"y" * size)]
        client.max_inbound_frame_size = 16384
        client.decoder.max_header_list_size = 10**6
        machine.ping(b"12345678")
        machine.frame_headers(1, fields, end_stream=end_stream)
        sent = machine.data_to_send()
        frames = raw.split(sent)
        assert max(len(payload) for _, _, _, payload in frames) <= 16384
        events = client.receive_data(sent)
        assert isinstance(events[0], PingReceived)
        assert isinstance(events[1], ResponseReceived)
        assert [tuple(field) for field in events[1].headers or ()] == fields
        assert [isinstance(event, StreamEnded) for event in events[2:]] == [True] * end_stream

    def test_after_their_end_nothing_can_be_sent(
        self, machine: StateMachine, client: H2Connection
    ) -> None:
        machine.frame_headers(1, [self.STATUS], end_stream=True)
        with pytest.raises(ProtocolError):
            machine.frame_data_header(1, 1, end_stream=False)
        with pytest.raises(ProtocolError):
            machine.frame_headers(3, [self.STATUS], end_stream=True)  # there is no such stream

    def test_data(self, machine: StateMachine, client: H2Connection) -> None:
        machine.frame_headers(1, [self.STATUS], end_stream=False)
        sent = machine.data_to_send()
        sent += machine.frame_data_header(1, 3, end_stream=False) + b"one"
        sent += machine.frame_data_header(1, 5, end_stream=True) + b"three"
        assert machine.outbound_flow_control_window == 65535 - 8
        _, first, second, end = client.receive_data(sent)
        assert isinstance(first, DataReceived)
        assert isinstance(second, DataReceived)
        assert (first.data, second.data) == (b"one", b"three")
        assert isinstance(end, StreamEnded)

    @pytest.mark.parametrize("of", ["stream", "connection"])
    def test_no_more_than_a_window(
        self, machine: StateMachine, client: H2Connection, of: str
    ) -> None:
        larger = 0 if of == "stream" else 1
        machine.receive_frames(raw.split(raw.window_update(larger, 1000)))
        machine.frame_headers(1, [self.STATUS], end_stream=False)
        with pytest.raises(FlowControlError, match=r"^65536 bytes for stream 1$"):
            machine.frame_data_header(1, 65536, end_stream=False)
        machine.frame_data_header(1, 65535, end_stream=False)
        with pytest.raises(FlowControlError):
            machine.frame_data_header(1, 1, end_stream=False)

    def test_none_before_the_header_fields(
        self, machine: StateMachine, client: H2Connection
    ) -> None:
        machine.receive_frames(raw.split(raw.data(1)))
        machine.frame_headers(1, [self.STATUS], end_stream=False)
        with pytest.raises(ProtocolError):
            machine.receive_frames(raw.split(raw.headers(2, BLOCK)))  # a server's stream
        with pytest.raises(ProtocolError):
            machine.frame_data_header(1, 1, end_stream=False)  # the connection is at its end
        with pytest.raises(ProtocolError):
            machine.frame_headers(1, [self.STATUS], end_stream=False)


class TestStreamErrors:
    """What is a fault of one stream (RFC 9113 section 5.4.2), and the other goes on."""

    def expect_reset(self, machine: StateMachine, *frames: bytes) -> None:
        *_, event = machine.receive_frames(raw.split(b"".join(frames)))
        assert_reset(event, 1, ErrorCodes.PROTOCOL_ERROR)
        assert machine.data_to_send() == raw.rst_stream(1, ErrorCodes.PROTOCOL_ERROR)
        request, _ = machine.receive_frames(raw.split(raw.headers(3, BLOCK)))
        assert isinstance(request, RequestReceived)

    def test_trailers_that_are_no_end(self, machine: StateMachine) -> None:
        self.expect_reset(machine, OPEN, raw.headers(1, TRAILERS, end_stream=False))

    def test_a_stream_that_depends_on_itself(self, machine: StateMachine) -> None:
        priority = (1).to_bytes(4) + b"\x10"
        self.expect_reset(machine, raw.headers(1, BLOCK, priority=priority))

    @pytest.mark.parametrize("on", [0, 3])
    def test_priorities_are_not_followed(self, machine: StateMachine, on: int) -> None:
        priority = on.to_bytes(4) + b"\x10"
        frames = raw.headers(1, BLOCK, priority=priority)
        request, end = machine.receive_frames(raw.split(frames))
        assert isinstance(request, RequestReceived)
        assert request.priority_updated is None
        assert isinstance(end, StreamEnded)
        assert machine.data_to_send() == b""

    @pytest.mark.parametrize("by", ["client", "server"])
    @pytest.mark.parametrize("pad", [None, 7])
    def test_late_data(self, machine: StateMachine, by: str, pad: int | None) -> None:
        """What was under way is thrown away; who has reset the stream itself knows better."""
        machine.receive_frames(raw.split(OPEN))
        if by == "client":
            machine.receive_frames(raw.split(raw.rst_stream(1)))
        else:
            machine.reset_stream(1)
        machine.data_to_send()
        machine.settle_late_data(1, len(raw.data(1, b"x" * 10, pad=pad)) - FRAME_HEADER_SIZE)
        reset = raw.rst_stream(1, ErrorCodes.STREAM_CLOSED)
        assert machine.data_to_send() == (reset if by == "client" else b"")


class TestSettings:
    def test_a_change_of_the_clients_is_in_force_at_once(self, machine: StateMachine) -> None:
        """For streams that are open, too (RFC 9113 section 6.9.2)."""
        machine.receive_frames(raw.split(OPEN))
        machine.frame_headers(1, [(b":status", b"200")], end_stream=False)
        machine.frame_data_header(1, 40, end_stream=False)
        machine.data_to_send()
        for new in (100, 20, 5000):
            (changed,) = machine.receive_frames(raw.split(raw.settings({4: new})))
            assert isinstance(changed, RemoteSettingsChanged)
            assert list(changed.changed_settings) == [4]
            assert machine.remote_settings.initial_window_size == new
            assert machine.local_flow_control_window(1) == new - 40
            assert machine.data_to_send() == raw.settings_ack()
        assert dict(machine.remote_settings)[4] == 5000
        assert len(machine.remote_settings) == len(list(machine.remote_settings))

    @pytest.mark.parametrize(("key", "value"), [(2, 2), (4, 2**31), (5, 16383), (5, 2**24)])
    def test_a_value_that_may_not_be(self, machine: StateMachine, key: int, value: int) -> None:
        with pytest.raises(ProtocolError):
            machine.receive_frames(raw.split(raw.settings({key: value})))

    @pytest.mark.parametrize("window", [1, 65534, 65535, 65536, 2**20])
    def test_ours(self, window: int) -> None:
        config = replace(
            CONFIG, initial_window_size=window, max_frame_size=20_000, max_header_list_size=5000
        )
        machine = new_state_machine(config)
        settings, update = raw.split(machine.data_to_send())
        assert settings[:3] == (FrameType.SETTINGS, 0, 0)
        told = dict(struct.iter_unpack(">HL", settings[3]))
        assert told.items() >= {3: 100, 4: window, 5: 20_000, 6: 5000, 8: 1}.items()
        increment = CONNECTION_WINDOW - 65535
        assert update == (FrameType.WINDOW_UPDATE, 0, 0, increment.to_bytes(4))
        # Until the client has acknowledged them it goes by the default.
        frames = raw.settings() + OPEN
        machine.receive_frames(raw.split(frames + 4 * raw.data(1, bytes(16383), end=False)))
        machine.receive_frames(raw.split(raw.settings_ack()))
        machine.receive_frames(raw.split(raw.headers(3, BLOCK, end_stream=False)))
        first = min(window, 16384)
        machine.receive_frames(raw.split(raw.data(3, bytes(first), end=False)))
        if window < 16384:
            with pytest.raises(ProtocolError):
                machine.receive_frames(raw.split(raw.data(3, b"x", end=False)))

    def test_a_frame_is_as_large_as_they_say(self) -> None:
        machine = new_state_machine(replace(CONFIG, max_frame_size=20_000))
        data = raw.data(1, bytes(20_000), end=False)
        *_, event = machine.receive_frames(raw.split(raw.settings() + OPEN + data))
        assert isinstance(event, DataReceived)

    @pytest.mark.parametrize(("size", "is_taken"), [(9_900, True), (10_100, False)])
    def test_a_list_of_twice_their_limit_is_taken(self, size: int, is_taken: bool) -> None:
        """It is answered with a 431. Of Huffman's code there is no more than the limit."""
        for huffman, limit in ((False, 5000), (True, size)):
            machine = new_state_machine(replace(CONFIG, max_header_list_size=limit))
            block = Encoder().encode([*FIELDS, ("x", "~" * (size - 200))], huffman=huffman)
            frames = raw.split(raw.settings() + raw.headers(1, block, cuts=[16000][:huffman]))
            if is_taken and not huffman:
                machine.receive_frames(frames)
            else:
                with pytest.raises(ProtocolError):
                    machine.receive_frames(frames)


def test_closed_streams_are_forgotten(machine: StateMachine) -> None:
    most = 0
    for stream_id in range(1, 4001, 2):
        machine.receive_frames(raw.split(raw.headers(stream_id, BLOCK)))
        machine.frame_headers(stream_id, [(b":status", b"204")], end_stream=True)
        most = max(most, len(machine.streams))
        machine.data_to_send()
    assert most <= 20
    assert machine.forget_closed_streams() == 0
    assert len(machine.streams) == 0


LATE = b"x" * 1000
RST_STREAM = FrameType.RST_STREAM


def answer_and_end(machine: StateMachine) -> None:
    machine.frame_headers(1, [(b":status", b"204")], end_stream=True)
    machine.receive_frames(raw.split(raw.data(1)))


#: How stream 1 ends.
ENDS: dict[str, Callable[[StateMachine], object]] = {
    "the client reset it": lambda machine: machine.receive_frames(raw.split(raw.rst_stream(1))),
    "we reset it": lambda machine: machine.reset_stream(1, ErrorCodes.NO_ERROR),
    "both sides ended it": answer_and_end,
    "a later one was opened": lambda machine: machine.receive_frames(
        raw.split(raw.headers(5, BLOCK) + raw.rst_stream(5) + raw.rst_stream(1))
    ),
}


class TestLateData:
    """DATA on a stream that is closed is settled as `h2` would, but for one that we have reset."""

    def closed(self, end: str, *, forgotten: bool = True) -> StateMachine:
        machine = new_state_machine(CONFIG)
        machine.receive_frames(raw.split(raw.settings() + OPEN))
        ENDS[end](machine)
        if forgotten:
            assert not machine.forget_closed_streams()
        machine.data_to_send()
        return machine

    @pytest.mark.parametrize("forgotten", [True, False])
    @pytest.mark.parametrize("end", ENDS)
    def test_to_the_client_it_is_the_same(self, end: str, forgotten: bool) -> None:
        resets = end != "we reset it"  # RFC 9113 section 5.1
        ours, h2 = (self.closed(end, forgotten=forgotten) for _ in range(2))
        sent = 0
        while sent < CONNECTION_WINDOW:
            assert ours.settle_late_data(1, len(LATE))
            assert h2.receive_frames(raw.split(raw.data(1, LATE))) == []
            frames = (f for f in raw.split(h2.data_to_send()) if resets or f[0] != RST_STREAM)
            assert ours.data_to_send() == b"".join(pack_frame(*frame) for frame in frames)
            assert ours.inbound_flow_control_window == h2.inbound_flow_control_window
            sent += len(LATE)

    def test_on_one_that_a_later_one_has_closed(self) -> None:
        ours, h2 = (self.closed("a later one was opened") for _ in range(2))
        assert ours.settle_late_data(3, len(LATE))
        assert h2.receive_frames(raw.split(raw.data(3, LATE))) == []
        assert ours.data_to_send() == h2.data_to_send() != b""

    def test_past_the_connections_window(self) -> None:
        machine = self.closed("we reset it")
        with pytest.raises(FlowControlError):
            machine.settle_late_data(1, CONNECTION_WINDOW + 1)

    @pytest.mark.parametrize("stream_id", [0, 2, 3, 2**31 - 1])
    def test_no_stream_that_was_opened(self, stream_id: int) -> None:
        assert not self.closed("we reset it").settle_late_data(stream_id, 1)

    def test_one_that_is_open(self, machine: StateMachine) -> None:
        machine.receive_frames(raw.split(OPEN))
        assert not machine.settle_late_data(1, 1)
        machine.receive_frames(raw.split(raw.data(1)))
        assert not machine.settle_late_data(1, 1)

    def test_after_the_end_of_the_connection(self) -> None:
        machine = self.closed("we reset it")
        with pytest.raises(ProtocolError):
            machine.receive_frames(raw.split(raw.data(0, LATE)))
        assert not machine.settle_late_data(1, 1)
