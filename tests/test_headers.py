"""The rules for a request's header fields (RFC 9113 sections 8.2 and 8.3), without a connection."""

import pytest

from plain_gevent_h2.headers import (
    LIMIT_COOKIE_FIELDS,
    LIMIT_PATH_SIZE,
    HeadersTooLarge,
    MalformedRequest,
    PathTooLong,
    RequestHead,
    parse_request,
)

Field = tuple[bytes, bytes]

METHOD: Field = (b":method", b"GET")
SCHEME: Field = (b":scheme", b"https")
AUTHORITY: Field = (b":authority", b"localhost")
PATH: Field = (b":path", b"/")
GET = [METHOD, SCHEME, AUTHORITY, PATH]
CONNECT = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]


def parse(*fields: Field, limit: int = 65536) -> RequestHead:
    return parse_request(list(fields), limit)


def test_what_a_view_gets() -> None:
    head = parse(*GET, (b"cookie", b"a=b"), (b"content-length", b"3"), (b"x", b"\xff"))
    assert (head.method, head.path, head.content_length) == ("GET", "/", 3)
    assert head.fields == [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/"),
        ("cookie", "a=b"),
        ("content-length", "3"),
        ("x", "\udcff"),
    ]
    assert head.protocol is None
    assert head.size == sum(len(name) + len(value) + 32 for name, value in head.fields)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([*GET, (b"x", b"y"), PATH], id="one twice, the second late"),
        pytest.param([*GET, PATH], id="one twice"),
        pytest.param([METHOD, SCHEME, AUTHORITY, (b"x", b"y"), PATH], id="one after others"),
        pytest.param([(b"x", b"y"), *GET], id="all after others"),
        pytest.param([*GET, (b":status", b"200")], id="a response's"),
        pytest.param([*GET, (b":x", b"y")], id="unknown"),
        pytest.param(GET[1:], id="no method"),
        pytest.param([METHOD, AUTHORITY, PATH], id="no scheme"),
        pytest.param([METHOD, SCHEME, AUTHORITY], id="no path"),
        pytest.param([METHOD, SCHEME, PATH], id="no authority"),
        pytest.param([(b":method", b"G T"), *GET[1:]], id="bad method"),
        pytest.param([METHOD, (b":scheme", b"ftp"), AUTHORITY, PATH], id="bad scheme"),
        pytest.param([METHOD, SCHEME, (b":authority", b"a b"), PATH], id="bad authority"),
        pytest.param([METHOD, SCHEME, (b":authority", b""), PATH], id="empty authority"),
        pytest.param([METHOD, SCHEME, AUTHORITY, (b":path", b"")], id="empty path"),
        pytest.param([METHOD, SCHEME, AUTHORITY, (b":path", b"x")], id="relative path"),
        pytest.param([METHOD, SCHEME, AUTHORITY, (b":path", b"/#x")], id="fragment"),
        pytest.param([METHOD, SCHEME, AUTHORITY, (b":path", b"/\xff x")], id="space in the path"),
        pytest.param([METHOD, SCHEME, AUTHORITY, (b":path", b"*")], id="* for GET"),
        pytest.param([METHOD, SCHEME, PATH, (b"host", b"a b")], id="bad host alone"),
        pytest.param([*GET, (b"host", b"other")], id="another host"),
        pytest.param([*GET, (b"host", "\u212aelvin".encode())], id="a host that is no ASCII"),
        pytest.param([*GET, (b"host", b"localhost"), (b"host", b"localhost")], id="two hosts"),
        pytest.param([*GET, (b"content-length", b"1"), (b"content-length", b"1")], id="lengths"),
        pytest.param([*GET, (b"content-length", b"+1")], id="bad length"),
        pytest.param([*GET, (b"content-length", b"")], id="empty length"),
        pytest.param([*GET, (b"", b"y")], id="empty name"),
        pytest.param([*GET, (b"X", b"y")], id="upper case"),
        pytest.param([*GET, (b"x", b"y\n")], id="bad value"),
        pytest.param([*GET, (b"x", b" y")], id="space before a value"),
        pytest.param([*GET, (b"x", b"y" * 200 + b"\0")], id="bad long value"),
        pytest.param([*GET, (b"connection", b"close")], id="connection-specific"),
        pytest.param([*GET, (b"te", b"gzip")], id="te"),
        pytest.param([(b":protocol", b"websocket"), *GET], id="protocol without CONNECT"),
        pytest.param([(b":method", b"CONNECT"), *GET[1:]], id="CONNECT without protocol"),
    ],
)
def test_malformed(fields: list[Field]) -> None:
    with pytest.raises(MalformedRequest):
        parse(*fields)
    with pytest.raises(MalformedRequest):  # and not too large
        parse(*fields, limit=1)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param([(b"x%d" % i, b"") for i in range(101)], id="fields"),
        pytest.param([(b"cookie", b"a=b")] * (LIMIT_COOKIE_FIELDS + 1), id="cookies"),
        pytest.param([(b"cookie", b";" * 2001)] * 2, id="parts of cookies"),
        pytest.param([(b"x", b"y" * 65536)], id="bytes"),
    ],
)
def test_too_large(more: list[Field]) -> None:
    with pytest.raises(HeadersTooLarge):
        parse(*GET, *more)


def test_up_to_the_limits() -> None:
    fields = [(b"x%d" % i, b"") for i in range(100)]
    cookies = [(b"cookie", b"a=b")] * (LIMIT_COOKIE_FIELDS - 2) + [(b"cookie", b";" * 2000)] * 2
    path = (b":path", b"/" * LIMIT_PATH_SIZE)
    assert len(parse(METHOD, SCHEME, AUTHORITY, path, *fields, *cookies).path) == LIMIT_PATH_SIZE
    size = sum(len(name) + len(value) + 32 for name, value in GET)
    assert parse(*GET, limit=size).size == size
    with pytest.raises(HeadersTooLarge):
        parse(*GET, limit=size - 1)
    with pytest.raises(PathTooLong):
        parse(METHOD, SCHEME, AUTHORITY, (b":path", b"/" * (LIMIT_PATH_SIZE + 1)))


def test_a_path_is_in_the_characters_of_a_uri() -> None:
    head = parse(METHOD, SCHEME, AUTHORITY, (b":path", "/\u00e9?\u00e9=1".encode()))
    assert head.path == "/%C3%A9?%C3%A9=1"
    assert (":path", head.path) in head.fields


def test_the_scheme_is_the_connections() -> None:
    head = parse(METHOD, (b":scheme", b"http"), AUTHORITY, PATH)
    assert head.fields[1] == (":scheme", "https")


def test_host_may_stand_for_the_authority_or_beside_it() -> None:
    assert parse(METHOD, SCHEME, PATH, (b"host", b"localhost")).path == "/"
    assert parse(*GET, (b"host", b"LOCALHOST")).path == "/"


def test_options_may_ask_for_all() -> None:
    fields = [(b":method", b"OPTIONS"), SCHEME, AUTHORITY, (b":path", b"*")]
    assert parse(*fields).path == "*"


def test_an_extended_connect_is_what_plain_knows() -> None:
    head = parse(*CONNECT, (b"origin", b"https://localhost"), (b"content-length", b"1"))
    assert (head.method, head.path, head.protocol) == ("GET", "/", "websocket")
    assert head.content_length is None
    names = [name for name, _ in head.fields]
    assert names[:3] == [":scheme", ":authority", ":path"]
    assert names[3:] == ["origin", "connection", "upgrade", "sec-websocket-key"]


def test_one_long_value_is_kept_once() -> None:
    """However often HPACK's table names it."""
    long = (b"x", b"y" * 4000)
    fields = parse(*GET, *[long] * 10).fields[4:]
    assert {id(field) for field in fields} == {id(fields[0])}


def test_what_takes_more_in_memory_than_as_sent_counts_as_that() -> None:
    narrow = parse(*GET, (b"x", b"y" * 1000))
    assert parse(*GET, (b"x", b"\xff" * 1000)).size >= narrow.size + 1000
    assert parse(*GET, (b"x", "\u20ac".encode() * 1000)).size == narrow.size + 2000
