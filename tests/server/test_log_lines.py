"""What clients send is text in the log, whatever they send."""

import json
import logging
import signal
from collections.abc import Callable

import pytest
from harness import Server, wait_for
from hypothesis import given
from hypothesis import strategies as st
from plain.logs.formatters import JSONFormatter, KeyValueFormatter, _get_context
from raw import RawClient, request_fields

from plain_gevent_h2.app.log_escaping import MAX_UNSAFE, format_value, safe_lines

#: What starts a line, moves a terminal's cursor, or cannot be written.
BAD = ["\n", "\r", "\x0b", "\0", "\x1b[31m", "\x7f", "\x85", "\x9b", "\u2028", "\u202e", "\udcff"]


#: Text of all kinds, and what is quoted in it.
_TEXT = st.characters(categories=["L", "M", "N", "P", "S", "Zs"]) | st.sampled_from("\"' :")


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("plain.server", logging.INFO, "", 0, message, (), None)
    vars(made).update(extra)
    return made


class SafeKeyValue(KeyValueFormatter):
    _format_value = staticmethod(format_value)
    format = safe_lines(KeyValueFormatter.format)


class SafeJson(JSONFormatter):
    format = safe_lines(JSONFormatter.format, _get_context)


@pytest.mark.parametrize("bad", BAD, ids=ascii)
def test_bad_characters_are_escaped_in_values(bad: str) -> None:
    line = SafeKeyValue("%(message)s %(keyvalue)s").format(record("Request", path=f"/{bad}x"))
    assert line.isprintable()
    assert line == f'Request path="/\\u{ord(bad[0]):04x}{bad[1:]}x"'
    text = SafeJson("%(json)s").format(record("Request", path=f"/{bad}x"))
    assert text.isprintable()
    assert json.loads(text)["path"] == f"/{bad}x"


@pytest.mark.parametrize(
    "formatter", [SafeKeyValue("%(message)s %(keyvalue)s"), SafeJson("%(json)s")]
)
def test_a_long_value_that_is_no_text_is_cut(formatter: logging.Formatter) -> None:
    line = formatter.format(record("Request", user_agent="\udcff" * 60_000))
    assert line.count("\\udcff") == MAX_UNSAFE
    assert "... (60000 characters)" in line


@pytest.mark.parametrize("text", ["é", "日本語\u3000", "\U0001f600", "a\u00a0b", "a b", 'a"b'])
def test_text_is_left_alone(text: str) -> None:
    for safe, plain in ((SafeKeyValue, KeyValueFormatter), (SafeJson, JSONFormatter)):
        line = "%(message)s %(keyvalue)s" if safe is SafeKeyValue else "%(json)s"
        for extra in ({}, {"path": text}):
            made = record(f"several\n\tlines \x1b[1m{text}", **extra)
            assert safe(line).format(made) == plain(line).format(made)


@given(st.text(_TEXT))
def test_a_values_text_is_quoted_as_plain_does(text: str) -> None:
    if text.isprintable():
        assert format_value(text) == KeyValueFormatter._format_value(text)


@pytest.mark.parametrize("value", [200, 0.5, None, ("127.0.0.1", 1), {"a": 'b"'}, b"x"])
def test_other_values_are_as_plain_writes_them(value: object) -> None:
    assert format_value(value) == KeyValueFormatter._format_value(value)


@pytest.mark.parametrize("log_format", ["keyvalue", "json"])
def test_no_client_writes_a_line_of_its_own(serve: Callable[..., Server], log_format: str) -> None:
    server = serve(env={"PLAIN_LOG_FORMAT": log_format})
    forged = "%0a[WARNING] forged%1b[31m%c2%9b%e2%80%a8".replace(" ", "%20")
    with RawClient(server) as client:
        agent = ("user-agent", b"a\xff\xc2\x9bb")
        paths = (f"/{forged}", f"/middleware-error{forged}", f"/../{forged}")
        for path in paths:
            client.expect_response(client.open(request_fields(path, "GET", agent)))
        client.request("/?last")
    with server.connect("http/1.1") as sock:
        for path in paths:
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: \x9b\xff\r\n"
            sock.sendall(f"{head}\r\n".encode("latin-1"))
        sock.sendall(b"GET /?last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while sock.recv(65536):
            pass
    raw_path = "%0a[WARNING]%20forged%1b[31m"
    wait_for(lambda: server.log().count(raw_path) >= 6, "lines of the access log")
    log = server.log().partition("Server worker started")[2]  # before, Plain may use colours
    assert all(line.isprintable() for line in log.split("\n"))
    assert not any(line.startswith("[WARNING] forged") for line in log.split("\n"))
    assert "Logging error" not in log
    # Plain's own lines have the path decoded.
    escaped = r"\u000a" if log_format == "keyvalue" else r"\n"
    assert f"{escaped}[WARNING] forged" in log


def test_a_greenlets_request_is_named_as_it_came(serve: Callable[..., Server]) -> None:
    server = serve()
    with RawClient(server) as client:
        stream_id = client.open(request_fields("/sl%65ep?s=2"))
        client.request("/")
        server.worker().send_signal(signal.SIGUSR2)
        server.wait_log("native thread(s) (pid:")
        assert "GET /sl%65ep (" in server.log()
        assert client.expect_response(stream_id).status == 200
