"""How pytest-xdist hands out the tests to its processes."""

from collections import Counter
from itertools import groupby

import pytest
from xdist.scheduler import LoadScopeScheduling

#: Tests of one file that one process runs in a row: those that share a server start it once for
#: so many. With more, the last chunks would end long after the others.
CHUNK = 20


def file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """Files with few tests first: those of one test may take a minute, those of 600 never do.

    Tests that want the machine to themselves come last.
    """
    size = Counter(file_of(item.nodeid) for item in items)

    def key(item: pytest.Item) -> tuple[bool, int, str]:
        file = file_of(item.nodeid)
        return item.get_closest_marker("alone") is not None, size[file], file

    return sorted(items, key=key)


def chunks(nodeids: list[str]) -> dict[str, str]:
    """The chunk of each test.

    Those that are alone in a file with others are one chunk: in two processes they would wait for
    each other.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    for file, group in groupby(nodeids, file_of):
        for i, nodeid in enumerate(group):
            found[nodeid] = f"{file} alone" if file in seen else f"{file} {i // CHUNK}"
        seen.add(file)
    return found


class ChunkScheduling(LoadScopeScheduling):
    """A process that is done with a chunk gets the next one, in the order of `in_order()`."""

    def schedule(self) -> None:
        if self.collection is None:
            self.config.option.loadscopereorder = False
            self._chunks = chunks(next(iter(self.registered_collections.values())))
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        return self._chunks[nodeid]
