"""What a worker that cannot start tells the arbiter, which then logs it in one line."""

import logging
import traceback
from typing import Any

from plain.exceptions import ImproperlyConfigured

#: Bytes of the line.
MAX_LINE = 1000


def describe(exc: BaseException) -> str:
    """`exc` in one line, with the place where it was raised if its text does not tell."""
    text = " ".join(str(exc).split())
    if isinstance(exc, ImproperlyConfigured):
        return text
    places = [f for f in traceback.extract_tb(exc.__traceback__) if f.filename[:7] != "<frozen"]
    where = f" ({places[-1].filename}, line {places[-1].lineno})" if places else ""
    return f"{type(exc).__name__}: {text}{where}"


class BootReport(logging.Filter):
    """Passes to the arbiter what Plain's entry point would log with a traceback.

    It is a filter of the entry point's logger while the worker starts. The traceback of a first
    worker is logged as well, for the terminal in which the server is started.
    """

    def __init__(self, line: Any, *, is_replacement: bool) -> None:
        super().__init__()
        self._line = line  # an array of bytes, shared with the arbiter
        self._is_replacement = is_replacement
        self._told = False

    def tell(self, line: str) -> None:
        self._line.value = line.encode(errors="replace")[:MAX_LINE]
        self._told = True

    def filter(self, record: logging.LogRecord) -> bool:
        exc = record.exc_info[1] if record.exc_info else None
        if exc is None:
            return not self._told  # the line that says which process ends
        self.tell(describe(exc))
        self._told = self._is_replacement or isinstance(exc, ImproperlyConfigured)
        return not self._told
