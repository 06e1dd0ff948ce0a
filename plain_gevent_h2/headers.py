"""HTTP/2 header fields: the rules for a request's, and the building of a response's.

`h2` can check a request's fields too, but ends the connection for a bad one, where RFC
9113 section 8.1.1 asks for an error of the stream. So its own checks are off and these,
in one pass, take their place.
"""

import re
import sys
import time
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from hpack.struct import NeverIndexedHeaderTuple
from plain.http import content_length_forbidden
from plain.server.http.errors import InvalidHeader, InvalidHeaderName
from plain.server.http.message import LIMIT_REQUEST_FIELD_SIZE, LIMIT_REQUEST_FIELDS, TOKEN_RE
from plain.server.http.response import HEADER_VALUE_RE

from .compression import FIELD_OVERHEAD

#: Cookies a request may be split into (RFC 9113 section 8.2.3), beside the limit for other
#: fields, which is Plain's own. Browsers keep at most 180 cookies for a site.
LIMIT_COOKIE_FIELDS = 256

#: Semicolons and backslashes in all cookies, which Plain takes apart one by one: of 64 KB of them,
#: 20 bytes that refer to HPACK's table, for 8 ms (measured).
LIMIT_COOKIE_PARTS = 4000

#: Bytes of a path with its query. RFC 9110 section 4.1 asks for 8,000; 64 KiB take Plain 25 ms.
LIMIT_PATH_SIZE = LIMIT_REQUEST_FIELD_SIZE

#: Fields with a name and a value of up to this many bytes are kept checked and converted,
#: 1,024 of them each way: clients and apps repeat theirs (measured: +6 % small responses).
_CACHED_VALUE = 128
_CACHED_FIELDS = 1024

_NAME_RE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
# RFC 9113 section 8.2.1, and RFC 9110 section 5.5 for the other control characters.
_BAD_VALUE_RE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|^[ \t]|[ \t]$")
# RFC 9110 section 8.6. Of more digits than these int() makes no number.
_LENGTH_RE = re.compile(rb"[0-9]{1,4000}")
_METHOD_RE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# RFC 9113 section 8.3.1: an absolute path, without the fragment that clients never send.
_PATH_RE = re.compile(rb"/[\x21\x22\x24-\x7e\x80-\xff]*")
_URI_CHARACTERS = bytes(range(0x21, 0x7F))
_AUTHORITY_RE = re.compile(rb"[A-Za-z0-9\-._~!$&'()*+,;=:%\[\]]+")

_PSEUDO_HEADERS = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))
#: Fields of which there is one: Plain would join two lengths to no number. (RFC 9110 section 8.6
#: lets equal ones be refused, too.)
_ONCE = frozenset((b"host", b"content-length"))
_CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)


class MalformedRequest(Exception):
    """RFC 9113 section 8.1.1: the stream ends with PROTOCOL_ERROR."""


class HeadersTooLarge(Exception):
    """More, or larger, header fields than the server takes."""

    status = 431


class PathTooLong(HeadersTooLarge):
    """A path and query, of `size` bytes, longer than the server takes."""

    status = 414

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes of path and query")
        self.size = size


@dataclass(slots=True)
class RequestHead:
    """A request's header fields, checked.

    `fields` has them all, pseudo-header fields first, names in lower case.
    """

    method: str
    path: str
    content_length: int | None
    fields: list[tuple[str, str]]
    size: int = 0  # bytes, as SETTINGS_MAX_HEADER_LIST_SIZE counts them, or more in memory
    protocol: str | None = None  # of an extended CONNECT (RFC 8441)


def parse_request(raw: list[tuple[bytes, bytes]], max_list_size: int) -> RequestHead:
    """Check a request's header fields (RFC 9113 sections 8.2 and 8.3).

    `max_list_size` is in bytes, as SETTINGS_MAX_HEADER_LIST_SIZE counts them. Raises
    `MalformedRequest` or `HeadersTooLarge`.
    """
    pseudo: dict[bytes, bytes] = {}
    fields: list[tuple[str, str]] = []
    once: dict[bytes, bytes] = {}
    cookies: list[bytes] = []
    size = 0
    long = _LongFields()
    for name, value in raw:
        size += len(name) + len(value) + FIELD_OVERHEAD
        if name[:1] == b":":
            if len(fields) > len(pseudo) or name in pseudo or name not in _PSEUDO_HEADERS:
                raise MalformedRequest(f"misplaced, repeated or unknown {name!r}")
            pseudo[name] = value
        elif name == b"cookie":
            cookies.append(value)
        elif name in _ONCE:
            if name in once:
                raise MalformedRequest(f"more than one {name!r}")
            once[name] = value
        if len(value) <= _CACHED_VALUE and len(name) <= _CACHED_VALUE:
            fields.append(_cached_request_field(name, value))
        else:
            fields.append(long[name, value])
    content_length = _content_length(once.get(b"content-length"))
    # After the loop, so that a malformed request is called that whatever its size.
    if size > max_list_size or len(fields) - len(pseudo) - len(cookies) > LIMIT_REQUEST_FIELDS:
        raise HeadersTooLarge(f"{len(fields)} header fields of {size} bytes")
    size += long.widened
    _check_sizes(cookies, pseudo.get(b":path", b""))
    _check_pseudo_headers(pseudo, once.get(b"host"))
    if pseudo[b":scheme"] == b"http":
        # A client's claim, which views would believe: HTTP/2 comes over TLS here.
        fields[fields.index((":scheme", "http"))] = (":scheme", "https")
    if b":protocol" in pseudo:
        return _extended_connect(pseudo, fields, size)
    return RequestHead(
        method=pseudo[b":method"].decode("ascii"),
        path=_uri(pseudo[b":path"]),
        content_length=content_length,
        fields=fields,
        size=size,
    )


def _check_sizes(cookies: list[bytes], path: bytes) -> None:
    """What Plain's parsers take long for has limits of its own."""
    if cookies:
        parts = sum(cookie.count(b";") + cookie.count(b"\\") for cookie in cookies)
        if len(cookies) > LIMIT_COOKIE_FIELDS or parts > LIMIT_COOKIE_PARTS:
            raise HeadersTooLarge(f"{len(cookies)} cookies of {parts} parts")
    if len(path) > LIMIT_PATH_SIZE:
        raise PathTooLong(len(path))


def _extended_connect(
    pseudo: dict[bytes, bytes], fields: list[tuple[str, str]], size: int
) -> RequestHead:
    """RFC 8441 section 5, as the HTTP/1.1 handshake that Plain's views know.

    The key proves to an HTTP/1.1 client that its server meant the upgrade; here `:protocol`
    does, and any key will do.
    """
    replaced = (":method", ":protocol", "sec-websocket-key", "content-length")
    return RequestHead(
        method="GET",
        path=_uri(pseudo[b":path"]),
        content_length=None,
        fields=[
            *(field for field in fields if field[0] not in replaced),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ],
        size=size,
        protocol=pseudo[b":protocol"].decode("latin-1"),
    )


def _content_length(value: bytes | None) -> int | None:
    """RFC 9110 section 8.6: a number."""
    if value is None:
        return None
    if not _LENGTH_RE.fullmatch(value):
        raise MalformedRequest(f"content-length {value!r}")
    return int(value)


def _request_field(name: bytes, value: bytes) -> tuple[str, str]:
    """One field, checked by itself (RFC 9113 section 8.2) and decoded as Plain does."""
    if value and _BAD_VALUE_RE.search(value):
        raise MalformedRequest(f"invalid value of {name!r}")
    if name[:1] != b":":
        if not _NAME_RE.fullmatch(name):
            raise MalformedRequest(f"invalid name {name!r}")
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value.lower() != b"trailers"):
            raise MalformedRequest(f"connection-specific {name!r}")
    if name == b":path":
        return ":path", _uri(value)
    return name.decode("ascii"), value.decode("utf-8", "surrogateescape")


def _uri(path: bytes) -> str:
    """A path and query in the characters of a URI (RFC 3986 section 2), which are ASCII."""
    return path.decode("ascii") if path.isascii() else quote(path, _URI_CHARACTERS)


_cached_request_field = lru_cache(_CACHED_FIELDS)(_request_field)


class _LongFields(dict[tuple[bytes, bytes], tuple[str, str]]):
    """Those of one request: a reference to HPACK's table may stand there many times."""

    widened = 0  # bytes that they take more than as sent: up to four for each

    def __missing__(self, field: tuple[bytes, bytes]) -> tuple[str, str]:
        self[field] = checked = _request_field(*field)
        if not checked[1].isascii():
            self.widened += sys.getsizeof(checked[1]) - len(field[1])
        return checked


def _check_pseudo_headers(pseudo: dict[bytes, bytes], host: bytes | None) -> None:
    """RFC 9113 section 8.3.1."""
    method, path = pseudo.get(b":method", b""), pseudo.get(b":path", b"")
    if not _METHOD_RE.fullmatch(method):
        raise MalformedRequest("missing or invalid :method")
    if (method == b"CONNECT") != (b":protocol" in pseudo):
        raise MalformedRequest("CONNECT without :protocol, or :protocol without CONNECT")
    if pseudo.get(b":scheme", b"") not in (b"https", b"http"):
        raise MalformedRequest("missing or unknown :scheme")
    if not _PATH_RE.fullmatch(path) and not (path == b"*" and method == b"OPTIONS"):
        raise MalformedRequest("missing or invalid :path")
    authority = pseudo.get(b":authority")
    if authority is None:
        authority = host
    elif host is not None and host.lower() != authority.lower():
        raise MalformedRequest(":authority and host differ")
    if authority is None or not _AUTHORITY_RE.fullmatch(authority):
        raise MalformedRequest("missing or invalid :authority")


def check_trailers(raw: list[tuple[bytes, bytes]]) -> None:
    """RFC 9113 section 8.1: trailers have no pseudo-header fields. Raises `MalformedRequest`."""
    for name, value in dict.fromkeys(raw):  # one of the table may stand there many times
        if name[:1] == b":":
            raise MalformedRequest(f"{name!r} among the trailers")
        _request_field(name, value)


#: HTTP/1.1's hop-by-hop fields, which no HTTP/2 response may have (RFC 9113 section 8.2.2).
#: `server` and `date` are ours to say.
_NOT_IN_RESPONSES = frozenset(
    (
        "connection",
        "proxy-connection",
        "transfer-encoding",
        "keep-alive",
        "upgrade",
        "te",
        "server",
        "date",
    )
)


Field = tuple[bytes, bytes]


class _Date:
    """The `date` field, formatted anew once a second (it costs 4 us)."""

    def __init__(self) -> None:
        self._second = 0
        self._field: Field = (b"date", b"")

    def field(self) -> Field:
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._field = (b"date", formatdate(second, usegmt=True).encode("ascii"))
        return self._field


_date = _Date()
_SERVER: Field = (b"server", b"plain")


def response_headers(response: Any) -> list[Field]:
    """The HTTP/2 header fields of a Plain response.

    Raises `InvalidHeader` or `InvalidHeaderName` for one that must not reach the wire.
    """
    status = response.status_code
    fields = [(b":status", b"%d" % status), _SERVER, _date.field()]
    # Its items() looks every name up again: 2 % of a small response.
    for lower, (_, value) in response.headers._store.items():
        if value is None or lower in _NOT_IN_RESPONSES:
            continue
        if lower == "content-length" and content_length_forbidden(status):
            continue
        fields.append((_cached_field if len(value) <= _CACHED_VALUE else _field)(lower, value))
    # Out of the compression table: they are secret, and no two are alike (RFC 7541 section
    # 7.1.3).
    fields += [
        NeverIndexedHeaderTuple(*_field("set-cookie", cookie.output(header="")))
        for cookie in response.cookies.values()
    ]
    return fields


def _field(name: str, value: str) -> Field:
    if not TOKEN_RE.fullmatch(name):
        raise InvalidHeaderName(name)
    if not HEADER_VALUE_RE.fullmatch(value):
        raise InvalidHeader(f"{name}: {value!r}")
    return name.encode("ascii"), value.strip(" \t").encode("latin-1")


_cached_field = lru_cache(_CACHED_FIELDS)(_field)
