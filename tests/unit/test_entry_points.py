"""Entry points that are read once, as gevent patches."""

import sys
from importlib import metadata
from pathlib import Path

import pytest

from plain_gevent_h2.patching.entry_points import read_once

GROUPS = ("console_scripts", "gevent.plugins.monkey.did_patch_all", "nobody's")


class CountingFinder:
    """Finds no package, and counts how often one is looked for."""

    def __init__(self) -> None:
        self.asked = 0

    def find_spec(self, *_args: object) -> None:
        return None

    def find_distributions(self, _context: object) -> list[metadata.Distribution]:
        self.asked += 1
        return []


@pytest.fixture
def subscriber(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of one of gevent's `did_patch_all`, in a package that is installed meanwhile."""
    package = tmp_path / "watcher-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: watcher\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[{GROUPS[1]}]\nwatch = watcher:watch\n")
    monkeypatch.syspath_prepend(tmp_path)
    return "watch"


def test_each_group_is_as_without(subscriber: str) -> None:
    without = [set(metadata.entry_points(group=group)) for group in GROUPS]
    with read_once():
        assert [set(metadata.entry_points(group=group)) for group in GROUPS] == without
        assert subscriber in metadata.entry_points(group=GROUPS[1]).names
        assert metadata.entry_points(group=GROUPS[1], name="another's") == ()
        assert set(metadata.entry_points()) >= without[0]


def test_packages_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    finder = CountingFinder()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    with read_once():
        for group in GROUPS:
            metadata.entry_points(group=group)
    assert finder.asked == 1
    metadata.entry_points(group=GROUPS[0])
    assert finder.asked == 2


def test_an_error_of_the_block_leaves_it_as_it_was() -> None:
    original = metadata.entry_points
    with pytest.raises(KeyError), read_once():
        raise KeyError
    assert metadata.entry_points is original
