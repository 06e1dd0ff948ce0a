"""The numbers of a run: medians, spreads, ratios, as a table and as JSON."""

import json
import statistics
import sys
import textwrap
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kinds import BASELINE, KINDS, LIMIT, OURS
from workload import Metric, Sample
from workloads import WORKLOADS


@dataclass
class Cell:
    """What one server did in one workload, over all rounds."""

    samples: list[Sample] = field(default_factory=list)
    #: Why it did not: one line for each round that gave no number.
    reasons: list[str] = field(default_factory=list)

    def values(self, metric: Metric) -> list[float]:
        return [s.values[metric.name] for s in self.samples if metric.name in s.values]

    def median(self, metric: Metric) -> float | None:
        values = self.values(metric)
        return statistics.median(values) if values else None

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
    lines = [
        f"ratio: to {KINDS[BASELINE].title}; ours/it: {OURS} divided by it.",
        "A bare WSGI app has no framework: it does less than the Plain app for the same answer.",
    ]
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
    return "\n".join(lines)


def _metric_lines(cells: Cells, workload: str, metric: Metric) -> list[str]:
    better = "less" if metric.less_is_better else "more"
    head = f"{metric.name} ({metric.unit}, {better} is better)"
    lines = [f"  {head:<52} {'median':>8}  {'min - max':<21} {'ratio':>7} {'ours/it':>8}"]
    for (name, server), cell in cells.items():
        if name != workload:
            continue
        title = KINDS[server].title
        median = cell.median(metric)
        if median is None and server == LIMIT and cell.samples:
            continue  # it knows rates only
        if median is None:
            lines.append(f"    {title:<50} {'-':>8}")
            continue
        values = cell.values(metric)
        spread = f"{number(min(values))} - {number(max(values))}"
        ratio = ratio_of(median, _median(cells, workload, BASELINE, metric))
        ours = ratio_of(_median(cells, workload, OURS, metric), median)
        lines.append(f"    {title:<50} {number(median):>8}  {spread:<21} {ratio:>7} {ours:>8}")
    return lines


def _median(cells: Cells, workload: str, server: str, metric: Metric) -> float | None:
    return cells.get((workload, server), Cell()).median(metric)


def ratio_of(value: float | None, base: float | None) -> str:
    return f"{value / base:.2f}x" if value is not None and base else ""


def foot(about: dict[str, Any], width: int) -> list[str]:
    """What stands below a picture, in lines of at most `width` characters."""
    python = str(about["python"]).split(" ")[0]
    return textwrap.wrap(
        f"Python {python}, Plain {about.get('plain', 'not run')}; {about['run']}, "
        f"processes: {about['processes']}. * a bare WSGI app, no framework",
        width,
    )


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


def read_json(paths: list[Path]) -> tuple[dict[str, Any], Cells]:
    """Several runs taken together, the workloads in the order of the table."""
    about: dict[str, Any] = {}
    found: Cells = {}
    for path in paths:
        run = json.loads(path.read_text())
        for name, value in run["about"].items():
            if value not in (known := about.setdefault(name, [])):
                known.append(value)
        for workload, result in run["results"].items():
            for server, stored in result["servers"].items():
                cell = found.setdefault((workload, server), Cell())
                cell.samples += [Sample(**sample) for sample in stored["samples"]]
                cell.reasons += stored["reasons"]
    for name in ("python", "processes"):
        if len(about.get(name, [])) > 1:
            sys.exit(f"these runs cannot be taken together: {name}: {'; '.join(about[name])}")
    order = [(w, s) for w in WORKLOADS for s in KINDS if (w, s) in found]
    joined = {name: "; ".join(values) for name, values in about.items()}
    return joined, {pair: found[pair] for pair in order}
