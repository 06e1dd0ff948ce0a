"""A request's body as it arrives: in memory, then in a file that native threads write."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
from gevent.event import Event
from plain.logs import get_framework_logger

from plain_gevent_h2.patching.native_calls import in_native_thread

from .plain_internals import BodyBudgetExceeded, BodySink
from .request_rules import RequestRules
from .upload_budget import Pace, UploadBudget

log = get_framework_logger("plain.server")

#: Bytes that may wait for the disk before no more is read of an HTTP/1.1 body. Over HTTP/2
#: they are part of the stream's window until they are written.
BACKLOG = 256 * 1024

#: A read of fewer bytes is not worth the way to a thread (60 us).
LARGE_READ = 256 * 1024


class BodyNotWritten(OSError):
    """The temporary file of a body could not be written: a 500."""


def log_unwritten(exc: BodyNotWritten) -> None:
    """Log that a body did not reach its temporary file. One line: each request may have it."""
    log.error(
        "Request body could not be written to a temporary file (see TMPDIR)",
        extra={"error": str(exc)},
    )


def log_no_room(exc: BodyBudgetExceeded, client: Any) -> None:
    """Log that the worker's budget for bodies is used up: a 503, and not the client's fault."""
    log.warning(
        "No room for a request's body (see SERVER_MAX_INFLIGHT_BODY_SIZE)",
        extra={"client": client, "error": str(exc)},
    )


class Spool:
    """A temporary file, in memory up to `size` bytes and on disk from then on.

    A disk that is slow, or busy with what others wrote, would stop every greenlet. So what
    goes to it is queued, and written in a native thread. `on_released` is told how many bytes
    have left the queue: they are written, or the file was given up.
    """

    def __init__(self, size: int, on_released: Callable[[int], None]) -> None:
        self._file: Any = tempfile.SpooledTemporaryFile(max_size=size)  # noqa: SIM115
        self._memory_left = size
        self._on_released = on_released
        self._queue: list[bytes] = []
        # Of the error of a write, for one to raise: an exception that is kept keeps the frames that
        # it has passed, and with them the stream and its connection.
        self._failure: tuple[Any, ...] | None = None
        self._closed = False
        self.waiting = 0  # bytes that are not written yet
        self.idle = Event()  # nobody writes
        self.idle.set()

    def write(self, data: bytes) -> None:
        """Write `data` to memory, or queue it. Raises `BodyNotWritten` if a write has failed."""
        self._check_written()
        self._memory_left -= len(data)
        if self._memory_left >= 0:
            self._file.write(data)
            return
        self._queue.append(data)
        self.waiting += len(data)
        if self.idle.is_set():
            self.idle.clear()
            gevent.spawn(self._write_queue)

    def _write_queue(self) -> None:
        write = in_native_thread(self._write)
        while self._queue:
            pieces, self._queue = self._queue, []
            try:
                # The first call takes a lock of gevent's, so it is made here, not in the thread. A
                # body in memory needs no folder.
                tempfile.gettempdir()
                write(pieces)
            except OSError as exc:
                self._failure = exc.args
                pieces += self._queue
                self._queue.clear()
            self._left_queue(pieces)
        self.idle.set()
        if self._closed:
            self._close_file()

    def _write(self, pieces: list[bytes]) -> None:
        self._file.write(b"".join(pieces))

    def _check_written(self) -> None:
        if self._failure is not None:
            raise BodyNotWritten(*self._failure)

    def _left_queue(self, pieces: list[bytes]) -> None:
        size = sum(map(len, pieces))
        self.waiting -= size
        self._on_released(size)

    def seek(self, offset: int) -> None:
        """Go to `offset`. Blocks until all is written. Raises `BodyNotWritten`."""
        self.idle.wait()
        self._check_written()
        try:
            in_native_thread(self._file.seek)(offset)  # writes what Python has buffered
        except OSError as exc:
            raise BodyNotWritten(*exc.args) from exc

    def read(self, size: int | None = -1) -> bytes:
        small = self._memory_left >= 0 or (size is not None and 0 <= size < LARGE_READ)
        read = self._file.read if small else in_native_thread(self._file.read)
        data: bytes = read(-1 if size is None else size)
        return data

    def readline(self, size: int | None = -1) -> bytes:
        line: bytes = self._file.readline(-1 if size is None else size)
        return line

    def close(self) -> None:
        """Give the file up, whatever is still to be written."""
        if self._closed:
            return
        self._closed = True
        if self._memory_left >= 0:
            self._file.close()
            return
        pieces, self._queue = self._queue, []
        if pieces:
            self._left_queue(pieces)
        if self.idle.is_set():  # if not, the one who writes closes it
            gevent.spawn(self._close_file)

    def _close_file(self) -> None:
        with suppress(OSError):  # closing can fail as a write did (a full disk)
            in_native_thread(self._file.close)()


class SpooledBody(BodySink):
    """Plain's body sink, with a file of ours, that may be evicted while it arrives.

    `on_evicted` is called after it gave up what it had: the client is to get a 503.
    """

    def __init__(
        self,
        rules: RequestRules,
        uploads: UploadBudget,
        on_evicted: Callable[[], None],
        on_released: Callable[[int], None] = lambda _: None,
    ) -> None:
        super().__init__(
            spool_size=rules.body_memory_size, max_size=rules.max_body_size, budget=uploads
        )
        self._uploads = uploads  # also `_budget` of Plain's, which close() sets to None
        self._on_evicted = on_evicted
        self._on_released = on_released
        self._spool: Spool | None = None  # also `_file` of Plain's: as above
        self._pace: Pace | None = None  # from the first byte on
        self._evicted = False

    def feed(self, data: bytes) -> int:  # type: ignore[override]  # Plain's returns None
        """See `Inbound`. What goes to memory does not wait.

        Raises `LimitRequestBody`, `BodyNotWritten`, and `BodyBudgetExceeded`: also if the body was
        evicted.
        """
        if self._spool is None or self._pace is None:
            self._spool = self._file = Spool(self.spool_size, self._on_released)  # type: ignore[assignment]
            self._pace = Pace(self._uploads.client_seconds)
            self._uploads.begin(self)
        self._check_not_evicted()
        self._pace.record(self._uploads.client_seconds, self.received)
        try:
            return self._store(data, self._spool)
        except BodyBudgetExceeded:
            if not self._uploads.make_room(self, len(data)):
                raise
            return self._store(data, self._spool)

    def _store(self, data: bytes, spool: Spool) -> int:
        waiting = spool.waiting
        super().feed(data)
        return spool.waiting - waiting

    def end(self) -> None:
        """See `Inbound`. Raises `BodyBudgetExceeded` if it was evicted."""
        if self._spool is not None:
            self._check_not_evicted()
            self._uploads.end(self)

    def lost(self) -> None:
        """See `Inbound`. Any greenlet may call it, more than once; it raises nothing."""
        with suppress(OSError):  # as in _close_file()
            self.close()

    def close(self) -> None:
        if self._spool is not None:
            self._uploads.end(self)
        super().close()

    def _check_not_evicted(self) -> None:
        if self._evicted:
            assert self._uploads.limit is not None
            raise BodyBudgetExceeded(self._uploads.limit)

    def seconds_at_rate(self, more: int = 0) -> float:
        """See `Upload`. None for one that waits for our disk: it is not slow."""
        if self._pace is None or self.writing:
            return 0.0
        received = self.received + more
        return self._pace.seconds_at_rate(self._uploads.client_seconds, received)

    def evict(self) -> None:
        """See `Upload`."""
        self._evicted = True
        self.lost()
        self._on_evicted()

    @property
    def progress(self) -> int | None:
        """See `Inbound`. While it waits for our disk, the client owes nothing."""
        return None if self.writing else self.received

    @property
    def writing(self) -> bool:
        """Whether some of the body waits for the disk."""
        return self._spool is not None and not self._spool.idle.is_set()

    def wait_for_room(self) -> None:
        """If more than `BACKLOG` waits for the disk, block until nothing does.

        Raises `BodyBudgetExceeded` if the body was evicted: the reader is to wait for no more.
        """
        if self._spool is not None and self._spool.waiting > BACKLOG:
            self._spool.idle.wait()
        self._check_not_evicted()
