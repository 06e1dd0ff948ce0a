"""How far a run is: a line for each measurement and, on a terminal, a bar below them."""

import statistics
import sys
import time
from types import TracebackType
from typing import Self

WIDTH = 30


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Progress:
    """`planned` names what is to come, in order; things of one name take about the same time."""

    def __init__(self, planned: list[str], guess: float) -> None:
        self._planned = planned
        self._guess = guess
        self._taken: dict[str, list[float]] = {}
        self._done = 0
        self._since = time.monotonic()
        self._bar = sys.stderr.isatty()

    def __enter__(self) -> Self:
        say(f"{len(self._planned)} measurements, about {duration(self.remaining())}")
        self._show()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._clear()

    def done(self, text: str) -> None:
        """The next one is: say how it went."""
        now = time.monotonic()
        self._taken.setdefault(self._planned[self._done], []).append(now - self._since)
        self._since = now
        self._done += 1
        self._clear()
        say(f"[{self._done}/{len(self._planned)}] {text}")
        self._show()

    def remaining(self) -> float:
        """Seconds: as long as others of the same name took, or the guess."""
        means = {name: statistics.mean(taken) for name, taken in self._taken.items()}
        return sum(means.get(name, self._guess) for name in self._planned[self._done :])

    def _clear(self) -> None:
        if self._bar:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _show(self) -> None:
        if not self._bar or self._done == len(self._planned):
            return
        filled = WIDTH * self._done // len(self._planned)
        bar = "#" * filled + "." * (WIDTH - filled)
        text = f"{bar} {self._done}/{len(self._planned)}, {duration(self.remaining())} left"
        print(f"{text}: {self._planned[self._done]}", end="", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min"
