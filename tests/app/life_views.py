"""Views of the tests for the worker's life."""

from typing import Any

urls: tuple[Any, ...] = ()
