"""A pytest plugin for the server tier, which runs a part of what the protocol tier runs whole.

Of a module that names it in `pytest_plugins`, the first case of each test function is run: of one
that is for servers with TLS and without, both first cases. pytest does not call the others
deselected, since each of them runs in the protocol tier.
"""

from collections.abc import Iterable

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: set[object] = set()
    others = []
    for item in items:
        callspec = getattr(item, "callspec", None)
        name = item.nodeid.partition("[")[0], callspec and callspec.params.get("either")
        if _names_us(item) and name in seen:
            others.append(item)
        seen.add(name)
    for item in others:
        items.remove(item)


def _names_us(item: pytest.Item) -> bool:
    plugins: Iterable[str] = getattr(getattr(item, "module", None), "pytest_plugins", ())
    return __name__ in plugins
