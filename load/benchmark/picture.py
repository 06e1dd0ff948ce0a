"""What all pictures have in common: the names of the servers in them, their colours, the file."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from report import foot

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

#: In a plot there is less room than in the table; a star is a bare WSGI app.
SHORT = {
    "gevent-h2": "gevent-h2",
    "plain": "plain server",
    "plain-1000": "plain, 1,000 threads",
    "gunicorn-gevent": "gunicorn gevent*",
    "gunicorn-gthread": "gunicorn gthread*",
    "hypercorn": "Hypercorn*",
    "granian": "Granian*",
    "granian-1000": "Granian, 1,000 threads*",
    "limit": "limit: no socket",
}
#: Of the text at the foot, which wraps: characters to an inch of width, and inches of a line.
FOOT_CHARACTERS, FOOT_LINE = 17, 0.13


def save(figure: Figure, path: Path, about: dict[str, Any]) -> Path:
    """Write `figure` to `path`, with what it was measured with at its foot."""
    width, height = figure.get_size_inches()
    lines = foot(about, int(width * FOOT_CHARACTERS))
    figure.text(0.01, 0.01, "\n".join(lines), fontsize=6.5, va="bottom")
    figure.tight_layout(rect=(0, (len(lines) * FOOT_LINE + 0.05) / height, 1, 1))
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return path
