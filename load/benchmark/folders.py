"""Where things are."""

from pathlib import Path

BENCHMARK = Path(__file__).resolve().parent
#: What the servers serve: the Plain app, and its twin for WSGI servers.
PROJECT = BENCHMARK.parent / "project"
REPOSITORY = BENCHMARK.parents[1]
