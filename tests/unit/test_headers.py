"""The rules for a request's header fields (RFC 9113 sections 8.2 and 8.3), without a connection."""

from base64 import b64decode

import pytest
from plain.http import Response

from plain_gevent_h2.app.header_rules import LIMIT_COOKIE_PARTS
from plain_gevent_h2.http2 import headers
from plain_gevent_h2.http2.headers import (
    LIMIT_COOKIE_FIELDS,
    LIMIT_PATH_SIZE,
    HeadersTooLarge,
    InvalidMethod,
    MalformedRequest,
    PathTooLong,
    RequestHead,
    parse_request,
    response_headers,
)

Field = tuple[bytes, bytes]

METHOD: Field = (b":method", b"GET")
SCHEME: Field = (b":scheme", b"https")
AUTHORITY: Field = (b":authority", b"localhost")
PATH: Field = (b":path", b"/")
GET = [METHOD, SCHEME, AUTHORITY, PATH]
CONNECT = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]
KEY = "AAAAAAAAAAAAAAAAAAAAAA=="
PROXY = [(b":method", b"CONNECT"), (b":authority", b"localhost:443")]


#: As many other fields as there may be.
OTHERS = [(b"x%d" % i, b"") for i in range(100)]


def get(path: bytes) -> list[Field]:
    return [METHOD, SCHEME, AUTHORITY, (b":path", path)]


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
        ("x", "\xff"),
    ]
    assert head.protocol is None
    assert head.size == sum(len(name) + len(value) + 32 for name, value in head.fields)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        pytest.param(
            [*GET, (b"x", b"y"), PATH],
            "b':path' repeated, or after other fields",
            id="one twice, the second late",
        ),
        pytest.param([*GET, PATH], "b':path' repeated, or after other fields", id="one twice"),
        pytest.param(
            [METHOD, SCHEME, AUTHORITY, (b"x", b"y"), PATH],
            "b':path' repeated, or after other fields",
            id="one after others",
        ),
        pytest.param(
            [(b"x", b"y"), *GET],
            "b':method' repeated, or after other fields",
            id="all after others",
        ),
        pytest.param(
            [*GET, (b":status", b"200")], "unknown or invalid b':status'", id="a response's"
        ),
        pytest.param([*GET, (b":x", b"y")], "unknown or invalid b':x'", id="unknown"),
        pytest.param(GET[1:], "no :method", id="no method"),
        pytest.param([METHOD, AUTHORITY, PATH], "no :path or :scheme", id="no scheme"),
        pytest.param([METHOD, SCHEME, AUTHORITY], "no :path or :scheme", id="no path"),
        pytest.param([METHOD, SCHEME, PATH], "neither :authority nor host", id="no authority"),
        pytest.param(
            [(b":method", b"G T"), *GET[1:]], "unknown or invalid b':method'", id="bad method"
        ),
        pytest.param(
            [METHOD, (b":scheme", b"ftp"), AUTHORITY, PATH],
            "unknown or invalid b':scheme'",
            id="bad scheme",
        ),
        pytest.param(
            [METHOD, SCHEME, (b":authority", b"a b"), PATH],
            "unknown or invalid b':authority'",
            id="bad authority",
        ),
        pytest.param(
            [METHOD, SCHEME, (b":authority", b""), PATH],
            "unknown or invalid b':authority'",
            id="empty authority",
        ),
        pytest.param(
            [METHOD, SCHEME, AUTHORITY, (b":path", b"")],
            "unknown or invalid b':path'",
            id="empty path",
        ),
        pytest.param(
            [METHOD, SCHEME, AUTHORITY, (b":path", b"x")],
            "unknown or invalid b':path'",
            id="relative path",
        ),
        pytest.param(
            [METHOD, SCHEME, AUTHORITY, (b":path", b"/#x")],
            "unknown or invalid b':path'",
            id="fragment",
        ),
        pytest.param(
            [METHOD, SCHEME, AUTHORITY, (b":path", b"/\xff x")],
            "unknown or invalid b':path'",
            id="space in the path",
        ),
        pytest.param(
            [METHOD, SCHEME, AUTHORITY, (b":path", b"*")], "'*' is for OPTIONS", id="* for GET"
        ),
        pytest.param(
            [METHOD, SCHEME, PATH, (b"host", b"a b")], "invalid host", id="bad host alone"
        ),
        pytest.param([*GET, (b"host", b"other")], ":authority and host differ", id="another host"),
        pytest.param(
            [*GET, (b"host", "\u212aelvin".encode())], "invalid host", id="a host that is no ASCII"
        ),
        pytest.param(
            [*GET, (b"host", b"localhost"), (b"host", b"localhost")],
            "more than one b'host'",
            id="two hosts",
        ),
        pytest.param(
            [*GET, (b"content-length", b"1"), (b"content-length", b"1")],
            "more than one b'content-length'",
            id="lengths",
        ),
        pytest.param([*GET, (b"content-length", b"+1")], "content-length '+1'", id="bad length"),
        pytest.param([*GET, (b"content-length", b"")], "content-length ''", id="empty length"),
        pytest.param([*GET, (b"", b"y")], "invalid name b''", id="empty name"),
        pytest.param([*GET, (b"X", b"y")], "invalid name b'X'", id="upper case"),
        pytest.param([*GET, (b"x", b"y\n")], "invalid value of b'x'", id="bad value"),
        pytest.param([*GET, (b"x", b" y")], "invalid value of b'x'", id="space before a value"),
        pytest.param(
            [*GET, (b"x", b"y" * 200 + b"\0")], "invalid value of b'x'", id="bad long value"
        ),
        pytest.param(
            [*GET, (b"connection", b"close")],
            "connection-specific b'connection'",
            id="connection-specific",
        ),
        pytest.param([*GET, (b"te", b"gzip")], "connection-specific b'te'", id="te"),
        pytest.param(
            [(b":protocol", b"websocket"), *GET],
            ":protocol without CONNECT",
            id="protocol without CONNECT",
        ),
        pytest.param(
            [(b":method", b"CONNECT"), *GET[1:]],
            "CONNECT with :scheme or :path, or without :authority",
            id="CONNECT without protocol",
        ),
        pytest.param(
            [PROXY[0], PATH, AUTHORITY],
            "CONNECT with :scheme or :path, or without :authority",
            id="CONNECT with a path",
        ),
        pytest.param(
            [PROXY[0], SCHEME, AUTHORITY],
            "CONNECT with :scheme or :path, or without :authority",
            id="CONNECT with a scheme",
        ),
        pytest.param(
            [PROXY[0], (b"host", b"localhost")],
            "CONNECT with :scheme or :path, or without :authority",
            id="CONNECT without authority",
        ),
        pytest.param(
            [*PROXY, (b"host", b"localhost")],
            ":authority and host differ",
            id="CONNECT with another host",
        ),
        pytest.param(
            [CONNECT[0], CONNECT[1], AUTHORITY, PATH],
            "no :path or :scheme",
            id="protocol without scheme",
        ),
        pytest.param(
            [CONNECT[0], CONNECT[1], AUTHORITY, SCHEME],
            "no :path or :scheme",
            id="protocol without path",
        ),
        pytest.param(
            [(b"x_y", b"z"), *GET],
            "b':method' repeated, or after other fields",
            id="after one that is dropped",
        ),
        pytest.param(
            [*GET, (b"x_y", b"z\n")],
            "invalid value of b'x_y'",
            id="bad value of one that is dropped",
        ),
    ],
)
def test_malformed(fields: list[Field], why: str) -> None:
    for limit in (65536, 1):  # malformed it is called whatever its size
        with pytest.raises(MalformedRequest) as raised:
            parse(*fields, limit=limit)
        assert str(raised.value) == why


@pytest.mark.parametrize(
    "more",
    [
        pytest.param([*OTHERS, (b"y", b"")], id="fields"),
        pytest.param([(b"cookie", b"a=b")] * (LIMIT_COOKIE_FIELDS + 1), id="cookies"),
        pytest.param([(b"cookie", b";" * 2001)] * 2, id="parts of cookies"),
        pytest.param([(b"x", b"y" * 65536)], id="bytes"),
    ],
)
def test_too_large(more: list[Field]) -> None:
    with pytest.raises(HeadersTooLarge):
        parse(*GET, *more)


def test_up_to_the_limits() -> None:
    cookies = [(b"cookie", b"a=b")] * (LIMIT_COOKIE_FIELDS - 2) + [(b"cookie", b";" * 2000)] * 2
    path = b"/" * LIMIT_PATH_SIZE
    assert len(parse(*get(path), *OTHERS, *cookies).path) == LIMIT_PATH_SIZE
    size = sum(len(name) + len(value) + 32 for name, value in GET)
    assert parse(*GET, limit=size).size == size
    with pytest.raises(HeadersTooLarge):
        parse(*GET, limit=size - 1)
    long = (b"x", b"y" * 10_000)
    assert parse(*GET, long, limit=size + 10_033).size == size + 10_033
    with pytest.raises(HeadersTooLarge):
        parse(*GET, long, limit=size + 10_032)
    with pytest.raises(PathTooLong):
        parse(*get(path + b"/"))


def test_cookies_are_beside_the_limit_for_fields() -> None:
    parse(*GET, *OTHERS, *[(b"cookie", b"a=b")] * LIMIT_COOKIE_FIELDS)
    with pytest.raises(HeadersTooLarge):
        parse(*GET, *OTHERS, (b"cookies", b"a=b"), (b"cookie", b"a=b"))


@pytest.mark.parametrize("character", [b";", b"\\"])
def test_parts_of_cookies_are_counted_together(character: bytes) -> None:
    half = (b"cookie", character * (LIMIT_COOKIE_PARTS // 2))
    parse(*GET, half, half, (b"x", character * 9000))
    with pytest.raises(HeadersTooLarge):
        parse(*GET, half, half, (b"cookie", character))


def test_what_is_too_large_is_told() -> None:
    path = b"/" * (LIMIT_PATH_SIZE + 1)
    with pytest.raises(PathTooLong) as raised:
        parse(*get(path))
    assert (raised.value.status, raised.value.size) == (414, len(path))
    assert str(raised.value) == f"{len(path)} bytes of path and query"
    with pytest.raises(HeadersTooLarge, match=r"^4 header fields of 175 bytes$") as too_large:
        parse(*GET, limit=1)
    assert too_large.value.status == 431
    with pytest.raises(HeadersTooLarge, match=r"^2 cookies of 5000 parts$"):
        parse(*GET, (b"cookie", b";" * 2500), (b"cookie", b"\\" * 2500))
    with pytest.raises(InvalidMethod) as invalid:
        parse((b":method", b"get"), *GET[1:])
    assert (invalid.value.status, str(invalid.value)) == (400, "Invalid HTTP method: 'get'")


@pytest.mark.parametrize("length", [b"0", b"007", b"9" * 4000])
def test_lengths(length: bytes) -> None:
    assert parse(*GET, (b"content-length", length)).content_length == int(length)


@pytest.mark.parametrize(
    "length", [b"-1", b"1.0", b"1_0", b"0x1", b"1, 1", b"\xb2", b"9" * 4001, b"1a"]
)
def test_what_is_no_length(length: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse(*GET, (b"content-length", length))


def test_te_may_ask_for_trailers() -> None:
    assert parse(*GET, (b"te", b"Trailers")).fields[-1] == ("te", "Trailers")


def test_an_authority_without_a_scheme_has_no_default_port() -> None:
    """Of a CONNECT for a proxy."""
    for host in (b"localhost:80", b"localhost"):
        with pytest.raises(MalformedRequest):
            parse(*PROXY, (b"host", host))


def test_a_field_that_came_before_is_checked_as_at_first() -> None:
    for _ in range(2):
        with pytest.raises(MalformedRequest):
            parse(*GET, (b"x", b"y\n"))
        assert parse(*GET, (b"x", b"y")).fields[-1] == ("x", "y")


def test_short_fields_are_remembered_and_long_ones_are_not() -> None:
    """Of those, a few clients could fill the memory."""
    cache = headers._cached_request_field
    longest = headers._CACHED_FIELD
    for size, more in ((longest, 1), (longest, 0), (longest + 1, 0)):
        before = cache.cache_info()
        parse(*GET, (b"x-of-this-test", b"y" * (size - 14)))
        after = cache.cache_info()
        assert after.misses - before.misses == more
        assert after.hits - before.hits == len(GET) + (size <= longest) - more


def test_a_path_is_in_the_characters_of_a_uri() -> None:
    head = parse(*get("/\u00e9?\u00e9=1".encode()))
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
    assert head.fields == [
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/"),
        ("origin", "https://localhost"),
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-key", KEY),
    ]
    sent = [*CONNECT, ("origin", "https://localhost"), ("content-length", "1")]
    assert head.size == sum(len(name) + len(value) + 32 for name, value in sent)


def test_its_key_is_ours_whatever_the_client_says() -> None:
    head = parse(*CONNECT, (b"sec-websocket-key", b"x"), (b"sec-websocket-key", b"y"))
    assert [value for name, value in head.fields if name == "sec-websocket-key"] == [KEY]
    assert len(b64decode(KEY)) == 16  # RFC 6455 section 4.1


def test_one_long_value_is_kept_once() -> None:
    """However often HPACK's table names it."""
    long = (b"x", b"y" * 4000)
    fields = parse(*GET, *[long] * 10).fields[4:]
    assert {id(field) for field in fields} == {id(fields[0])}


def test_long_values_are_told_apart() -> None:
    long = [(b"x", b"y" * 4000), (b"x", b"z" * 4000), (b"w", b"y" * 4000)]
    fields = parse(*GET, *long, *long).fields[4:]
    assert fields == [(name.decode(), value.decode()) for name, value in long] * 2


def test_each_byte_of_a_value_is_a_character() -> None:
    """So it is over HTTP/1.1, and takes no more in memory than as sent."""
    every = bytes(range(0x80, 0x100)) * 10
    head = parse(*GET, (b"x", every), (b"content-type", b"\xe9"))
    assert dict(head.fields)["x"].encode("latin-1") == every
    assert head.size == parse(*GET, (b"x", b"y" * len(every)), (b"content-type", b"e")).size


def test_what_is_sent_back_is_what_came() -> None:
    for value in (b"\xe9", "\u00e9\u20ac".encode(), b"\xff\x80\t\xc3"):
        response = Response()
        response.headers["X"] = dict(parse(*GET, (b"x", value)).fields)["x"]
        assert dict(response_headers(response))[b"x"] == value


@pytest.mark.parametrize("name", [b"x_forwarded_for", b"content_length", b"host_", b"_", b"te_"])
def test_a_name_with_an_underscore_is_dropped(name: bytes) -> None:
    head = parse(*GET, (b"x-forwarded-for", b"1"), (name, b"2"), (b"y", b"3"))
    assert head.fields[4:] == [("x-forwarded-for", "1"), ("y", "3")]
    assert head.content_length is None
    assert name.decode() not in dict(parse(*CONNECT, (name, b"2")).fields)
    with pytest.raises(HeadersTooLarge):  # they count
        parse(*GET, *[(name, b"2")] * 101)


@pytest.mark.parametrize("method", [b"get", b"Post", b"GeT", b"GO", b"G", b"G#T", b"G" * 21])
def test_a_method_that_http_1_refuses(method: bytes) -> None:
    with pytest.raises(InvalidMethod):
        parse((b":method", method), *GET[1:])
    with pytest.raises(MalformedRequest):
        parse((b":method", method), *GET[1:], (b"X", b"y"))


@pytest.mark.parametrize("method", [b"TRACE", b"BREW", b"ACL", b"M-SEARCH", b"G" * 20])
def test_other_methods_are_for_the_view_to_refuse(method: bytes) -> None:
    assert parse((b":method", method), *GET[1:]).method == method.decode()


@pytest.mark.parametrize(
    ("scheme", "authority", "host"),
    [
        (b"https", b"localhost:443", b"localhost"),
        (b"https", b"localhost", b"localhost:443"),
        (b"https", b"LocalHost:443", b"localHOST"),
        (b"https", b"[::1]:443", b"[::1]"),
        (b"https", b"[::A]", b"[::a]:443"),
        (b"https", b"localhost:", b"localhost"),
        (b"https", b"localhost:", b"localhost:443"),
        (b"https", b"localhost.:443", b"localhost."),
        (b"http", b"localhost:80", b"localhost"),
        (b"http", b"localhost", b"localhost:80"),
    ],
)
def test_an_authority_is_the_host_but_for_case_and_default_port(
    scheme: bytes, authority: bytes, host: bytes
) -> None:
    fields = [(b":scheme", scheme), (b":authority", authority), PATH, (b"host", host)]
    assert parse(METHOD, *fields).path == "/"
    assert parse(CONNECT[0], CONNECT[1], *fields).protocol == "websocket"


@pytest.mark.parametrize(
    ("scheme", "authority", "host"),
    [
        (b"https", b"localhost:80", b"localhost"),
        (b"http", b"localhost:443", b"localhost"),
        (b"https", b"localhost:8443", b"localhost"),
        (b"https", b"localhost:0443", b"localhost"),
        (b"https", b"localhost.", b"localhost"),
        (b"https", b"[::1]", b"[0:0:0:0:0:0:0:1]"),
        (b"https", b"localhost:443:443", b"localhost"),
        (b"https", b"localhost::443", b"localhost"),
        (b"https", b"localhost443", b"localhost"),
    ],
)
def test_an_authority_that_is_another_than_the_host(
    scheme: bytes, authority: bytes, host: bytes
) -> None:
    for first, second in ((authority, host), (host, authority)):
        with pytest.raises(MalformedRequest):
            parse(METHOD, (b":scheme", scheme), (b":authority", first), PATH, (b"host", second))


def test_a_connect_for_a_proxy_is_well_formed() -> None:
    fields = [*PROXY, (b"host", b"LOCALHOST:443"), (b"content-length", b"3")]
    head = parse(*fields)
    assert (head.method, head.protocol) == ("CONNECT", None)
    assert (head.path, head.content_length) == ("/", None)
    assert {(":method", "CONNECT"), (":authority", "localhost:443")} < set(head.fields)
    assert ("host", "LOCALHOST:443") in head.fields
    assert head.size == sum(len(name) + len(value) + 32 for name, value in fields)


def test_one_with_many_fields_too() -> None:
    assert parse(*PROXY, *[(b"x%d" % i, b"y" * 60) for i in range(100)]).method == "CONNECT"
