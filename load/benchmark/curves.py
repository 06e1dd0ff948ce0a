"""What a request costs along an axis that grows: the axes, the points, a table and JSON of them."""

import dataclasses
import json
import statistics
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from report import number

MIB = 1024 * 1024


@dataclass(frozen=True)
class Axis:
    """What grows, through which values, and the h2load run for one value."""

    name: str
    title: str
    values: tuple[int, ...]
    unit: str = "us CPU/request"

    def bytes_each(self, value: int) -> int:
        """Bytes of the body of one request, where that is what grows."""
        return value if self.name in ("response", "upload") else 0

    def arguments(self, value: int, url: str, folder: Path) -> list[str]:
        """Options of h2load, and last the URL, for a server at `url`."""
        if self.name == "connections":
            return ["-c", str(value), "-m", "1", f"{url}/hello"]
        if self.name == "streams":
            return ["-c", "1", "-m", str(value), f"{url}/hello"]
        if self.name == "response":
            return ["-c", "1", "-m", "2", f"{url}/bytes?n={value}"]
        body = folder / f"upload-{value}"
        if not body.exists():
            with body.open("wb") as out:
                out.truncate(value)
        return ["-c", "1", "-m", "2", "-d", str(body), f"{url}/upload"]


SIZES = (1024, 16 * 1024, 256 * 1024, MIB, 4 * MIB, 16 * MIB, 64 * MIB)
AXES = (
    Axis("connections", "connections, one stream each", (1, 10, 100, 300, 1000, 2000)),
    Axis("streams", "streams at once on one connection", (1, 3, 10, 30, 100, 300, 1000)),
    Axis("response", "bytes of a response", SIZES),
    Axis("upload", "bytes of a request's body", SIZES),
)


@dataclass
class Point:
    """The cost at one value of an axis, in each round: microseconds of CPU time a request."""

    value: int
    costs: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def cost(self) -> float | None:
        return statistics.median(self.costs) if self.costs else None


#: By axis and server.
Curves = dict[tuple[str, str], list[Point]]


def table(curves: Curves) -> str:
    lines: list[str] = []
    for axis in AXES:
        servers = [server for name, server in curves if name == axis.name]
        if not servers:
            continue
        sized = bool(axis.bytes_each(1))
        lines += ["", f"{axis.title} ({axis.unit}{', us CPU/MB' if sized else ''})"]
        lines.append(f"  {'':<12}" + "".join(f"{server:>24}" for server in servers))
        for place, value in enumerate(axis.values):
            points = [curves[axis.name, server][place] for server in servers]
            cells = [cell(point.cost, value if sized else 0) for point in points]
            lines.append(f"  {value:<12,}" + "".join(f"{text:>24}" for text in cells))
        grown = [growth(axis, curves[axis.name, server]) for server in servers]
        lines.append(f"  {'growth':<12}" + "".join(f"{text:>24}" for text in grown))
        for server in servers:
            for point in curves[axis.name, server]:
                lines += [f"  ! {server}, {point.value:,}: {note}" for note in point.notes]
    return "\n".join(lines)


def cell(cost: float | None, size: int) -> str:
    if cost is None:
        return "-"
    return f"{number(cost)}" + (f" {number(cost / size * 1e6):>10}" if size else "")


def growth(axis: Axis, points: list[Point]) -> str:
    """The most by which a point is dearer than one before it: for each request, or each byte."""
    costs = [p.cost / (axis.bytes_each(p.value) or 1) for p in points if p.cost is not None]
    if len(costs) < 2:
        return ""
    return f"{max(later / earlier for earlier, later in combinations(costs, 2)):.2f}x"


def as_json(about: dict[str, Any], curves: Curves) -> dict[str, Any]:
    stored: dict[str, Any] = {}
    for (axis, server), points in curves.items():
        stored.setdefault(axis, {})[server] = [dataclasses.asdict(point) for point in points]
    return {"about": about, "curves": stored}


def read_json(path: Path) -> tuple[dict[str, Any], Curves]:
    run = json.loads(path.read_text())
    curves = {
        (axis, server): [Point(**point) for point in points]
        for axis, servers in run["curves"].items()
        for server, points in servers.items()
    }
    return run["about"], curves
