"""The parts of the benchmark that need no server."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from harness import TESTS

LOAD = TESTS.parent / "load"


@pytest.fixture
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of load/benchmark, for one test: the names of some are those of others in tests/."""
    folder = LOAD / "benchmark"
    names = {path.stem for path in folder.glob("*.py")}
    others = {name: sys.modules.pop(name) for name in names & sys.modules.keys()}
    monkeypatch.syspath_prepend(str(folder))
    yield
    for name in names & sys.modules.keys():
        del sys.modules[name]
    sys.modules.update(others)


@pytest.mark.parametrize("folder", ["benchmark", "locust", "project/app"])
def test_imports_go_one_way(folder: str) -> None:
    """Wherever they stand: in a function, or for type checking only."""
    graph = {path.stem: imported(path) for path in (LOAD / folder).glob("*.py")}
    assert len(graph) > 1
    TopologicalSorter(graph).prepare()  # raises CycleError


def imported(path: Path) -> set[str]:
    """The names of the modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.update([node.module] if node.module else [alias.name for alias in node.names])
    return names


@pytest.mark.usefixtures("_importable")
def test_what_stands_below_a_picture_fits_its_width() -> None:
    import report

    about, _ = report.read_json([TESTS.parent / "docs" / "bench" / "3.13.json"])
    lines = report.foot(about, 88)  # of a picture with one panel
    assert max(map(len, lines)) <= 88
    assert " ".join(lines).startswith("Python 3.13.0, Plain 0.164.1; 2 rounds")
    assert lines[-1].endswith("no framework")


def test_an_event_is_due_once_in_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LOAD.parent))
    from load.project.app import payload

    assert payload.next_event(now=12.1, at=0.5) == 12.5
    assert payload.next_event(now=12.5, at=0.5) == 13.5
    assert payload.next_event(now=12.9, at=0.25) == 13.25
