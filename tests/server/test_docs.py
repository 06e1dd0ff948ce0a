"""`plain docs` and `plain changelog` show the pages that are inside the package."""

import subprocess

import click
import pytest
from harness import PLAIN, TESTS

import plain_gevent_h2

PACKAGE = TESTS.parent / "plain_gevent_h2"


def plain(*arguments: str) -> str:
    command = [str(PLAIN), *arguments]
    done = subprocess.run(
        command, cwd=TESTS, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return click.unstyle(done.stdout)


def test_plain_docs_shows_the_readme() -> None:
    page = (PACKAGE / "README.md").read_text()
    assert plain("docs", plain_gevent_h2.__name__).strip() == page.strip()


def test_plain_docs_finds_a_section() -> None:
    shown = plain("docs", plain_gevent_h2.__name__, "--search", "SERVER_MAX_RUNNING_STREAMS")
    assert shown.startswith("## ")
    assert "| `SERVER_MAX_RUNNING_STREAMS` |" in shown


def test_plain_changelog_shows_every_version() -> None:
    page = (PACKAGE / "CHANGELOG.md").read_text()
    versions = [line for line in page.splitlines() if line.startswith("## ")]
    assert versions
    shown = plain("changelog", plain_gevent_h2.__name__)
    assert [line for line in shown.splitlines() if line.startswith("## ")] == versions


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md"])
def test_the_repository_shows_the_same_page(name: str) -> None:
    assert (TESTS.parent / name).resolve() == PACKAGE / name
