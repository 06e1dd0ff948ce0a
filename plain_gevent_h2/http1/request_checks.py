"""What is refused against request smuggling.

Plain's parser lets some requests pass that a proxy in front of the server may read in another way.
A client could then hide one request in another from the proxy.
"""

import re
from functools import partial

from plain_gevent_h2.app.header_rules import (
    AUTHORITY_RE,
    LIMIT_COOKIE_PARTS,
    ascii_uri,
    same_authority,
)
from plain_gevent_h2.app.plain_internals import (
    InvalidHeader,
    InvalidHostHeader,
    InvalidRequestLine,
    LimitRequestHeaders,
    ParsedRequest,
)

# RFC 9110 section 5.5 and RFC 9112 section 3.2.
_CONTROL_RE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BAD_TARGET_RE = re.compile(r"[\x00-\x20\x7f]")
_ASCII_TARGET_RE = re.compile(r"[\x21-\x7e]*")
_ABSOLUTE_TARGET_RE = re.compile(r"([^/?#:]+)://([^/?#]*)")


def check_request(parsed: ParsedRequest) -> None:
    """Refuse a request that a proxy may read as another. Raises `ParseException`."""
    target = parsed.uri or ""
    if not _ASCII_TARGET_RE.fullmatch(target):
        _encode_target(parsed, target)
    hosts: list[str] = []
    codings: list[str] = []
    options: list[str] = []
    cookie_parts = 0
    for name, value in parsed.headers:
        if not value.isprintable() and _CONTROL_RE.search(value):
            raise InvalidHeader(name, req=parsed)
        if name == "HOST":
            if value and not AUTHORITY_RE.fullmatch(value):
                raise InvalidHostHeader("invalid characters")
            hosts.append(value)
        elif name == "TRANSFER-ENCODING":
            codings.append(value)
        elif name == "COOKIE":
            cookie_parts += value.count(";") + value.count("\\")
        elif name == "CONNECTION":
            options.append(value)
    if cookie_parts > LIMIT_COOKIE_PARTS:
        raise LimitRequestHeaders("cookies of too many parts")
    if hosts and target[:1] != "/":
        _check_absolute_target(target, hosts[0])
    if codings:
        _check_codings(parsed, codings)
    if options:
        _take_connection_options(parsed, ",".join(options))


def list_members(value: str) -> set[str]:
    """The members of a list of tokens, in lower case (RFC 9110 section 5.6.1)."""
    return {member.strip(" \t") for member in value.lower().split(",")}


def _encode_target(parsed: ParsedRequest, target: str) -> None:
    """Percent-encode the bytes of the target that are not ASCII, as over HTTP/2.

    Plain would take each byte for a character, and encode that as UTF-8. Raises
    `InvalidRequestLine` for white space and control characters.
    """
    if _BAD_TARGET_RE.search(target):
        raise InvalidRequestLine(target)
    parsed.path = ascii_uri((parsed.path or "").encode("latin-1"))
    parsed.query = ascii_uri((parsed.query or "").encode("latin-1"))


def _check_absolute_target(target: str, host: str) -> None:
    """RFC 9112 section 3.2.2: the target takes precedence over Host. Plain's views see Host."""
    absolute = _ABSOLUTE_TARGET_RE.match(target)
    if absolute and not same_authority(absolute[2], host, absolute[1].lower()):
        raise InvalidHostHeader("not that of the request target")


def _check_codings(parsed: ParsedRequest, codings: list[str]) -> None:
    """Refuse a body whose last coding is not chunked: its length is not certain.

    RFC 9112 section 6.3. Plain's parser takes a byte A0 beside a coding for white space.
    """
    if parsed.content_length is not None or not "".join(codings).isascii():
        raise InvalidHeader("TRANSFER-ENCODING", req=parsed)


def _take_connection_options(parsed: ParsedRequest, value: str) -> None:
    """Take all options of a list (RFC 9112 section 9.3). Plain's parser takes it for one."""
    if "," not in value:
        return
    options = list_members(value)
    keeps = "close" not in options and (parsed.version > (1, 0) or "keep-alive" in options)
    vars(parsed)["should_close"] = partial(bool, parsed.must_close or not keeps)
