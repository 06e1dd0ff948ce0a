"""Standard output and error that keep nobody waiting for who reads them.

A pipe that is full, or a terminal that is stopped, would keep the hub, and with it every request,
until somebody reads. Here lines wait in a queue and a native thread for that; past its limit they
are lost, counted, and told of later. Files stay as they are.

Nothing here changes the descriptors that other processes share: O_NONBLOCK would be theirs, too.
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

#: Bytes that may wait for who reads one of the two, beside what the kernel holds (64 KiB). The
#: stacks of 1,000 greenlets (SIGUSR2) take 2 MB.
MAX_WAITING = 4 * 1024 * 1024

#: Bytes that the thread writes at once, about. After each write it waits for the GIL, for 5 ms
#: where the hub is busy.
BATCH_SIZE = 64 * 1024

#: Seconds that an ending process gives who reads for the rest.
LAST_WAIT = 1.0

# The real ones: what waits here is a native thread.
_allocate_lock = get_original("_thread", "allocate_lock")
_RLock = get_original("_thread", "RLock")
_start_new_thread = get_original("_thread", "start_new_thread")
_poll = get_original("select", "poll")
_sleep = get_original("time", "sleep")

_outputs: "list[Output]" = []


class Output(io.RawIOBase):
    """Writes to descriptor `fd` without waiting. `sys.stdout` and `sys.stderr` write to one each.

    Any thread may write, and so may a handler of a signal, which can come in the middle of it.
    """

    def __init__(self, fd: int, name: str = "") -> None:
        self.name = name
        self._fd = fd
        self._write_now = _never_waits(fd)
        self._forget()

    def _forget(self) -> None:
        """Begin with nothing, as a forked process does: its parent writes what waits."""
        self._lock = _RLock()
        self._lost = 0  # lines, not yet told
        self._works = True  # or nothing has gone through since some were lost
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
                self._wait_with(bytes(data[sent:]))
        return size

    def _wait_with(self, data: bytes) -> None:
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
        """Make one of the first that wait, and leave it there until it is written."""
        pieces, size = [], 0
        with self._lock:
            while self._waiting and size < BATCH_SIZE:
                pieces.append(self._waiting.popleft())
                size += len(pieces[-1])
            self._waiting.appendleft(b"".join(pieces))
            return self._waiting[0]

    def _write_all(self, data: bytes) -> bool:
        """Write `data`, in the native thread; False if who read it has gone."""
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
        """The lines lost that nobody was told of, once somebody reads again."""
        if not self._lost or self._waiting or not self._works:
            return 0
        lost, self._lost = self._lost, 0
        return lost


def _never_waits(fd: int) -> Callable[[bytes], int] | None:
    """A function that writes to `fd` what it takes now; None where there is no such way."""
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        sock = _socket.socket(fileno=os.dup(fd))
        return lambda data: int(sock.send(data, socket.MSG_DONTWAIT))
    try:
        # A description of our own, with a flag of our own. Another user's pipe refuses it.
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None
    return lambda data: os.write(own, data)


def install() -> None:
    """Have `sys.stdout` and `sys.stderr` wait for nobody, where they could.

    They stay the objects that they are: log handlers have them already.
    """
    for stream in (sys.stdout, sys.stderr):
        if type(stream) is io.TextIOWrapper and _may_wait(stream.fileno()):
            output = Output(stream.fileno(), stream.name)
            encoding, errors = stream.encoding, stream.errors
            buffering = (stream.line_buffering, stream.write_through)
            stream.detach()
            io.TextIOWrapper.__init__(stream, output, encoding, errors, "\n", *buffering)
            _outputs.append(output)
            os.register_at_fork(after_in_child=output._forget)
    atexit.register(_at_exit)


def _may_wait(fd: int) -> bool:
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
    """Flush both, and wait a moment for who reads. A handler of a signal may call it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    for output in _outputs:
        output.wait(LAST_WAIT)


def _at_exit() -> None:
    finish()
    report_lost()
