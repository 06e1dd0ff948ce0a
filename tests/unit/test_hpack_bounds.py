"""What HPACK's decoder refuses, and what both sides remember."""

import pytest
from hpack import Decoder
from hpack.exceptions import (
    HPACKDecodingError,
    InvalidTableIndexError,
    InvalidTableSizeError,
    OversizedHeaderListError,
)
from hpack.hpack import encode_integer
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple

from plain_gevent_h2.http2 import hpack
from plain_gevent_h2.http2.hpack import (
    FIELD_OVERHEAD,
    MAX_FIELD_LINES,
    BoundedDecoder,
    MemoEncoder,
    _integer,
)

huffman = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)

#: `:method: GET`, of the static table.
GET = b"\x82"


def string(text: bytes) -> bytes:
    return bytes(encode_integer(len(text), 7)) + text


def huffman_string(text: bytes) -> bytes:
    code = huffman.encode(text)
    length = encode_integer(len(code), 7)
    length[0] |= 0x80
    return bytes(length) + code


def literal(name: bytes, value: bytes, prefix: int = 0) -> bytes:
    """0x40 as prefix puts it into the table, 0x10 keeps it out of all of them."""
    return bytes([prefix]) + string(name) + string(value)


class TestBounds:
    def test_field_lines(self) -> None:
        decoder = BoundedDecoder(2**20)
        assert len(list(decoder.decode(GET * MAX_FIELD_LINES))) == MAX_FIELD_LINES
        with pytest.raises(OversizedHeaderListError, match=r"^more than 500 field lines$"):
            decoder.decode(GET * (MAX_FIELD_LINES + 1))
        with pytest.raises(OversizedHeaderListError):  # table sizes are lines, too
            decoder.decode(b"\x20" * (MAX_FIELD_LINES + 1))

    def test_bytes_of_a_list(self) -> None:
        size = len(b":methodGET") + FIELD_OVERHEAD
        assert len(list(BoundedDecoder(3 * size).decode(GET * 3))) == 3
        with pytest.raises(OversizedHeaderListError, match=f"^more than {3 * size - 1} bytes$"):
            BoundedDecoder(3 * size - 1).decode(GET * 3)

    def test_bytes_of_huffman_code_are_counted_for_each_block(self) -> None:
        code = huffman_string(b"a" * 80)  # 50 bytes of code
        assert len(code) == 51
        decoder = BoundedDecoder(2**20, max_huffman=100)
        for _ in range(3):
            decoder.decode(b"\x00" + string(b"a") + code + b"\x00" + string(b"b") + code)
        with pytest.raises(OversizedHeaderListError, match=r"^too much of Huffman's code$"):
            decoder.decode(b"\x00" + huffman_string(b"a") + code + b"\x00" + string(b"b") + code)
        assert BoundedDecoder(49)._max_huffman == 49

    def test_the_size_of_the_table(self) -> None:
        decoder = BoundedDecoder(2**20)
        decoder.decode(bytes(self.resize(4096)) + GET)
        with pytest.raises(InvalidTableSizeError, match=r"^a table of 4097 bytes$"):
            decoder.decode(bytes(self.resize(4097)) + GET)
        with pytest.raises(HPACKDecodingError, match=r"^a new table size after a field$"):
            BoundedDecoder(2**20).decode(GET + bytes(self.resize(100)))

    @staticmethod
    def resize(size: int) -> bytearray:
        encoded = encode_integer(size, 5)
        encoded[0] |= 0x20
        return encoded

    @pytest.mark.parametrize(
        ("block", "why"),
        [
            (b"\xff", "truncated integer"),
            (b"\x00", "truncated integer"),
            (b"\x00\x01", "truncated string"),
            (b"\x00\x01a", "truncated integer"),
            (b"\x00\x01a\x05abcd", "truncated string"),
            (b"\x00\x81\xff\x00", "invalid Huffman string"),  # eight bits of padding
            (b"\xff\xff\xff\xff\xff\x00", "integer too long"),
        ],
    )
    def test_what_is_cut_or_wrong(self, block: bytes, why: str) -> None:
        with pytest.raises(HPACKDecodingError, match=f"^{why}$"):
            BoundedDecoder(2**20).decode(block)

    @pytest.mark.parametrize("block", [b"\x80", b"\xbe", b"\x7f\x00\x00"])
    def test_an_entry_that_is_not_there(self, block: bytes) -> None:
        with pytest.raises(InvalidTableIndexError):
            BoundedDecoder(2**20).decode(block)


class TestInteger:
    """RFC 7541 section 5.1."""

    @pytest.mark.parametrize("mask", [0x0F, 0x1F, 0x3F, 0x7F])
    @pytest.mark.parametrize("number", [0, 1, 14, 15, 30, 31, 126, 127, 128, 255, 16384, 2**28])
    def test_as_hpack_encodes_it(self, number: int, mask: int) -> None:
        encoded = bytes(encode_integer(number, mask.bit_length()))
        assert _integer(b"x" + encoded + b"y", 1, mask) == (number, 1 + len(encoded))
        with pytest.raises(HPACKDecodingError, match="truncated"):
            _integer(encoded[:-1], 0, mask)

    def test_the_bits_before_the_prefix_are_not_its(self) -> None:
        assert _integer(b"\xf5", 0, 0x0F) == (5, 1)

    def test_so_many_bits_and_no_more(self) -> None:
        assert _integer(b"\x0f" + b"\xff" * 3 + b"\x7f", 0, 0x0F) == (15 + 2**28 - 1, 5)
        with pytest.raises(HPACKDecodingError, match="too long"):
            _integer(b"\x0f" + b"\xff" * 4 + b"\x00", 0, 0x0F)


class TestFields:
    def test_one_that_is_never_indexed_is_known_as_that(self) -> None:
        block = literal(b"a", b"b", 0x10) + literal(b"c", b"d")
        never, other = BoundedDecoder(2**20).decode(block)
        assert isinstance(never, NeverIndexedHeaderTuple)
        assert not isinstance(other, NeverIndexedHeaderTuple)
        assert isinstance(other, HeaderTuple)

    def test_only_a_literal_with_indexing_is_in_the_table(self) -> None:
        decoder = BoundedDecoder(2**20)
        decoder.decode(literal(b"a", b"b", 0x10) + literal(b"c", b"d") + literal(b"e", b"f", 0x40))
        assert list(decoder.decode(b"\xbe")) == [(b"e", b"f")]
        with pytest.raises(InvalidTableIndexError):
            decoder.decode(b"\xbf")

    @pytest.mark.parametrize("index", [1, 2, 14, 15, 16, 61])
    @pytest.mark.parametrize(("prefix", "bits"), [(0x00, 4), (0x10, 4), (0x40, 6)])
    def test_a_name_from_the_table(self, index: int, prefix: int, bits: int) -> None:
        """Of the three kinds of literals (RFC 7541 section 6.2), with the same table after it."""
        name = encode_integer(index, bits)
        name[0] |= prefix
        block = bytes(name) + string(b"v")
        decoder, other = BoundedDecoder(2**20), Decoder()
        (field,) = decoder.decode(block)
        (expected,) = other.decode(block, raw=True)
        assert (field, type(field)) == (tuple(expected), type(expected))
        assert list(decoder.header_table.dynamic_entries) == list(
            other.header_table.dynamic_entries
        )
        assert len(decoder.header_table.dynamic_entries) == (prefix == 0x40)

    def test_strings_are_as_short_as_huffmans_code_makes_them(self) -> None:
        block = MemoEncoder().encode([(b"x-aaaa", b"eeeeeeeee")])
        assert huffman_string(b"x-aaaa") + huffman_string(b"eeeeeeeee") in block


class TestMemory:
    def test_a_block_is_another_once_the_table_has_changed(self) -> None:
        decoder = BoundedDecoder(2**20)
        decoder.decode(literal(b"a", b"1", 0x40))
        for _ in range(2):
            assert list(decoder.decode(b"\xbe")) == [(b"a", b"1")]
        decoder.decode(literal(b"a", b"2", 0x40))
        assert list(decoder.decode(b"\xbe")) == [(b"a", b"2")]
        decoder.decode(b"\x20" + GET)  # a table of 0 bytes
        with pytest.raises(InvalidTableIndexError):
            decoder.decode(b"\xbe")

    @pytest.mark.parametrize("size", [1, 3900], ids=["beside it", "in its place"])
    def test_so_it_is_when_an_entry_comes(self, size: int) -> None:
        """Of the long ones the table has room for one."""
        encoder, decoder, other = MemoEncoder(), BoundedDecoder(2**20), Decoder()
        other.max_allowed_table_size = 4096
        for i in (1, 2, 1, 2):
            fields = [(b"a", b"%d" % i * size)]
            for _ in range(3):
                block = encoder.encode(fields)
                assert list(decoder.decode(block)) == fields
                assert [tuple(found) for found in other.decode(block, raw=True)] == fields

    def test_it_is_remembered_whatever_is_in_the_table(self) -> None:
        encoder, decoder = MemoEncoder(), BoundedDecoder(2**20)
        blocks = [encoder.encode([(b"x-a", b"b")]) for _ in range(4)]
        assert blocks[1] is blocks[2] is blocks[3]
        for block in blocks[:2]:
            decoder.decode(block)
        assert list(decoder._lists) == [blocks[1]]
        assert next(iter(decoder.decode(blocks[1]))) is decoder._lists[blocks[1]][0]
        assert list(decoder.decode(blocks[1])) == decoder._lists[blocks[1]] == [(b"x-a", b"b")]

    def test_a_resize_of_the_table_is_said_once(self) -> None:
        """And not with each block that is taken from the memory."""
        encoder, decoder = MemoEncoder(), Decoder()
        fields = [(b":status", b"200")]
        before = [encoder.encode(fields) for _ in range(2)]
        encoder.header_table_size = 100
        after = [encoder.encode(fields) for _ in range(3)]
        assert before == 2 * [b"\x88"]
        assert after == [b"\x3f\x45\x88", b"\x88", b"\x88"]
        for block in (*before, *after):
            assert [tuple(found) for found in decoder.decode(block, raw=True)] == fields

    def test_short_strings_are_remembered_for_all_connections(self) -> None:
        cached = hpack._huffman._cached
        short, long = b"q" * hpack._LONGEST_STRING_REMEMBERED, b"q" * 65
        for text, more in ((short, 1), (short, 0), (long, 0)):
            before = cached.cache_info().currsize
            assert hpack._huffman.encode(text) == huffman.encode(text)
            assert cached.cache_info().currsize - before == more

    def test_what_is_remembered_is_the_callers_to_change(self) -> None:
        decoder = BoundedDecoder(2**20)
        for _ in range(3):
            fields = decoder.decode(GET)
            assert isinstance(fields, list)
            fields.append(("x", "y"))
        assert list(decoder.decode(GET)) == [(b":method", b"GET")]

    def test_few_and_short_blocks_are_remembered(self) -> None:
        decoder = BoundedDecoder(2**20)
        for i in range(20):
            decoder.decode(literal(b"a", b"%d" % i))
        assert len(decoder._lists) <= hpack._BLOCKS_REMEMBERED
        decoder = BoundedDecoder(2**20)
        decoder.decode(literal(b"a", b"x" * (hpack._LONGEST_REMEMBERED - 4)))
        assert len(decoder._lists) == 1
        decoder.decode(literal(b"a", b"x" * (hpack._LONGEST_REMEMBERED - 3)))
        assert len(decoder._lists) == 1

    def test_secrets_are_in_no_memory_of_all_connections(self) -> None:
        encoder = MemoEncoder()
        before = hpack._huffman._cached.cache_info().currsize
        secret = b"session=0123456789"
        block = encoder.encode([NeverIndexedHeaderTuple(b"set-cookie", secret)])
        assert secret in block
        after = hpack._huffman._cached.cache_info().currsize
        assert after == before
        assert not encoder.header_table.dynamic_entries
        encoder.encode([(b"x-new-name", b"new value")])
        assert encoder.header_table.dynamic_entries

    def test_a_response_like_the_last_one_is_the_same_block(self) -> None:
        encoder, decoder = MemoEncoder(), Decoder()
        fields = [(b":status", b"200"), (b"x-a", b"b")]
        blocks = [encoder.encode(fields) for _ in range(3)]
        assert len(blocks[0]) > len(blocks[1]) == len(blocks[2])
        for block in blocks:
            assert [tuple(found) for found in decoder.decode(block, raw=True)] == fields

    @pytest.mark.parametrize(
        ("sizes", "told"),
        [
            ([100], [100]),
            ([100, 4096], [100, 4096]),
            ([4096], []),
            ([65536], []),
            ([0, 50], [0, 50]),
        ],
    )
    def test_the_smallest_and_the_last_size_are_told(
        self, sizes: list[int], told: list[int]
    ) -> None:
        """RFC 7541 section 4.2; and no more than 4,096 bytes are ours to fill."""
        encoder = MemoEncoder()
        for size in sizes:
            encoder.header_table_size = size
        assert list(encoder.table_size_changes) == told
        assert encoder.header_table_size == min(sizes[-1], 4096)
