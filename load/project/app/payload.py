"""What `views.py` and `wsgi.py` have in common, so that their work is equal."""

import functools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

#: Bytes that a view reads or yields at once.
PIECE = 64 * 1024
#: Seconds between two events of a stream.
PERIOD = 1.0
#: About 10 KB as JSON: rows as an API's list has them.
TABLE = [
    {"id": i, "name": f"item number {i}", "price": i * 1.25, "tags": ["a", "b"], "sold": i % 2 == 0}
    for i in range(116)
]

_piece = b"x" * PIECE


@functools.cache
def prebuilt(size: int) -> bytes:
    """`size` bytes, made once: building them is no part of what is measured."""
    return b"x" * size


def pieces(size: int) -> Iterator[bytes]:
    """`size` bytes, as a view makes them that does not have them all at once."""
    for _ in range(size // PIECE):
        yield _piece
    if rest := size % PIECE:
        yield _piece[:rest]


class Counter:
    """How many are in its `with` block right now."""

    def __init__(self) -> None:
        self.value = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.value += 1

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self.value -= 1


#: The views that sleep.
waiting = Counter()


def file() -> Path:
    """The file that a download sends; the benchmark made it."""
    return Path(os.environ["BENCH_FILE"])


class FileParts:
    """A file's parts, for a WSGI server that brings no `wsgi.file_wrapper`."""

    def __init__(self, opened: BinaryIO, size: int) -> None:
        self._file = opened
        self._size = size

    def __iter__(self) -> Iterator[bytes]:
        while part := self._file.read(self._size):
            yield part

    def close(self) -> None:
        self._file.close()


def next_event(now: float, at: float) -> float:
    """When after `now` an event is due: once in a period, at its part `at` (0 to 1).

    A plan rather than a pause after each event: a server that wakes up late is seen to be late.
    """
    return ((now / PERIOD - at) // 1 + 1 + at) * PERIOD


def event(due: float) -> bytes:
    """An event that says when it was due, on the clock that the whole machine shares."""
    return b"data: %.6f\n\n" % due


def events(at: float) -> Iterator[bytes]:
    due = next_event(time.monotonic(), at)
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        yield event(due)
        due += PERIOD
