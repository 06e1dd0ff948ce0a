"""A PNG file from the curves of `scaling.py`: the cost of a request over what grows."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from curves import AXES, Axis, Curves
from matplotlib.axes import Axes
from picture import SHORT, save

LINES = {
    "gevent-h2": "#1f6f8b",
    "plain": "#6b7280",
    "plain-1000": "#a7adb5",
    "gunicorn-gevent": "#c2703d",
    "gunicorn-gthread": "#e0b08f",
    "hypercorn": "#8a6fb0",
    "granian": "#5f9e6e",
    "granian-1000": "#a5cfae",
}


def draw(folder: Path, about: dict[str, Any], curves: Curves) -> Path:
    """One plot for each axis, with a line for each server."""
    folder.mkdir(parents=True, exist_ok=True)
    shown = [axis for axis in AXES if any(name == axis.name for name, _ in curves)]
    figure, grid = plt.subplots(-(-len(shown) // 2), 2, figsize=(10.4, 7), squeeze=False)
    for axis, axes in zip(shown, grid.flat, strict=False):
        fill(axes, axis, curves)
    grid.flat[0].legend(fontsize=7, frameon=False)
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    return save(figure, folder / "scaling.png", about)


def fill(axes: Axes, axis: Axis, curves: Curves) -> None:
    for (name, server), points in curves.items():
        if name != axis.name:
            continue
        known = [(p.value, p.cost) for p in points if p.cost is not None]
        axes.plot(
            [value for value, _ in known],
            [cost for _, cost in known],
            marker="o",
            markersize=3,
            color=LINES[server],
            label=SHORT[server],
        )
    axes.set_xscale("log")
    if axis.bytes_each(1):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_title(f"{axis.unit} over {axis.title}", fontsize=9, loc="left")
    axes.tick_params(labelsize=7)
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
