"""HTTP/2 header fields: the rules for a request's, and the building of a response's.

`h2` can check a request's fields too, but ends the connection for a bad one, where RFC
9113 section 8.1.1 asks for an error of the stream. So its own checks are off and these,
in one pass, take their place.
"""

import re
import time
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from typing import Any

from hpack import NeverIndexedHeaderTuple
from plain.http import content_length_forbidden

from plain_gevent_h2.app.header_rules import (
    AUTHORITY_RE,
    LIMIT_COOKIE_PARTS,
    ascii_uri,
    same_authority,
)
from plain_gevent_h2.app.plain_internals import (
    HEADER_VALUE_RE,
    LIMIT_REQUEST_FIELD_SIZE,
    LIMIT_REQUEST_FIELDS,
    METHOD_BADCHAR_RE,
    TOKEN_RE,
    InvalidHeader,
    InvalidHeaderName,
    stored_headers,
)

from .hpack import FIELD_OVERHEAD

#: Cookies a request may be split into (RFC 9113 section 8.2.3), beside the limit for other
#: fields, which is Plain's own. Browsers keep at most 180 cookies for a site.
LIMIT_COOKIE_FIELDS = 256

#: Bytes of a path with its query. RFC 9110 section 4.1 asks for 8,000; 64 KiB take Plain 25 ms.
LIMIT_PATH_SIZE = LIMIT_REQUEST_FIELD_SIZE

#: Bytes of a header list that is within all limits but perhaps the one for its bytes.
_WITHIN_LIMITS = min(LIMIT_COOKIE_PARTS, LIMIT_REQUEST_FIELDS * FIELD_OVERHEAD)

#: A request's fields of up to this many bytes, and a response's with values of so many, are kept
#: checked and converted, 1,024 each way: clients and apps repeat theirs (measured: +6 % small
#: responses).
_CACHED_FIELD = 160
_CACHED_FIELDS = 1024

_NAME_RE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
# RFC 9113 section 8.2.1, and RFC 9110 section 5.5 for the other control characters.
_BAD_VALUE_RE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|^[ \t]|[ \t]$")
# RFC 9110 section 8.6. Of more digits than these int() makes no number.
_LENGTH_RE = re.compile(r"[0-9]{1,4000}")

#: Methods that need no further check.
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT"))

#: Pseudo-header fields and what each may be (RFC 9113 section 8.3.1, RFC 8441 section 4). A path is
#: absolute, or that of OPTIONS, and without the fragment that clients never send.
_PSEUDO_HEADERS = {
    b":method": re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"),
    b":scheme": re.compile(rb"https?"),
    b":path": re.compile(rb"/[\x21\x22\x24-\x7e\x80-\xff]*|\*"),
    b":authority": re.compile(AUTHORITY_RE.pattern.encode()),
    b":protocol": re.compile(rb".*"),
}
#: Fields of which there is one: Plain would join two lengths to no number. (RFC 9110 section 8.6
#: lets equal ones be refused, too.)
_ONCE = frozenset((b"host", b"content-length"))
_CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)


class MalformedRequest(Exception):
    """RFC 9113 section 8.1.1: the stream ends with PROTOCOL_ERROR."""


class RefusedRequest(Exception):
    """A well-formed request that is answered with `status` before any view."""

    status: int


class InvalidMethod(RefusedRequest):
    """A method that Plain's HTTP/1.1 parser refuses: `get`, which is another than GET."""

    status = 400


class HeadersTooLarge(RefusedRequest):
    """More, or larger, header fields than the server takes."""

    status = 431


class PathTooLong(HeadersTooLarge):
    """A path and query, of `size` bytes, longer than the server takes."""

    status = 414

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes of path and query")
        self.size = size


type _TextField = tuple[str, str]

#: Stands for a field whose name has an underscore. Plain takes that for a hyphen, so it could
#: pass for another, which a proxy sets. Plain's HTTP/1.1 parser drops such fields, too.
_DROPPED: _TextField = ("", "")


@dataclass(slots=True)
class RequestHead:
    """A request's header fields, checked.

    `fields` has them all but those that are dropped, pseudo-header fields first, names in lower
    case. A character of a value is a byte of it, as over HTTP/1.1.
    """

    method: str
    path: str
    content_length: int | None
    fields: list[_TextField]
    size: int = 0  # bytes, as SETTINGS_MAX_HEADER_LIST_SIZE counts them
    protocol: str | None = None  # of an extended CONNECT (RFC 8441)


def parse_request(raw: list[tuple[bytes, bytes]], max_list_size: int) -> RequestHead:
    """Check a request's header fields (RFC 9113 sections 8.2 and 8.3).

    `max_list_size` is in bytes, as SETTINGS_MAX_HEADER_LIST_SIZE counts them. Raises
    `MalformedRequest` or `RefusedRequest`.
    """
    pseudo: dict[bytes, _TextField] = {}
    once: dict[bytes, _TextField] = {}
    fields: list[_TextField] = []
    # A reference to HPACK's table may stand there many times: one value for all.
    long: dict[tuple[bytes, bytes], _TextField] = {}
    size = FIELD_OVERHEAD * len(raw)
    regular = False  # a regular field has come
    for name, value in raw:
        length = len(name) + len(value)
        size += length
        if length <= _CACHED_FIELD:
            field = _cached_request_field(name, value)
        else:
            key = (name, value)
            field = long.get(key) or long.setdefault(key, _request_field(name, value))
        if name in _PSEUDO_HEADERS:
            if regular or name in pseudo:
                raise MalformedRequest(f"{name!r} repeated, or after other fields")
            pseudo[name] = field
            continue
        regular = True
        if field is _DROPPED:
            continue
        fields.append(field)
        if name in _ONCE:
            if name in once:
                raise MalformedRequest(f"more than one {name!r}")
            once[name] = field
    content_length = _content_length(once.get(b"content-length")) if once else None
    _check_pseudo_headers(pseudo, once.get(b"host"))
    # Last, so that a malformed request is called that whatever its size.
    if size > _WITHIN_LIMITS or size > max_list_size:
        _check_sizes(raw, size, max_list_size)
    method = pseudo[b":method"][1]
    if method not in _METHODS:
        _check_method(method)
    # `:scheme` is a client's claim, which views would believe: HTTP/2 comes over TLS here.
    pseudo[b":scheme"] = (":scheme", "https")
    if method == "CONNECT":
        return _connect(pseudo, fields, size)
    path = pseudo[b":path"][1]
    return RequestHead(method, path, content_length, [*pseudo.values(), *fields], size)


def _check_sizes(raw: list[tuple[bytes, bytes]], size: int, max_list_size: int) -> None:
    """The limits for all fields, and those for what Plain's parsers take long for."""
    cookies = [value for name, value in raw if name == b"cookie"]
    others = sum(name[:1] != b":" for name, _ in raw) - len(cookies)
    if size > max_list_size or others > LIMIT_REQUEST_FIELDS:
        raise HeadersTooLarge(f"{len(raw)} header fields of {size} bytes")
    parts = sum(cookie.count(b";") + cookie.count(b"\\") for cookie in cookies)
    if len(cookies) > LIMIT_COOKIE_FIELDS or parts > LIMIT_COOKIE_PARTS:
        raise HeadersTooLarge(f"{len(cookies)} cookies of {parts} parts")
    path = dict(raw).get(b":path", b"")
    if len(path) > LIMIT_PATH_SIZE:
        raise PathTooLong(len(path))


def _check_method(method: str) -> None:
    """The rule of Plain's HTTP/1.1 parser for a method that is a token."""
    if METHOD_BADCHAR_RE.search(method) or not 3 <= len(method) <= 20:
        raise InvalidMethod(f"Invalid HTTP method: {method!r}")


def _connect(pseudo: dict[bytes, _TextField], fields: list[_TextField], size: int) -> RequestHead:
    """CONNECT: a proxy's (RFC 9113 section 8.5), which has no path, or an extended one.

    The latter as the HTTP/1.1 handshake that Plain's views know (RFC 8441 section 5). The key
    proves to an HTTP/1.1 client that its server meant the upgrade; here `:protocol` does, and any
    key will do.
    """
    if b":protocol" not in pseudo:
        return RequestHead("CONNECT", "/", None, [*pseudo.values(), *fields], size)
    replaced = ("sec-websocket-key", "content-length")
    return RequestHead(
        method="GET",
        path=pseudo[b":path"][1],
        content_length=None,
        fields=[
            *(pseudo[name] for name in (b":scheme", b":authority", b":path") if name in pseudo),
            *(field for field in fields if field[0] not in replaced),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="),
        ],
        size=size,
        protocol=pseudo[b":protocol"][1],
    )


def _content_length(field: _TextField | None) -> int | None:
    """RFC 9110 section 8.6: a number."""
    if field is None:
        return None
    if not _LENGTH_RE.fullmatch(field[1]):
        raise MalformedRequest(f"content-length {field[1]!r}")
    return int(field[1])


def _request_field(name: bytes, value: bytes) -> _TextField:
    """One field, checked by itself (RFC 9113 section 8.2) and decoded.

    As latin-1, which is Plain's way over HTTP/1.1 and for responses: no byte is an error, and a
    value that is sent back is what came.
    """
    if value and _BAD_VALUE_RE.search(value):
        raise MalformedRequest(f"invalid value of {name!r}")
    if name[:1] == b":":
        if name not in _PSEUDO_HEADERS or not _PSEUDO_HEADERS[name].fullmatch(value):
            raise MalformedRequest(f"unknown or invalid {name!r}")
        if name == b":path":
            return ":path", ascii_uri(value)
    elif not _NAME_RE.fullmatch(name):
        raise MalformedRequest(f"invalid name {name!r}")
    elif name in _CONNECTION_SPECIFIC or (name == b"te" and value.lower() != b"trailers"):
        raise MalformedRequest(f"connection-specific {name!r}")
    elif b"_" in name:
        return _DROPPED
    return name.decode("ascii"), value.decode("latin-1")


_cached_request_field = lru_cache(_CACHED_FIELDS)(_request_field)


def _check_pseudo_headers(pseudo: dict[bytes, _TextField], host: _TextField | None) -> None:
    """What RFC 9113 section 8.3.1 asks of them together."""
    if b":method" not in pseudo:
        raise MalformedRequest("no :method")
    method, scheme = pseudo[b":method"][1], pseudo.get(b":scheme", ("", ""))[1]
    if method == "CONNECT" and b":protocol" not in pseudo:
        if scheme or b":path" in pseudo or b":authority" not in pseudo:  # RFC 9113 section 8.5
            raise MalformedRequest("CONNECT with :scheme or :path, or without :authority")
    elif not (scheme and b":path" in pseudo):
        raise MalformedRequest("no :path or :scheme")
    elif b":protocol" in pseudo and method != "CONNECT":
        raise MalformedRequest(":protocol without CONNECT")
    elif pseudo[b":path"][1] == "*" and method != "OPTIONS":
        raise MalformedRequest("'*' is for OPTIONS")
    authority = pseudo.get(b":authority")
    if host is None:
        if authority is None:
            raise MalformedRequest("neither :authority nor host")
        return
    if not AUTHORITY_RE.fullmatch(host[1]):
        raise MalformedRequest("invalid host")
    if authority is not None and not same_authority(host[1], authority[1], scheme):
        raise MalformedRequest(":authority and host differ")


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
    for lower, (_, value) in stored_headers(response).items():
        if value is None or lower in _NOT_IN_RESPONSES:
            continue
        if lower == "content-length" and content_length_forbidden(status):
            continue
        fields.append((_cached_field if len(value) <= _CACHED_FIELD else _field)(lower, value))
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
