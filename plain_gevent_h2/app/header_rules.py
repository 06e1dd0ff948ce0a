"""The rules for a request's header fields and URI that both protocols have in common."""

import re
from urllib.parse import quote

#: Semicolons and backslashes in all cookies of a request. Plain splits cookies at each: 64 KB of
#: them take 8 ms (measured), and a client can send them as 20 bytes that refer to HPACK's table.
LIMIT_COOKIE_PARTS = 4000

#: A host and port, in the characters of RFC 3986 section 3.2, without user information.
AUTHORITY_RE = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:%\[\]]+")

_URI_CHARACTERS = bytes(range(0x21, 0x7F))
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def ascii_uri(path: bytes) -> str:
    """A path and query in the characters of a URI (RFC 3986 section 2), which are ASCII."""
    return path.decode("ascii") if path.isascii() else quote(path, _URI_CHARACTERS)


def same_authority(first: str, second: str, scheme: str) -> bool:
    """Whether two authorities differ at most by case, or by the default port of `scheme`.

    The normalization of RFC 3986 sections 6.2.2.1 and 6.2.3, which RFC 9113 section 8.3.1 asks for.
    """
    return first == second or _normalized(first, scheme) == _normalized(second, scheme)


def _normalized(authority: str, scheme: str) -> str:
    authority = authority.lower()
    port = _DEFAULT_PORTS.get(scheme, ":")
    return authority.removesuffix(port if authority.endswith(port) else ":")
