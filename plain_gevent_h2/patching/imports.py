"""Imports of several native threads at once.

The import system's locks are gevent's under its patch. Where several native threads wait for one,
gevent does not wake them all.
"""

import types
from importlib import _bootstrap
from typing import Any

from . import native
from .locks import Lock


def patch_imports() -> None:
    """Give the import system locks that wake every native thread."""
    bootstrap: Any = _bootstrap
    names = vars(bootstrap._thread) | {"allocate_lock": Lock, "RLock": native.RLock}
    bootstrap._thread = types.SimpleNamespace(**names)
