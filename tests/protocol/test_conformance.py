"""RFC 9113 (HTTP/2) and RFC 7541 (HPACK), as raw frames to a worker.

Grouped by the section that a case proves. It covers what the tool h2spec covers, named in
brackets as [its section/number], and is as strict or stricter: a connection error has a
GOAWAY with the right code and a clean close, and what the RFC calls a stream error leaves a
connection that serves the next request. The few cases in which `h2` ends the connection
instead, as section 5.4.1 allows, say so.
"""

import hashlib
import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from h2.errors import ErrorCodes
from hpack import Encoder
from hpack.hpack import encode_integer
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from raw import (
    ACK,
    DEFAULT_MAX_FRAME_SIZE,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    MAX_31,
    PADDED,
    PREFACE,
    PRIORITY,
    WINDOW,
    Field,
    RawClient,
    Response,
    continuation,
    data,
    goaway,
    headers,
    pack,
    ping,
    priority,
    priority_fields,
    push_promise,
    request_fields,
    rst_stream,
    settings,
    settings_ack,
    window_update,
)
from serving import Serving

PROTOCOL = ErrorCodes.PROTOCOL_ERROR
FLOW_CONTROL = ErrorCodes.FLOW_CONTROL_ERROR
STREAM_CLOSED = ErrorCodes.STREAM_CLOSED
FRAME_SIZE = ErrorCodes.FRAME_SIZE_ERROR
REFUSED = ErrorCodes.REFUSED_STREAM
COMPRESSION = ErrorCodes.COMPRESSION_ERROR


RESERVED_BIT = 2**31
UNKNOWN = 0x16

BODY = b"test"
GET = request_fields()
POST = request_fields("/echo", "POST")


def expect_hello(response: Response) -> None:
    assert (response.status, response.body) == (200, b"hello")


def expect_echo(response: Response, body: bytes) -> None:
    assert response.status == 200
    echo = json.loads(response.body)
    assert (echo["length"], echo["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


def request_headers(response: Response) -> dict[str, str]:
    """What /meta saw."""
    return {name.lower(): value for name, value in json.loads(response.body)["headers"].items()}


def expect_serving(client: RawClient) -> None:
    """The connection goes on: a PING is acknowledged and the next request is answered."""
    client.expect_alive()
    client.send(settings({WINDOW: DEFAULT_WINDOW}))  # some tests close it
    expect_hello(client.request())


def hpack_int(value: int, prefix_bits: int, pattern: int = 0) -> bytes:
    """RFC 7541 section 5.1, with `pattern` in the bits before the prefix."""
    octets = encode_integer(value, prefix_bits)
    octets[0] |= pattern
    return bytes(octets)


def literal(name: bytes, value: bytes, pattern: int = 0) -> bytes:
    """A header field as RFC 7541 section 6.2 has it, with a new name, not Huffman-coded."""
    octets = bytes([pattern])
    for string in name, value:
        octets += hpack_int(len(string), 7) + string
    return octets


# -- streams in each state --------------------------------------------------------------------


def idle(client: RawClient) -> int:
    return client.new_stream_id()


def opened(client: RawClient) -> int:
    return client.open(POST, end_stream=False)


def half_closed(client: RawClient) -> int:
    """Half-closed (remote), and stays so: its response has no window for its body."""
    client.send(settings({WINDOW: 0}))
    stream_id = client.open(GET)
    client.expect(HeadersFrame, stream_id, keep=True)
    return stream_id


def reset_by_us(client: RawClient) -> int:
    stream_id = opened(client)
    client.send(rst_stream(stream_id))
    return stream_id


def ended(client: RawClient) -> int:
    """Closed: both sides have sent END_STREAM."""
    stream_id = client.open(GET)
    expect_hello(client.expect_response(stream_id))
    return stream_id


def reset_by_server(client: RawClient) -> int:
    """Closed by the server's RST_STREAM, while we had more to send."""
    stream_id = client.open([*POST, ("X-Upper", "malformed")], end_stream=False)
    client.expect_stream_error(stream_id, PROTOCOL)
    return stream_id


def skipped(client: RawClient) -> int:
    """Never used, but closed since a higher one was opened (section 5.1.1)."""
    stream_id = client.new_stream_id()
    expect_hello(client.request())
    return stream_id


# -- frames for a stream ----------------------------------------------------------------------

type Build = Callable[[RawClient, int], bytes]


def a_data(_client: RawClient, stream_id: int) -> bytes:
    return data(stream_id, BODY)


def a_headers(client: RawClient, stream_id: int) -> bytes:
    return headers(stream_id, client.block(GET))


def a_priority(_client: RawClient, stream_id: int) -> bytes:
    return priority(stream_id)


def a_rst_stream(_client: RawClient, stream_id: int) -> bytes:
    return rst_stream(stream_id)


def a_push_promise(client: RawClient, stream_id: int) -> bytes:
    return push_promise(stream_id, 102, client.block(GET))


def a_window_update(_client: RawClient, stream_id: int) -> bytes:
    return window_update(stream_id, 1)


def a_continuation(client: RawClient, stream_id: int) -> bytes:
    return continuation(stream_id, client.block([("x-test", "test")]))


def an_unknown_frame(_client: RawClient, stream_id: int) -> bytes:
    return pack(UNKNOWN, 0, stream_id, bytes(8))


# -- what becomes of them ---------------------------------------------------------------------

type Outcome = Callable[[RawClient, int], None]


def accepted(client: RawClient, _stream_id: int) -> None:
    expect_serving(client)


def answered(client: RawClient, stream_id: int) -> None:
    expect_hello(client.expect_response(stream_id))
    expect_serving(client)


def connection_error(*codes: ErrorCodes) -> Outcome:
    def expect(client: RawClient, _stream_id: int) -> None:
        client.expect_connection_error(*codes)

    return expect


def stream_error(*codes: ErrorCodes) -> Outcome:
    def expect(client: RawClient, stream_id: int) -> None:
        client.expect_stream_error(stream_id, *codes)
        expect_serving(client)

    return expect


def any_error(*codes: ErrorCodes) -> Outcome:
    def expect(client: RawClient, stream_id: int) -> None:
        client.expect_stream_error(stream_id, *codes, strict=False)

    return expect


class TestStartingHttp2:
    """RFC 9113 section 3."""

    def test_first_frame_of_server_is_settings(self, server: Serving) -> None:
        # RFC 9113 section 3.4: SETTINGS, not an ACK, comes first. [generic/1/1, http2/3.5/1]
        with RawClient(server) as client:
            client.expect_alive()
            first = client.frames[0]
            assert isinstance(first, SettingsFrame)
            assert "ACK" not in first.flags

    def test_settings_of_server_are_valid(self, server: Serving) -> None:
        # RFC 9113 section 6.5.2: the ranges, and no push from a server's side; no fewer than
        # 100 streams is its advice. Each is sent, so none of these is a default's.
        with RawClient(server) as client:
            client.expect(SettingsFrame)
            values = client.server_settings
            assert values[SettingsFrame.ENABLE_PUSH] == 0
            assert 0 < values[WINDOW] <= MAX_31
            assert 2**14 <= values[SettingsFrame.MAX_FRAME_SIZE] < 2**24
            assert values[SettingsFrame.MAX_CONCURRENT_STREAMS] >= 100

    @pytest.mark.parametrize(
        "start",
        [
            b"INVALID CONNECTION PREFACE\r\n\r\n",  # [http2/3.5/2]
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            PREFACE[:-1] + b"X" + settings(),
            b"\x16" + PREFACE,
        ],
        ids=["text", "HTTP/1.1", "last-octet", "first-octet"],
    )
    def test_invalid_preface(self, server: Serving, start: bytes) -> None:
        # RFC 9113 section 3.4: a PROTOCOL_ERROR, whose GOAWAY may be left out.
        with RawClient(server, handshake=False) as client:
            client.send_bytes(start)
            assert {frame.error_code for frame in client.expect_close()} <= {PROTOCOL}

    @pytest.mark.parametrize(
        "frame",
        [ping(), settings_ack(), window_update(0, 1), pack(UNKNOWN, 0, 0), goaway()],
        ids=["PING", "SETTINGS-ACK", "WINDOW_UPDATE", "unknown", "GOAWAY"],
    )
    def test_preface_without_settings(self, server: Serving, frame: bytes) -> None:
        # RFC 9113 section 3.4: SETTINGS is part of the client's preface.
        with RawClient(server, handshake=False) as client:
            client.send(PREFACE, frame, settings())
            assert {frame.error_code for frame in client.expect_close()} <= {PROTOCOL}

    def test_preface_without_settings_but_a_request(self, server: Serving) -> None:
        # RFC 9113 section 3.4: as above; nothing of the request may be served.
        with RawClient(server, handshake=False) as client:
            client.send(PREFACE, headers(1, client.block(GET)))
            assert {frame.error_code for frame in client.expect_close()} <= {PROTOCOL}
            assert not client.received(HeadersFrame)

    def test_preface_one_octet_at_a_time(self, server: Serving) -> None:
        # RFC 9113 section 3.4 says nothing of segments: any will do.
        with RawClient(server, handshake=False) as client:
            for octet in PREFACE + settings({WINDOW: 100}):
                client.send_bytes(bytes([octet]))
            client.expect_ack()
            expect_serving(client)

    def test_request_before_settings_of_server(self, server: Serving) -> None:
        # RFC 9113 section 3.4: a client need not wait for the server's preface.
        with RawClient(server, handshake=False, acknowledge=False) as client:
            client.send(PREFACE, settings(), headers(1, client.block(GET)))
            expect_hello(client.expect_response(1))


class TestFrameFormat:
    """RFC 9113 sections 4.1 and 5.5."""

    @pytest.mark.parametrize("kind", [0x0A, 0x10, UNKNOWN, 0xFF])
    @pytest.mark.parametrize("flags", [0, 0xFF])
    def test_unknown_type_is_ignored(self, server: Serving, kind: int, flags: int) -> None:
        # RFC 9113 sections 4.1 and 5.5. [http2/4.1/1, http2/5.5/1] (0x10 is the
        # PRIORITY_UPDATE of RFC 9218, here with a valid payload.)
        payload = (1).to_bytes(4) + b"u=3" if kind == 0x10 else bytes(8)
        with RawClient(server) as client:
            client.send(pack(kind, flags, 0, payload))
            expect_serving(client)

    @pytest.mark.parametrize(
        "frame",
        [
            pack(PingFrame.type, 0x16, 0, bytes(8)),  # [http2/4.1/2]
            pack(PingFrame.type, 0xFE, 0, bytes(8)),
            pack(SettingsFrame.type, 0xFE, 0),
            pack(WindowUpdateFrame.type, 0xFF, 0, (1).to_bytes(4)),
            pack(PriorityFrame.type, 0xFF, 1, priority_fields()),
        ],
        ids=["PING-0x16", "PING-0xfe", "SETTINGS", "WINDOW_UPDATE", "PRIORITY"],
    )
    def test_undefined_flags_are_ignored(self, server: Serving, frame: bytes) -> None:
        # RFC 9113 section 4.1.
        with RawClient(server) as client:
            client.send(frame)
            if frame[3] == PingFrame.type:
                assert "ACK" in client.expect(PingFrame).flags
            expect_serving(client)

    def test_undefined_flags_of_a_request_are_ignored(self, server: Serving) -> None:
        # RFC 9113 section 4.1: END_STREAM's bit means nothing in a CONTINUATION.
        with RawClient(server) as client:
            block = client.block(POST)
            client.send(
                pack(HeadersFrame.type, 0xD2, 1, block[:3]),
                pack(ContinuationFrame.type, 0xFF, 1, block[3:]),
                pack(DataFrame.type, 0xF6, 1, BODY),
                pack(DataFrame.type, END_STREAM | 0xF6, 1, BODY),
            )
            expect_echo(client.expect_response(1), BODY + BODY)

    def test_reserved_bit_is_ignored(self, server: Serving) -> None:
        # RFC 9113 section 4.1. [http2/4.1/3]
        with RawClient(server) as client:
            client.send(pack(PingFrame.type, 0, RESERVED_BIT, bytes(8)))
            assert "ACK" in client.expect(PingFrame).flags
            client.send(headers(RESERVED_BIT | 1, client.block(POST), end_stream=False))
            client.send(data(RESERVED_BIT | 1, BODY))
            expect_echo(client.expect_response(1), BODY)

    def test_reserved_bit_of_an_increment_is_ignored(self, server: Serving) -> None:
        # RFC 9113 section 6.9.
        with RawClient(server) as client:
            stream_id = half_closed(client)
            client.send(window_update(0, RESERVED_BIT | 1))
            client.send(window_update(stream_id, RESERVED_BIT | 5))
            expect_hello(client.expect_response(stream_id))

    def test_reserved_bit_of_a_last_stream_is_ignored(self, server: Serving) -> None:
        # RFC 9113 section 6.8.
        with RawClient(server) as client:
            client.send(goaway(RESERVED_BIT))
            assert {frame.error_code for frame in client.expect_close()} <= {0}


class TestFrameSize:
    """RFC 9113 section 4.2."""

    @staticmethod
    def max_frame_size(client: RawClient) -> int:
        client.expect(SettingsFrame)
        default = DEFAULT_MAX_FRAME_SIZE
        return client.server_settings.get(SettingsFrame.MAX_FRAME_SIZE, default)

    def test_largest_data_is_accepted(self, server: Serving) -> None:
        # RFC 9113 section 4.2: 2^14 octets always are. [http2/4.2/1]
        with RawClient(server) as client:
            body = b"x" * 2**14
            client.send(data(opened(client), body))
            expect_echo(client.expect_response(1), body)

    def test_largest_headers_are_accepted(self, server: Serving) -> None:
        # RFC 9113 section 4.2: 2^14 octets always are.
        with RawClient(server) as client:
            block = client.block(GET)
            block += literal(b"x-a", b"v" * 8000)
            block += literal(b"x-b", b"v" * (2**14 - len(block) - 8))
            client.send(headers(1, block))
            assert len(block) == 2**14
            expect_hello(client.expect_response(1))

    def test_data_too_large(self, server: Serving) -> None:
        # RFC 9113 section 4.2: FRAME_SIZE_ERROR, of the stream or the connection.
        # [http2/4.2/2]
        with RawClient(server) as client:
            body = b"x" * (self.max_frame_size(client) + 1)
            stream_id = opened(client)
            client.send(data(stream_id, body))
            client.expect_stream_error(stream_id, FRAME_SIZE, strict=False)

    @pytest.mark.parametrize("kind", [HeadersFrame, SettingsFrame, PushPromiseFrame])
    def test_frame_that_alters_the_connection_too_large(
        self, server: Serving, kind: type[Frame]
    ) -> None:
        # RFC 9113 section 4.2: a connection error. [http2/4.2/3: HEADERS]
        with RawClient(server) as client:
            size = self.max_frame_size(client) + 1
            payload = client.block(GET) + literal(b"x", b"v" * size)
            payload = (bytes(size) if kind is SettingsFrame else payload)[:size]
            stream_id = 0 if kind is SettingsFrame else 1
            client.send(pack(kind.type or 0, END_HEADERS | END_STREAM, stream_id, payload))
            client.expect_connection_error(FRAME_SIZE)

    def test_continuation_too_large(self, server: Serving) -> None:
        # RFC 9113 section 4.2: a connection error.
        with RawClient(server) as client:
            size = self.max_frame_size(client) + 1
            client.send(
                headers(1, client.block(GET), end_headers=False),
                continuation(1, literal(b"x", b"v" * size)[:size]),
            )
            client.expect_connection_error(FRAME_SIZE)

    def test_unknown_frame_too_large(self, server: Serving) -> None:
        # RFC 9113 section 4.2: the limit is for frames of any type.
        with RawClient(server) as client:
            client.send(pack(UNKNOWN, 0, 0, bytes(self.max_frame_size(client) + 1)))
            client.expect_connection_error(FRAME_SIZE)

    @pytest.mark.parametrize("limit", [None, 20000])
    def test_frames_of_server_keep_to_our_limit(self, server: Serving, limit: int | None) -> None:
        # RFC 9113 section 4.2 and 6.5.2: SETTINGS_MAX_FRAME_SIZE is 2^14 if we do not say.
        values = {WINDOW: MAX_31} | ({SettingsFrame.MAX_FRAME_SIZE: limit} if limit else {})
        with RawClient(server, values) as client:
            client.send(window_update(0, 10**6))
            client.expect_ack()
            assert len(client.request("/bytes?n=200000").body) == 200_000
            sizes = [frame.body_len for frame in client.received(DataFrame)]
            assert max(sizes) <= (limit or DEFAULT_MAX_FRAME_SIZE)


#: What may not stand between the frames of a header block on stream 1.
INTERLOPERS: dict[str, Build] = {
    "DATA": a_data,
    "HEADERS": a_headers,
    "HEADERS-of-another": lambda client, _: headers(3, client.block(GET)),
    "PRIORITY": a_priority,
    "PRIORITY-of-another": lambda _client, _: priority(3),
    "RST_STREAM": a_rst_stream,
    "SETTINGS": lambda _client, _: settings(),
    "SETTINGS-ACK": lambda _client, _: settings_ack(),
    "PUSH_PROMISE": a_push_promise,
    "PING": lambda _client, _: ping(),
    "GOAWAY": lambda _client, _: goaway(),
    "WINDOW_UPDATE": a_window_update,
    "WINDOW_UPDATE-of-connection": lambda _client, _: window_update(0, 1),
    "CONTINUATION-of-another": lambda client, _: a_continuation(client, 3),
    "CONTINUATION-on-0": lambda client, _: a_continuation(client, 0),
    "unknown": an_unknown_frame,
    "unknown-on-0": lambda client, _: an_unknown_frame(client, 0),
}


class TestHeaderBlocks:
    """RFC 9113 section 4.3."""

    @pytest.mark.parametrize("after", ["HEADERS", "CONTINUATION"])
    @pytest.mark.parametrize("name", INTERLOPERS)
    def test_frame_inside_a_header_block(self, server: Serving, after: str, name: str) -> None:
        # RFC 9113 sections 4.3, 6.2, 6.10 and 5.5: PROTOCOL_ERROR, of the connection.
        # [http2/4.3/2 and 3, 5.5/2, 6.2/1 and 2, 6.10/2, 3 and 6]
        with RawClient(server) as client:
            client.send(headers(1, client.block(POST), end_stream=False, end_headers=False))
            if after == "CONTINUATION":
                fragment = client.block([("x-first", "1")])
                client.send(continuation(1, fragment, end_headers=False))
            client.send(INTERLOPERS[name](client, 1))
            client.send(continuation(1, client.block([("x-last", "1")])))
            client.expect_connection_error(PROTOCOL)
            assert not client.received(HeadersFrame)

    @staticmethod
    def expect_state_kept(client: RawClient) -> None:
        """The compression state has `x-state: kept`, of a header block that came to nothing."""
        block = client.block([*request_fields("/meta"), ("x-state", "kept")])
        assert len(block) < 20, "x-state is not taken from the table"
        stream_id = client.new_stream_id()
        client.send(headers(stream_id, block))
        assert request_headers(client.expect_response(stream_id))["x-state"] == "kept"

    def test_malformed_request_keeps_the_compression_state(self, server: Serving) -> None:
        # RFC 9113 section 4.3: every header block changes it, so each must be decoded.
        with RawClient(server) as client:
            stream_id = client.open([*GET, ("X-Upper", "1"), ("x-state", "kept")])
            client.expect_stream_error(stream_id, PROTOCOL)
            self.expect_state_kept(client)

    def test_refused_stream_keeps_the_compression_state(self, server: Serving) -> None:
        # RFC 9113 section 4.3, as above.
        with RawClient(server) as client:
            client.expect(SettingsFrame)
            limit = client.server_settings[SettingsFrame.MAX_CONCURRENT_STREAMS]
            streams = [opened(client) for _ in range(limit)]
            client.expect_stream_error(client.open([*GET, ("x-state", "kept")]), REFUSED)
            client.send(rst_stream(streams[0]))
            self.expect_state_kept(client)

    def test_headers_on_a_reset_stream_keep_the_compression_state(self, server: Serving) -> None:
        # RFC 9113 section 5.1, closed: frames under way when the server reset the stream are
        # discarded, but HEADERS still update the compression state.
        with RawClient(server) as client:
            stream_id = reset_by_server(client)
            client.send(headers(stream_id, client.block([("x-state", "kept")])))
            self.expect_state_kept(client)


class TestStreamStates:
    """RFC 9113 section 5.1: each frame type in each state that a client can bring about."""

    @pytest.mark.parametrize(
        ("build", "outcome"),
        [
            (a_data, connection_error(PROTOCOL)),  # [http2/5.1/1]
            (a_headers, answered),
            (a_priority, accepted),  # [generic/2/1]
            (a_rst_stream, connection_error(PROTOCOL)),  # [http2/5.1/2, 6.4/2]
            (a_push_promise, connection_error(PROTOCOL)),  # section 8.4 [http2/8.2/1]
            (a_window_update, connection_error(PROTOCOL)),  # [http2/5.1/3]
            (a_continuation, connection_error(PROTOCOL)),  # [http2/5.1/4]
            (an_unknown_frame, accepted),
        ],
    )
    @pytest.mark.parametrize("first", [True, False], ids=["first", "later"])
    def test_idle(self, server: Serving, build: Build, outcome: Outcome, first: bool) -> None:
        # RFC 9113 section 5.1: anything but HEADERS and PRIORITY is a connection error, of
        # type PROTOCOL_ERROR.
        with RawClient(server) as client:
            if not first:
                expect_hello(client.request())
            stream_id = idle(client)
            client.send(build(client, stream_id))
            outcome(client, stream_id)

    @pytest.mark.parametrize(
        ("build", "outcome"),
        [
            (a_data, stream_error(STREAM_CLOSED)),  # [http2/5.1/5, 6.1/2]
            (a_headers, stream_error(STREAM_CLOSED)),  # [http2/5.1/6]
            (a_priority, accepted),
            (a_rst_stream, accepted),  # [generic/2/4]
            (a_push_promise, connection_error(PROTOCOL)),  # section 8.4
            (a_window_update, accepted),
            # Section 6.10 makes it a connection error. [http2/5.1/7, 6.10/4]
            (a_continuation, connection_error(PROTOCOL)),
            (an_unknown_frame, accepted),
        ],
    )
    def test_half_closed_remote(self, server: Serving, build: Build, outcome: Outcome) -> None:
        # RFC 9113 section 5.1: anything but WINDOW_UPDATE, PRIORITY and RST_STREAM is a stream
        # error of type STREAM_CLOSED.
        with RawClient(server) as client:
            stream_id = half_closed(client)
            client.send(build(client, stream_id))
            outcome(client, stream_id)

    @pytest.mark.parametrize("priority_first", [False, True])
    def test_half_closed_remote_window_update_counts(
        self, server: Serving, priority_first: bool
    ) -> None:
        # RFC 9113 section 5.1: it is not just put up with. [generic/2/2 and 3]
        with RawClient(server) as client:
            stream_id = half_closed(client)
            assert not client.received(DataFrame)
            if priority_first:
                client.send(priority(stream_id))
            client.send(window_update(stream_id, 1))
            assert client.expect(DataFrame, stream_id).data == b"h"

    @pytest.mark.parametrize(
        ("build", "outcome"),
        [
            # [http2/5.1/8 and 9]
            (a_data, any_error(STREAM_CLOSED)),
            (a_headers, any_error(STREAM_CLOSED)),
            (a_priority, accepted),
            (a_rst_stream, accepted),
            (a_window_update, accepted),
            # Section 6.10 makes it a connection error. [http2/5.1/10]
            (a_continuation, connection_error(PROTOCOL)),
            (an_unknown_frame, accepted),
        ],
    )
    def test_closed_by_our_reset(self, server: Serving, build: Build, outcome: Outcome) -> None:
        # RFC 9113 section 5.1: nothing but PRIORITY may follow our RST_STREAM, though only
        # DATA (section 6.1) and HEADERS must find an error.
        with RawClient(server) as client:
            stream_id = reset_by_us(client)
            client.send(build(client, stream_id))
            outcome(client, stream_id)

    @pytest.mark.parametrize(
        ("build", "outcome"),
        [
            (a_data, any_error(STREAM_CLOSED)),  # section 6.1 [http2/5.1/11]
            (a_headers, connection_error(STREAM_CLOSED)),  # [http2/5.1/12]
            (a_priority, accepted),  # [generic/2/5]
            # These two may have been sent before our peer saw its END_STREAM.
            (a_rst_stream, accepted),
            (a_window_update, accepted),
            (a_continuation, connection_error(PROTOCOL)),  # [http2/5.1/13]
            (an_unknown_frame, accepted),
            (a_push_promise, connection_error(PROTOCOL)),  # section 8.4
        ],
    )
    def test_closed_by_end_stream(self, server: Serving, build: Build, outcome: Outcome) -> None:
        # RFC 9113 section 5.1: frames other than PRIORITY, WINDOW_UPDATE and RST_STREAM are a
        # connection error of type STREAM_CLOSED.
        with RawClient(server) as client:
            stream_id = ended(client)
            client.send(build(client, stream_id))
            outcome(client, stream_id)

    @pytest.mark.parametrize(
        "build", [a_data, a_headers, a_priority, a_rst_stream, a_window_update, an_unknown_frame]
    )
    @pytest.mark.parametrize("later", [False, True])
    def test_closed_by_reset_of_server(self, server: Serving, build: Build, later: bool) -> None:
        # RFC 9113 section 5.1: these may have been under way, so they are discarded, and not
        # answered with another RST_STREAM; after other requests, too, when the stream is no
        # longer among the last ones.
        with RawClient(server) as client:
            stream_id = reset_by_server(client)
            if later:
                expect_hello(client.request())
            client.send(build(client, stream_id))
            expect_serving(client)
            assert len(client.received(RstStreamFrame)) == 1

    @pytest.mark.parametrize("end_stream", [False, True])
    def test_trailers_after_reset_of_server(self, server: Serving, end_stream: bool) -> None:
        # RFC 9113 section 5.1: discarded, whatever is wrong with them.
        with RawClient(server) as client:
            stream_id = reset_by_server(client)
            block = client.block([("x-test", "1"), (":path", "/"), ("X-Upper", "1")])
            client.send(headers(stream_id, block, end_stream=end_stream, pad=2))
            expect_serving(client)
            assert len(client.received(RstStreamFrame)) == 1

    def test_data_after_reset_of_server_counts_for_the_window(self, server: Serving) -> None:
        # RFC 9113 section 5.1: it is the connection's, which is given back: twice its size.
        with RawClient(server) as client:
            stream_id = reset_by_server(client)
            window = client.expect(WindowUpdateFrame, 0).window_increment + DEFAULT_WINDOW
            frame = data(stream_id, bytes(DEFAULT_MAX_FRAME_SIZE), end=False)
            left, to_send = window, 2 * window
            while to_send > 0:
                while left < DEFAULT_MAX_FRAME_SIZE:
                    left += client.expect(WindowUpdateFrame, 0).window_increment
                client.send(frame)
                left -= DEFAULT_MAX_FRAME_SIZE
                to_send -= DEFAULT_MAX_FRAME_SIZE
            expect_serving(client)
            assert len(client.received(RstStreamFrame)) == 1

    @pytest.mark.parametrize(
        ("build", "outcome"),
        [
            (a_data, any_error(STREAM_CLOSED, PROTOCOL)),
            (a_headers, connection_error(PROTOCOL, STREAM_CLOSED)),
            (a_priority, accepted),
            (a_continuation, connection_error(PROTOCOL)),
        ],
    )
    def test_closed_by_a_higher_stream(
        self, server: Serving, build: Build, outcome: Outcome
    ) -> None:
        # RFC 9113 section 5.1.1: idle streams below a used one are closed.
        with RawClient(server) as client:
            stream_id = skipped(client)
            client.send(build(client, stream_id))
            outcome(client, stream_id)


class TestStreamIdentifiers:
    """RFC 9113 section 5.1.1."""

    @pytest.mark.parametrize("stream_id", [2, 4, MAX_31 - 1])
    def test_even(self, server: Serving, stream_id: int) -> None:
        # RFC 9113 section 5.1.1: a client's are odd. [http2/5.1.1/1]
        with RawClient(server) as client:
            client.send(headers(stream_id, client.block(GET)))
            client.expect_connection_error(PROTOCOL)

    def test_lower_than_one_before(self, server: Serving) -> None:
        # RFC 9113 section 5.1.1: they only grow. [http2/5.1.1/2]
        with RawClient(server) as client:
            client.send(headers(5, client.block(GET)), headers(3, client.block(GET)))
            client.expect_connection_error(PROTOCOL)

    def test_with_gaps_up_to_the_highest(self, server: Serving) -> None:
        # RFC 9113 section 5.1.1: gaps are allowed, and the highest is 2^31-1.
        with RawClient(server) as client:
            for stream_id in 3, 101, MAX_31:
                client.send(headers(stream_id, client.block(GET)))
                expect_hello(client.expect_response(stream_id))
            client.expect_alive()


class TestStreamConcurrency:
    """RFC 9113 section 5.1.2."""

    def test_one_stream_too_many(self, server: Serving) -> None:
        # RFC 9113 sections 5.1.2 and 8.7: only that stream is refused. [http2/5.1.2/1]
        with RawClient(server, {WINDOW: 0}) as client:
            client.expect_ack()
            limit = client.server_settings[SettingsFrame.MAX_CONCURRENT_STREAMS]
            streams = [client.open(GET) for _ in range(limit)]
            refused = client.open(GET)
            client.expect_stream_error(refused, REFUSED)
            client.send(settings({WINDOW: DEFAULT_WINDOW}))
            for stream_id in streams:
                expect_hello(client.expect_response(stream_id))
            expect_serving(client)

    def test_streams_whose_request_is_not_complete_count(self, server: Serving) -> None:
        # RFC 9113 section 5.1.2: "open" and both "half-closed" states count. One that is reset
        # makes room.
        with RawClient(server) as client:
            client.expect(SettingsFrame)
            limit = client.server_settings[SettingsFrame.MAX_CONCURRENT_STREAMS]
            streams = [opened(client) for _ in range(limit)]
            client.expect_stream_error(client.open(GET), REFUSED)
            client.send(rst_stream(streams[0]))
            expect_hello(client.request())
            client.send(data(streams[1], BODY))
            expect_echo(client.expect_response(streams[1]), BODY)

    def test_our_limit_is_for_pushes_only(self, server: Serving) -> None:
        # RFC 9113 section 6.5.2: a client's MAX_CONCURRENT_STREAMS limits what a server opens.
        with RawClient(server, {SettingsFrame.MAX_CONCURRENT_STREAMS: 0}) as client:
            expect_hello(client.request())


class TestStreamDependencies:
    """RFC 7540 section 5.3.1, which RFC 9113 deprecates and h2spec still asks for."""

    @pytest.mark.parametrize("cuts", [[], [1, 5]])
    def test_headers_that_depend_on_themselves(self, server: Serving, cuts: list[int]) -> None:
        # RFC 7540 section 5.3.1. [http2/5.3.1/1] The compression state is kept in step.
        with RawClient(server) as client:
            block = client.block([*GET, ("x-state", "kept")])
            client.send(headers(1, block, priority=priority_fields(1), cuts=cuts))
            client.expect_stream_error(1, PROTOCOL)
            assert not client.received(HeadersFrame)
            client.next_stream_id = 3
            TestHeaderBlocks.expect_state_kept(client)

    def test_trailers_that_depend_on_themselves(self, server: Serving) -> None:
        # RFC 7540 section 5.3.1.
        with RawClient(server) as client:
            stream_id = client.open(request_fields("/echo", "POST"), end_stream=False)
            block = client.block([("x-test", "ok")])
            client.send(headers(stream_id, block, priority=priority_fields(stream_id)))
            client.expect_stream_error(stream_id, PROTOCOL)
            expect_serving(client)

    @pytest.mark.parametrize("state", [idle, opened, half_closed])
    def test_priority_that_depends_on_itself(
        self, server: Serving, state: Callable[[RawClient], int]
    ) -> None:
        # RFC 7540 section 5.3.1. [http2/5.3.1/2]
        with RawClient(server) as client:
            stream_id = state(client)
            client.send(priority(stream_id, stream_id))
            client.expect_stream_error(stream_id, PROTOCOL, strict=False)


class TestErrorHandling:
    """RFC 9113 section 5.4."""

    def test_connection_error_names_the_last_stream(self, server: Serving) -> None:
        # RFC 9113 section 5.4.1: GOAWAY with the last stream that was taken in, then a close.
        # [http2/5.4.1/1, and 2 of the strict ones]
        with RawClient(server) as client:
            expect_hello(client.request())
            stream_id = half_closed(client)
            client.send(pack(PingFrame.type, 0, 3, bytes(8)))
            assert client.expect_connection_error(PROTOCOL).last_stream_id == stream_id

    def test_answers_before_a_connection_error_are_sent(self, server: Serving) -> None:
        # RFC 9113 section 5.4.1: what came before the error in the same segment was sound.
        with RawClient(server) as client:
            client.send(ping(b"before.."), settings(), data(0))
            client.expect_connection_error(PROTOCOL)
            assert [frame.opaque_data for frame in client.received(PingFrame)] == [b"before.."]
            assert sum("ACK" in frame.flags for frame in client.received(SettingsFrame)) == 2

    def test_nothing_after_a_connection_error_is_served(self, server: Serving) -> None:
        # RFC 9113 section 5.4.1: the connection is over, whatever follows the error.
        with RawClient(server) as client:
            client.send(data(0), headers(1, client.block(GET)), ping())
            assert client.expect_connection_error(PROTOCOL).last_stream_id == 0
            assert not client.received(HeadersFrame)
            assert not client.received(PingFrame)


class TestData:
    """RFC 9113 section 6.1."""

    @pytest.mark.parametrize(
        "parts",
        [
            [(b"test", None)],  # [generic/3.1/1]
            [(b"test", None), (b"test", None)],  # [generic/3.1/2]
            [(b"test", 6)],  # [generic/3.1/3]
            [(b"test", 0), (b"test", 255)],
            [(b"", 10), (b"test", None), (b"", 0)],
            [(b"", None)],
            [(b"test", None), (b"", None)],
        ],
        ids=["one", "two", "padded", "pad-0-and-255", "only-padding", "empty", "empty-last"],
    )
    def test_accepted(self, server: Serving, parts: list[tuple[bytes, int | None]]) -> None:
        # RFC 9113 section 6.1: padding is no part of the body.
        with RawClient(server) as client:
            stream_id = opened(client)
            for i, (body, pad) in enumerate(parts, 1):
                client.send(data(stream_id, body, pad=pad, end=i == len(parts)))
            expect_echo(client.expect_response(stream_id), b"".join(body for body, _ in parts))

    def test_on_stream_0(self, server: Serving) -> None:
        # RFC 9113 section 6.1. [http2/6.1/1]
        with RawClient(server) as client:
            client.send(data(0, BODY))
            client.expect_connection_error(PROTOCOL)

    @pytest.mark.parametrize("pad_length", [5, 6, 255])
    @pytest.mark.parametrize("length", [[], [("content-length", "4")]], ids=["", "length"])
    def test_padding_as_long_as_the_payload_or_longer(
        self, server: Serving, pad_length: int, length: list[Field]
    ) -> None:
        # RFC 9113 section 6.1. [http2/6.1/3]
        with RawClient(server) as client:
            stream_id = client.open([*POST, *length], end_stream=False)
            payload = bytes([pad_length]) + BODY
            client.send(pack(DataFrame.type, PADDED | END_STREAM, stream_id, payload))
            client.expect_connection_error(PROTOCOL)

    def test_without_its_pad_length(self, server: Serving) -> None:
        # RFC 9113 section 4.2: too small for its mandatory octet.
        with RawClient(server) as client:
            stream_id = opened(client)
            client.send(pack(DataFrame.type, PADDED | END_STREAM, stream_id))
            client.expect_stream_error(stream_id, FRAME_SIZE, PROTOCOL, strict=False)


class TestHeaders:
    """RFC 9113 section 6.2."""

    @pytest.mark.parametrize("pad", [None, 0, 8, 255])
    @pytest.mark.parametrize("fields", [b"", priority_fields()], ids=["plain", "priority"])
    def test_accepted(self, server: Serving, pad: int | None, fields: bytes) -> None:
        # RFC 9113 section 6.2. [generic/3.2/1 to 3, generic/4/1]
        with RawClient(server) as client:
            client.send(headers(1, client.block(GET), pad=pad, priority=fields))
            expect_hello(client.expect_response(1))

    def test_on_stream_0(self, server: Serving) -> None:
        # RFC 9113 section 6.2. [http2/6.2/3]
        with RawClient(server) as client:
            client.send(headers(0, client.block(GET)))
            client.expect_connection_error(PROTOCOL)

    def test_padding_around_an_empty_fragment(self, server: Serving) -> None:
        # RFC 9113 section 6.2: no longer than what remains, so it is valid.
        with RawClient(server) as client:
            client.send(headers(1, client.block(GET), cuts=[0], pad=8))
            expect_hello(client.expect_response(1))

    @pytest.mark.parametrize("excess", [1, 2, 100])
    def test_padding_longer_than_the_block(self, server: Serving, excess: int) -> None:
        # RFC 9113 section 6.2; of the connection, whose compression state is lost.
        # [http2/6.2/4]
        with RawClient(server) as client:
            block = client.block(GET)
            flags = END_STREAM | END_HEADERS | PADDED
            client.send(pack(HeadersFrame.type, flags, 1, bytes([len(block) + excess]) + block))
            client.expect_connection_error(PROTOCOL)

    @pytest.mark.parametrize(
        ("flags", "payload"),
        [(PADDED, b""), (PRIORITY, bytes(4)), (PADDED | PRIORITY, bytes(5))],
        ids=["padded", "priority", "both"],
    )
    def test_too_short(self, server: Serving, flags: int, payload: bytes) -> None:
        # RFC 9113 section 4.2: too small for its mandatory octets.
        with RawClient(server) as client:
            client.send(pack(HeadersFrame.type, flags | END_HEADERS | END_STREAM, 1, payload))
            client.expect_connection_error(FRAME_SIZE)


class TestPriority:
    """RFC 9113 section 6.3: deprecated, but its frames are still to be taken."""

    @pytest.mark.parametrize(
        "frame",
        [
            priority(1, weight=0),  # [generic/3.3/1]
            priority(1, weight=255),  # [generic/3.3/2]
            priority(3, depends_on=1, weight=0),  # [generic/3.3/3]
            priority(1, weight=0, exclusive=True),  # [generic/3.3/4]
            priority(3),  # [generic/3.3/5, http2/6.3/3 of the strict ones]
            priority(2),
        ],
        ids=["1", "256", "dependency", "exclusive", "higher-idle-stream", "even-stream"],
    )
    def test_accepted(self, server: Serving, frame: bytes) -> None:
        # RFC 9113 section 6.3: in any state; an idle stream stays idle.
        with RawClient(server) as client:
            client.send(frame, headers(1, client.block(GET)))
            expect_hello(client.expect_response(1))
            client.send(frame)
            client.expect_alive()

    def test_on_stream_0(self, server: Serving) -> None:
        # RFC 9113 section 6.3. [http2/6.3/1]
        with RawClient(server) as client:
            client.send(priority(0))
            client.expect_connection_error(PROTOCOL)

    @pytest.mark.parametrize("size", [0, 4, 6])
    @pytest.mark.parametrize("state", [opened, half_closed])
    def test_of_another_size(
        self, server: Serving, size: int, state: Callable[[RawClient], int]
    ) -> None:
        # RFC 9113 section 6.3: an error of the stream. [http2/6.3/2]
        with RawClient(server) as client:
            stream_id = state(client)
            client.send(pack(PriorityFrame.type, 0, stream_id, bytes(size)))
            client.expect_stream_error(stream_id, FRAME_SIZE)
            expect_serving(client)


class TestRstStream:
    """RFC 9113 section 6.4."""

    @pytest.mark.parametrize("state", [opened, half_closed])
    @pytest.mark.parametrize("code", [ErrorCodes.CANCEL, ErrorCodes.NO_ERROR, 0xFF, 2**32 - 1])
    def test_accepted(self, server: Serving, state: Callable[[RawClient], int], code: int) -> None:
        # RFC 9113 sections 6.4 and 7: unknown codes too. [generic/3.4/1, http2/7/2]
        with RawClient(server) as client:
            client.send(rst_stream(state(client), code))
            expect_serving(client)

    def test_ends_the_response(self, server: Serving) -> None:
        # RFC 9113 section 6.4: nothing more is sent on the stream.
        with RawClient(server) as client:
            stream_id = half_closed(client)
            client.send(rst_stream(stream_id))
            expect_serving(client)
            assert not client.received(DataFrame, stream_id)
            assert not client.received(RstStreamFrame)

    def test_on_stream_0(self, server: Serving) -> None:
        # RFC 9113 section 6.4. [http2/6.4/1]
        with RawClient(server) as client:
            client.send(rst_stream(0))
            client.expect_connection_error(PROTOCOL)

    @pytest.mark.parametrize("size", [0, 3, 5, 8])
    def test_of_another_size(self, server: Serving, size: int) -> None:
        # RFC 9113 section 6.4: an error of the connection. [http2/6.4/3]
        with RawClient(server) as client:
            client.send(pack(RstStreamFrame.type, 0, half_closed(client), bytes(size)))
            client.expect_connection_error(FRAME_SIZE)


class TestSettings:
    """RFC 9113 section 6.5."""

    def test_each_is_acknowledged_once(self, server: Serving) -> None:
        # RFC 9113 section 6.5.3. [generic/3.5/1, http2/6.5.3/2]
        with RawClient(server) as client:
            values = {
                SettingsFrame.HEADER_TABLE_SIZE: 4096,
                SettingsFrame.ENABLE_PUSH: 1,
                SettingsFrame.MAX_CONCURRENT_STREAMS: 100,
                SettingsFrame.INITIAL_WINDOW_SIZE: DEFAULT_WINDOW,
                SettingsFrame.MAX_FRAME_SIZE: 16384,
                SettingsFrame.MAX_HEADER_LIST_SIZE: 100,
            }
            client.send(settings(values), settings(), settings({SettingsFrame.ENABLE_PUSH: 0}))
            client.expect_alive()
            acks = [frame for frame in client.received(SettingsFrame) if "ACK" in frame.flags]
            assert len(acks) == 4  # with the preface's
            assert all(frame.body_len == 0 for frame in acks)

    @pytest.mark.parametrize("size", [1, 6])
    def test_ack_with_a_payload(self, server: Serving, size: int) -> None:
        # RFC 9113 section 6.5. [http2/6.5/1]
        with RawClient(server) as client:
            client.send(pack(SettingsFrame.type, ACK, 0, bytes(size)))
            client.expect_connection_error(FRAME_SIZE)

    @pytest.mark.parametrize("flags", [0, ACK])
    def test_on_a_stream(self, server: Serving, flags: int) -> None:
        # RFC 9113 section 6.5. [http2/6.5/2]
        with RawClient(server) as client:
            payload = b"" if flags else settings({3: 100})[9:]
            client.send(pack(SettingsFrame.type, flags, opened(client), payload))
            client.expect_connection_error(PROTOCOL)

    @pytest.mark.parametrize("size", [1, 3, 5, 7, 8])
    def test_not_a_multiple_of_6(self, server: Serving, size: int) -> None:
        # RFC 9113 section 6.5. [http2/6.5/3]
        with RawClient(server) as client:
            client.send(pack(SettingsFrame.type, 0, 0, (settings({3: 100, 0xFF: 2})[9:])[:size]))
            client.expect_connection_error(FRAME_SIZE)

    @pytest.mark.parametrize(
        ("setting", "value", "code"),
        [
            (SettingsFrame.ENABLE_PUSH, 2, PROTOCOL),  # [http2/6.5.2/1]
            (SettingsFrame.ENABLE_PUSH, 2**32 - 1, PROTOCOL),
            (WINDOW, 2**31, FLOW_CONTROL),  # [http2/6.5.2/2, 6.9.2/3]
            (WINDOW, 2**32 - 1, FLOW_CONTROL),
            (SettingsFrame.MAX_FRAME_SIZE, 2**14 - 1, PROTOCOL),  # [http2/6.5.2/3]
            (SettingsFrame.MAX_FRAME_SIZE, 0, PROTOCOL),
            (SettingsFrame.MAX_FRAME_SIZE, 2**24, PROTOCOL),  # [http2/6.5.2/4]
            (SettingsFrame.MAX_FRAME_SIZE, 2**32 - 1, PROTOCOL),
        ],
    )
    @pytest.mark.parametrize("in_preface", [True, False])
    def test_value_out_of_range(
        self, server: Serving, setting: int, value: int, code: ErrorCodes, in_preface: bool
    ) -> None:
        # RFC 9113 section 6.5.2.
        with RawClient(server, {setting: value} if in_preface else {}) as client:
            if not in_preface:
                client.send(settings({setting: value}))
            client.expect_connection_error(code)

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            (SettingsFrame.HEADER_TABLE_SIZE, 0),
            (SettingsFrame.HEADER_TABLE_SIZE, 2**32 - 1),
            (SettingsFrame.ENABLE_PUSH, 0),
            (SettingsFrame.ENABLE_PUSH, 1),
            (SettingsFrame.MAX_CONCURRENT_STREAMS, 0),
            (SettingsFrame.MAX_CONCURRENT_STREAMS, 2**32 - 1),
            (WINDOW, 0),
            (WINDOW, MAX_31),
            (SettingsFrame.MAX_FRAME_SIZE, 2**14),
            (SettingsFrame.MAX_FRAME_SIZE, 2**24 - 1),
            (SettingsFrame.MAX_HEADER_LIST_SIZE, 2**32 - 1),
            (0x0, 1),  # unknown ones are ignored [http2/6.5.2/5]
            (0xFF, 1),
            (0xFFFF, 2**32 - 1),
        ],
    )
    def test_value_in_range(self, server: Serving, setting: int, value: int) -> None:
        # RFC 9113 section 6.5.2.
        with RawClient(server) as client:
            client.send(settings({setting: value}))
            client.expect_ack()
            client.expect_ack()
            expect_serving(client)

    def test_values_are_taken_in_their_order(self, server: Serving) -> None:
        # RFC 9113 section 6.5.3. [http2/6.5.3/1]
        with RawClient(server) as client:
            client.send(settings([(WINDOW, 100), (WINDOW, 1)]))
            stream_id = client.open(GET)
            assert client.expect(DataFrame, stream_id).data == b"h"
            client.expect_alive()
            assert len(client.received(DataFrame)) == 1

    def test_header_table_size_of_0_is_kept_to(self, server: Serving) -> None:
        # RFC 9113 section 6.5.2 and RFC 7541 section 4.2: the encoder drops its table, and
        # says so in its next header block. (The decoder raises if it does not.)
        with RawClient(server) as client:
            expect_hello(client.request())
            client.send(settings({SettingsFrame.HEADER_TABLE_SIZE: 0}))
            client.expect_ack()
            client.expect_ack()
            client.decoder.max_allowed_table_size = 0
            for _ in range(2):
                expect_hello(client.request())
            assert client.decoder.header_table_size == 0


class TestPushPromise:
    """RFC 9113 sections 6.6 and 8.4; more of them in TestStreamStates."""

    @pytest.mark.parametrize("stream_id", [0, 1])
    def test_from_a_client(self, server: Serving, stream_id: int) -> None:
        # RFC 9113 section 8.4: a client cannot push. [http2/8.2/1]
        with RawClient(server) as client:
            assert opened(client) == 1
            client.send(push_promise(stream_id, 2, client.block(GET)))
            client.expect_connection_error(PROTOCOL)


class TestPing:
    """RFC 9113 section 6.7."""

    def test_each_is_acknowledged_with_its_payload(self, server: Serving) -> None:
        # RFC 9113 section 6.7. [generic/3.7/1, http2/6.7/1]
        with RawClient(server) as client:
            payloads = [b"\x00" * 8, b"12345678", b"\xff" * 8]
            client.send(*(ping(payload) for payload in payloads))
            client.expect_alive()
            frames = client.received(PingFrame)[:-1]
            assert [frame.opaque_data for frame in frames] == payloads
            assert all("ACK" in frame.flags for frame in frames)

    def test_ack_is_not_answered(self, server: Serving) -> None:
        # RFC 9113 section 6.7. [http2/6.7/2]
        with RawClient(server) as client:
            client.send(ping(b"unasked.", ack=True), ping(b"expected"))
            client.expect_alive()
            assert client.received(PingFrame)[0].opaque_data == b"expected"

    @pytest.mark.parametrize("flags", [0, ACK])
    def test_on_a_stream(self, server: Serving, flags: int) -> None:
        # RFC 9113 section 6.7. [http2/6.7/3]
        with RawClient(server) as client:
            client.send(pack(PingFrame.type, flags, opened(client), bytes(8)))
            client.expect_connection_error(PROTOCOL)

    @pytest.mark.parametrize("size", [0, 6, 7, 9, 16])
    @pytest.mark.parametrize("flags", [0, ACK])
    def test_of_another_size(self, server: Serving, size: int, flags: int) -> None:
        # RFC 9113 section 6.7. [http2/6.7/4]
        with RawClient(server) as client:
            client.send(pack(PingFrame.type, flags, 0, bytes(size)))
            client.expect_connection_error(FRAME_SIZE)


class TestGoaway:
    """RFC 9113 section 6.8."""

    @pytest.mark.parametrize(
        "frame",
        [
            goaway(0, 0, b"debug data"),  # [generic/3.8/1]
            goaway(),
            goaway(0, 0xFF),  # section 7: unknown codes have no special effect [http2/7/1]
            goaway(MAX_31, ErrorCodes.ENHANCE_YOUR_CALM),
        ],
        ids=["debug-data", "no-error", "unknown-code", "error"],
    )
    @pytest.mark.parametrize("used", [False, True])
    def test_without_streams_it_ends_the_connection(
        self, server: Serving, frame: bytes, used: bool
    ) -> None:
        # RFC 9113 sections 6.8 and 7.
        with RawClient(server) as client:
            if used:
                expect_hello(client.request())
            client.send(frame)
            assert {frame.error_code for frame in client.expect_close()} <= {0}

    @pytest.mark.parametrize("last_stream_id", [0, MAX_31])
    def test_streams_in_flight_are_served(self, server: Serving, last_stream_id: int) -> None:
        # RFC 9113 section 6.8: its last stream is about those that the server opened; ours go
        # on. Then the connection has no more use.
        with RawClient(server) as client:
            waiting = client.open(request_fields("/sleep?s=0.3"))
            uploading = opened(client)
            stalled = half_closed(client)
            client.send(goaway(last_stream_id))
            client.expect_alive()
            client.send(data(uploading, BODY))
            client.send(settings({WINDOW: DEFAULT_WINDOW}))
            expect_hello(client.expect_response(stalled))
            expect_echo(client.expect_response(uploading), BODY)
            assert client.expect_response(waiting).body == b"slept"
            assert {frame.error_code for frame in client.expect_close()} <= {0}

    def test_a_second_one_changes_nothing(self, server: Serving) -> None:
        # RFC 9113 section 6.8: the first may announce the second.
        with RawClient(server) as client:
            stream_id = half_closed(client)
            client.send(goaway(MAX_31), ping(), goaway(0), window_update(stream_id, 5))
            expect_hello(client.expect_response(stream_id))
            assert {frame.error_code for frame in client.expect_close()} <= {0}

    @pytest.mark.parametrize("stream_id", [1, 3])
    def test_on_a_stream(self, server: Serving, stream_id: int) -> None:
        # RFC 9113 section 6.8. [http2/6.8/1]
        with RawClient(server) as client:
            assert opened(client) == 1
            client.send(pack(GoAwayFrame.type, 0, stream_id, bytes(8)))
            client.expect_connection_error(PROTOCOL)

    @pytest.mark.parametrize("size", [0, 4, 7])
    def test_too_short(self, server: Serving, size: int) -> None:
        # RFC 9113 section 4.2: too small for its mandatory octets.
        with RawClient(server) as client:
            client.send(pack(GoAwayFrame.type, 0, 0, bytes(size)))
            client.expect_connection_error(FRAME_SIZE)


class TestWindowUpdate:
    """RFC 9113 section 6.9."""

    def test_accepted(self, server: Serving) -> None:
        # RFC 9113 section 6.9. [generic/3.9/1 and 2]
        with RawClient(server) as client:
            client.send(window_update(0, 1))
            stream_id = client.open(GET)
            client.send(window_update(stream_id, 1))
            expect_hello(client.expect_response(stream_id))

    @pytest.mark.parametrize("increment", [0, RESERVED_BIT])
    def test_increment_of_0_for_the_connection(self, server: Serving, increment: int) -> None:
        # RFC 9113 section 6.9. [http2/6.9/1]
        with RawClient(server) as client:
            client.send(window_update(0, increment))
            client.expect_connection_error(PROTOCOL)

    @pytest.mark.parametrize("increment", [0, RESERVED_BIT])
    @pytest.mark.parametrize("state", [opened, half_closed])
    def test_increment_of_0_for_a_stream(
        self, server: Serving, increment: int, state: Callable[[RawClient], int]
    ) -> None:
        # RFC 9113 section 6.9. [http2/6.9/2]
        with RawClient(server) as client:
            stream_id = state(client)
            client.send(window_update(stream_id, increment))
            client.expect_stream_error(stream_id, PROTOCOL)
            expect_serving(client)

    @pytest.mark.parametrize("size", [0, 3, 5, 8])
    @pytest.mark.parametrize("state", [lambda _: 0, opened], ids=["connection", "stream"])
    def test_of_another_size(
        self, server: Serving, size: int, state: Callable[[RawClient], int]
    ) -> None:
        # RFC 9113 section 6.9: an error of the connection in both cases. [http2/6.9/3]
        with RawClient(server) as client:
            client.send(pack(WindowUpdateFrame.type, 0, state(client), b"\x01" * size))
            client.expect_connection_error(FRAME_SIZE)


class TestFlowControl:
    """RFC 9113 sections 6.9.1 and 6.9.2."""

    def test_response_keeps_to_the_window_of_its_stream(self, server: Serving) -> None:
        # RFC 9113 section 6.9.1. [http2/6.9.1/1]
        with RawClient(server, {WINDOW: 1}) as client:
            stream_id = client.open(GET)
            assert client.expect(DataFrame, stream_id).data == b"h"
            client.expect_alive()
            assert len(client.received(DataFrame)) == 1
            client.send(window_update(stream_id, 2))
            client.expect_data(stream_id, 2)
            client.expect_alive()
            frames = client.received(DataFrame)
            assert b"".join(frame.data for frame in frames) == b"hel"
            assert not any(frame.flags for frame in frames)

    def test_responses_keep_to_the_window_of_the_connection(self, server: Serving) -> None:
        # RFC 9113 section 6.9.1: it holds for all streams together, and SETTINGS do not
        # change it (section 6.9.2).
        with RawClient(server, {WINDOW: MAX_31}) as client:
            streams = [client.open(request_fields("/bytes?n=50000")) for _ in range(2)]

            def total() -> int:
                return sum(len(frame.data) for frame in client.received(DataFrame))

            while total() < DEFAULT_WINDOW:
                client.expect(DataFrame)
            client.expect_alive()
            assert total() == DEFAULT_WINDOW
            client.send(window_update(0, 10**5))
            while total() < 100_000:
                client.expect(DataFrame)
            client.expect_alive()
            for stream_id in streams:
                body = b"".join(frame.data for frame in client.received(DataFrame, stream_id))
                assert body == b"x" * 50_000

    def test_empty_response_needs_no_window(self, server: Serving) -> None:
        # RFC 9113 section 6.9.1: nor do header fields.
        with RawClient(server, {WINDOW: 0}) as client:
            response = client.request("/bytes?n=0")
            assert (response.status, response.body) == (200, b"")
            assert client.request("/", "HEAD").status == 200

    @pytest.mark.parametrize("increment", [MAX_31, MAX_31 - DEFAULT_WINDOW + 1])
    def test_window_of_the_connection_overflows(self, server: Serving, increment: int) -> None:
        # RFC 9113 section 6.9.1. [http2/6.9.1/2]
        with RawClient(server) as client:
            client.send(window_update(0, increment), window_update(0, increment))
            client.expect_connection_error(FLOW_CONTROL)

    @pytest.mark.parametrize("state", [opened, half_closed])
    def test_window_of_a_stream_overflows(
        self, server: Serving, state: Callable[[RawClient], int]
    ) -> None:
        # RFC 9113 section 6.9.1: an error of the stream. [http2/6.9.1/3]
        with RawClient(server) as client:
            stream_id = state(client)
            client.send(*[window_update(stream_id, MAX_31)] * 2)
            client.expect_stream_error(stream_id, FLOW_CONTROL)
            expect_serving(client)

    def test_largest_windows_do_not_overflow(self, server: Serving) -> None:
        # RFC 9113 section 6.9.1: 2^31-1 itself is allowed; one more is not.
        with RawClient(server) as client:
            stream_id = opened(client)
            increment = MAX_31 - DEFAULT_WINDOW
            client.send(window_update(0, increment), window_update(stream_id, increment))
            client.expect_alive()
            client.send(window_update(stream_id, 1))
            client.expect_stream_error(stream_id, FLOW_CONTROL)
            client.send(window_update(0, 1))
            client.expect_connection_error(FLOW_CONTROL)

    def test_new_initial_size_moves_open_windows(self, server: Serving) -> None:
        # RFC 9113 section 6.9.2. [http2/6.9.2/1]
        with RawClient(server) as client:
            stream_id = half_closed(client)
            client.send(settings({WINDOW: 1}))
            assert client.expect(DataFrame, stream_id).data == b"h"
            client.send(settings({WINDOW: 3}))
            assert client.expect(DataFrame, stream_id).data == b"el"

    def test_window_may_become_negative(self, server: Serving) -> None:
        # RFC 9113 section 6.9.2. [http2/6.9.2/2]
        with RawClient(server, {WINDOW: 3}) as client:
            stream_id = client.open(GET)
            assert client.expect(DataFrame, stream_id).data == b"hel"
            client.send(settings({WINDOW: 1}), window_update(stream_id, 2))  # -2, then 0
            client.expect_alive()
            assert len(client.received(DataFrame)) == 1
            client.send(window_update(stream_id, 1))
            assert client.expect(DataFrame, stream_id).data == b"l"

    def test_new_initial_size_overflows_a_window(self, server: Serving) -> None:
        # RFC 9113 section 6.9.2: an error of the connection.
        with RawClient(server) as client:
            stream_id = half_closed(client)
            client.send(settings({WINDOW: DEFAULT_WINDOW}))
            second = opened(client)
            client.send(window_update(second, MAX_31 - DEFAULT_WINDOW))
            expect_hello(client.expect_response(stream_id))
            client.expect_alive()
            client.send(settings({WINDOW: DEFAULT_WINDOW + 1}))
            client.expect_connection_error(FLOW_CONTROL)

    @pytest.mark.parametrize("pad", [None, 49])
    def test_data_past_the_window_of_a_stream(
        self, serve: Callable[..., Serving], pad: int | None
    ) -> None:
        # RFC 9113 sections 6.9 and 6.1: padding and its length count.
        server = serve(env={"PLAIN_SERVER_H2_INITIAL_WINDOW_SIZE": "100"})
        with RawClient(server) as client:
            client.expect(SettingsFrame)
            assert client.server_settings[WINDOW] == 100
            client.expect_alive()  # so it has our ACK
            stream_id = opened(client)
            size = 101 if pad is None else 100 - pad
            client.send(data(stream_id, b"x" * size, pad=pad))
            client.expect_stream_error(stream_id, FLOW_CONTROL, strict=False)

    @pytest.mark.parametrize("pad", [None, 0, 100])
    def test_refused_data_gives_its_window_back(self, server: Serving, pad: int | None) -> None:
        # RFC 9113 section 6.9: all of the payload counts for the connection, padding too.
        with RawClient(server) as client:
            client.expect(WindowUpdateFrame, 0)  # of the handshake
            stream_id = client.open([*POST, ("content-length", "4")], end_stream=False)
            client.send(data(stream_id, b"hello", pad=pad))
            client.expect_stream_error(stream_id, PROTOCOL)
            given_back = client.expect(WindowUpdateFrame, 0).window_increment
            assert given_back == 5 + (0 if pad is None else 1 + pad)


class TestContinuation:
    """RFC 9113 section 6.10; what may not stand between is in TestHeaderBlocks."""

    @pytest.mark.parametrize(
        "cuts",
        [[5], [5, 10], [0], [0, 0, 5], list(range(1, 20))],
        ids=["one", "two", "empty-headers", "empty-continuation", "octets"],
    )
    def test_accepted(self, server: Serving, cuts: list[int]) -> None:
        # RFC 9113 section 6.10. [generic/3.10/1 and 2, http2/6.10/1]
        with RawClient(server) as client:
            block = client.block([*POST, ("x-dummy0", "x" * 100), ("x-dummy1", "y" * 100)])
            client.send(headers(1, block, end_stream=False, cuts=cuts), data(1, BODY))
            expect_echo(client.expect_response(1), BODY)

    def test_each_block_has_a_limit_of_its_own(self, server: Serving) -> None:
        # RFC 9113 section 10.5.1 leaves it to us: 32 CONTINUATIONs, of a block.
        with RawClient(server) as client:
            for _ in range(3):
                stream_id = client.new_stream_id()
                block = client.block(GET) + literal(b"x-long", b"v" * 60)
                client.send(headers(stream_id, block, cuts=range(1, 33)))
                expect_hello(client.expect_response(stream_id))
            stream_id = client.new_stream_id()
            client.send(headers(stream_id, client.block(GET), end_headers=False))
            client.send(*[continuation(stream_id, b"", end_headers=False)] * 33)
            client.expect_connection_error(ErrorCodes.ENHANCE_YOUR_CALM)

    @pytest.mark.parametrize(("cuts", "pad"), [([5], None), ([5], 8), ([0], None)])
    def test_end_stream_of_headers_counts(
        self, server: Serving, cuts: list[int], pad: int | None
    ) -> None:
        # RFC 9113 section 6.2: END_STREAM goes with HEADERS, and CONTINUATIONs still follow.
        with RawClient(server) as client:
            client.send(headers(1, client.block(GET), cuts=cuts, pad=pad))
            expect_hello(client.expect_response(1))

    def test_trailers(self, server: Serving) -> None:
        # RFC 9113 section 8.1: trailers can be continued too.
        with RawClient(server) as client:
            stream_id = opened(client)
            client.send(data(stream_id, BODY, end=False))
            client.send(headers(stream_id, client.block([("x-a", "1"), ("x-b", "2")]), cuts=[3]))
            expect_echo(client.expect_response(stream_id), BODY)

    @pytest.mark.parametrize("cuts", [[], [5]], ids=["HEADERS", "CONTINUATION"])
    def test_after_end_headers(self, server: Serving, cuts: list[int]) -> None:
        # RFC 9113 section 6.10. [http2/6.10/4 and 5]
        with RawClient(server) as client:
            block = client.block(POST)
            client.send(headers(1, block, end_stream=False, cuts=cuts))
            client.send(a_continuation(client, 1))
            client.expect_connection_error(PROTOCOL)

    def test_after_data(self, server: Serving) -> None:
        # RFC 9113 section 6.10. [http2/6.10/6]
        with RawClient(server) as client:
            stream_id = opened(client)
            client.send(data(stream_id, BODY, end=False), a_continuation(client, stream_id))
            client.expect_connection_error(PROTOCOL)

    def test_on_stream_0(self, server: Serving) -> None:
        # RFC 9113 section 6.10. [http2/6.10/3]
        with RawClient(server) as client:
            client.send(a_continuation(client, 0))
            client.expect_connection_error(PROTOCOL)


class TestRequestAndResponse:
    """RFC 9113 section 8.1."""

    def test_get(self, server: Serving) -> None:
        # RFC 9113 sections 8.1 and 8.3.2: one :status, first, and no HTTP/1.1 fields.
        # [generic/4/1]
        with RawClient(server) as client:
            response = client.request()
            expect_hello(response)
            names = [name for name, _ in response.headers]
            assert names[0] == ":status"
            assert not [name for name in names[1:] if name.startswith(":") or name != name.lower()]
            assert not CONNECTION_SPECIFIC & set(names)

    def test_head(self, server: Serving) -> None:
        # RFC 9113 section 8.1 and RFC 9110 section 9.3.2: no content. [generic/4/2]
        with RawClient(server) as client:
            response = client.request("/", "HEAD")
            assert (response.status, response.body) == (200, b"")
            assert dict(response.headers)["content-length"] == "5"
            expect_serving(client)

    @pytest.mark.parametrize("trailers", [False, True])
    def test_post(self, server: Serving, trailers: bool) -> None:
        # RFC 9113 section 8.1. [generic/4/3 and 4]
        with RawClient(server) as client:
            stream_id = client.open([*POST, ("trailer", "x-test")], end_stream=False)
            client.send(data(stream_id, BODY, end=not trailers))
            if trailers:
                client.send(headers(stream_id, client.block([("x-test", "ok")])))
            expect_echo(client.expect_response(stream_id), BODY)

    @pytest.mark.parametrize("value", ["100-continue", "something, 100-Continue"])
    def test_100_before_the_body(self, server: Serving, value: str) -> None:
        # RFC 9110 section 10.1.1, and RFC 9113 section 8.1 for the HEADERS that carry it.
        with RawClient(server) as client:
            stream_id = client.open([*POST, ("expect", value)], end_stream=False)
            assert client.fields(client.expect(HeadersFrame, stream_id)) == [(":status", "100")]
            client.send(data(stream_id, BODY))
            expect_echo(client.expect_response(stream_id), BODY)

    def test_100_for_a_request_that_is_taken_back(self, server: Serving) -> None:
        with RawClient(server) as client:
            block = client.block([*POST, ("expect", "100-continue")])
            client.send(headers(1, block, end_stream=False), rst_stream(1))
            client.next_stream_id = 3
            expect_serving(client)

    def test_no_100_without_a_need(self, server: Serving) -> None:
        # RFC 9110 section 10.1.1: there is no body to wait for, or none is wanted.
        with RawClient(server) as client:
            expects = ("expect", "100-continue")
            whole = client.open([*GET, expects])
            too_large = [*POST, expects, ("content-length", "1000000000")]
            refused = client.open(too_large, end_stream=False)
            for stream_id, status in ((whole, "200"), (refused, "413")):
                fields = client.fields(client.expect(HeadersFrame, stream_id))
                assert dict(fields)[":status"] == status

    def test_many_requests_at_once(self, server: Serving) -> None:
        # RFC 9113 section 8.1: each answer on the stream of its question.
        with RawClient(server) as client:
            streams = {client.open(request_fields(f"/bytes?n={n}")): n for n in range(50)}
            for stream_id, n in streams.items():
                assert len(client.expect_response(stream_id).body) == n

    @pytest.mark.parametrize("after_data", [True, False])
    def test_second_headers_without_end_stream(self, server: Serving, after_data: bool) -> None:
        # RFC 9113 section 8.1: malformed. [http2/8.1/1]
        with RawClient(server) as client:
            stream_id = opened(client)
            if after_data:
                client.send(data(stream_id, BODY, end=False))
            client.send(headers(stream_id, client.block([("x-test", "ok")]), end_stream=False))
            client.expect_stream_error(stream_id, PROTOCOL)
            expect_serving(client)

    def test_second_headers_without_end_stream_after_the_answer(self, server: Serving) -> None:
        # RFC 9113 section 8.1.
        with RawClient(server) as client:
            stream_id = client.open([*POST, ("content-length", "1000000000")], end_stream=False)
            assert client.expect_response(stream_id).status == 413
            client.send(headers(stream_id, client.block([("x-test", "ok")]), end_stream=False))
            client.expect_stream_error(stream_id, PROTOCOL)
            expect_serving(client)

    def test_second_headers_without_end_stream_but_with_priority(self, server: Serving) -> None:
        # RFC 9113 sections 8.1 and 5.3.2.
        with RawClient(server) as client:
            stream_id = opened(client)
            block = client.block([("x-test", "ok")])
            client.send(headers(stream_id, block, end_stream=False, priority=priority_fields()))
            client.expect_stream_error(stream_id, PROTOCOL)
            expect_serving(client)


PSEUDO = (":method", ":scheme", ":path", ":authority")

CONNECTION_SPECIFIC = {
    "connection",
    "proxy-connection",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
}


def without(name: str) -> list[Field]:
    return [item for item in GET if item[0] != name]


def replaced(name: str, value: str, fields: list[Field] = GET) -> list[Field]:
    return [(name, value) if item[0] == name else item for item in fields]


def moved_last(name: str) -> list[Field]:
    """With a pseudo-header field after a regular one."""
    return [*without(name), ("x-test", "ok"), *(item for item in GET if item[0] == name)]


BAD_NAMES: list[bytes] = [
    b"X-TEST",  # [http2/8.1.2/1]
    b"x-tesT",
    b"",
    b"x test",
    b" x-test",
    b"x-test ",
    b"x\x00test",
    b"x\rtest",
    b"x\ntest",
    b"x\ttest",
    b"x-test\x7f",
    b"x-\xc3\xa9",
    b"x:test",
    b"x-test:",
]

BAD_VALUES: list[bytes] = [
    b"a\x00b",
    b"a\rb",
    b"a\nb",
    b"a\r\nb: c",
    b"\x00",
    b"a\r",
    b"a\n",
    b" a",
    b"a ",
    b"\ta",
    b"a\t",
    b" ",
]

#: Requests that are malformed, by the section that says so.
MALFORMED: dict[str, list[Field]] = {
    # RFC 9113 section 8.2.2.
    **{f"8.2.2-{name}": [*GET, (name, "x")] for name in sorted(CONNECTION_SPECIFIC)},
    "8.2.2-keep-alive-connection": [*GET, ("connection", "keep-alive")],  # [http2/8.1.2.2/1]
    "8.2.2-chunked": [*GET, ("transfer-encoding", "chunked")],
    # [http2/8.1.2.2/2]
    "8.2.2-te-two": [*GET, ("trailers", "test"), ("te", "trailers, deflate")],
    "8.2.2-te-gzip": [*GET, ("te", "gzip")],
    "8.2.2-te-empty": [*GET, ("te", "")],
    # RFC 9113 section 8.3: unknown, of a response, after regular fields.
    "8.3-unknown": [*GET, (":test", "ok")],  # [http2/8.1.2.1/1]
    "8.3-unknown-first": [(":test", "ok"), *GET],
    "8.3-empty-name": [*GET, (":", "ok")],
    "8.3-status": [*GET, (":status", "200")],  # [http2/8.1.2.1/2]
    "8.3-protocol": [*GET, (":protocol", "websocket")],  # not a CONNECT (RFC 8441)
    "8.3-all-after-regular": [("x-test", "ok"), *GET],  # [http2/8.1.2.1/4]
    **{f"8.3-{name[1:]}-after-regular": moved_last(name) for name in PSEUDO},
    "8.3-upper-case": [(":Method", "GET"), *without(":method")],
    # RFC 9113 section 8.3.1: exactly one of each.
    "8.3.1-no-method": without(":method"),  # [http2/8.1.2.3/2]
    "8.3.1-no-scheme": without(":scheme"),  # [http2/8.1.2.3/3]
    "8.3.1-no-path": without(":path"),  # [http2/8.1.2.3/4]
    "8.3.1-none": [("x-test", "ok")],
    # [http2/8.1.2.3/5 to 7]
    **{f"8.3.1-two-{name[1:]}": [*GET, (name, dict(GET)[name])] for name in PSEUDO},
    "8.3.1-two-methods-that-differ": [*GET, (":method", "POST")],
    # RFC 9113 section 8.3.1: what :path may be.
    "8.3.1-empty-path": replaced(":path", ""),  # [http2/8.1.2.3/1]
    "8.3.1-relative-path": replaced(":path", "relative"),
    "8.3.1-asterisk-of-get": replaced(":path", "*"),
    "8.3.1-absolute-uri": replaced(":path", "https://localhost/"),
    "8.3.1-path-with-space": replaced(":path", "/a b"),
    # RFC 9113 section 8.3.1: a method is a token, a scheme has its own characters.
    "8.3.1-empty-method": replaced(":method", ""),
    "8.3.1-method-with-space": replaced(":method", "GET /"),
    "8.3.1-empty-scheme": replaced(":scheme", ""),
    # RFC 9113 section 8.2.1, for pseudo-header fields.
    "8.2.1-path-with-nul": replaced(":path", "/\0"),
    "8.2.1-path-with-line-break": replaced(":path", "/\r\nx: y"),
    "8.2.1-authority-with-line-break": replaced(":authority", "localhost\r\nx: y"),
    "8.2.1-method-with-trailing-space": replaced(":method", "GET "),
    # RFC 9113 section 8.5: CONNECT has :authority and no other.
    "8.5-connect-with-path": replaced(":method", "CONNECT"),
    "8.5-connect-without-authority": [(":method", "CONNECT")],
    "8.5-connect-with-scheme": replaced(":method", "CONNECT", without(":path")),
    # RFC 9113 section 8.1.1 and RFC 9110 section 8.6.
    "8.1.1-length-without-body": [*GET, ("content-length", "5")],
    "8.1.1-length-without-body-of-post": [*POST, ("content-length", "5")],
    **{
        f"8.1.1-length-{value!r}": [*GET, ("content-length", value)]
        for value in ("", "abc", "-1", "+0", "0x0", "0,1", "0,0", "0, 0", "0.0", "0" * 5000)
    },
    "8.1.1-two-equal-lengths": [*GET, ("content-length", "0"), ("content-length", "0")],
    "8.1.1-two-lengths": [*GET, ("content-length", "0"), ("content-length", "1")],
}

#: Requests that a server should refuse; a 400 is as good as a reset.
REFUSED_REQUESTS: dict[str, list[Field]] = {
    # RFC 9113 section 8.3.1.
    "userinfo": replaced(":authority", "user@localhost"),
    "empty-authority": replaced(":authority", ""),
    "host-that-differs": [*GET, ("host", "example.com")],
    # RFC 9110 section 7.2 and RFC 9112 section 3.2.
    "two-hosts": [*GET, ("host", "localhost"), ("host", "localhost")],
    "neither-authority-nor-host": without(":authority"),
}

#: Requests that look strange and are valid.
VALID: dict[str, list[Field]] = {
    # RFC 9113 sections 8.2.1 and 8.2.2.
    "empty-value": [*GET, ("x-test", "")],
    "spaces-inside": [*GET, ("x-test", "a \t b")],
    "obs-text": [*GET, ("x-test", b"\xc3\xa9\xff")],
    "all-token-characters": [*GET, ("!#$%&'*+-.^_`|~09az", "x")],
    "te-trailers": [*GET, ("te", "trailers")],
    "repeated-field": [*GET, ("x-test", "a"), ("x-test", "b")],
    # RFC 9113 section 8.3.1.
    "host-and-authority": [*GET, ("host", "localhost")],
    "host-alone": [*without(":authority"), ("host", "localhost")],
    "pseudo-in-another-order": GET[::-1],
    "authority-with-port": replaced(":authority", "localhost:8443"),
    "query": replaced(":path", "/?a=b/c?d"),
    "authority-with-the-default-port": [
        *replaced(":authority", "localhost:443"),
        ("host", "localhost"),
    ],
    # RFC 9113 section 8.1.1.
    "length-0": [*GET, ("content-length", "0")],
}


class TestHeaderFields:
    """RFC 9113 sections 8.1.1 to 8.3.1: a malformed request is an error of its stream."""

    @staticmethod
    def expect_malformed(client: RawClient, fields: list[Field]) -> None:
        client.expect_stream_error(client.open(fields), PROTOCOL)
        expect_serving(client)

    @pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
    def test_bad_name(self, server: Serving, name: bytes) -> None:
        # RFC 9113 section 8.2.1.
        with RawClient(server) as client:
            self.expect_malformed(client, [*GET, (name, b"ok")])

    @pytest.mark.parametrize("value", BAD_VALUES, ids=repr)
    def test_bad_value(self, server: Serving, value: bytes) -> None:
        # RFC 9113 section 8.2.1.
        with RawClient(server) as client:
            self.expect_malformed(client, [*GET, (b"x-test", value)])

    @pytest.mark.parametrize("name", MALFORMED)
    def test_malformed(self, server: Serving, name: str) -> None:
        with RawClient(server) as client:
            self.expect_malformed(client, MALFORMED[name])

    @pytest.mark.parametrize("name", REFUSED_REQUESTS)
    def test_refused(self, server: Serving, name: str) -> None:
        with RawClient(server) as client:
            response = client.finish(client.open(REFUSED_REQUESTS[name]))
            assert response.reset == PROTOCOL or response.status == 400
            expect_serving(client)

    @pytest.mark.parametrize("name", VALID)
    def test_valid(self, server: Serving, name: str) -> None:
        with RawClient(server) as client:
            expect_hello(client.expect_response(client.open(VALID[name])))

    def test_the_scheme_is_the_connections(self, server: Serving) -> None:
        # RFC 9110 section 7.4: `https` needs TLS, whatever the client calls it.
        with RawClient(server) as client:
            fields = replaced(":scheme", "http", replaced(":path", "/meta"))
            meta = client.expect_response(client.open(fields))
            assert json.loads(meta.body)["scheme"] == "https"

    @pytest.mark.parametrize(("size", "status"), [(8190, 404), (8191, 414)])
    @pytest.mark.parametrize("mark", ["", "?"])
    def test_limit_of_a_path(self, server: Serving, mark: str, size: int, status: int) -> None:
        # RFC 9110 sections 4.1 and 15.5.15. Nothing else on the connection is lost.
        with RawClient(server) as client:
            other = client.open(request_fields("/sleep?s=0.1"))
            path = "/x" + mark + "x" * (size - 2 - len(mark))
            assert client.request(path).status == status
            assert client.expect_response(other).status == 200
            expect_serving(client)

    @pytest.mark.parametrize(("more", "status"), [("a" * 10_000, 200), (";", 431), ("\\", 431)])
    def test_limit_of_cookies(self, server: Serving, more: str, status: int) -> None:
        with RawClient(server) as client:
            cookies = [("cookie", ";" * 2000), ("cookie", "\\" * 2000), ("cookie", more)]
            assert client.expect_response(client.open([*GET, *cookies])).status == status
            expect_serving(client)

    @pytest.mark.parametrize(("others", "status"), [(90, 200), (101, 431)])
    def test_cookies_are_no_fields_of_the_limit(
        self, server: Serving, others: int, status: int
    ) -> None:
        # RFC 9113 section 8.2.3: a client may send each crumb in a field of its own.
        with RawClient(server) as client:
            cookies = [("cookie", f"c{i}=" + "v" * 100) for i in range(90)]
            fields = [(f"x-{i}", "v") for i in range(others)]
            stream_id = client.open([*GET, *cookies, *fields])
            assert client.expect_response(stream_id).status == status
            expect_serving(client)

    @pytest.mark.parametrize("path", [b"/\xff", b"/\xc3\xa9", b"/\xc2\x9b"])
    def test_bytes_of_a_path_that_are_no_ascii(self, server: Serving, path: bytes) -> None:
        # RFC 3986 section 2.1: as if they were percent-encoded.
        with RawClient(server) as client:
            meta = client.expect_response(
                client.open([*without(":path"), (":path", b"/meta?" + path)])
            )
            assert json.loads(meta.body)["query"] == "/" + quote(path[1:])
            assert (
                client.expect_response(client.open([*without(":path"), (":path", path)])).status
                == 404
            )

    @pytest.mark.parametrize("value", ["a; b*=''%ff", "a; b'c'*=d"])
    def test_content_type_of_no_known_encoding(self, server: Serving, value: str) -> None:
        # Plain's request raises LookupError, ValueError.
        with RawClient(server) as client:
            stream_id = client.open([*GET, ("content-type", value)])
            assert client.expect_response(stream_id).status == 400
            expect_serving(client)

    @pytest.mark.parametrize("method", ["get", "post", "Get", "GE", "G" * 21])
    def test_method_that_http_1_refuses(self, server: Serving, method: str) -> None:
        # RFC 9110 section 9.1: methods are case-sensitive. The view has a `post`.
        with RawClient(server) as client:
            assert client.request("/echo", method).status == 400
            expect_serving(client)
        server.wait_log(f"Invalid HTTP method: {method!r}")

    @pytest.mark.parametrize("method", ["BREW", "TRACE", "DELETE"])
    def test_method_that_the_view_has_not(self, server: Serving, method: str) -> None:
        with RawClient(server) as client:
            assert client.request("/echo", method).status == 405

    @pytest.mark.parametrize("end_stream", [True, False])
    def test_connect(self, server: Serving, end_stream: bool) -> None:
        # RFC 9113 section 8.5: well-formed, and this is no proxy.
        with RawClient(server) as client:
            fields = [(":method", "CONNECT"), (":authority", "localhost:443")]
            stream_id = client.open(fields, end_stream=end_stream)
            response = client.expect_response(stream_id)
            assert response.status == 405
            assert dict(response.headers)["allow"] == ""
            if not end_stream:
                client.send(data(stream_id, b"for the other end"))
            expect_serving(client)

    def test_asterisk_of_options(self, server: Serving) -> None:
        # RFC 9113 section 8.3.1: valid, whatever the answer.
        with RawClient(server) as client:
            assert client.request("*", "OPTIONS").status

    def test_cookie_in_pieces(self, server: Serving) -> None:
        # RFC 9113 section 8.2.3: joined before anything else sees them.
        with RawClient(server) as client:
            meta = client.request("/meta", "GET", ("cookie", "a=1"), ("cookie", "b=2; c=3"))
            assert json.loads(meta.body)["cookies"] == {"a": "1", "b": "2", "c": "3"}

    @pytest.mark.parametrize(
        "trailers",
        [
            [(":method", "POST")],  # [http2/8.1.2.1/3]
            [(":path", "/")],
            [("x-test", "ok"), (":status", "200")],
            [(":test", "ok")],
            [("X-Test", "ok")],
            [("x-test", "a\nb")],
            [("connection", "close")],
            [("transfer-encoding", "chunked")],
        ],
        ids=str,
    )
    @pytest.mark.parametrize("end_stream", [True, False])
    def test_malformed_trailers(
        self, server: Serving, trailers: list[Field], end_stream: bool
    ) -> None:
        # RFC 9113 sections 8.1, 8.2 and 8.3.
        with RawClient(server) as client:
            stream_id = opened(client)
            client.send(data(stream_id, BODY, end=False))
            client.send(headers(stream_id, client.block(trailers), end_stream=end_stream))
            client.expect_stream_error(stream_id, PROTOCOL)
            expect_serving(client)

    @pytest.mark.parametrize(
        ("length", "parts"),
        [
            ("1", [BODY]),  # [http2/8.1.2.6/1]
            ("1", [BODY, BODY]),  # [http2/8.1.2.6/2]
            ("3", [BODY]),
            ("5", [BODY]),
            ("0", [BODY]),
            ("8", [BODY]),
            ("4", [b""]),
            ("5", [BODY, b""]),
        ],
    )
    @pytest.mark.parametrize("trailers", [False, True])
    def test_content_length_differs_from_the_body(
        self, server: Serving, length: str, parts: list[bytes], trailers: bool
    ) -> None:
        # RFC 9113 section 8.1.1.
        with RawClient(server) as client:
            stream_id = client.open([*POST, ("content-length", length)], end_stream=False)
            for i, part in enumerate(parts, 1):
                client.send(data(stream_id, part, end=i == len(parts) and not trailers))
            if trailers:
                client.send(headers(stream_id, client.block([("x-test", "ok")])))
            client.expect_stream_error(stream_id, PROTOCOL)
            expect_serving(client)

    @pytest.mark.parametrize("sent", [b"", BODY])
    def test_body_given_up_after_the_answer(self, server: Serving, sent: bytes) -> None:
        # RFC 9113 section 8.1: what comes after a complete answer is thrown away.
        with RawClient(server) as client:
            stream_id = client.open([*POST, ("content-length", "1000000000")], end_stream=False)
            assert client.expect_response(stream_id).status == 413
            client.send(data(stream_id, sent))
            expect_serving(client)

    @pytest.mark.parametrize("trailers", [False, True])
    def test_content_length_equals_the_body(self, server: Serving, trailers: bool) -> None:
        # RFC 9113 section 8.1.1: without padding.
        with RawClient(server) as client:
            stream_id = client.open([*POST, ("content-length", "8")], end_stream=False)
            client.send(data(stream_id, BODY, end=False, pad=7))
            client.send(data(stream_id, BODY, end=not trailers))
            if trailers:
                client.send(headers(stream_id, client.block([("x-test", "ok")])))
            expect_echo(client.expect_response(stream_id), BODY * 2)


def string_literal(string: bytes, *, huffman: bool) -> bytes:
    """RFC 7541 section 5.2."""
    coded = Encoder().huffman_coder.encode(string) if huffman else string
    return hpack_int(len(coded), 7, 0x80 if huffman else 0) + coded


def static_get(path: str = "/") -> bytes:
    """The header block of a GET, that leaves the dynamic table alone."""
    return (
        b"\x82\x87\x04"
        + string_literal(path.encode(), huffman=False)
        + b"\x01"
        + string_literal(b"localhost", huffman=False)
    )


#: Ends of header blocks that cannot be decoded (RFC 7541).
HPACK_ERRORS: dict[str, bytes] = {
    "2.3.3-index-70": b"\xc6",  # [hpack/2.3.3/1]
    "2.3.3-index-126": b"\xfe",
    "2.3.3-first-index-past-the-tables": hpack_int(200, 7, 0x80),
    "2.3.3-name-index-70": b"\x7f\x07\x00",  # [hpack/2.3.3/2]
    "2.3.3-name-index-70-without-indexing": b"\x0f\x37\x00",
    "2.3.3-name-index-70-never-indexed": b"\x1f\x37\x00",
    "4.2-size-update-at-the-end": b"\x21",  # [hpack/4.2/1]
    "4.2-size-update-in-the-middle": b"\x20\x00\x01x\x01y",
    "5.1-integer-too-large": b"\xff" + b"\xff" * 10 + b"\x01",
    "5.1-integer-cut-off": b"\xff\x80",
    "5.2-string-cut-off": b"\x00\x01x\x05ok",
    "5.2-name-cut-off": b"\x00\x05x",
    "5.2-no-value": b"\x00\x01x",
    # [hpack/5.2/1 to 3]
    "5.2-padding-of-8-bits": b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff",
    "5.2-padding-of-zeros": b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90",
    "5.2-EOS": b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\xff\xff\xff\xfd\x25\x42\x7f",
    "6.1-index-0": b"\x80",  # [hpack/6.1/1]
    "6.2-nothing-after-the-pattern": b"\x40",
}


class TestHpack:
    """RFC 7541."""

    @pytest.mark.parametrize("huffman", [False, True])
    @pytest.mark.parametrize(
        ("pattern", "prefix_bits"),
        [(0x40, 6), (0x00, 4), (0x10, 4)],
        ids=["incremental", "without", "never"],
    )
    @pytest.mark.parametrize("name", ["indexed", "user-agent", "x-test"])
    def test_literal(
        self, server: Serving, pattern: int, prefix_bits: int, name: str, huffman: bool
    ) -> None:
        # RFC 7541 sections 6.2.1 to 6.2.3. [generic/5/2 to 13]
        with RawClient(server) as client:
            block = static_get("/meta")
            if name == "indexed":
                block += hpack_int(58, prefix_bits, pattern)
            else:
                block += bytes([pattern]) + string_literal(name.encode(), huffman=huffman)
            block += string_literal(b"agent/1", huffman=huffman)
            client.send(headers(1, block))
            field_name = "user-agent" if name == "indexed" else name
            assert request_headers(client.expect_response(1))[field_name] == "agent/1"
            # Only the first kind adds to the dynamic table, whose first entry is 62.
            client.send(headers(3, static_get("/meta") + hpack_int(62, 7, 0x80)))
            if pattern == 0x40:
                assert request_headers(client.expect_response(3))[field_name] == "agent/1"
            else:
                client.expect_connection_error(COMPRESSION)

    def test_indexed(self, server: Serving) -> None:
        # RFC 7541 section 6.1: user-agent, of the static table, with no value.
        # [generic/5/1]
        with RawClient(server) as client:
            client.send(headers(1, client.block(request_fields("/meta")) + b"\xba"))
            assert request_headers(client.expect_response(1))["user-agent"] == ""

    def test_indexed_in_the_dynamic_table(self, server: Serving) -> None:
        # RFC 7541 sections 2.3.2 and 2.3.3: the newest entry is 62, older ones follow.
        with RawClient(server) as client:
            block = client.block(GET)
            block += literal(b"x-a", b"1", 0x40) + literal(b"x-b", b"2", 0x40)
            client.send(headers(1, block))
            expect_hello(client.expect_response(1))
            block = literal(b":path", b"/meta") + b"\x82\x87\xc0\xbf\xbe"
            client.send(headers(3, block))
            found = request_headers(client.expect_response(3))
            assert (found["x-a"], found["x-b"]) == ("1", "2")

    @pytest.mark.parametrize(
        "updates",
        [b"\x20", b"\x20\x3f\xe1\x1f", b"\x3f\xe1\x1f", b"\x3e"],
        ids=["0", "0-and-4096", "4096", "30"],
    )
    def test_size_update(self, server: Serving, updates: bytes) -> None:
        # RFC 7541 sections 4.2 and 6.3. [generic/5/14 and 15]
        with RawClient(server) as client:
            client.send(headers(1, updates + client.block(GET)))
            expect_hello(client.expect_response(1))

    def test_size_update_evicts(self, server: Serving) -> None:
        # RFC 7541 section 4.3: what is evicted is no longer there.
        with RawClient(server) as client:
            client.send(headers(1, client.block(GET) + literal(b"x-a", b"1", 0x40)))
            expect_hello(client.expect_response(1))
            client.send(headers(3, b"\x20" + static_get() + b"\xbe"))
            client.expect_connection_error(COMPRESSION)

    @pytest.mark.parametrize("where", ["request", "CONTINUATION", "trailers", "closed-stream"])
    @pytest.mark.parametrize("name", HPACK_ERRORS)
    def test_decoding_error(self, server: Serving, name: str, where: str) -> None:
        # RFC 9113 section 4.3: COMPRESSION_ERROR, of the connection.
        with RawClient(server) as client:
            tail = HPACK_ERRORS[name]
            if where == "trailers":
                stream_id = opened(client)
                client.send(headers(stream_id, literal(b"x-a", b"1") + tail))
            elif where == "closed-stream":
                stream_id = reset_by_server(client)
                client.send(headers(stream_id, literal(b"x-a", b"1") + tail))
            else:
                block = static_get() + tail
                cuts = [len(block) - 1] if where == "CONTINUATION" else []
                client.send(headers(1, block, cuts=cuts))
            client.expect_connection_error(COMPRESSION)

    def test_nothing_but_a_broken_field(self, server: Serving) -> None:
        # RFC 9113 section 4.3. [http2/4.3/1]
        with RawClient(server) as client:
            client.send(pack(HeadersFrame.type, END_STREAM | END_HEADERS, 1, b"\x40"))
            client.expect_connection_error(COMPRESSION)

    def test_size_update_over_the_limit(self, server: Serving) -> None:
        # RFC 7541 section 6.3: the limit is the server's SETTINGS_HEADER_TABLE_SIZE.
        # [hpack/6.3/1]
        with RawClient(server) as client:
            client.expect(SettingsFrame)
            limit = client.server_settings.get(SettingsFrame.HEADER_TABLE_SIZE, 4096)
            client.send(headers(1, hpack_int(limit + 1, 5, 0x20) + client.block(GET)))
            client.expect_connection_error(COMPRESSION)
