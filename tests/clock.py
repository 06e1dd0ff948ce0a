"""Time that a test sets, in place of the module `time`."""

from types import ModuleType
from typing import Self

import pytest


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    @classmethod
    def of(cls, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Self:
        """The clock that `module` reads from now on."""
        clock = cls()
        monkeypatch.setattr(module, "time", clock)
        return clock

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now
