"""Views of the tests for request bodies and HTTP/1.1."""

from typing import Any

urls: tuple[Any, ...] = ()
