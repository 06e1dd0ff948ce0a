"""What stands for those of Plain's parsers whose time a request's head can run up.

They run on the hub, most of them before any view. Plain's own are quadratic: 45 KB of `%ff` in a
path took 110 ms, 64 KB of `;` after a quote in Content-Type 2.9 s (measured). These are linear and
do the same, up to the bounds below. `patches.mend_parsers` puts them in place.
"""

from collections.abc import Iterator
from typing import Any

#: Parameters that one field's value may have. What comes after is part of the last.
MAX_PARAMETERS = 100

#: Media types of an Accept field that are looked at. RFC 9110 section 12.5.1 lets a server
#: disregard the field. A Chromium sends eight. Of 32,000, `Request.accepts` made 78 ms (measured).
MAX_MEDIA_TYPES = 100

# What `surrogateescape` makes of the bytes that are no UTF-8, as they were in the path.
_ESCAPED = {0xDC00 + byte: f"%{byte:02X}" for byte in range(0x80, 0x100)}


def decode_path(path: bytes) -> str:
    """A path of percent-decoded bytes; those that are no UTF-8 are encoded again."""
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
    from plain.http.request import MediaType

    tokens = request.headers.get("Accept", "*/*").split(",", MAX_MEDIA_TYPES)[:MAX_MEDIA_TYPES]
    types = [MediaType(token) for token in tokens if token.strip()]
    return sorted(types, key=lambda media_type: media_type.quality, reverse=True)
