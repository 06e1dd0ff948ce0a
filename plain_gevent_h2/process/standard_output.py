"""Standard output and error that never block the worker.

A write to a full pipe or a stopped terminal would block the hub, and with it every request, until
a reader takes something. Here such lines go into a queue, which a native thread writes. Past the
queue's limit they are lost, counted, and reported later. Files are written as always.

O_NONBLOCK is set on no descriptor that other processes share, since it would hold for them, too.
"""

import _socket
import atexit
import io
import os
import select
import socket
import stat
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from gevent.monkey import get_original
from plain.logs import get_framework_logger

log = get_framework_logger("plain.server")

#: Bytes that may wait in the queue of one stream, beside what the kernel holds (64 KiB). The
#: stacks of 1,000 greenlets (SIGUSR2) take 2 MB.
MAX_WAITING = 4 * 1024 * 1024

#: About how many bytes the thread writes at once. After each write it waits for the GIL, for 5 ms
#: if the hub is busy.
BATCH_SIZE = 64 * 1024

#: Seconds that an ending process waits until its last lines are written.
LAST_WAIT = 1.0

# The real ones, since a native thread waits here.
_allocate_lock = get_original("_thread", "allocate_lock")
_RLock = get_original("_thread", "RLock")
_start_new_thread = get_original("_thread", "start_new_thread")
_poll = get_original("select", "poll")
_sleep = get_original("time", "sleep")

_outputs: "list[Output]" = []


class Output(io.RawIOBase):
    """Writes to descriptor `fd` without waiting. `sys.stdout` and `sys.stderr` write to one each.

    Any thread may write. So may a signal handler, which can interrupt another write.
    """

    def __init__(self, fd: int, name: str = "") -> None:
        self.name = name
        self._fd = fd
        self._write_now = _non_blocking_write(fd)
        self._forget()

    def _forget(self) -> None:
        """Start empty, also in a forked process: its parent writes what waits."""
        self._lock = _RLock()
        self._lost = 0  # lines, not yet reported
        self._works = True  # False from a loss until a write succeeds
        self._waiting: deque[bytes] = deque()  # the first is being written
        self._size = 0  # bytes of them
        self._has_thread = False
        self._wake = _allocate_lock()  # held while the thread has nothing to do
        self._wake.acquire()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: bytes) -> int:  # type: ignore[override]
        size = len(data)
        with self._lock:
            sent = 0
            if not self._waiting and self._write_now is not None:
                try:
                    sent = self._write_now(data)
                    self._works = True
                except BlockingIOError:
                    pass
                except OSError:
                    self._lose(data)
                    return size
                if sent == size:
                    return size
            if self._waiting and self._size + size > MAX_WAITING:
                self._lose(data)
            else:
                self._enqueue(bytes(data[sent:]))
        return size

    def _enqueue(self, data: bytes) -> None:
        self._waiting.append(data)
        self._size += len(data)
        if not self._has_thread:
            self._has_thread = True
            _start_new_thread(self._run, ())
        if self._wake.locked():
            self._wake.release()

    def _run(self) -> None:
        while True:
            self._wake.acquire()
            while self._waiting:
                data = self._join()
                written = self._write_all(data)
                with self._lock:
                    self._waiting.popleft()
                    self._size -= len(data)
                    if written:
                        self._works = True
                    else:
                        self._lose(data)

    def _join(self) -> bytes:
        """Join the first pieces to one, which stays in the queue until it is written."""
        pieces, size = [], 0
        with self._lock:
            while self._waiting and size < BATCH_SIZE:
                pieces.append(self._waiting.popleft())
                size += len(pieces[-1])
            self._waiting.appendleft(b"".join(pieces))
            return self._waiting[0]

    def _write_all(self, data: bytes) -> bool:
        """Write `data`, in the native thread; False if its reader has gone."""
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # another process has set O_NONBLOCK
                poll = _poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except OSError:
                return False
        return True

    def _lose(self, data: bytes) -> None:
        self._works = False
        self._lost += bytes(data).count(b"\n") or 1

    def wait(self, seconds: float) -> None:
        """Wait until nothing waits, for at most `seconds`."""
        ends_at = time.monotonic() + seconds
        while self._waiting and time.monotonic() < ends_at:
            _sleep(0.01)

    def take_lost(self) -> int:
        """How many lost lines are to be reported; 0 while writes do not succeed."""
        if not self._lost or self._waiting or not self._works:
            return 0
        lost, self._lost = self._lost, 0
        return lost


def _non_blocking_write(fd: int) -> Callable[[bytes], int] | None:
    """A function that writes as much as `fd` takes without blocking; None if there is no way."""
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        sock = _socket.socket(fileno=os.dup(fd))
        return lambda data: int(sock.send(data, socket.MSG_DONTWAIT))
    try:
        # Opened again, so that the flag is ours alone. Another user's pipe refuses that.
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    return lambda data: os.write(own, data)


def install() -> None:
    """Make `sys.stdout` and `sys.stderr` non-blocking, where they could block.

    They stay the same objects: log handlers hold them already.
    """
    for stream in (sys.stdout, sys.stderr):
        if type(stream) is io.TextIOWrapper and _may_block(stream.fileno()):
            output = Output(stream.fileno(), stream.name)
            encoding, errors = stream.encoding, stream.errors
            buffering = (stream.line_buffering, stream.write_through)
            stream.detach()
            io.TextIOWrapper.__init__(stream, output, encoding, errors, "\n", *buffering)
            _outputs.append(output)
            os.register_at_fork(after_in_child=output._forget)
    atexit.register(_at_exit)


def _may_block(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(fd)


def report_lost() -> None:
    """Log how many lines were lost, if any were and lines go through again."""
    for output in _outputs:
        if lost := output.take_lost():
            log.warning(
                "Log lines were lost: nobody read them in time",
                extra={"lines": lost, "descriptor": output.fileno()},
            )


def finish() -> None:
    """Flush both, and wait for their readers up to `LAST_WAIT`. Signal handlers may call it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    for output in _outputs:
        output.wait(LAST_WAIT)


def _at_exit() -> None:
    finish()
    report_lost()
