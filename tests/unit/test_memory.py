"""When memory is looked for, and given back."""

import gc
from collections.abc import Iterator

import pytest

from plain_gevent_h2.process import memory
from plain_gevent_h2.process.memory import (
    KEPT_FREE,
    OBJECTS_OF_A_STREAM,
    TRIM_AFTER,
    TRIM_INTERVAL,
    Trimmer,
    expect_streams,
    tune_allocator,
    tune_garbage_collector,
)


class Libc:
    """A glibc that keeps so many bytes free."""

    def __init__(self, free: int = 0) -> None:
        self.fordblks = free
        self.trimmed: list[int] = []
        self.options: list[tuple[int, int]] = []

    def malloc_trim(self, pad: int) -> None:
        self.trimmed.append(pad)

    def mallopt(self, option: int, value: int) -> None:
        self.options.append((option, value))


class Glibc(Libc):
    def __init__(self, free: int = 0) -> None:
        super().__init__(free)
        self.mallinfo2 = lambda: self


@pytest.fixture
def collector() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.set_threshold(*threshold)
    gc.unfreeze()


def test_memory_is_given_back_when_much_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Glibc(TRIM_AFTER)
    monkeypatch.setattr(memory, "_libc", libc)
    trimmer = Trimmer()
    trimmer.sweep(100)
    assert libc.trimmed == []
    libc.fordblks += 1
    trimmer.sweep(100 + TRIM_INTERVAL - 0.5)  # it has just looked
    assert libc.trimmed == []
    trimmer.sweep(100 + TRIM_INTERVAL)
    assert libc.trimmed == [0]
    trimmer.sweep(100 + 2 * TRIM_INTERVAL - 0.5)
    assert libc.trimmed == [0]
    trimmer.sweep(100 + 2 * TRIM_INTERVAL)
    assert libc.trimmed == [0, 0]


def test_elsewhere_than_on_glibc_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_libc", object())
    Trimmer().sweep(100)
    tune_allocator()


def test_glibc_tells_what_is_free() -> None:
    trimmer = Trimmer()
    if trimmer._mallinfo2 is not None:
        assert 0 < trimmer._mallinfo2().uordblks < 2**40
        trimmer.sweep(1)


def test_the_allocator_keeps_some(monkeypatch: pytest.MonkeyPatch) -> None:
    libc = Libc()
    monkeypatch.setattr(memory, "_libc", libc)
    tune_allocator()
    # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>
    assert libc.options == [(-1, KEPT_FREE), (-3, KEPT_FREE // 2)]


@pytest.mark.usefixtures("collector")
def test_streams_are_no_garbage() -> None:
    expect_streams(1000)
    assert gc.get_threshold() == (10_000 + 1000 * OBJECTS_OF_A_STREAM, 10, 10)


@pytest.mark.usefixtures("collector")
def test_what_is_imported_is_left_out_of_collections() -> None:
    gc.unfreeze()
    tune_garbage_collector()
    assert gc.get_freeze_count() > 1000
    assert gc.get_threshold() == (10_000, 10, 10)
