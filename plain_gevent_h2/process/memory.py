"""The memory of a worker process: garbage collection, and freed memory for the system."""

import ctypes
import gc
from typing import Any

#: Bytes of freed memory that glibc may keep for the next response, until the next check.
KEPT_FREE = 64 * 1024 * 1024

#: Seconds between two checks of how much freed memory glibc keeps. More bytes are given back.
TRIM_INTERVAL = 10.0
TRIM_AFTER = KEPT_FREE // 2

#: Objects of a stream whose view waits, as the garbage collector counts: 20 (measured), and as
#: many of the view's own.
OBJECTS_OF_A_STREAM = 40

# Parameters of mallopt(3), from <malloc.h>.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_libc = ctypes.CDLL(None)


def tune_garbage_collector() -> None:
    """Leave what the app imported out of every collection, and collect less often.

    A request leaves no reference cycles of ours behind, and neither does a connection.
    Measured: +8 % small responses.
    """
    gc.collect()
    gc.freeze()
    expect_streams(0)


def expect_streams(number: int) -> None:
    """Let so many streams come and go without a collection: what they hold is no garbage.

    To traverse it again and again took 15 % of a request with 10,000 in flight (measured).
    """
    gc.set_threshold(10_000 + OBJECTS_OF_A_STREAM * number, 10, 10)


def tune_allocator() -> None:
    """Let glibc keep `KEPT_FREE` bytes of freed memory instead of giving them back at once.

    A view that builds a response of 10 MB otherwise has the kernel map and clear those pages
    anew for each request: a third of its cost (measured: 640 to 840 MB/s). Plain's own views
    run in threads, whose memory glibc keeps in the same way. Elsewhere than on glibc there is
    nothing to tune.
    """
    if (mallopt := getattr(_libc, "mallopt", None)) is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_FREE)
        mallopt(_M_MMAP_THRESHOLD, KEPT_FREE // 2)


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of <malloc.h>, in bytes."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


class Trimmer:
    """Gives freed memory back to the system, also between objects that live on.

    glibc by itself gives back only what is free at the end of its heap, so a crowd of streams or
    an attack would cost the worker its memory for good.

    Free memory may have been given back before; glibc does not say. To do it again takes 0.5 ms
    with 200 MiB free in large pieces, and 20 ms in pieces of a page (measured; the first time 13
    and 38). To do it only when more is free than before would miss the memory of a second burst.
    Free memory at the end of a native thread's heap is not given back.
    """

    def __init__(self) -> None:
        self._mallinfo2: Any = getattr(_libc, "mallinfo2", None)
        if self._mallinfo2 is not None:
            self._mallinfo2.restype = _Mallinfo2
        self._next_at = 0.0  # monotonic

    def sweep(self, now: float) -> None:
        """Give memory back if it is time, and worth it. Called once a second or more often."""
        if self._mallinfo2 is None or now < self._next_at:
            return
        self._next_at = now + TRIM_INTERVAL
        if self._mallinfo2().fordblks > TRIM_AFTER:
            _libc.malloc_trim(0)
