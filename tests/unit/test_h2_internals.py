"""The names of h2, hpack and hyperframe that are private, or seldom used, are as we expect.

A failure names the one that has changed, in milliseconds, before a server test fails for it.
"""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import StreamClosedError
from h2.frame_buffer import FrameBuffer
from h2.settings import Settings
from h2.stream import H2Stream
from hpack.hpack import Decoder, Encoder
from hpack.table import HeaderTable
from hyperframe.frame import DataFrame, HeadersFrame
from private_names import code_of, find

from plain_gevent_h2 import http2
from plain_gevent_h2.http2.state_machine import StateMachine

#: Functions and classes by their parameters, without `self`.
PARAMETERS = {
    "h2.connection.H2Connection._begin_new_stream": "stream_id allowed_ids",
    "h2.connection.H2Connection._get_stream_by_id": "stream_id",
    "h2.connection.H2Connection._handle_data_on_closed_stream": "events exc frame",
    "h2.connection.H2Connection._receive_headers_frame": "frame",
    "h2.connection.H2Connection._stream_closed_by": "stream_id",
    "h2.connection.H2Connection._terminate_connection": "error_code",
    "h2.connection.H2Connection.acknowledge_received_data": "acknowledged_size stream_id",
    "h2.connection.H2Connection.data_to_send": "amount",
    "h2.connection.H2Connection.end_stream": "stream_id",
    "h2.connection.H2Connection.increment_flow_control_window": "increment stream_id",
    "h2.connection.H2Connection.initiate_connection": "",
    "h2.connection.H2Connection.local_flow_control_window": "stream_id",
    "h2.connection.H2Connection.ping": "opaque_data",
    "h2.connection.H2Connection.receive_data": "data",
    "h2.connection.H2Connection.reset_stream": "stream_id error_code",
    "h2.connection.H2ConnectionStateMachine.process_input": "input_",
    "h2.connection._decode_headers": "decoder encoded_header_block",
    "h2.exceptions.StreamClosedError": "stream_id",
    "h2.frame_buffer.FrameBuffer": "server",
    "h2.frame_buffer.FrameBuffer.__iter__": "",
    "h2.frame_buffer.FrameBuffer._update_header_buffer": "f",
    "h2.frame_buffer.FrameBuffer.add_data": "data",
    "h2.settings.ChangedSetting": "setting original_value new_value",
    "h2.settings.Settings": "client initial_values",
    "h2.settings.Settings.acknowledge": "",
    "h2.settings.Settings.validate_received_setting": "setting value",
    "h2.stream.H2Stream._initialize_content_length": "headers",
    "h2.stream.H2Stream.receive_headers": "headers end_stream header_encoding",
    "h2.stream.H2Stream.reset_stream": "error_code",
    "h2.stream.H2StreamStateMachine.process_input": "input_",
    "hpack.hpack.Decoder": "max_header_list_size",
    "hpack.hpack.Decoder._assert_valid_table_size": "",
    "hpack.hpack.Decoder.decode": "data raw",
    "hpack.hpack.Encoder": "",
    "hpack.hpack.Encoder.add": "to_add sensitive huffman",
    "hpack.hpack.Encoder.encode": "headers huffman",
    "hpack.huffman.HuffmanEncoder": "huffman_code_list huffman_code_list_lengths",
    "hpack.huffman.HuffmanEncoder.encode": "bytes_to_encode",
    "hpack.table.HeaderTable.add": "name value",
    "hpack.table.HeaderTable.get_by_index": "index",
    "hyperframe.frame.DataFrame": "stream_id data kwargs",
    "hyperframe.frame.Frame._body_repr": "",
    "hyperframe.frame.Frame.parse_body": "data",
    "hyperframe.frame.Frame.parse_flags": "flag_byte",
}

#: Properties, which this package overrides or sets.
PROPERTIES = (
    "h2.connection.H2Connection.open_inbound_streams",
    "h2.stream.H2Stream.closed_by",
    "h2.stream.H2Stream.open",
    "hpack.hpack.Decoder.header_table_size",
    "hpack.hpack.Encoder.header_table_size",
    "hpack.table.HeaderTable.maxsize",
)

#: What is in a module or a class, by the class that it has.
OBJECTS = {
    "h2.connection.ConnectionInputs.SEND_DATA": "ConnectionInputs",
    "h2.connection.ConnectionInputs.SEND_GOAWAY": "ConnectionInputs",
    "h2.connection.ConnectionInputs.SEND_HEADERS": "ConnectionInputs",
    "h2.connection.ConnectionState.SERVER_OPEN": "ConnectionState",
    "h2.connection.H2Connection.MAX_CLOSED_STREAMS": "int",
    "h2.stream.StreamClosedBy.RECV_RST_STREAM": "StreamClosedBy",
    "h2.stream.StreamClosedBy.SEND_RST_STREAM": "StreamClosedBy",
    "h2.stream.StreamInputs.RECV_HEADERS": "StreamInputs",
    "h2.stream.StreamInputs.SEND_END_STREAM": "StreamInputs",
    "h2.stream.StreamInputs.SEND_DATA": "StreamInputs",
    "h2.stream.StreamInputs.SEND_HEADERS": "StreamInputs",
    "h2.stream.StreamState.HALF_CLOSED_REMOTE": "StreamState",
    "h2.stream.StreamState.OPEN": "StreamState",
    "hpack.huffman_constants.REQUEST_CODES": "list",
    "hpack.huffman_constants.REQUEST_CODES_LENGTH": "list",
    "hpack.struct.HeaderTuple": "type",
    "hpack.struct.NeverIndexedHeaderTuple": "type",
    "hyperframe.frame.FRAMES": "dict",
}

_CONNECTION = H2Connection(H2Configuration(client_side=False))

#: Attributes that an object is given when it is made, by their classes.
ATTRIBUTES: dict[str, tuple[object, dict[str, str]]] = {
    "H2Connection": (
        _CONNECTION,
        {
            "_data_to_send": "bytearray",
            "_frame_dispatch_table": "dict",
            "decoder": "Decoder",
            "encoder": "Encoder",
            "highest_inbound_stream_id": "int",
            "incoming_buffer": "FrameBuffer",
            "local_settings": "Settings",
            "max_outbound_frame_size": "int",
            "outbound_flow_control_window": "int",
            "remote_settings": "Settings",
            "state_machine": "H2ConnectionStateMachine",
            "streams": "dict",
        },
    ),
    "H2ConnectionStateMachine": (_CONNECTION.state_machine, {"state": "ConnectionState"}),
    "H2Stream": (
        H2Stream(1, _CONNECTION.config, 65535, 65535),
        {
            "outbound_flow_control_window": "int",
            "state_machine": "H2StreamStateMachine",
            "stream_id": "int",
        },
    ),
    "H2StreamStateMachine": (
        H2Stream(1, _CONNECTION.config, 65535, 65535).state_machine,
        {"headers_received": "NoneType", "state": "StreamState"},
    ),
    "FrameBuffer": (FrameBuffer(), {"_headers_buffer": "list", "max_frame_size": "int"}),
    "Settings": (Settings(), {"_settings": "dict"}),
    "StreamClosedError": (StreamClosedError(1), {"_events": "list", "error_code": "ErrorCodes"}),
    "Encoder": (
        Encoder(),
        {
            "header_table": "HeaderTable",
            "huffman_coder": "HuffmanEncoder",
            "table_size_changes": "list",
        },
    ),
    "Decoder": (
        Decoder(),
        {
            "header_table": "HeaderTable",
            "max_allowed_table_size": "int",
            "max_header_list_size": "int",
        },
    ),
    "HeaderTable": (HeaderTable(), {"dynamic_entries": "deque", "resized": "bool"}),
    "DataFrame": (DataFrame(1), {"flags": "Flags"}),
    "HeadersFrame": (HeadersFrame(1), {"data": "bytes", "depends_on": "int", "stream_id": "int"}),
}

#: The only files that use such names.
DOORS = {"state_machine", "hpack", "huffman"}

#: What h2 and hpack document for their users.
PUBLIC = {"h2.events", "h2.exceptions", "h2.settings", "hpack.NeverIndexedHeaderTuple"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_is_called_takes_what_it_is_given(name: str) -> None:
    code = code_of(find(name))
    number = code.co_argcount + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    parameters = [p for p in code.co_varnames[:number] if p != "self"]
    assert parameters == PARAMETERS[name].split(), name


@pytest.mark.parametrize("name", PROPERTIES)
def test_properties(name: str) -> None:
    assert isinstance(find(name), property), name


def test_an_encoders_size_can_be_set() -> None:
    assert Encoder.header_table_size.fset is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", OBJECTS)
def test_objects(name: str) -> None:
    assert type(find(name)).__name__ == OBJECTS[name], name


@pytest.mark.parametrize(
    ("owner", "name"), [(owner, name) for owner, (_, names) in ATTRIBUTES.items() for name in names]
)
def test_attributes(owner: str, name: str) -> None:
    found, names = ATTRIBUTES[owner]
    assert hasattr(found, name), f"{owner}.{name}"
    assert type(getattr(found, name)).__name__ == names[name], f"{owner}.{name}"


def test_settings_keep_a_queue_for_each_value() -> None:
    assert all(type(values).__name__ == "deque" for values in Settings()._settings.values())


def test_a_stream_can_be_given_another_class() -> None:
    """Both have the attributes of the same kind: in a `__dict__`."""
    assert type(_CONNECTION._begin_new_stream(1, 1)) is H2Stream  # type: ignore[arg-type]
    machine = StateMachine(_CONNECTION.config)
    assert issubclass(type(machine._begin_new_stream(1, 1)), H2Stream)


def test_the_huffman_code_has_all_bytes_and_the_end() -> None:
    for name in ("REQUEST_CODES", "REQUEST_CODES_LENGTH"):
        assert len(find(f"hpack.huffman_constants.{name}")) == 257, name


def test_frames_are_found_by_their_types() -> None:
    frames = find("hyperframe.frame.FRAMES")
    assert [frames[kind].type for kind in range(10)] == list(range(10))


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """The modules from which `path` imports, and the names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


@pytest.mark.parametrize("path", sorted(Path(http2.__path__[0]).glob("*.py")), ids=lambda p: p.stem)
def test_only_few_files_know_such_names(path: Path) -> None:
    if path.stem in DOORS:
        return
    for module, name in imports(path):
        if module.partition(".")[0] in ("h2", "hpack", "hyperframe"):
            full = f"{module}.{name}"
            assert not name.startswith("_"), full
            assert module in PUBLIC or full in PUBLIC, full
