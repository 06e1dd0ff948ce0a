"""The rules for header fields and URIs that both protocols have in common."""

import pytest

from plain_gevent_h2.app.header_rules import AUTHORITY_RE, ascii_uri, same_authority


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/", "/"),
        (b"/a%20b?c=d&e", "/a%20b?c=d&e"),
        (b"/%c3%a9", "/%c3%a9"),
        ("/é?é".encode(), "/%C3%A9?%C3%A9"),
        (b"/\xe9", "/%E9"),
        (b"/%e9\xff%2f", "/%e9%FF%2f"),  # what is encoded stays as it is
    ],
)
def test_a_uri_is_ascii(path: bytes, expected: str) -> None:
    assert ascii_uri(path) == expected


@pytest.mark.parametrize(
    ("first", "second", "scheme"),
    [
        ("example.org", "example.org", "https"),
        ("Example.ORG", "example.org", "https"),
        ("example.org:443", "example.org", "https"),
        ("example.org", "example.org:80", "http"),
        ("example.org:", "example.org", "https"),
        ("example.org:", "example.org:443", "https"),
        ("[::1]:443", "[::1]", "https"),
        ("example.org:8443", "EXAMPLE.org:8443", "https"),
    ],
)
def test_the_same_authority(first: str, second: str, scheme: str) -> None:
    assert same_authority(first, second, scheme)
    assert same_authority(second, first, scheme)


@pytest.mark.parametrize(
    ("first", "second", "scheme"),
    [
        ("example.org", "example.com", "https"),
        ("example.org:80", "example.org", "https"),
        ("example.org:443", "example.org", "http"),
        ("example.org:443", "example.org", "ftp"),
        ("example.org:8443", "example.org", "https"),
        ("example.org:1443", "example.org:1", "https"),
        ("example.org.", "example.org", "https"),
        ("user@example.org", "example.org", "https"),
    ],
)
def test_another_authority(first: str, second: str, scheme: str) -> None:
    assert not same_authority(first, second, scheme)
    assert not same_authority(second, first, scheme)


@pytest.mark.parametrize("host", ["a", "example.org:80", "[::1]:8000", "a_b~c.d", "%41"])
def test_characters_of_a_host(host: str) -> None:
    assert AUTHORITY_RE.fullmatch(host)


@pytest.mark.parametrize("host", ["", "a b", "a/b", "a?b", "a#b", "u@a", "a\\b", "a\n", "é", '"a"'])
def test_characters_that_no_host_has(host: str) -> None:
    assert not AUTHORITY_RE.fullmatch(host)
