"""The benchmark measures what it says, and its servers do equal work."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import tools
from harness import PLAIN, TESTS, WAIT, Server

BENCHMARK = TESTS.parent / "load" / "benchmark"
PROJECT = TESTS.parent / "load" / "project"


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Run the benchmark with these arguments: its results."""
    tools.need("h2load")

    def run(*arguments: str) -> dict[str, Any]:
        out = tmp_path / "result.json"
        command = [str(PLAIN.parent / "python"), str(BENCHMARK / "bench.py"), *arguments]
        command += ["--json", str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert "ours/it" in done.stdout
        results: dict[str, Any] = json.loads(out.read_text())["results"]
        return results

    return run


def test_every_kind_of_client_measures_without_failures(
    bench: Callable[..., dict[str, Any]],
) -> None:
    cells: dict[str, dict[str, Any]] = {}
    left = ["small", "sleep-10", "upload", "file", "connect"]
    left += ["beside", "waiting-1000", "events-1000"]
    # A machine that stands still may leave 0.2 s without a request. Then it is given longer.
    for seconds in ("0.2", "1", "5"):
        options = ("--servers", "gevent-h2", "--rounds", "1", "--seconds", seconds)
        results = bench(*options, "--workloads", *left)
        assert set(results) == set(left)
        cells |= {name: result["servers"]["gevent-h2"] for name, result in results.items()}
        left = [name for name in left if not measured(cells[name])]
        if not left:
            break
    assert not left, cells
    (sample,) = cells["sleep-10"]["samples"]
    values = sample["values"]
    # A little less than 50 ms: gevent counts from when its loop last looked at the clock.
    assert 40 <= values["p50"] <= values["p99"]
    assert values["rate"] <= 10 / 0.04  # ten at a time


def measured(cell: dict[str, Any]) -> bool:
    """Whether the one round succeeded. Then each metric has its number, which is no nothing."""
    if cell["reasons"]:
        return False
    (sample,) = cell["samples"]
    values = sample["values"]
    if sample["failed"] or not sample["ok"]:
        return False
    assert set(values) == set(cell["metrics"])
    for name, metric in cell["metrics"].items():
        assert metric["median"] == values[name]
        # A transfer may well take no more memory than the warm-up left.
        assert values[name] > 0 or metric["unit"] == "MiB more at the peak", sample
    return True


def test_the_floor_of_memory_is_what_the_page_says() -> None:
    command = [sys.executable, str(BENCHMARK / "floor.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    measured = [float(line.split()[-1]) for line in done.stdout.splitlines()[1:]]
    page = (TESTS.parent / "docs" / "benchmark.md").read_text()
    table = page[page.index("What the parts take by themselves") :].split("\n\n")[1]
    rows = [row.split("|")[2:-1] for row in table.splitlines()[2:]]
    for part, row in zip(measured, rows, strict=True):
        # One column for each pair of Python and OpenSSL: others lie beside or between them.
        documented = [float(cell) for cell in row]
        assert min(documented) / 1.5 < part < max(documented) * 1.5, done.stdout


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
    command = [sys.executable, str(BENCHMARK / "needs.py"), *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


@pytest.fixture(scope="module")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("body") / "body.bin"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


@pytest.fixture(scope="module")
def plain_app(
    tls: tuple[Path, Path], big_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    env = {"BENCH_FILE": str(big_file)}
    with Server(tls, project=PROJECT, env=env, tmp=tmp_path_factory.mktemp("app")) as running:
        yield running


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/hello", None),
        ("/json", None),
        ("/sleep?ms=1", None),
        ("/waiting", None),
        ("/bytes?n=100000", None),
        ("/stream?n=100000", None),
        ("/file", None),
        ("/upload", b"x" * 100_000),
        ("/nowhere", None),
    ],
)
def test_the_bare_wsgi_app_answers_as_plain_does(
    plain_app: Server,
    big_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    body: bytes | None,
) -> None:
    """The same status and body, for the same request. An error page may differ."""
    monkeypatch.setenv("BENCH_FILE", str(big_file))
    with httpx.Client(verify=plain_app.tls_context(), http2=True, timeout=WAIT) as client:
        theirs = client.request("POST" if body else "GET", plain_app.url + target, content=body)
    status, ours = answer_of_wsgi(monkeypatch, target, body or b"")
    assert status == theirs.status_code
    if status == 200:
        assert decoded(ours) == decoded(theirs.content)


def decoded(content: bytes) -> object:
    """JSON whatever its white space is, other content as it is."""
    return json.loads(content) if content.startswith(b"[") else content


def answer_of_wsgi(monkeypatch: pytest.MonkeyPatch, target: str, body: bytes) -> tuple[int, bytes]:
    monkeypatch.syspath_prepend(str(TESTS.parent))
    from load.project.app import wsgi

    statuses: list[str] = []
    path, _, query = target.partition("?")
    environ = {"PATH_INFO": path, "QUERY_STRING": query, "wsgi.input": io.BytesIO(body)}
    parts = wsgi.application(environ, lambda status, _headers: statuses.append(status))
    return int(statuses[0].split()[0]), b"".join(parts)
