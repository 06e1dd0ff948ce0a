"""The parsers that stand for Plain's: the same results, and in a time that has a bound."""

import encodings
import json
import pkgutil
import random
import time
from collections.abc import Callable
from encodings.aliases import aliases

import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_server import as_in_a_worker
from plain.http import Request as HttpRequest
from plain.http import multipartparser
from plain.http import request as _http_request
from plain.http.request import MediaType
from plain.server.http import request as _server_request
from plain.server.http.request import _decode_path
from plain.utils import http as _utils_http
from plain.utils.http import _parseparam

from plain_gevent_h2.app import safe_parsers as parsers

#: Pieces of UTF-8, whole and broken: the bytes that decoding turns on.
UTF8 = st.sampled_from(
    rb"61 25 2f 80 bf c0 c3 c3a9 e282 e282ac ed eda080 f09f98 f09f9880 f490 fe ff".split()
).map(lambda piece: bytes.fromhex(piece.decode()))


@given(st.lists(st.one_of(UTF8, st.binary(max_size=4)), max_size=30).map(b"".join))
def test_paths_are_decoded_as_plain_does(path: bytes) -> None:
    assert parsers.decode_path(path) == _decode_path(path)


@given(st.lists(st.sampled_from([";", '"', "\\", '\\"', "=", "a", " ", "\t"]), max_size=60))
def test_parameters_are_split_as_plain_does(pieces: list[str]) -> None:
    value = ";" + "".join(pieces)
    assert list(parsers.split_parameters(value)) == list(_parseparam(value))


class Request:
    def __init__(self, **headers: str) -> None:
        self.headers = headers


@given(
    st.lists(
        st.sampled_from(["text/html", "*/*", "a", "", " ", "a/b;q=0.5", "a/b;c=d;q=0", ";q=1"]),
        max_size=parsers.MAX_MEDIA_TYPES,
    )
)
def test_media_types_are_those_of_plain(tokens: list[str]) -> None:
    header = ",".join(tokens)
    types = [MediaType(token) for token in header.split(",") if token.strip()]
    plains = sorted(types, key=lambda t: t.quality, reverse=True)
    ours = parsers.accepted_types(Request(Accept=header))
    assert [str(t) for t in ours] == [str(t) for t in plains]


@pytest.mark.parametrize("weight", ["1", "0", "0.5", "1.000", ".5"])
def test_a_weight_is_that_of_plain(weight: str) -> None:
    media_type = MediaType(f"a/b;q={weight}")
    assert parsers.quality(media_type) == media_type.quality


def test_without_a_weight_it_is_1() -> None:
    assert parsers.quality(MediaType("a/b;c=d")) == 1


@pytest.mark.parametrize("weight", ["", "x", "\xe9", "nan", "inf", "-1", "2", "1_0", "\u0663"])
def test_a_weight_that_is_none(weight: str) -> None:
    assert parsers.quality(MediaType(f"a/b;q={weight}")) == 0


def test_without_accept_all_types_are() -> None:
    assert [str(t) for t in parsers.accepted_types(Request())] == ["*/*"]


def test_past_their_number_media_types_and_parameters_are_not_looked_at() -> None:
    many = parsers.MAX_MEDIA_TYPES
    types = parsers.accepted_types(Request(Accept=",".join(f"a/{i}" for i in range(many + 5))))
    assert [t.sub_type for t in types] == [str(i) for i in range(many)]
    parts = list(parsers.split_parameters(";a" * (parsers.MAX_PARAMETERS + 10)))
    assert len(parts) == parsers.MAX_PARAMETERS + 1
    assert parts[-1] == ";".join("a" * 10)


#: What makes Plain's parsers quadratic, so many times.
INPUTS: dict[str, Callable[[int], object]] = {
    "path": lambda n: parsers.decode_path(b"\xff" * n),
    "quoted": lambda n: list(parsers.split_parameters(';"' + ";" * n)),
    "backslashes": lambda n: list(parsers.split_parameters(';"' + '\\";' * n)),
    "parameters": lambda n: list(parsers.split_parameters(";a" * n)),
    "accept": lambda n: parsers.accepted_types(Request(Accept="a," * n)),
}


def seconds(function: Callable[[int], object], n: int) -> float:
    """The least of several: what else the machine does comes on top."""
    taken = []
    for _ in range(5):
        started = time.thread_time()
        function(n)
        taken.append(time.thread_time() - started)
    return min(taken)


@pytest.mark.parametrize("name", INPUTS)
def test_time_grows_no_faster_than_the_input(name: str) -> None:
    """Of 16 times as much, 256 times for one that is quadratic."""
    few, many = seconds(INPUTS[name], 10_000), seconds(INPUTS[name], 160_000)
    assert many < 64 * few


def test_text_of_any_charset_can_be_sent_back() -> None:
    """Of every encoding that Python has: refused, or its text is one for a response."""
    modules = {module.name for module in pkgutil.iter_modules(encodings.__path__)}
    samples = [b"+2AA-", b"\\ud800", b"\\N{x", b"-z9", bytes(range(256))]
    samples += [random.Random(size).randbytes(size) for size in range(1, 200)]
    found = 0
    for name in sorted(modules | aliases.keys()):
        try:
            parsers.find_charset(name)
        except LookupError:
            continue
        found += 1
        for sample in samples:
            sample.decode(name, "replace").encode()
    assert found > 300


@pytest.mark.parametrize("name", ["utf-8", "UTF8", "iso-8859-1", "Latin1", "koi8-u", "Shift_JIS"])
def test_charsets(name: str) -> None:
    assert b"abc".decode(parsers.find_charset(name).name) == "abc"
    assert parsers.unquote_parameter("%61", name) == "a"


def test_a_parameter_is_in_its_encoding() -> None:
    assert parsers.unquote_parameter("%E9", "latin-1") == "\xe9"
    assert parsers.unquote_parameter("%C3%A9", "utf-8") == "\xe9"


@pytest.mark.parametrize("encoding", ["utf-8", "nope", "hex", ""])
def test_the_line_of_a_part_keeps_its_file_whatever_its_encoding(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = f"form-data; name=\"a\"; filename*={encoding}''b%21.txt"
    monkeypatch.setattr(_utils_http, "unquote", parsers.unquote_parameter)
    kind, parameters = parsers.part_parameters(line)
    assert (kind, parameters["name"]) == ("form-data", "a")
    expected = "b!.txt" if encoding == "utf-8" else f"{encoding}''b%21.txt"
    assert parameters["filename"] == expected


@pytest.mark.parametrize(
    "name", ["", "hex", "Rot-13", "utf-7", "unicode-escape", "idna", "x", "utf-8\xe9", "aliases"]
)
def test_no_charsets(name: str) -> None:
    with pytest.raises(LookupError):
        parsers.find_charset(name)
    with pytest.raises(ValueError, match="unknown encoding"):
        parsers.unquote_parameter("%61", name)


@pytest.mark.parametrize(
    "body", [b'{"a":"\xe9"}', b"[" * 100_000, b"1" * 5000, b"{", b"", b"\xff\xfe", b'"\\ud8"']
)
def test_json_that_is_none(body: bytes) -> None:
    with pytest.raises(json.JSONDecodeError) as raised:
        parsers.load_json(body)
    cause = raised.value.__cause__
    if cause is not None:  # what is wrong, of nowhere in particular
        assert (raised.value.msg, raised.value.doc, raised.value.pos) == (str(cause), "", 0)


def test_they_stand_for_plains() -> None:
    """And for no longer than the block: other tests compare with those of Plain."""
    ours = (
        (_server_request, "_decode_path", parsers.decode_path),
        (_utils_http, "_parseparam", parsers.split_parameters),
        (_utils_http, "unquote", parsers.unquote_parameter),
        (multipartparser, "parse_header_parameters", parsers.part_parameters),
    )
    before = [vars(module)[name] for module, name, _ in ours]
    with as_in_a_worker():
        for module, name, function in ours:
            assert vars(module)[name] is function
        assert _http_request.codecs.lookup is parsers.find_charset
        with pytest.raises(json.JSONDecodeError):
            _http_request.json.loads(b"\xff")
        assert _http_request.json.JSONDecodeError is json.JSONDecodeError
        assert MediaType("a/b;q=x").quality == 0
        request = HttpRequest(method="GET", path="/", headers={"Accept": "a/b;q=0.5, c/d"})
        assert [str(kind) for kind in request.accepted_types] == ["c/d", "a/b; q=0.5"]
    assert [vars(module)[name] for module, name, _ in ours] == before


def test_json_that_is_some() -> None:
    assert parsers.load_json(b'{"a": [1, "\xc3\xa9"]}') == {"a": [1, "\xe9"]}
