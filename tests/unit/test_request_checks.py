"""What is refused of an HTTP/1.1 head against request smuggling, without a connection."""

import pytest

from plain_gevent_h2.app.header_rules import LIMIT_COOKIE_PARTS
from plain_gevent_h2.app.plain_internals import (
    InvalidHeader,
    InvalidHostHeader,
    InvalidRequestLine,
    LimitRequestHeaders,
    ParsedRequest,
)
from plain_gevent_h2.http1.request_checks import check_request

HOST = b"Host: localhost"


def parse(target: bytes, *fields: bytes, version: bytes = b"1.1") -> ParsedRequest:
    """The request, as Plain's parser reads it."""
    lines = [b"GET " + target + b" HTTP/" + version, *fields, b"", b""]
    return ParsedRequest(True, b"\r\n".join(lines), ("127.0.0.1", 50000))


def checked(target: bytes, *fields: bytes, version: bytes = b"1.1") -> ParsedRequest:
    """The same, after the checks."""
    parsed = parse(target, *fields, version=version)
    check_request(parsed)
    return parsed


def expect_invalid_header(name: str, *fields: bytes) -> None:
    parsed = parse(b"/", HOST, *fields)
    with pytest.raises(InvalidHeader) as raised:
        check_request(parsed)
    assert raised.value.hdr == name
    assert raised.value.req is parsed  # for the access log


class TestTarget:
    @pytest.mark.parametrize("character", [b"\x00", b"\x01", b"\t", b"\x0b", b"\x1f", b"\x7f"])
    @pytest.mark.parametrize("beside", [b"/a%cb", b"/\xe9%c"], ids=["ascii", "others"])
    def test_no_control_character(self, character: bytes, beside: bytes) -> None:
        target = beside.replace(b"%c", character)
        with pytest.raises(InvalidRequestLine) as raised:
            checked(target, HOST)
        assert raised.value.req == target.decode("latin-1")

    @pytest.mark.parametrize("target", [b"/", b"/!~", b"/a?b=%20", b"*"])
    def test_characters_of_a_uri(self, target: bytes) -> None:
        assert checked(target, HOST).uri == target.decode()

    def test_other_bytes_are_percent_encoded(self) -> None:
        parsed = checked(b"/\xe9/a?b=\xc3\xa9", HOST)
        assert (parsed.path, parsed.query) == ("/%E9/a", "b=%C3%A9")

    @pytest.mark.parametrize(
        ("target", "path", "query"),
        [(b"/\xe9", "/%E9", ""), (b"?\xe9", "", "%E9"), (b"http://localhost?\xe9", "", "%E9")],
    )
    def test_what_is_missing_stays_empty(self, target: bytes, path: str, query: str) -> None:
        parsed = checked(target, HOST)
        assert (parsed.path, parsed.query) == (path, query)


class TestHost:
    @pytest.mark.parametrize("host", [b"a b", b"a/b", b"u@a", b"a\\b", b"a\xe9", b'a"'])
    def test_characters_that_no_host_has(self, host: bytes) -> None:
        with pytest.raises(InvalidHostHeader, match=r": invalid (characters|whitespace .*)$"):
            checked(b"/", b"Host: " + host)

    @pytest.mark.parametrize(
        ("target", "host"),
        [
            (b"http://a/", b"a"),
            (b"http://A/x?y", b"a"),
            (b"http://a:80/", b"a"),
            (b"HTTPS://a/", b"a:443"),
            (b"https://a?b", b"a"),
            (b"http://a#b", b"a"),
            (b"/http://b/", b"a"),
            (b"*", b"a"),
        ],
    )
    def test_that_of_the_target(self, target: bytes, host: bytes) -> None:
        checked(target, b"Host: " + host)

    @pytest.mark.parametrize(
        ("target", "host"),
        [
            (b"http://b/", b"a"),
            (b"http://a:81/", b"a"),
            (b"https://a:80/", b"a"),
            (b"http://u@a/", b"a"),
            (b"x://b", b"a"),
            (b"http://b#a", b"a"),
        ],
    )
    def test_another_than_that_of_the_target(self, target: bytes, host: bytes) -> None:
        """RFC 9112 section 3.2.2: a proxy sees the target, Plain's views see Host."""
        with pytest.raises(InvalidHostHeader, match=r": not that of the request target$"):
            checked(target, b"Host: " + host)

    def test_a_target_without_a_host(self) -> None:
        checked(b"http://b/", version=b"1.0")


class TestValues:
    @pytest.mark.parametrize("character", [b"\x01", b"\x08", b"\x0b", b"\x1f", b"\x7f"])
    @pytest.mark.parametrize("field", [b"X-Any: a%cb", b"Cookie: a%cb", b"Connection: a%cb"])
    def test_no_control_character(self, field: bytes, character: bytes) -> None:
        name = field.partition(b":")[0].decode().upper()
        expect_invalid_header(name, field.replace(b"%c", character))

    @pytest.mark.parametrize("value", [b"a\tb", b"a\xe9b", b"a\x80b", b"a\xa0b"])
    def test_tabs_and_other_bytes(self, value: bytes) -> None:
        assert ("X-ANY", value.decode("latin-1")) in checked(b"/", HOST, b"X-Any: " + value).headers

    @pytest.mark.parametrize("separator", [b";", b"\\"])
    def test_parts_of_cookies(self, separator: bytes) -> None:
        half, rest = LIMIT_COOKIE_PARTS // 2, LIMIT_COOKIE_PARTS - LIMIT_COOKIE_PARTS // 2
        first, second = b"Cookie: " + separator * half, b"Cookie: " + separator * rest
        checked(b"/", HOST, first, second)
        checked(b"/", HOST, first, second, b"X-Any: " + separator)
        with pytest.raises(LimitRequestHeaders, match=r"^cookies of too many parts$"):
            checked(b"/", HOST, first, second + separator)


class TestTransferEncoding:
    """RFC 9112 section 6.3: the last coding is chunked, or the length is not certain."""

    @pytest.mark.parametrize("coding", [b"chunked", b"Chunked", b"gzip, chunked"])
    def test_chunked_at_last(self, coding: bytes) -> None:
        assert checked(b"/", HOST, b"Transfer-Encoding: " + coding).content_length is None

    @pytest.mark.parametrize(
        "coding", [b"gzip", b"identity", b"gzip, identity", b"\xa0chunked", b"chunked\x85"]
    )
    def test_not_chunked(self, coding: bytes) -> None:
        expect_invalid_header("TRANSFER-ENCODING", b"Transfer-Encoding: " + coding)

    def test_beside_a_length(self) -> None:
        expect_invalid_header("TRANSFER-ENCODING", b"Transfer-Encoding: gzip", b"Content-Length: 3")


class TestConnectionOptions:
    """RFC 9112 section 9.3: HTTP/1.1 keeps a connection, HTTP/1.0 if it is asked to."""

    @pytest.mark.parametrize(
        ("version", "fields", "closes"),
        [
            (b"1.1", [], False),
            (b"1.1", [b"close"], True),
            (b"1.1", [b"keep-alive, close"], True),
            (b"1.1", [b"x,\tCLOSE ,y"], True),
            (b"1.1", [b"keep-alive", b"close"], True),
            (b"1.1", [b"x, closed"], False),
            (b"1.1", [b"x, close\xa0"], False),  # no white space of HTTP's
            (b"1.1", [b"x, y"], False),
            (b"1.0", [], True),
            (b"1.0", [b"keep-alive"], False),
            (b"1.0", [b"x, Keep-Alive"], False),
            (b"1.0", [b"x", b"keep-alive"], False),
            (b"1.0", [b"keep-alive, close"], True),
            (b"1.0", [b"x, y"], True),
        ],
    )
    def test_they_are_a_list(self, version: bytes, fields: list[bytes], closes: bool) -> None:
        options = [b"Connection: " + field for field in fields]
        assert checked(b"/", HOST, *options, version=version).should_close() is closes

    def test_the_parser_may_have_decided_to_close(self) -> None:
        """As after `Transfer-Encoding: gzip, chunked`."""
        fields = (b"Transfer-Encoding: gzip, chunked", b"Connection: x, keep-alive")
        assert checked(b"/", HOST, *fields).should_close()
