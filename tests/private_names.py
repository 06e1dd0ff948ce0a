"""Finds the private names of libraries that the package uses, for the tests that they are there."""

import importlib
import inspect
from types import CodeType
from typing import Any


def find(name: str) -> Any:
    """What `name` stands for: a module, or something in one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = inspect.getattr_static(found, part)
        return found
    raise ModuleNotFoundError(name)


def code_of(found: Any) -> CodeType:
    """The code that is run by a call."""
    if inspect.isclass(found):
        found = found.__init__
    for inner in ("__func__", "fget", "func", "__wrapped__"):
        found = getattr(found, inner, found)
    code: CodeType = found.__code__
    return code
