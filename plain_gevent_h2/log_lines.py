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


type _Format = Callable[[Any, LogRecord], str]


def safe_lines(format_record: _Format) -> _Format:
    """A formatter's `format`, with all that no app writes by itself escaped in what it returns."""

    def format_safe(formatter: Any, record: LogRecord) -> str:
        line = format_record(formatter, record)
        return line if line.isprintable() else _NEVER_IN_A_LINE.sub(_escape, line)

    return format_safe


def safe_values(
    format_record: _Format, get_context: Callable[[LogRecord], dict[str, Any]]
) -> _Format:
    """The same for a formatter that writes values (of `get_context`) as they are.

    A line that is printable has none that is not: to look at each would take 3 us of a request.
    """

    def format_safe(formatter: Any, record: LogRecord) -> str:
        line = format_record(formatter, record)
        if line.isprintable():
            return line
        record = copy(record)
        for name, value in get_context(record).items():
            vars(record)[name] = _NEVER_IN_A_VALUE.sub(_escape, str(value))
        return _NEVER_IN_A_LINE.sub(_escape, format_record(formatter, record))

    return format_safe
