"""PNG files from the numbers of a run. What they show is what the table says: medians, with the
smallest and the largest round as a thin line."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from kinds import LIMIT, OURS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from picture import SHORT, save
from report import Cell, Cells, number
from workload import Metric
from workloads import WORKLOADS

GREY, OURS_COLOUR = "#b3b8bf", "#1f6f8b"


@dataclass(frozen=True)
class Panel:
    """One workload's metric in a picture."""

    workload: str
    metric: str
    title: str


PICTURES = {
    "rates": (
        Panel("small", "rate", "small response, req/s"),
        Panel("json", "rate", "10 KB of JSON, req/s"),
        Panel("connect", "rate", "new connections/s"),
        Panel("download", "throughput", "10 MiB responses, MB/s"),
        Panel("huge", "throughput", "1 GB response, MB/s"),
        Panel("file", "throughput", "10 MiB file, MB/s"),
        Panel("upload", "throughput", "10 MiB uploads, MB/s"),
        Panel("db", "rate", "ORM query, req/s"),
    ),
    "waiting": (
        Panel("sleep-100", "rate", "50 ms view, 100 in flight, req/s"),
        Panel("sleep-1000", "rate", "50 ms view, 1,000 in flight, req/s"),
        Panel("sleep-10000", "rate", "50 ms view, 10,000 in flight, req/s"),
    ),
    "memory": (
        Panel("idle-1000", "memory", "idle connection (of 1,000), KiB"),
        Panel("idle-10000", "memory", "idle connection (of 10,000), KiB"),
        Panel("waiting-1000", "memory", "waiting request (of 1,000), KiB"),
        Panel("events-1000", "memory", "event stream (of 1,000), KiB"),
    ),
    "latency": (
        Panel("beside", "p99 alone", "small response alone, p99, ms"),
        Panel("beside", "p99 with bulk", "the same beside a download, p99, ms"),
        Panel("events-1000", "p99", "delay of an event, 1,000 streams, p99, ms"),
        Panel("events-10000", "p99", "delay of an event, 10,000 streams, p99, ms"),
    ),
}


def draw(folder: Path, about: dict[str, Any], cells: Cells) -> Iterator[Path]:
    """Every picture for which there are numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    measured = {workload for (workload, _), cell in cells.items() if cell.samples}
    for name, panels in PICTURES.items():
        shown = [panel for panel in panels if panel.workload in measured]
        if shown:
            yield save(bars(shown, cells), folder / f"{name}.png", about)


def bars(panels: list[Panel], cells: Cells) -> Figure:
    """Small multiples, each with a bar for each server."""
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(5.2 * columns, 2.5 * rows + 0.5), squeeze=False
    )
    for place, axes in enumerate(grid.flat):
        if place < len(panels):
            fill(axes, panels[place], cells)
        else:
            axes.set_visible(False)
    return figure


def fill(axes: Axes, panel: Panel, cells: Cells) -> None:
    metric = next(m for m in WORKLOADS[panel.workload].metrics if m.name == panel.metric)
    rows = {s: cell for (w, s), cell in cells.items() if w == panel.workload}
    for place, (server, cell) in enumerate(rows.items()):
        bar(axes, place, server, cell, metric)
    axes.set_yticks(range(len(rows)), [SHORT[server] for server in rows], fontsize=8)
    axes.invert_yaxis()
    better = "less" if metric.less_is_better else "more"
    axes.set_title(f"{panel.title} ({better} is better)", fontsize=9, loc="left")
    axes.tick_params(axis="x", labelsize=7)
    axes.margins(x=0.18)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)


def bar(axes: Axes, place: int, server: str, cell: Cell, metric: Metric) -> None:
    median = cell.median(metric)
    if median is None:
        why = "left out" if cell.reasons and cell.reasons[0].startswith("left out") else "no answer"
        axes.text(0, place, f"  {why}", va="center", fontsize=7)
        return
    values = cell.values(metric)
    colour = OURS_COLOUR if server == OURS else "white" if server == LIMIT else GREY
    edge = "#6b7280" if server == LIMIT else colour
    axes.barh(place, median, color=colour, edgecolor=edge, height=0.7)
    axes.plot([min(values), max(values)], [place, place], color="#333333", linewidth=1)
    failed = f"  ({cell.failed:,} failed)" if cell.failed else ""
    axes.text(max(values), place, f" {number(median)}{failed}", va="center", fontsize=7)
