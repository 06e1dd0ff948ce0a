"""HPACK (RFC 7541) as `hpack` has it, with less work for what repeats and a bound on the rest."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from hpack.exceptions import (
    HPACKDecodingError,
    InvalidTableSizeError,
    OversizedHeaderListError,
)
from hpack.hpack import Decoder, Encoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from hpack.table import HeaderTable

from . import huffman

#: The default of RFC 9113 section 6.5.2. A larger table would be the peer's to fill.
_TABLE_SIZE = 4096

#: Blocks that one connection remembers each way.
_BLOCKS_REMEMBERED = 4

#: Bytes of a block that is worth remembering: with what repeats in the table, it is short.
_LONGEST_REMEMBERED = 128

#: Strings of responses that are remembered, and the bytes of one that is short enough for it.
_STRINGS_REMEMBERED = 1024
_LONGEST_STRING_REMEMBERED = 64

#: RFC 9113 section 6.5.2: what each field counts beside its name and value, in bytes.
FIELD_OVERHEAD = 32

#: Field lines that are decoded, at about 1 us each. A request of more than the limit of
#: headers.py is answered with a 431; one of more than this ends the connection.
MAX_FIELD_LINES = 500


class _Memo[Key, Value](dict[Key, Value]):
    """What a few blocks stood for, for as long as the dynamic table is as it was."""

    def keep(self, key: Key, value: Value) -> None:
        if len(self) >= _BLOCKS_REMEMBERED:
            self.clear()
        self[key] = value


class _Entries(list[Any]):
    """A dynamic table's entries. An empty `deque`, as `hpack` has it, takes 0.7 KiB."""

    __slots__ = ()

    def appendleft(self, entry: Any) -> None:
        self.insert(0, entry)


class _TableState:
    """The dynamic table as it was. An entry is compared as an object: each is made anew."""

    __slots__ = ("_first", "_length", "_maxsize", "_table")

    def __init__(self, table: HeaderTable) -> None:
        entries = table.dynamic_entries
        self._table = table
        self._length = len(entries)
        self._first = entries[0] if entries else None
        self._maxsize = table.maxsize

    def unchanged(self) -> bool:
        entries = self._table.dynamic_entries
        return (
            len(entries) == self._length
            and (entries[0] if entries else None) is self._first
            and self._table.maxsize == self._maxsize
        )


class _Huffman(HuffmanEncoder):
    """The Huffman code (RFC 7541 section 5.2), with a memory for short strings.

    One for all connections. `hpack` takes 0.3 us for each byte, and a new connection's first
    response has some ten strings, most of which were seen before: 4 % of what a connection costs.
    """

    def __init__(self) -> None:
        super().__init__(REQUEST_CODES, REQUEST_CODES_LENGTH)
        self._cached = lru_cache(_STRINGS_REMEMBERED)(super().encode)

    def encode(self, bytes_to_encode: bytes | None) -> bytes:
        if bytes_to_encode is None or len(bytes_to_encode) > _LONGEST_STRING_REMEMBERED:
            return super().encode(bytes_to_encode)
        return self._cached(bytes_to_encode)


_huffman = _Huffman()


class MemoEncoder(Encoder):
    """HPACK that remembers the blocks it made since its dynamic table last changed.

    A block that added nothing to the table encodes to the same bytes until something does
    (RFC 7541 section 2.3.2), so a response like the last one costs one look-up. Measured:
    +8 % small responses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.huffman_coder = _huffman
        self.header_table.dynamic_entries = _Entries()  # type: ignore[assignment]
        self._blocks = _Memo[tuple[Any, ...], bytes]()

    @property
    def header_table_size(self) -> int:
        """Bytes of the dynamic table: of what the peer offers, 4,096 at most."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        value = min(value, _TABLE_SIZE)
        if value == self.header_table.maxsize:
            return  # hpack would forget to tell the peer of the change before
        Encoder.header_table_size.fset(self, value)  # type: ignore[attr-defined]
        # RFC 7541 section 4.2: tell the smallest and the last. hpack tells all, one of which
        # may be larger than the peer allows by now.
        smallest = min(self.table_size_changes)
        self.table_size_changes = [smallest, value] if smallest < value else [value]

    def add(self, to_add: Any, sensitive: bool, huffman: bool = False) -> bytes:
        # What is never indexed is kept out of the memory of all connections. As it is, a cookie of
        # 100 bytes is 20 longer, and takes 30 us less.
        return super().add(to_add, sensitive, huffman and not sensitive)

    def encode(self, headers: Any, huffman: bool = True) -> bytes:
        fields = tuple(headers)
        table = self.header_table
        if not table.resized and (block := self._blocks.get(fields)) is not None:
            return block
        resized = table.resized  # said at the start of the next block
        before = _TableState(table)
        block = super().encode(fields, huffman)
        if resized or not before.unchanged():
            self._blocks.clear()
        else:
            self._blocks.keep(fields, block)
        return block


class BoundedDecoder(Decoder):
    """HPACK that gives up on a block with more than `MAX_FIELD_LINES`.

    It remembers blocks as `MemoEncoder` does: +6 % small requests.

    A block of 2 KB can stand for 2,000 fields that take 143 KB (CVE-2026-49975). A block that is
    not decoded to its end leaves the dynamic table unknown, so such a one ends the connection (RFC
    9113 section 4.3).

    `hpack` copies the rest of the block four times for each literal: 15 ms for 500 of them in
    64 KiB, and again as much for their Huffman code.
    """

    def __init__(self, max_header_list_size: int, max_huffman: int | None = None) -> None:
        """`max_huffman`: bytes of Huffman code in a block, each of which takes 80 ns."""
        super().__init__(max_header_list_size)
        self._max_huffman = max_header_list_size if max_huffman is None else max_huffman
        self._huffman_left = 0  # of the block under way
        self.header_table.dynamic_entries = _Entries()  # type: ignore[assignment]
        self._lists = _Memo[bytes, list[HeaderTuple]]()

    def decode(self, data: bytes, raw: bool = True) -> Iterable[HeaderTuple]:
        """The fields of a block, as bytes, which is how `h2` asks for them (`raw`)."""
        block = bytes(data)
        if (fields := self._lists.get(block)) is not None:
            return list(fields)
        before = _TableState(self.header_table)
        fields = self._decode(block)
        if not before.unchanged():
            self._lists.clear()
        elif len(block) <= _LONGEST_REMEMBERED:
            self._lists.keep(block, list(fields))  # the caller may change its own
        return fields

    def _decode(self, block: bytes) -> list[HeaderTuple]:
        fields: list[HeaderTuple] = []
        self._huffman_left = self._max_huffman
        pos = lines = size = 0
        while pos < len(block):
            lines += 1
            if lines > MAX_FIELD_LINES:
                raise OversizedHeaderListError(f"more than {MAX_FIELD_LINES} field lines")
            if block[pos] & 0xE0 == 0x20:  # RFC 7541 section 6.3
                if fields:
                    raise HPACKDecodingError("a new table size after a field")
                pos = self._resize(block, pos)
                continue
            field, pos = self._field(block, pos)
            fields.append(field)
            size += len(field[0]) + len(field[1]) + FIELD_OVERHEAD
            if size > self.max_header_list_size:
                raise OversizedHeaderListError(f"more than {self.max_header_list_size} bytes")
        self._assert_valid_table_size()
        return fields

    def _resize(self, block: bytes, pos: int) -> int:
        size, pos = _integer(block, pos, 0x1F)
        if size > self.max_allowed_table_size:
            raise InvalidTableSizeError(f"a table of {size} bytes")
        self.header_table_size = size
        return pos

    def _field(self, block: bytes, pos: int) -> tuple[HeaderTuple, int]:
        """The field line at `pos` (RFC 7541 sections 6.1 and 6.2), and where the next begins."""
        table = self.header_table
        first = block[pos]
        if first & 0x80:
            index, pos = _integer(block, pos, 0x7F)
            return HeaderTuple(*table.get_by_index(index)), pos
        index, pos = _integer(block, pos, 0x3F if first & 0x40 else 0x0F)
        if index:
            name = table.get_by_index(index)[0]
        else:
            name, pos = self._string(block, pos)
        value, pos = self._string(block, pos)
        if first & 0x40:
            table.add(name, value)
        elif first & 0x10:
            return NeverIndexedHeaderTuple(name, value), pos
        return HeaderTuple(name, value), pos

    def _string(self, block: bytes, pos: int) -> tuple[bytes, int]:
        """A string literal (RFC 7541 section 5.2), and what is after it."""
        length, start = _integer(block, pos, 0x7F)
        string = block[start : start + length]
        if len(string) < length:
            raise HPACKDecodingError("truncated string")
        if block[pos] & 0x80:
            self._huffman_left -= length
            if self._huffman_left < 0:
                raise OversizedHeaderListError("too much of Huffman's code")
            string = huffman.decode(string)
        return string, start + length


def _integer(block: bytes, pos: int, mask: int) -> tuple[int, int]:
    """An integer (RFC 7541 section 5.1) whose prefix are the bits of `mask`, and what is after it.

    Raises `HPACKDecodingError` for one of more than 28 bits beyond the prefix.
    """
    try:
        number = block[pos] & mask
        pos += 1
        if number < mask:
            return number, pos
        for shift in (0, 7, 14, 21):
            byte = block[pos]
            pos += 1
            number += (byte & 0x7F) << shift
            if byte < 0x80:
                return number, pos
    except IndexError:
        raise HPACKDecodingError("truncated integer") from None
    raise HPACKDecodingError("integer too long")
