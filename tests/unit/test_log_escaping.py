"""A line of the log is one line, whatever its values are."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain.logs.formatters import JSONFormatter, KeyValueFormatter, _get_context

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

    def format(self, record: logging.LogRecord) -> str:
        return safe_lines(KeyValueFormatter.format)(self, record)


class SafeJson(JSONFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return safe_lines(JSONFormatter.format, _get_context)(self, record)


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
    line = formatter.format(record("Request", user_agent="\udcff" * MAX_UNSAFE))
    assert line.count("\\udcff") == MAX_UNSAFE
    assert " characters)" not in line


def test_what_is_cut_for_the_line_is_whole_in_the_record() -> None:
    """Other handlers have the same record."""
    made = record("Request", user_agent="\udcff" * 60_000, path="/x", size=5)
    before = dict(vars(made))
    text = json.loads(SafeJson("%(json)s").format(made))
    assert (text["path"], text["size"]) == ("/x", 5)
    assert vars(made)["user_agent"] == before["user_agent"]


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
