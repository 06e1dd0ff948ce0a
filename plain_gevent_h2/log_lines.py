"""Keeps what clients send from being more than text in the log.

Plain's formatters write the values of `extra` as they are: a line break in a decoded path starts a
line that looks like one of the server's own, an escape sequence is obeyed by the operator's
terminal, and half of a surrogate pair (a byte that is no UTF-8) makes the line fail.
"""

import re
from collections.abc import Callable
from copy import copy
from logging import LogRecord
from typing import Any

# Without the control characters of ASCII, which apps use in messages of their own. Those of
# Latin-1 are control sequences, too; the others start lines or turn the direction of the text.
_NEVER_IN_A_LINE = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_NEVER_IN_A_VALUE = re.compile(f"[\0-\x1f]|{_NEVER_IN_A_LINE.pattern}")


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"  # as JSON has it


#: Characters of a value that has such, from which on it is cut: to escape each takes 0.7 us.
MAX_UNSAFE = 1000

type _Format = Callable[[Any, LogRecord], str]
type _GetContext = Callable[[LogRecord], dict[str, Any]]


def safe_lines(
    format_record: _Format, get_context: _GetContext, *, values_as_they_are: bool
) -> _Format:
    """A formatter's `format`, with all that no app writes by itself escaped in what it returns.

    `values_as_they_are`: whether it writes those of `get_context` without escaping them itself.

    A line that is printable has nothing to escape: to look at each value would take 3 us.
    """

    def format_safe(formatter: Any, record: LogRecord) -> str:
        line = format_record(formatter, record)
        if line.isprintable():
            return line
        record = copy(record)
        for name, value in get_context(record).items():
            if (text := str(value)).isprintable():
                continue
            if len(text) > MAX_UNSAFE:
                text = f"{text[:MAX_UNSAFE]}... ({len(text)} characters)"
            if values_as_they_are:
                text = _NEVER_IN_A_VALUE.sub(_escape, text)
            vars(record)[name] = text
        return _NEVER_IN_A_LINE.sub(_escape, format_record(formatter, record))

    return format_safe
