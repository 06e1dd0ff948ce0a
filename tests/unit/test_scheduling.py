"""Each test is run once, in a chunk of its file, and last if it is `alone`."""

from itertools import groupby, pairwise

import pytest
from scheduling import CHUNK, chunks, file_of, in_order


def test_all_are_there_in_order_and_those_that_are_alone_come_last(
    request: pytest.FixtureRequest,
) -> None:
    """Of this very run."""
    items = request.session.items
    ordered = in_order(items)
    assert sorted(ordered, key=id) == sorted(items, key=id)
    alone = [item.get_closest_marker("alone") is not None for item in ordered]
    assert alone == sorted(alone)
    for (first, one), (second, other) in pairwise(zip(alone, ordered, strict=True)):
        if first == second and file_of(one.nodeid) == file_of(other.nodeid):
            assert items.index(one) < items.index(other)


def test_chunks_are_of_one_file_and_small() -> None:
    nodeids = [f"{file}.py::test[{i}]" for file in "ab" for i in range(3 * CHUNK + 1)]
    alone = [f"a.py::test_alone[{i}]" for i in range(CHUNK + 1)]
    found = chunks([*nodeids, *alone])
    assert list(found) == [*nodeids, *alone]
    assert len(set(found.values())) == 4 + 4 + 1
    for _, chunk in groupby(nodeids, found.__getitem__):
        members = list(chunk)
        assert len(members) <= CHUNK
        assert len({file_of(nodeid) for nodeid in members}) == 1
    assert len({found[nodeid] for nodeid in alone}) == 1
