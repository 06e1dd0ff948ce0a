"""The benchmark measures what it says, and its servers do equal work."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import tools

LOAD = Path(__file__).parents[2] / "load"


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run load/bench.py with these arguments: its results."""
    tools.need("h2load")

    def run(*arguments: str) -> dict[str, Any]:
        out = tmp_path / "result.json"
        command = [sys.executable, str(LOAD / "bench.py"), *arguments, "--json", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert "ours/it" in done.stdout
        return json.loads(out.read_text())["results"]

    return run


def test_every_kind_of_client_measures_without_failures(
    bench: Callable[..., dict[str, Any]],
) -> None:
    left = ["small", "upload", "file", "connect", "beside", "waiting-1000", "events-1000"]
    # A machine that stands still may leave 0.2 s without a request. Then it is given longer.
    for seconds in ("0.2", "1", "5"):
        options = ("--servers", "gevent-h2", "--rounds", "1", "--seconds", seconds)
        results = bench(*options, "--workloads", *left)
        assert set(results) == set(left)
        cells = {name: result["servers"]["gevent-h2"] for name, result in results.items()}
        left = [name for name, cell in cells.items() if not measured(cell)]
        if not left:
            break
    assert not left, cells


def measured(cell: dict[str, Any]) -> bool:
    if cell["reasons"]:
        return False
    (sample,) = cell["samples"]
    assert all(value >= 0 for value in sample["values"].values()), sample
    return sample["ok"] > 0 and sample["failed"] == 0


def test_the_floor_of_memory_holds_for_the_parts() -> None:
    command = [sys.executable, str(LOAD / "floor.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    parts = [float(line.split()[-1]) for line in done.stdout.splitlines()[1:]]
    assert len(parts) == 4
    assert all(1 < part < 100 for part in parts), done.stdout


def test_a_server_that_is_not_installed_is_named(
    bench: Callable[..., dict[str, Any]],
) -> None:
    # The peers are in the benchmark's own environment, not in that of the tests.
    results = bench("--servers", "granian", "--rounds", "1", "--workloads", "small")
    assert results["small"]["servers"]["granian"]["reasons"] == [
        "left out: granian is not installed"
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--servers plain", ["plain"]),
        ("--servers gevent-h2 plain", ["plain", "plain-gevent-h2", "gevent", "h2"]),
        ("--servers granian --plots x", ["matplotlib", "granian"]),
        ("--servers plain --workloads db small", ["plain", "plain.postgres"]),
        ("--report x.json", []),
    ],
)
def test_only_what_was_asked_for_is_needed(arguments: str, expected: list[str]) -> None:
    command = [sys.executable, str(LOAD / "needs.py"), *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


def test_what_stands_below_a_picture_fits_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LOAD))
    import report

    about, _ = report.read_json([LOAD.parent / "docs" / "bench" / "3.13.json"])
    lines = report.foot(about, 88)  # of a picture with one panel
    assert max(map(len, lines)) <= 88
    assert " ".join(lines).startswith("Python 3.13.0, Plain 0.164.1; 2 rounds")
    assert lines[-1].endswith("no framework")


def test_the_bare_wsgi_app_answers_as_plain_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Same statuses, lengths and bodies, from the same requests."""
    monkeypatch.syspath_prepend(str(LOAD))
    import payload
    import wsgi

    def answer(path: str, query: str = "") -> bytes:
        def start_response(status: str, headers: Iterable[tuple[str, str]]) -> None:
            assert status == "200 OK"

        environ = {"PATH_INFO": path, "QUERY_STRING": query}
        return b"".join(wsgi.application(environ, start_response))

    assert answer("/hello") == b"Hello, world!"
    assert json.loads(answer("/json")) == payload.TABLE
    assert answer("/bytes", "n=100000") == b"x" * 100_000
    assert answer("/stream", "n=100000") == b"x" * 100_000


def test_an_event_is_due_once_in_a_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LOAD))
    import payload

    assert payload.next_event(now=12.1, at=0.5) == 12.5
    assert payload.next_event(now=12.5, at=0.5) == 13.5
    assert payload.next_event(now=12.9, at=0.25) == 13.25
