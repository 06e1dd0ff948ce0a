"""Replacements for the parsers of Plain that a request can make slow, or make fail.

Parsers run on the hub, most of them before any view. Plain's own are quadratic: 45 KB of `%ff` in a
path took 110 ms, 64 KB of `;` after a quote in Content-Type 2.9 s (measured). These are linear and
give the same results, up to the limits below. `patch_parsers()` puts them in place.

Some of Plain's raise, and the client gets a 500: for a weight in Accept that is not a number, for a
codec of Python's that is not a text encoding (the client names the encoding), and for JSON that is
not UTF-8, is nested too deeply or has a number of more than 4,300 digits.
"""

import codecs
import encodings
import json
import pkgutil
from collections.abc import Iterator
from encodings.aliases import aliases
from typing import Any
from urllib.parse import unquote

from .plain_internals import MediaType, Parsers, parse_header_parameters, replace_parsers

#: Parameters that one field's value may have. What comes after is part of the last.
MAX_PARAMETERS = 100

#: Media types of an Accept field that are parsed. RFC 9110 section 12.5.1 lets a server
#: disregard the field. A Chromium sends eight. With 32,000, `Request.accepts` took 78 ms
#: (measured).
MAX_MEDIA_TYPES = 100

# What `surrogateescape` makes of bytes that are not UTF-8, and how they were in the path.
_ESCAPED = {0xDC00 + byte: f"%{byte:02X}" for byte in range(0x80, 0x100)}


def decode_path(path: bytes) -> str:
    """A path of percent-decoded bytes; those that are not UTF-8 are percent-encoded again."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        return path.decode("utf-8", "surrogateescape").translate(_ESCAPED)


def split_parameters(value: str) -> Iterator[str]:
    """The parts of `value`, which starts with a semicolon: one after each that is not quoted."""
    pieces = value.split(";", MAX_PARAMETERS + 1)[1:]
    if '"' not in value:
        yield from map(str.strip, pieces)
        return
    part: list[str] = []
    quoted = 0
    for piece in pieces:
        part.append(piece)
        quoted += piece.count('"') - piece.count('\\"')
        if quoted % 2 == 0:
            yield ";".join(part).strip()
            part.clear()
            quoted = 0
    if part:
        yield ";".join(part).strip()


def accepted_types(request: Any) -> list[Any]:
    """The media types of a request's Accept field, those with the highest quality first."""
    tokens = request.headers.get("Accept", "*/*").split(",", MAX_MEDIA_TYPES)[:MAX_MEDIA_TYPES]
    types = [MediaType(token) for token in tokens if token.strip()]
    return sorted(types, key=lambda media_type: media_type.quality, reverse=True)


def quality(media_type: Any) -> float:
    """The weight of a media type (RFC 9110 section 12.4.2), 0 for one that is no number (`q=x`)."""
    try:
        weight = float(media_type.params.get("q", 1))
    except ValueError:
        return 0.0
    return weight if 0 <= weight <= 1 else 0.0


#: Encodings of Python's that are no charsets: they make bytes of bytes, fail on any text, or make
#: halves of surrogate pairs, which no response can have.
_NO_CHARSETS = {"base64_codec", "bz2_codec", "hex_codec", "quopri_codec", "rot_13", "uu_codec"}
_NO_CHARSETS |= {"idna", "punycode", "raw_unicode_escape", "undefined", "unicode_escape", "utf_7"}
_NO_CHARSETS.add("zlib_codec")
_MODULES = {module.name for module in pkgutil.iter_modules(encodings.__path__)}
#: The names of all others, as Python's modules are called.
_CHARSETS = (_MODULES - _NO_CHARSETS) | {
    alias for alias, module in aliases.items() if module not in _NO_CHARSETS
}


def find_charset(name: str) -> codecs.CodecInfo:
    """The encoding of text that a client calls `name`. Raises `LookupError` if there is none.

    Python would import a module by that name, and keep each name for good.
    """
    if not name.isascii() or encodings.normalize_encoding(name).lower() not in _CHARSETS:
        raise LookupError(f"unknown encoding: {name}")
    return codecs.lookup(name)


def unquote_parameter(value: str, encoding: str) -> str:
    """A parameter's value as RFC 8187 has it. Raises `ValueError` for an unknown encoding."""
    try:
        find_charset(encoding)
    except LookupError as exc:
        raise ValueError(str(exc)) from None
    return unquote(value, encoding=encoding)


def part_parameters(line: str) -> tuple[str, dict[str, str]]:
    """A header line of a multipart body's part: its value and its parameters.

    A parameter of an unknown encoding stays percent-encoded. If this raised ValueError, Plain would
    disregard the line, and with it the file that it names.
    """
    try:
        return parse_header_parameters(line)
    except ValueError:
        return parse_header_parameters(line.replace("*=", "="))


def load_json(body: bytes) -> Any:
    """`json.loads()`. Raises `JSONDecodeError` for whatever is wrong with `body`."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as exc:  # no UTF-8, a number too long, nested too deeply
        if isinstance(exc, json.JSONDecodeError):
            raise
        raise json.JSONDecodeError(str(exc), "", 0) from exc


def patch_parsers() -> None:
    """Put the functions of this module in place of Plain's."""
    replace_parsers(
        Parsers(
            decode_path=decode_path,
            split_parameters=split_parameters,
            unquote=unquote_parameter,
            part_parameters=part_parameters,
            find_charset=find_charset,
            load_json=load_json,
            accepted_types=accepted_types,
            quality=quality,
        )
    )
