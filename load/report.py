"""The numbers of a run: medians, spreads, ratios, as a table and as JSON."""

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from servers import BASELINE, KINDS
from workloads import WORKLOADS, Metric, Sample


@dataclass
class Cell:
    """What one server did in one workload, over all rounds."""

    samples: list[Sample] = field(default_factory=list)
    #: Why it did not: one line for each round that gave no number.
    reasons: list[str] = field(default_factory=list)

    def values(self, metric: Metric) -> list[float]:
        return [sample.values[metric.name] for sample in self.samples]

    def median(self, metric: Metric) -> float | None:
        return statistics.median(self.values(metric)) if self.samples else None

    @property
    def failed(self) -> int:
        return sum(sample.failed for sample in self.samples)

    @property
    def ok(self) -> int:
        return sum(sample.ok for sample in self.samples)

    @property
    def remarks(self) -> list[str]:
        """What a reader must know of it, each thing once."""
        notes = [note for sample in self.samples for note in sample.notes]
        if self.failed:
            notes.append(f"{self.failed} of {self.ok + self.failed} requests failed")
        return list(dict.fromkeys(notes + self.reasons))


#: By workload and server, in the order in which they are to be shown.
Cells = dict[tuple[str, str], Cell]


def number(value: float) -> str:
    """Three digits that count, or all before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(cells: Cells) -> str:
    """Every workload with every server's medians, spreads and ratios."""
    lines: list[str] = []
    for name in dict.fromkeys(workload for workload, _ in cells):
        lines += ["", f"{name}: {WORKLOADS[name].title}"]
        for metric in WORKLOADS[name].metrics:
            lines += _metric_lines(cells, name, metric)
        lines += [
            f"  ! {KINDS[server].title}: {remark}"
            for (workload, server), cell in cells.items()
            if workload == name
            for remark in cell.remarks
        ]
    return "\n".join(lines[1:])


def _metric_lines(cells: Cells, workload: str, metric: Metric) -> list[str]:
    better = "less" if metric.less_is_better else "more"
    head = f"{metric.name} ({metric.unit}, {better} is better)"
    lines = [f"  {head:<40} {'median':>10}   {'min - max':<21} {'ratio':>7}"]
    base = cells.get((workload, BASELINE), Cell()).median(metric)
    for (name, server), cell in cells.items():
        if name != workload:
            continue
        median = cell.median(metric)
        if median is None:
            lines.append(f"    {KINDS[server].title:<38} {'-':>10}")
            continue
        values = cell.values(metric)
        spread = f"{number(min(values))} - {number(max(values))}"
        ratio = f"{median / base:.2f}x" if base else ""
        lines.append(
            f"    {KINDS[server].title:<38} {number(median):>10}   {spread:<21} {ratio:>7}"
        )
    return lines


def write_json(path: Path, about: dict[str, Any], cells: Cells) -> None:
    """All samples, so that somebody else can draw other conclusions."""
    results: dict[str, Any] = {}
    for (workload, server), cell in cells.items():
        metrics = WORKLOADS[workload].metrics
        results.setdefault(workload, {"title": WORKLOADS[workload].title, "servers": {}})
        results[workload]["servers"][server] = {
            "title": KINDS[server].title,
            "metrics": {
                metric.name: {
                    "unit": metric.unit,
                    "less_is_better": metric.less_is_better,
                    "median": cell.median(metric),
                }
                for metric in metrics
            },
            "samples": [asdict(sample) for sample in cell.samples],
            "reasons": cell.reasons,
        }
    path.write_text(json.dumps({"about": about, "results": results}, indent=2) + "\n")
