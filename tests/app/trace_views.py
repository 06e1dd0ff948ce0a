"""Views of the tests for spans, context and what a request carries."""

from typing import Any

urls: tuple[Any, ...] = ()
