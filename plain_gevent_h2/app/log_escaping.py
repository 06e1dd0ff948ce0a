"""Escapes what comes from clients in the log, where it is not text.

Plain's formatters write the values of `extra` as they are: a line break in a decoded path starts a
line that looks like one of the server's own, an escape sequence is obeyed by the operator's
terminal, and half of a surrogate pair makes the line fail.
"""

import re
from collections.abc import Callable
from copy import copy
from logging import LogRecord
from typing import Any

from .plain_internals import replace_log_formatting

# Without the control characters of ASCII, which apps use in messages of their own. Those of
# Latin-1 are control sequences, too; the others start lines or turn the direction of the text.
_NEVER_IN_A_LINE = re.compile(
    "[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_NEVER_IN_A_VALUE = re.compile(f"[\0-\x1f]|{_NEVER_IN_A_LINE.pattern}")


def _escape(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"  # as JSON has it


#: Plain puts a value in quotes that has one of these.
_QUOTED = re.compile("[ /':=.]")

#: Characters after which a value with something to escape is cut. To escape one takes 0.7 us.
MAX_UNSAFE = 1000

type _Format = Callable[[Any, LogRecord], str]
type _GetContext = Callable[[LogRecord], dict[str, Any]]


def format_value(value: object) -> str:
    """A value as Plain's key-value formatter writes it, with all that is not text escaped.

    Plain's own looks for six characters one after another. This one looks for more and takes a
    third of the time.
    """
    text = value if isinstance(value, str) else str(value)
    if text.isalnum():
        return text
    if not text.isprintable():
        text = _NEVER_IN_A_VALUE.sub(_escape, _cut(text))
    if '"' in text:
        return '"' + text.replace('"', '\\"') + '"'
    return f'"{text}"' if not text or _QUOTED.search(text) else text


def safe_lines(format_record: _Format, get_values: _GetContext | None = None) -> _Format:
    """A formatter's `format`, with all that no app writes by itself escaped in what it returns.

    For what `format_value()` does not see: messages, tracebacks, and values in JSON, which escapes
    only the control characters of ASCII. `get_values` tells those: they are still to be cut.
    """

    def format_safe(formatter: Any, record: LogRecord) -> str:
        line = format_record(formatter, record)
        if (line.isascii() and "\x7f" not in line) or line.isprintable():
            return line  # the first of the two takes no time
        if get_values is not None:
            record = copy(record)
            for name, value in get_values(record).items():
                if not (text := str(value)).isprintable():
                    vars(record)[name] = _cut(text)
            line = format_record(formatter, record)
        return _NEVER_IN_A_LINE.sub(_escape, line)

    return format_safe


def _cut(text: str) -> str:
    if len(text) <= MAX_UNSAFE:
        return text
    return f"{text[:MAX_UNSAFE]}... ({len(text)} characters)"


def patch_formatters() -> None:
    """Have Plain's formatters escape what they write."""
    replace_log_formatting(format_value, safe_lines)
