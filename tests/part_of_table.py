"""A pytest plugin for the server tier, which runs a part of what the protocol tier runs whole.

Of a module that names it in `pytest_plugins`, the first case of each test function is run.
"""

from collections.abc import Iterable

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    seen: set[str] = set()
    others = []
    for item in items:
        name = item.nodeid.partition("[")[0]
        if _names_us(item) and name in seen:
            others.append(item)
        seen.add(name)
    for item in others:
        items.remove(item)
    config.hook.pytest_deselected(items=others)


def _names_us(item: pytest.Item) -> bool:
    plugins: Iterable[str] = getattr(getattr(item, "module", None), "pytest_plugins", ())
    return __name__ in plugins
