"""Our encoder and decoder against hpack's own, over random connections."""

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKDecodingError
from hpack.hpack import encode_integer
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import given, settings
from hypothesis import strategies as st

from plain_gevent_h2.http2 import huffman
from plain_gevent_h2.http2.hpack import BoundedDecoder, MemoEncoder

NAMES = [b":status", b"content-type", b"date", b"x-a", b"x-b", b"set-cookie"]
VALUES = [b"200", b"404", b"text/plain", b"", b"v" * 60, b"w" * 300, b"x" * 600]

field = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES))
fields = st.lists(field, max_size=6)
#: Header lists of one connection (few, so that they repeat), with new table sizes among them. In
#: the first, one of the long values has no room, and two of the others push each other out.
connection = st.lists(
    st.one_of(fields, st.sampled_from([0, 30, 100, 500, 4096, 65536])), max_size=40
).map(lambda steps: [512, *steps, *steps])


@given(connection)
@settings(max_examples=300)
def test_what_we_encode_is_decoded_by_others(steps: list[list[tuple[bytes, bytes]] | int]) -> None:
    encoder, decoder = MemoEncoder(), Decoder()
    for step in steps:
        if isinstance(step, int):
            encoder.header_table_size = step
            decoder.max_allowed_table_size = step
        else:
            decoded = [tuple(found) for found in decoder.decode(encoder.encode(step), raw=True)]
            assert decoded == step


@given(connection, st.booleans())
@settings(max_examples=300)
def test_we_decode_what_others_encode(
    steps: list[list[tuple[bytes, bytes]] | int], huffman: bool
) -> None:
    encoder, ours, theirs = Encoder(), BoundedDecoder(65536), Decoder()
    for step in steps:
        if isinstance(step, int):
            if min(step, 4096) != encoder.header_table_size:
                encoder.header_table_size = min(step, 4096)
            continue
        block = encoder.encode(step, huffman)
        assert ours.decode(block, raw=True) == theirs.decode(block, raw=True)


def literal(name: bytes, value: bytes, prefix: int) -> bytes:
    """A literal of new name and value; 0x40 as prefix puts it into the table."""
    parts = [encode_integer(len(text), 7) + text for text in (name, value)]
    return bytes([prefix]) + bytes(b"".join(parts))


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from([b"1", b"2" * 2000])).map(
                lambda pair: literal(*pair, 0x40)
            ),
            st.sampled_from([b"\x82", b"\xbe", b"\xbe\xbf", b"\xbf", literal(b"c", b"3", 0)]),
            st.sampled_from([b"\x20\x82", b"\x3f\xe1\x1f\x82", b"\x3f\x81\x10\xbe"]),
        ),
        max_size=40,
    ).map(lambda steps: steps + steps)
)
@settings(max_examples=300)
def test_we_decode_what_no_encoder_would_send(blocks: list[bytes]) -> None:
    """The same entry twice, entries that push out others, sizes set anew."""
    ours, theirs = BoundedDecoder(65536), Decoder(65536)
    for block in blocks:
        outcomes = []
        for decoder in (ours, theirs):
            try:
                outcomes.append(repr(decoder.decode(block, raw=True)))
            except Exception as exc:
                outcomes.append(repr(type(exc)))
        assert outcomes[0] == outcomes[1]
        if outcomes[0].startswith("<class"):
            return


_huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


@given(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(_huffman.encode)))
@settings(max_examples=2000)
def test_huffman_strings_stand_for_what_hpack_says(string: bytes) -> None:
    outcomes: list[object] = []
    for decode in (huffman.decode, decode_huffman):
        try:
            outcomes.append(decode(string))
        except HPACKDecodingError:
            outcomes.append(HPACKDecodingError)
    assert outcomes[0] == outcomes[1]
