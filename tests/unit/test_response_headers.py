"""The header fields of a response and the trailers of a request, without a connection."""

from collections.abc import Iterator

import pytest
from clock import Clock
from hpack.struct import NeverIndexedHeaderTuple
from plain.http import Response
from plain.server.http.errors import InvalidHeader, InvalidHeaderName

from plain_gevent_h2.http2 import headers
from plain_gevent_h2.http2.headers import MalformedRequest, check_trailers, response_headers


def response(status: int = 200, **fields: str | None) -> Response:
    made = Response(status_code=status)
    for name, value in fields.items():
        made.headers[name.replace("_", "-")] = value
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock.of(headers, monkeypatch)
    yield clock
    clock.now = -1.0  # what is kept of it is of no second to come
    response_headers(Response())


def test_what_comes_first(clock: Clock) -> None:
    clock.now = 784111777.9
    assert response_headers(response(404, X_Y="z"))[:3] == [
        (b":status", b"404"),
        (b"server", b"plain"),
        (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT"),
    ]


def test_the_date_is_that_of_each_second(clock: Clock) -> None:
    dates = []
    for now in (1.0, 1.9, 2.0):
        clock.now = now
        dates.append(dict(response_headers(Response()))[b"date"][-12:])
    assert dates == [b"00:00:01 GMT", b"00:00:01 GMT", b"00:00:02 GMT"]
    first, second = (response_headers(Response())[2] for _ in range(2))
    assert first is second  # made once


def test_names_are_in_lower_case_and_values_stripped() -> None:
    assert response_headers(response(X_Custom=" \ta b\t "))[-1] == (b"x-custom", b"a b")
    long = "v" * 500
    assert response_headers(response(X_Custom=f" {long} "))[-1] == (b"x-custom", long.encode())


def test_short_fields_are_remembered_and_long_ones_are_not() -> None:
    cache = headers._cached_field
    for size, more in ((160, 1), (160, 0), (161, 0)):
        before = cache.cache_info().misses
        response_headers(response(X_Of_This_Test="v" * size))
        assert cache.cache_info().misses - before == more
    assert headers._CACHED_FIELD == 160


@pytest.mark.parametrize(
    "name",
    [
        *("Connection", "Proxy_Connection", "Transfer_Encoding", "Keep_Alive", "Upgrade", "TE"),
        *("Server", "Date"),
    ],
)
def test_what_is_of_http_1_or_ours_to_say_is_left_out(name: str) -> None:
    names = [name for name, _ in response_headers(response(200, **{name: "x"}))]
    usual = [name for name, _ in response_headers(Response())]
    assert names == usual


def test_a_field_without_a_value_is_left_out() -> None:
    fields = [name for name, _ in response_headers(response(X_Y=None, X_Z="z"))]
    assert b"x-y" not in fields
    assert fields[-1] == b"x-z"


@pytest.mark.parametrize(("status", "has_length"), [(200, True), (204, False), (304, True)])
def test_a_length_is_left_out_where_it_may_not_be(status: int, has_length: bool) -> None:
    fields = response_headers(response(status, Content_Length="3", X_Z="z"))
    assert ((b"content-length", b"3") in fields) == has_length
    assert fields[-1] == (b"x-z", b"z")


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "\u20ac"])
@pytest.mark.parametrize("more", [0, 500])
def test_a_value_that_must_not_reach_the_wire(value: str, more: int) -> None:
    made = Response()
    made.headers._store["x"] = ("X", value + "v" * more)  # Plain refuses some of them itself
    with pytest.raises(InvalidHeader) as raised:
        response_headers(made)
    assert str(raised.value) == str(InvalidHeader(f"x: {value + 'v' * more!r}"))


@pytest.mark.parametrize("name", ["a b", "a:b", "", "a\n"])
def test_a_name_that_must_not_reach_the_wire(name: str) -> None:
    made = Response()
    made.headers._store[name] = (name, "x")
    with pytest.raises(InvalidHeaderName) as raised:
        response_headers(made)
    assert str(raised.value) == str(InvalidHeaderName(name))


def test_cookies_are_never_indexed() -> None:
    """RFC 7541 section 7.1.3: each is a secret. Other fields are."""
    made = response(X_Y="z")
    made.set_cookie("session", "secret", httponly=True)
    made.set_cookie("other", "b")
    fields = response_headers(made)
    cookies = [field for field in fields if field[0] == b"set-cookie"]
    assert [value for _, value in cookies] == [
        b"session=secret; HttpOnly; Path=/",
        b"other=b; Path=/",
    ]
    never = [field for field in fields if isinstance(field, NeverIndexedHeaderTuple)]
    assert never == cookies


class TestTrailers:
    def test_fields(self) -> None:
        check_trailers([(b"grpc-status", b"0"), (b"x", b""), (b"x", b"\xff")])

    @pytest.mark.parametrize(
        "field",
        [
            (b":path", b"/"),
            (b":status", b"200"),
            (b":x", b"y"),
            (b"X", b"y"),
            (b"x", b"y\n"),
            (b"x", b" y"),
            (b"", b"y"),
            (b"connection", b"close"),
            (b"transfer-encoding", b"chunked"),
            (b"te", b"gzip"),
        ],
    )
    def test_malformed(self, field: tuple[bytes, bytes]) -> None:
        with pytest.raises(MalformedRequest) as raised:
            check_trailers([(b"x", b"y"), field])
        assert repr(field[0]) in str(raised.value)
        assert ("among the trailers" in str(raised.value)) == field[0].startswith(b":")
