"""Any byte in a request's head, over both protocols: the same to a view, and never a 500."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from h2.errors import ErrorCodes
from harness import wait_for
from http1client import Client
from raw import RawClient, data
from serving import Serving

ENV = {
    "PLAIN_HTTP_X_FORWARDED_FOR": "true",
    "PLAIN_HTTP_X_FORWARDED_HOST": "true",
    "PLAIN_HTTP_X_FORWARDED_PORT": "true",
    "PLAIN_HTTPS_PROXY_HEADER": "X-Forwarded-Proto: https",
}

Field = tuple[bytes, bytes]


class Seen(NamedTuple):
    """A response; `status` is 0 for a stream that was reset with PROTOCOL_ERROR."""

    status: int
    fields: list[Field]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.status == 200, self
        return json.loads(self.body)

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]


class Sent(NamedTuple):
    """A request, for either protocol."""

    fields: tuple[Field, ...] = ()
    target: bytes = b"/fields"
    method: bytes = b"GET"
    host: bytes = b"localhost"
    body: bytes = b""


def over_http2(server: Serving, sent: Sent) -> Seen:
    with RawClient(server) as client:
        stream_id = client.open(
            [
                (b":method", sent.method),
                (b":scheme", b"https"),
                (b":authority", sent.host),
                (b":path", sent.target),
                *sent.fields,
            ],
            end_stream=not sent.body,
        )
        if sent.body:
            client.send(data(stream_id, sent.body))
        response = client.finish(stream_id)
        client.expect_alive()
        if response.reset is not None:
            assert response.reset == ErrorCodes.PROTOCOL_ERROR
            return Seen(0, [], b"")
        fields = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in response.headers]
        return Seen(response.status, fields, response.body)


def over_http1(server: Serving, sent: Sent) -> Seen:
    fields = [(b"host", sent.host), *sent.fields]
    if sent.body:
        fields.append((b"content-length", b"%d" % len(sent.body)))
    head = b" ".join((sent.method, sent.target, b"HTTP/1.1\r\n"))
    head += b"".join(b"%b: %b\r\n" % field for field in fields)
    with Client(server.connect("http/1.1")) as client:
        client.send(head + b"\r\n" + sent.body)
        answer = client.read()
        answered = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in answer.headers]
        return Seen(answer.status, answered, answer.body)


Exchange = Callable[[Sent], Seen]


@pytest.fixture(params=[over_http1, over_http2], ids=["http1", "http2"])
def exchange(bytes_server: Serving, request: pytest.FixtureRequest) -> Iterator[Exchange]:
    """Sends a request. At the end nothing has failed in the server, and the log has all lines."""
    logged = len(bytes_server.log())
    count = 0

    def send(sent: Sent) -> Seen:
        nonlocal count
        count += 1
        seen: Seen = request.param(bytes_server, sent)
        return seen

    yield send
    request.param(bytes_server, Sent(target=b"/fields?end"))
    wait_for(lambda: "query=end status=200" in bytes_server.log()[logged:], "the last line")
    log = bytes_server.log()[logged:]
    assert "Traceback" not in log
    assert "Logging error" not in log
    assert log.count("Request method=") == count + 1


#: Bytes that are UTF-8, and others.
VALUES = [b"\xe9", "\u00e9\u20ac\U0001f600".encode(), b"\xc3\xa9\xff", bytes(range(0x80, 0x100))]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_values_are_latin_1_and_come_back_as_they_were(exchange: Exchange, value: bytes) -> None:
    text = value.decode("latin-1")
    seen = exchange(
        Sent(
            (
                (b"x-a", value),
                (b"x-b", b"a, " + value),
                (b"x-b", value),
                (b"user-agent", value),
                (b"referer", value),
                (b"accept", b"text/html;q=" + value + b", " + value),
                (b"x-forwarded-for", value),
                (b"x-forwarded-proto", value),
                (b"x-forwarded-port", value),
            )
        )
    )
    assert seen.all(b"x-a") == [value]
    assert seen.all(b"x-b") == [b"a, " + value + b"," + value]
    assert seen.json["headers"]["X-A"] == seen.json["headers"]["User-Agent"] == text
    assert seen.json["client_ip"] == text.strip()


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_cookies(exchange: Exchange, value: bytes) -> None:
    seen = exchange(Sent(((b"cookie", b"a=" + value + b"; " + value + b"=b"),)))
    text = value.decode("latin-1")
    assert seen.json["cookies"] == {"a": text.strip(), text.strip(): "b"}
    again = exchange(Sent(((b"cookie", seen.all(b"set-cookie")[0].partition(b";")[0]),)))
    assert again.json["cookies"] == {"a": text.strip()}


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_path_is_as_if_percent_encoded(exchange: Exchange, value: bytes) -> None:
    encoded = b"".join(b"%%%02X" % byte for byte in value)
    raw = exchange(Sent(target=b"/fields/" + value + b"?a=" + value + b"&b"))
    same = exchange(Sent(target=b"/fields/" + encoded + b"?a=" + encoded + b"&b"))
    assert raw.json == same.json
    assert raw.json["query"] == {"a": [value.decode(errors="replace")], "b": [""]}
    nowhere = exchange(Sent(target=b"/nowhere" + value))
    assert (nowhere.status, nowhere.body) == (404, b"404 Not Found")


@pytest.mark.parametrize(
    "charset", [*VALUES, b"hex", b"rot13", b"utf-7", b"unicode_escape", b"undefined", b"idna"]
)
def test_charsets_that_are_none(exchange: Exchange, charset: bytes) -> None:
    """UTF-8 takes their place."""
    seen = exchange(
        Sent(((b"content-type", b"text/plain; charset=" + charset),), b"/fields?a=%C3%A9%2B2AA-")
    )
    assert seen.json["encoding"] is None
    assert seen.json["query"] == {"a": ["\u00e9+2AA-"]}


def test_a_charset_that_is_one(exchange: Exchange) -> None:
    seen = exchange(Sent(((b"content-type", b"a/b; charset=latin-1"),), b"/fields?a=%E9&b=\xe9"))
    assert seen.json["query"] == {"a": ["\u00e9"], "b": ["\u00e9"]}


@pytest.mark.parametrize("value", [*VALUES, b"klingon''%41", b"hex''41", b"utf-7''%2B2AA-"])
@pytest.mark.parametrize("part", [b"name*", b"filename*", b"name", b"filename", b"other*"])
def test_multipart_names(exchange: Exchange, value: bytes, part: bytes) -> None:
    head = b'Content-Disposition: form-data; name="a"; ' + part + b"=" + value
    body = b"--x\r\n" + head.lower() + b"\r\n\r\nb\r\n--x--\r\n"
    fields = ((b"content-type", b"multipart/form-data; boundary=x"),)
    assert exchange(Sent(fields, method=b"POST", body=body)).status == 200


@pytest.mark.parametrize("charset", [b"nope", b"hex", b"", b"utf-8", b"utf-7"])
def test_a_file_whose_name_has_no_charset_of_ours_is_there(
    exchange: Exchange, charset: bytes
) -> None:
    head = b'Content-Disposition: form-data; name="a"; filename*=' + charset + b"''b%21.txt"
    body = b"--x\r\n" + head + b"\r\n\r\nb\r\n--x--\r\n"
    fields = ((b"content-type", b"multipart/form-data; boundary=x"),)
    seen = exchange(Sent(fields, target=b"/fields", method=b"POST", body=body))
    assert (seen.status, b".txt" in seen.body) == (200, True)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"a": "\xc3\xa9"}', 200),
        (b'{"a": "\xe9"}', 400),
        (b"[" * 16_000, 400),
        (b'{"a": ' + b"1" * 5000 + b"}", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
    ],
    ids=["utf-8", "latin-1", "deep", "long", "half", "bom"],
)
def test_json(exchange: Exchange, body: bytes, status: int) -> None:
    fields = ((b"content-type", b"application/json"),)
    assert exchange(Sent(fields, target=b"/json", method=b"POST", body=body)).status == status


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data; boundary=\xe9",
        b"multipart/form-data; boundary=x; \xe9=\xe9",
        b"multipart/form-data; boundary=x; charset=\xe9",
        b"multipart/form-data; boundary=x; charset=hex",
        b"application/x-www-form-urlencoded; charset=\xe9",
        b"application/x-www-form-urlencoded; charset=hex",
        b"application/x-www-form-urlencoded; charset=idna",
        b"application/x-www-form-urlencoded; charset=utf-16",
        b"\xe9",
        b"application/\xe9",
    ],
)
def test_forms(exchange: Exchange, content_type: bytes) -> None:
    body = b'--x\r\ncontent-disposition: form-data; name="\xe9"\r\n\r\n\xff%ff=\xe9\r\n--x--\r\n'
    seen = exchange(Sent(((b"content-type", content_type),), method=b"POST", body=body))
    assert seen.status in (200, 400, 415)


def test_names_with_an_underscore_are_dropped(exchange: Exchange) -> None:
    seen = exchange(
        Sent(
            (
                (b"x_forwarded_for", b"6.6.6.6"),
                (b"x-forwarded-for", b"1.1.1.1"),
                (b"x-forwarded_for", b"6.6.6.6"),
                (b"x_forwarded_host", b"evil.example"),
                (b"x_forwarded_proto", b"https"),
                (b"content_length", b"6"),
                (b"content_type", b"text/evil"),
            )
        )
    )
    assert seen.json["client_ip"] == "1.1.1.1"
    assert seen.json["uri"] == "https://localhost/fields"
    assert seen.json["headers"] == {"X-Forwarded-For": "1.1.1.1", "Host": "localhost"}


@pytest.mark.parametrize("method", [b"FOO", b"TRACE", b"M-SEARCH"])
def test_methods_that_no_view_has(exchange: Exchange, method: bytes) -> None:
    assert exchange(Sent(method=method)).status == 405


@pytest.mark.parametrize("method", [b"get", b"Post", b"GO", b"G#T"])
@pytest.mark.parametrize("over", [over_http1, over_http2])
def test_methods_that_are_none(
    bytes_server: Serving, over: Callable[[Serving, Sent], Seen], method: bytes
) -> None:
    assert over(bytes_server, Sent(method=method)).status == 400


@pytest.mark.parametrize("host", [b"\xe9", "\u212aelvin".encode(), b"a<b", b"a b", b"a@b", b"a/b"])
def test_hosts_that_are_none(bytes_server: Serving, host: bytes) -> None:
    assert over_http1(bytes_server, Sent(host=host)).status == 400
    assert over_http2(bytes_server, Sent(host=host)).status == 0
    by_proxy = Sent(((b"x-forwarded-host", host),))
    for over in (over_http1, over_http2):
        assert over(bytes_server, by_proxy).status == 200


@pytest.mark.parametrize(
    ("part", "text", "sent"),
    [
        ("header", "\u00e9", b"\xe9"),
        ("header", "\u20ac", b"=?utf-8?b?4oKs?="),  # RFC 2047, as Plain does
        ("cookie", "\u00e9", b'set="\\351"; Path=/'),
    ],
)
def test_text_that_a_view_sends(exchange: Exchange, part: str, text: str, sent: bytes) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in text.encode())
    seen = exchange(Sent(target=f"/sets?part={part}&text={quoted}".encode()))
    assert seen.all(b"x-set" if part == "header" else b"set-cookie") == [sent]


@pytest.mark.parametrize("over", [over_http1, over_http2])
def test_a_cookie_that_is_no_latin_1(
    bytes_server: Serving, over: Callable[[Serving, Sent], Seen]
) -> None:
    """RFC 6265 has no encoding for it: the app's failure, with a line that says so."""
    logged = len(bytes_server.log())
    assert over(bytes_server, Sent(target=b"/sets?part=cookie&text=%E2%82%AC")).status == 500
    wait_for(lambda: "status=500" in bytes_server.log()[logged:], "line of the access log")
    assert "Invalid HTTP Header" in bytes_server.log()[logged:]


#: What the fuzz puts bytes into.
FUZZED = (
    b"x-a accept accept-encoding accept-language authorization content-type cookie expect "
    b"forwarded if-modified-since if-none-match origin range referer sec-fetch-site "
    b"sec-websocket-key user-agent x-forwarded-for x-forwarded-host x-forwarded-port "
    b"x-forwarded-proto"
).split()


def random_request(chance: random.Random) -> Sent:
    def text(
        alphabet: bytes = bytes((*range(0x20, 0x7F), *range(0x80, 0x100))) + b"%;=\"'",
    ) -> bytes:
        return bytes(chance.choices(alphabet, k=chance.randrange(12))).strip(b" \t")

    fields = [(name, text()) for name in chance.sample(FUZZED, 6)]
    fields.append((b"content-type", b"multipart/form-data; boundary=x; charset=" + text()))
    fields.append((b"cookie", b"a=" + text()))
    method = chance.choice([b"GET", b"GET", b"POST", text(b"GETget\xe9_-")])
    form = b'--x\r\ncontent-disposition: form-data; name="%b"; filename="%b"\r\n\r\n%b\r\n--x--\r\n'
    return Sent(
        tuple({name: (name, value) for name, value in fields}.values()),
        b"/fields"
        + chance.choice([b"", b"/"])
        + text(bytes((*range(0x21, 0x7F), *range(0x80, 0x100)))),
        method,
        chance.choice([b"localhost", b"localhost", b"localhost", b"a" + text()]),
        form % (text(), text(), text()) if method == b"POST" else b"",
    )


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(bytes_server: Serving, seed: int) -> None:
    """Refused or answered, and never a 500. (`finish()` and `read()` wait, so nothing hangs.)"""
    chance = random.Random(seed)
    logged = len(bytes_server.log())
    for _ in range(25):
        sent = random_request(chance)
        for over in (over_http1, over_http2):
            assert over(bytes_server, sent).status < 500, sent
    log = bytes_server.log()[logged:]
    assert "Traceback" not in log
    assert "Logging error" not in log
