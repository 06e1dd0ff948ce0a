"""The entry points of installed packages, where they are asked for again and again."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata


@contextmanager
def read_once() -> Iterator[None]:
    """In this block, which runs no other code meanwhile, ask the file system for them once.

    gevent looks for subscribers to each of 25 events as it patches, and `importlib.metadata`
    reads the files of all installed packages for each. With 46 packages that was a fifth of a
    worker's start, and it grows with their number.
    """
    original = metadata.entry_points
    metadata.entry_points = original().select  # takes what `entry_points()` takes
    try:
        yield
    finally:
        metadata.entry_points = original
