"""What a workload is, and what it yields."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from servers import Server

MB = 1_000_000
#: Streams of one connection where many are open.
STREAMS = 100
#: Seconds for a server to settle before its memory is measured: to give back what the burst
#: before it took. (This one lets idle connections rest after one.)
SETTLE = 2.0


@dataclass(frozen=True)
class Metric:
    """A number that a workload yields."""

    name: str
    unit: str
    less_is_better: bool = False


@dataclass(frozen=True)
class Options:
    """How long to measure, how many processes each server has, and a folder for files."""

    seconds: float
    workers: int
    folder: Path


@dataclass
class Sample:
    """One measurement: the metrics by name, and how many requests they rest on."""

    values: dict[str, float]
    ok: int
    failed: int = 0
    notes: list[str] = field(default_factory=list)


class Workload(ABC):
    """`title` says what is measured."""

    name: ClassVar[str]
    title: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    #: Whether only Plain can do it, for it is about a part of Plain.
    only_plain: ClassVar[bool] = False
    #: Whether `scripts/bench` does it when it is not asked for it or for all.
    by_default: ClassVar[bool] = False

    def environment(self, options: Options) -> dict[str, str]:
        """What a server's process must know for this one. Raises `CannotRunError`."""
        return {}

    @abstractmethod
    def run(self, server: Server, options: Options) -> Sample:
        """Measure once. Raises `CannotRunError` with the reason if the server cannot do it."""


RATE = Metric("rate", "req/s")
P50 = Metric("p50", "ms", less_is_better=True)
P99 = Metric("p99", "ms", less_is_better=True)
CPU = Metric("cpu", "us CPU/req", less_is_better=True)
THROUGHPUT = Metric("throughput", "MB/s")
