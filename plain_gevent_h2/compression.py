"""HPACK (RFC 7541) as `hpack` has it, with less work for what repeats and a bound on the rest."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from hpack.exceptions import HPACKDecodingError, OversizedHeaderListError
from hpack.hpack import Decoder, Encoder, decode_integer
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.struct import HeaderTuple
from hpack.table import HeaderTable

#: The default of RFC 9113 section 6.5.2. A larger table would be the peer's to fill.
_TABLE_SIZE = 4096

#: Blocks that one connection remembers each way.
_BLOCKS_REMEMBERED = 4

#: Bytes of a block that is worth remembering: with what repeats in the table, it is short.
_LONGEST_REMEMBERED = 128

#: Strings of responses that are remembered, and the bytes of one that is short enough for it.
_STRINGS_REMEMBERED = 1024
_LONGEST_STRING_REMEMBERED = 64

#: Field lines that are decoded, at about 4 us each. A request of more than the limit of
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
    """HPACK that does not start on a block that is too large or has too many fields.

    It remembers blocks as `MemoEncoder` does: +6 % small requests.

    A block of 512 KB, in Huffman's code, would keep the hub busy for 0.15 seconds, and one of 64
    KiB, of 1 byte a field, for 0.3. One of 2 KB can stand for 2,000 fields that take 143 KB
    (CVE-2026-49975). Since a block that is not decoded leaves the dynamic table unknown, such a one
    ends the connection (RFC 9113 section 4.3).
    """

    def __init__(self, max_header_list_size: int) -> None:
        super().__init__(max_header_list_size)
        self.header_table.dynamic_entries = _Entries()  # type: ignore[assignment]
        self._lists = _Memo[bytes, list[HeaderTuple]]()

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        """The fields of a block, as bytes if `raw`, which is how `h2` calls it."""
        block = bytes(data)
        if raw and (fields := self._lists.get(block)) is not None:
            return list(fields)
        before = _TableState(self.header_table)
        fields = list(self._decode(block, raw))
        if not before.unchanged():
            self._lists.clear()
        elif raw and len(block) <= _LONGEST_REMEMBERED:
            self._lists.keep(block, fields)
        return fields

    def _decode(self, data: bytes, raw: bool) -> Iterable[HeaderTuple]:
        # Huffman's code of what is seldom in fields is longer than it: 0.3 us a byte.
        if len(data) > self.max_header_list_size:
            raise OversizedHeaderListError(f"{len(data)} bytes of header block")
        # A field line takes one byte at least.
        if len(data) > MAX_FIELD_LINES and _more_lines_than(MAX_FIELD_LINES, data):
            raise OversizedHeaderListError(f"more than {MAX_FIELD_LINES} field lines")
        return super().decode(data, raw)


def _more_lines_than(limit: int, block: bytes) -> bool:
    """Whether `block` has more than `limit` representations (RFC 7541 section 6)."""
    rest = memoryview(block)
    try:
        while rest and limit >= 0:
            limit -= 1
            first = rest[0]
            if first & 0x80:  # indexed
                strings, prefix = 0, 7
            elif first & 0x40:  # a literal for the table
                strings, prefix = 1, 6
            elif first & 0x20:  # a new size of the table
                strings, prefix = 0, 5
            else:  # a literal
                strings, prefix = 1, 4
            index, used = decode_integer(rest, prefix)
            rest = rest[used:]
            if strings and not index:
                strings = 2  # its name is one, too
            for _ in range(strings):
                length, used = decode_integer(rest, 7)
                rest = rest[used + length :]
    except HPACKDecodingError:
        return False  # the decoder says so
    return limit < 0
