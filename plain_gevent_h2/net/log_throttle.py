"""Log lines that would come with each connection or request: one a minute says it all."""

import time
from collections import Counter

from plain.logs import get_framework_logger

log = get_framework_logger("plain.server")

#: Seconds between two lines of one kind.
INTERVAL = 60.0


class OnceAMinute:
    """Says when another line of one kind may be written."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = float("-inf")  # monotonic

    def is_due(self) -> bool:
        """Whether to write one now."""
        now = time.monotonic()
        if now - self._last < INTERVAL:
            return False
        self._last = now
        return True


class Failures:
    """Counts what fails by its reason, and tells of it once a minute."""

    __slots__ = ("_line", "_reasons", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._line = OnceAMinute()
        self._reasons: Counter[str] = Counter()

    def add(self, reason: str) -> None:
        self._reasons[reason] += 1

    def report(self) -> None:
        """Log how many there were since the last line, and the commonest reason. Called often."""
        if self._reasons and self._line.is_due():
            ((commonest, _),) = self._reasons.most_common(1)
            count = self._reasons.total()
            log.warning(self._what, extra={"count": count, "commonest": commonest})
            self._reasons.clear()
