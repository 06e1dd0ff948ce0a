"""What an HTTP/2 connection writes, and when, on a socket of the test's own."""

from collections.abc import Iterator

import gevent
import pytest
from clock import Clock
from gevent.event import Event
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from h2.settings import SettingCodes, Settings
from http2_config import CONFIG

from plain_gevent_h2.http2 import send_buffer
from plain_gevent_h2.http2.frames import (
    FRAME_HEADER_SIZE,
    PREFACE,
    FrameType,
    RawFrame,
    parse_frame_header,
)
from plain_gevent_h2.http2.send_buffer import HIGH_WATER, SendBuffer
from plain_gevent_h2.http2.state_machine import new_state_machine
from plain_gevent_h2.http2.token_buckets import (
    FRAME_LIMITS,
    PINGS_FOR_DATA,
    WINDOW_UPDATES_FOR_DATA,
    TokenBuckets,
)
from plain_gevent_h2.http2.writer import (
    FULL_RECORD,
    MAX_CONTROL_BACKLOG,
    MAX_DATA_FRAME,
    TAKEN_INTERVAL,
    Writer,
)
from plain_gevent_h2.limits.unsent import UnsentBytes
from plain_gevent_h2.net.fairness import HTTP2_SEND_TURN, yield_to_others


class Socket:
    """A TLS socket that takes what it is given, unless it is full."""

    def __init__(self) -> None:
        self.encrypted: list[bytes] = []  # in TLS records of their own
        self.sent = b""
        self.has_room = Event()
        self.has_room.set()
        self.error: Exception | None = None

    def encrypt(self, data: bytes) -> None:
        self.encrypted.append(bytes(data))

    def send_now(self) -> bool:
        if self.error is not None:
            raise self.error
        if not self.has_room.is_set():
            return False
        self.flush()
        return True

    def flush(self) -> None:
        self.has_room.wait()
        if self.error is not None:
            raise self.error
        self.sent += b"".join(self.encrypted)
        self.encrypted.clear()


def frames(data: bytes) -> list[RawFrame]:
    """The frames that `data` is made of."""
    buffer, found = bytearray(data), list[RawFrame]()
    while buffer:
        kind, flags, stream_id, size = parse_frame_header(buffer)
        end = FRAME_HEADER_SIZE + size
        found.append((kind, flags, stream_id, bytes(buffer[FRAME_HEADER_SIZE:end])))
        del buffer[:end]
    return found


def make_client(window: int) -> H2Connection:
    """A client that gives each stream a window of so many bytes."""
    client = H2Connection(H2Configuration(client_side=True))
    client.local_settings = Settings(
        client=True, initial_values={SettingCodes.INITIAL_WINDOW_SIZE: window}
    )
    client.initiate_connection()
    return client


class Connection:
    """The server's writer, and a client that reads what it writes."""

    def __init__(self, window: int = 2**30) -> None:
        self.sock = Socket()
        self.ended: list[int] = []
        self.failures = 0
        self.unsent = UnsentBytes()
        self.buckets = TokenBuckets()
        self.h2 = new_state_machine(CONFIG)
        self.writer = Writer(
            self.sock,  # type: ignore[arg-type]
            self.h2,
            self.buckets,
            response_framed=self.ended.append,
            failed=self._failed,
        )
        self.client = make_client(window)
        self.client.increment_flow_control_window(2**30)
        self.bodies: dict[int, bytes] = {}
        self.order: list[int] = []  # the streams of the DATA frames
        self.ends: list[int] = []

    def _failed(self) -> None:
        self.failures += 1

    def exchange(self) -> None:
        """What each side has to say reaches the other, until there is no more."""
        for _ in range(50):
            yield_to_others()
            sent, self.sock.sent = self.sock.sent, b""
            for event in self.client.receive_data(sent):
                if isinstance(event, DataReceived):
                    assert event.stream_id is not None
                    self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + (
                        event.data or b""
                    )
                    self.order.append(event.stream_id)
                elif isinstance(event, StreamEnded):
                    assert event.stream_id is not None
                    self.ends.append(event.stream_id)
            self.h2.receive_frames(frames(self.client.data_to_send().removeprefix(PREFACE)))
            self.writer.wake()
        yield_to_others()

    def open(self, stream_id: int) -> SendBuffer:
        """A stream whose response has begun."""
        fields = [(":method", "GET"), (":scheme", "https"), (":authority", "x"), (":path", "/")]
        self.client.send_headers(stream_id, fields, end_stream=True)
        self.exchange()
        self.h2.frame_headers(stream_id, [(b":status", b"200")], end_stream=False)
        return SendBuffer(stream_id, self.unsent)


@pytest.fixture
def connection() -> Iterator[Connection]:
    with gevent.Timeout(10):
        yield Connection()


def test_a_body_arrives_whole_and_ends_once(connection: Connection) -> None:
    body = bytes(range(256)) * 2000
    buffer = connection.open(1)
    buffer.put_whole(body)
    connection.writer.queue(buffer)
    connection.exchange()
    assert connection.bodies[1] == body
    assert connection.ends == connection.ended == [1]
    assert connection.unsent.total == 0
    assert connection.writer.idle


def test_streams_take_turns_of_a_frame(connection: Connection) -> None:
    buffers = [connection.open(stream_id) for stream_id in (1, 3, 5)]
    for buffer in buffers:
        buffer.put_whole(b"x" * 3 * MAX_DATA_FRAME)
        connection.writer.queue(buffer)
    connection.exchange()
    assert connection.order == [1, 3, 5] * 3


def test_one_that_is_queued_is_queued_once(connection: Connection) -> None:
    buffer = connection.open(1)
    connection.writer.queue(buffer)  # there is nothing yet
    assert not buffer.queued
    buffer.put(b"x")
    connection.writer.queue(buffer)
    connection.writer.queue(buffer)
    connection.exchange()
    assert connection.bodies == {1: b"x"}
    assert not buffer.queued
    buffer.close()
    connection.writer.queue(buffer)
    assert not buffer.queued


def test_no_more_than_the_streams_window(connection: Connection) -> None:
    connection = Connection(window=1000)
    buffer = connection.open(1)
    buffer.put_whole(b"x" * 2500)
    connection.writer.queue(buffer)
    for size in (1000, 1010, 2500):
        connection.exchange()
        assert len(connection.bodies[1]) == size
        if size < 2500:
            connection.client.increment_flow_control_window(10 if size == 1000 else 5000, 1)
            connection.exchange()
            connection.writer.queue(buffer)
    assert connection.ends == [1]


@pytest.mark.parametrize("of", ["stream", "connection"])
def test_a_window_is_used_to_its_last_byte(of: str) -> None:
    connection = Connection(window=1 if of == "stream" else 2**30)
    if of == "connection":
        connection.client = make_client(2**20)
    buffer = connection.open(1)
    buffer.put(b"x" * (1 if of == "stream" else 65_534))
    connection.writer.queue(buffer)
    connection.exchange()
    buffer.put_whole(b"yz")
    connection.writer.queue(buffer)
    connection.exchange()
    assert connection.bodies[1] == (b"x" if of == "stream" else b"x" * 65_534 + b"y")


def test_who_takes_larger_frames_gets_none(connection: Connection) -> None:
    """One would be a turn of its stream that others wait for."""
    connection.client.update_settings({SettingCodes.MAX_FRAME_SIZE: 2**20})
    buffer = connection.open(1)
    connection.exchange()
    buffer.put_whole(b"x" * 3 * MAX_DATA_FRAME)
    connection.writer.queue(buffer)
    connection.exchange()
    assert connection.order == [1] * 3


def test_small_frames_share_a_record_and_large_ones_have_one(connection: Connection) -> None:
    buffers = [connection.open(stream_id) for stream_id in range(1, 41, 2)]
    large = connection.open(41)
    connection.exchange()
    connection.sock.has_room.clear()
    for buffer in buffers:
        buffer.put_whole(b"x" * 1000)
        connection.writer.queue(buffer)
    large.put_whole(b"y" * 2 * MAX_DATA_FRAME)
    connection.writer.queue(large)
    yield_to_others()
    *full, last = [
        [len(payload) for kind, _, _, payload in frames(record) if kind == FrameType.DATA]
        for record in connection.sock.encrypted
    ]
    assert sum(map(sum, [*full, last])) == 20 * 1000 + 2 * MAX_DATA_FRAME
    for record in full:
        assert sum(record) >= FULL_RECORD
        assert sum(record[:-1]) < FULL_RECORD
    connection.sock.has_room.set()


def test_what_the_kernel_takes_at_once_needs_no_greenlet(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = connection.open(1)
    connection.exchange()
    spawned: list[object] = []
    monkeypatch.setattr(
        "plain_gevent_h2.http2.writer.gevent.spawn", lambda *args: spawned.append(args)
    )
    buffer.put_whole(b"x" * 100)
    connection.writer.queue(buffer)
    yield_to_others()
    assert connection.sock.sent.endswith(b"x" * 100)
    assert spawned == []


def test_no_more_than_the_connections_window() -> None:
    connection = Connection()
    connection.client = make_client(2**20)
    buffer = connection.open(1)
    buffer.put_whole(b"x" * 100_000)
    connection.writer.queue(buffer)
    connection.exchange()
    assert len(connection.bodies[1]) == 65_535
    connection.client.increment_flow_control_window(10**6)
    connection.exchange()
    assert len(connection.bodies[1]) == 100_000


class TestRefunds:
    """What DATA earns its client, of the frames that it answers with."""

    def left(self, connection: Connection) -> dict[int, float]:
        return dict(connection.buckets._left)

    @pytest.fixture
    def used(self, connection: Connection) -> Connection:
        for kind in (FrameType.WINDOW_UPDATE, FrameType.PING):
            connection.buckets.take(kind, FRAME_LIMITS[kind].burst // 2)
        return connection

    def test_each_frame_refunds_some(self, used: Connection) -> None:
        before = self.left(used)
        buffer = used.open(1)
        buffer.put(b"x" * (MAX_DATA_FRAME + 10))
        used.writer.queue(buffer)
        used.exchange()
        after = self.left(used)
        assert after[FrameType.WINDOW_UPDATE] - before[FrameType.WINDOW_UPDATE] == (
            2 * WINDOW_UPDATES_FOR_DATA
        )
        assert after[FrameType.PING] - before[FrameType.PING] == 2 * PINGS_FOR_DATA

    def test_one_cut_short_by_the_window_refunds_nothing(self, used: Connection) -> None:
        used.client.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 1})
        used.exchange()
        buffer = used.open(1)
        buffer.put(b"x" * 100)
        before = self.left(used)
        used.writer.queue(buffer)
        used.exchange()
        for _ in range(5):
            used.client.increment_flow_control_window(1, 1)
            used.exchange()
            used.writer.queue(buffer)
            used.exchange()
        assert len(used.bodies[1]) == 6
        assert self.left(used) == before


class TestFullSocket:
    def test_what_it_does_not_take_waits_and_a_batch_has_an_end(
        self, connection: Connection
    ) -> None:
        buffer = connection.open(1)
        buffer.put_whole(b"x" * 10 * HTTP2_SEND_TURN)
        connection.sock.has_room.clear()
        connection.writer.queue(buffer)
        yield_to_others()
        size = sum(map(len, connection.sock.encrypted))
        assert HTTP2_SEND_TURN <= size < HTTP2_SEND_TURN + 2 * MAX_DATA_FRAME
        assert not connection.writer.idle
        assert connection.writer.writing_since is not None
        waiting = gevent.spawn(connection.writer.wait_until_idle)
        yield_to_others()
        assert not waiting.ready()
        connection.sock.has_room.set()
        waiting.get()
        connection.exchange()
        assert len(connection.bodies[1]) == 10 * HTTP2_SEND_TURN
        assert connection.writer.writing_since is None

    def test_the_reader_waits_while_answers_are_left_unread(self, connection: Connection) -> None:
        connection.exchange()
        connection.sock.has_room.clear()
        connection.writer.send_raw(b"\0" * 9)
        yield_to_others()  # under way
        connection.writer.send_raw(b"\0" * MAX_CONTROL_BACKLOG)
        connection.writer.wait_for_room()
        assert not connection.writer.backlogged
        connection.writer.send_raw(b"\0")
        waiting = gevent.spawn(connection.writer.wait_for_room)
        yield_to_others()
        assert connection.writer.backlogged
        connection.sock.has_room.set()
        waiting.get()
        assert not connection.writer.backlogged

    def test_it_waits_no_more_once_the_connection_is_closed(self, connection: Connection) -> None:
        connection.sock.has_room.clear()
        connection.writer.send_raw(b"\0" * 2 * MAX_CONTROL_BACKLOG)
        yield_to_others()
        connection.writer.send_raw(b"\0" * 2 * MAX_CONTROL_BACKLOG)
        waiting = gevent.spawn(connection.writer.wait_for_room)
        yield_to_others()
        connection.writer.close()
        waiting.get()
        connection.writer.wait_for_room()
        connection.sock.has_room.set()


class TestEnd:
    @pytest.mark.parametrize("full", [False, True])
    def test_a_socket_that_fails_is_told_once(self, connection: Connection, full: bool) -> None:
        buffer = connection.open(1)
        connection.exchange()
        buffer.put(b"x" * 10)
        if full:
            connection.sock.has_room.clear()
            connection.writer.queue(buffer)
            yield_to_others()
        connection.sock.error = ConnectionResetError()
        connection.sock.has_room.set()
        connection.writer.queue(buffer)
        yield_to_others()
        connection.writer.wake()
        yield_to_others()
        assert connection.failures == 1
        assert connection.writer.idle
        connection.writer.wait_until_idle()
        assert connection.writer.writing_since is None

    def test_who_waits_until_it_is_idle_hears_of_a_failure(self, connection: Connection) -> None:
        connection.exchange()
        connection.sock.has_room.clear()
        connection.writer.send_raw(b"\0" * 9)
        waiting = gevent.spawn(connection.writer.wait_until_idle)
        yield_to_others()
        connection.sock.error = ConnectionResetError()
        connection.sock.has_room.set()
        waiting.get()
        assert connection.failures == 1  # and the connection, without another write

    @pytest.mark.parametrize("full", [False, True])
    @pytest.mark.parametrize(
        ("error", "lines"), [(ConnectionResetError(), 0), (ValueError("a bug"), 1)]
    )
    def test_what_is_no_failure_of_the_socket_is_logged(
        self,
        connection: Connection,
        caplog: pytest.LogCaptureFixture,
        error: Exception,
        lines: int,
        full: bool,
    ) -> None:
        connection.exchange()
        if full:
            connection.sock.has_room.clear()
        else:
            connection.sock.error = error
        connection.writer.send_raw(b"\0" * 9)
        yield_to_others()
        connection.sock.error = error
        connection.sock.has_room.set()
        with caplog.at_level("ERROR", "plain.server"):
            connection.writer.wait_until_idle()
        assert connection.failures == 1
        logged = [record for record in caplog.records if record.exc_info]
        assert {record.getMessage() for record in logged} <= {"Unexpected connection error"}
        assert [record.exc_info[1] for record in logged if record.exc_info] == [error] * lines

    def test_closed_in_the_middle_of_a_batch_it_sends_nothing_more(
        self, connection: Connection
    ) -> None:
        first, second = connection.open(1), connection.open(3)
        connection.exchange()

        def end(_stream_id: int) -> None:
            connection.h2.ping(b"12345678")
            connection.writer.close()

        connection.writer._response_framed = end
        for buffer in (first, second):
            buffer.put_whole(b"x" * 100)
            connection.writer.queue(buffer)
        yield_to_others()
        assert connection.sock.encrypted == []
        assert connection.sock.sent == b""
        assert not second.queued  # nor is it kept
        assert second.size == 100

    def test_after_its_close_nothing_is_sent(self, connection: Connection) -> None:
        buffer = connection.open(1)
        connection.exchange()
        buffer.put_whole(b"x")
        connection.writer.queue(buffer)
        connection.writer.close()
        yield_to_others()
        connection.writer.send_raw(b"\0" * 9)
        yield_to_others()
        assert connection.sock.sent == b""
        assert connection.ended == []

    @pytest.mark.parametrize("fails", [False, True])
    def test_after_its_close_nobody_is_called_back(
        self, connection: Connection, fails: bool
    ) -> None:
        """Whatever becomes of the write under way: the connection is over."""
        buffer = connection.open(1)
        connection.exchange()
        connection.sock.has_room.clear()
        connection.writer.send_raw(b"\0" * 9)
        yield_to_others()
        buffer.put_whole(b"x")
        connection.writer.queue(buffer)
        connection.writer.close()
        connection.sock.error = ConnectionResetError() if fails else None
        connection.sock.has_room.set()
        connection.writer.wait_until_idle()
        assert connection.failures == 0
        assert connection.ended == []
        assert connection.sock.encrypted in ([], [b"\0" * 9])

    def test_a_stream_that_is_forgotten_sends_nothing(self, connection: Connection) -> None:
        buffer, other = connection.open(1), connection.open(3)
        for each in (buffer, other):
            each.put_whole(b"x" * 100)
            connection.writer.queue(each)
        connection.writer.forget(buffer)
        connection.writer.forget(buffer)
        connection.exchange()
        assert connection.bodies == {3: b"x" * 100}
        assert connection.unsent.total == 0

    def test_one_that_is_closed_under_its_buffer_hurts_no_other(
        self, connection: Connection
    ) -> None:
        buffer, other = connection.open(1), connection.open(3)
        for each in (buffer, other):
            each.put_whole(b"x" * 100)
            connection.writer.queue(each)
        connection.h2.reset_stream(1)
        connection.exchange()
        assert connection.bodies == {3: b"x" * 100}
        assert buffer.closed
        assert connection.unsent.total == 0
        assert connection.failures == 0

    def test_nor_does_one_that_was_to_go_out_of_turn(self, connection: Connection) -> None:
        buffer, other = connection.open(1), connection.open(3)
        for each in (buffer, other):
            each.put_whole(b"x" * 100)
            connection.writer.queue(each)
        connection.h2.reset_stream(1)
        connection.writer.frame_now(buffer)
        assert buffer.closed
        connection.exchange()
        assert connection.bodies == {3: b"x" * 100}
        assert connection.failures == 0

    def test_what_is_to_be_reset_goes_out_of_turn(self, connection: Connection) -> None:
        first, last = connection.open(1), connection.open(3)
        for each in (first, last):
            each.put(b"x" * 3 * MAX_DATA_FRAME)
            connection.writer.queue(each)
        connection.writer.frame_now(last)
        assert last.size == 0
        connection.writer.forget(last)
        connection.h2.reset_stream(3)
        connection.exchange()
        assert connection.order[:3] == [3, 3, 3]
        assert len(connection.bodies[3]) == 3 * MAX_DATA_FRAME


class TestNobodyElseWakesIt:
    """What it has to send goes out, whoever else has nothing to say to it."""

    @staticmethod
    def sent(connection: Connection) -> int:
        """The bytes of DATA on the wire, once the writer has nothing more to do."""
        with gevent.Timeout(5):
            connection.writer.wait_until_idle()
        return sum(
            len(payload)
            for kind, _, _, payload in frames(connection.sock.sent)
            if kind == FrameType.DATA
        )

    @pytest.mark.parametrize("batches", [1, 2, 5])
    def test_a_body_of_many_batches(self, connection: Connection, batches: int) -> None:
        buffer = connection.open(1)
        connection.exchange()
        buffer.put_whole(b"x" * batches * HTTP2_SEND_TURN)
        connection.writer.queue(buffer)
        assert self.sent(connection) == batches * HTTP2_SEND_TURN
        assert connection.ended == [1]

    def test_what_comes_while_a_full_socket_is_waited_for(self, connection: Connection) -> None:
        first, second = connection.open(1), connection.open(3)
        connection.exchange()
        connection.sock.has_room.clear()
        first.put_whole(b"x" * 100)
        connection.writer.queue(first)
        yield_to_others()
        assert not connection.writer.idle
        second.put_whole(b"y" * 50)
        connection.writer.queue(second)
        connection.writer.send_raw(b"\0\0\0\x20\0" + bytes(4))
        connection.sock.has_room.set()
        assert self.sent(connection) == 150
        assert connection.ended == [1, 3]
        assert connection.sock.sent.count(b"\0\0\0\x20\0" + bytes(4)) == 1

    def test_a_frame_that_the_end_of_a_stream_asks_for(self, connection: Connection) -> None:
        """As the GOAWAY of a connection whose last stream it was."""
        buffer = connection.open(1)
        connection.exchange()
        connection.writer._response_framed = lambda _stream_id: connection.writer.send_raw(
            b"goaway!!!"
        )
        buffer.put_whole(b"x" * 100)
        connection.writer.queue(buffer)
        with gevent.Timeout(5):
            connection.writer.wait_until_idle()
        assert connection.sock.sent.endswith(b"x" * 100 + b"goaway!!!")

    def test_one_with_window_behind_many_without(self) -> None:
        connection = Connection(window=0)
        buffers = [connection.open(stream_id) for stream_id in (1, 3, 5, 7)]
        connection.client.increment_flow_control_window(100, 7)
        connection.exchange()
        for buffer in buffers:
            buffer.put_whole(b"x" * 100)
            connection.writer.queue(buffer)
        assert self.sent(connection) == 100
        assert connection.ended == [7]
        data = [frame for frame in frames(connection.sock.sent) if frame[0] == FrameType.DATA]
        assert len(data) == 1  # and no empty ones

    def test_a_view_that_waits_for_room(self, connection: Connection) -> None:
        buffer = connection.open(1)
        connection.exchange()
        pieces = 5

        def view() -> None:
            for _ in range(pieces):
                buffer.put(b"x" * 2 * HIGH_WATER)
                connection.writer.queue(buffer)
                buffer.wait_for_room()

        gevent.spawn(view).get(timeout=5)
        assert self.sent(connection) == pieces * 2 * HIGH_WATER


def test_frames_go_in_the_order_in_which_they_were_made(connection: Connection) -> None:
    connection.exchange()
    connection.h2.ping(b"12345678")
    connection.writer.send_raw(b"raw frame")
    connection.h2.ping(b"87654321")
    connection.writer.wake()
    yield_to_others()
    sent = connection.sock.sent
    assert sent.index(b"12345678") < sent.index(b"raw frame") < sent.index(b"87654321")


def test_what_was_taken_lately_is_of_the_last_two_sweeps(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    Clock.of(send_buffer, monkeypatch)
    writer = connection.writer
    writer.sweep(100)
    buffer = connection.open(1)
    buffer.put(b"x" * 500)
    writer.queue(buffer)
    connection.exchange()
    assert writer.taken_lately == 500
    buffer.put(b"x" * 50)
    writer.queue(buffer)
    connection.exchange()
    assert writer.taken_lately == 550
    writer.sweep(100 + TAKEN_INTERVAL / 2)
    writer.sweep(100 + TAKEN_INTERVAL + 0.1)
    assert writer.taken_lately == 550
    writer.sweep(100 + 2 * TAKEN_INTERVAL + 0.2)
    assert writer.taken_lately == 0
