"""The timeouts of an HTTP/2 connection and its streams, which the worker has checked."""

import time
from typing import Any, Protocol

from plain.logs import get_framework_logger

from plain_gevent_h2.app.worker_interface import WorkerInterface
from plain_gevent_h2.limits.send_timeout import MIN_PROGRESS, SEND_TIMEOUT_UNDER_PRESSURE
from plain_gevent_h2.net.abuse import report_abuse

from .frames import ErrorCodes
from .receiver import Receiver
from .send_buffer import SendBuffer
from .shutdown import Shutdown
from .state_machine import StateMachine
from .stream import Http2Stream
from .streams import Streams

log = get_framework_logger("plain.server")

#: Seconds of idleness after which a connection gives up its reader's greenlet.
PARK_AFTER = 1.0

#: Seconds a client has to send its connection preface.
PREFACE_TIMEOUT = 10.0

#: Seconds in which the end of a header block has to come, as for a head of HTTP/1.1.
BLOCK_TIMEOUT = 10.0

#: Seconds after a complete response in which the end of its request has to come.
#: See `receiver.DISCARD_BYTES`.
DISCARD_TIMEOUT = 2.0

#: Seconds for which a socket that takes nothing is not yet the client's doing.
STALLED = 1.0


class TimeoutsConnection(Protocol):
    """What is done to a connection after a timeout."""

    worker: WorkerInterface
    client: Any

    def abort(self) -> None:
        """Close at once."""

    def close_for_abuse(self, reason: str) -> None: ...

    def park(self) -> None:
        """Give up the reader's greenlet until the client sends something."""


class Timeouts:
    """Checks them, and owns since when there is a header block without its end."""

    __slots__ = (
        "_connection",
        "_opened_at",
        "_receiver",
        "_shutdown",
        "_state_machine",
        "_streams",
        "_writer",
        "block_since",
    )

    def __init__(
        self,
        connection: TimeoutsConnection,
        state_machine: StateMachine,
        streams: Streams,
        shutdown: Shutdown,
        receiver: Receiver,
    ) -> None:
        # Set once.
        self._connection = connection
        self._state_machine = state_machine
        self._streams = streams
        self._writer = streams.writer
        self._shutdown = shutdown
        self._receiver = receiver
        self._opened_at = time.monotonic()

        self.block_since: float | None = None  # monotonic

    def header_block(self, size: int) -> None:
        """After a read, there are `size` bytes of a header block without its end."""
        if not size:
            self.block_since = None
        elif self.block_since is None:
            self.block_since = time.monotonic()

    def check(self, now: float) -> None:
        """Called by the worker, at least once a second, unless the socket is closed."""
        if not self._shutdown.is_open:
            if self._shutdown.lingered(now):
                self._connection.abort()
        elif not self._check_writer(now):
            self._check_reader(now)
        for stream in list(self._streams.by_id.values()):
            self._check_stream(stream, now)
        self._writer.sweep(now)
        self._streams.queue.check()

    def _check_writer(self, now: float) -> bool:
        """Close a connection whose client does not read; whether it was closed."""
        since = self._writer.writing_since
        if since is None or now - since <= self._connection.worker.config.send_timeout:
            return False
        client = self._connection.client
        if self._writer.backlogged:
            report_abuse(client, "answers that are not read")
        else:
            log.debug("Client does not read", extra={"client": client})
        self._connection.abort()
        return True

    def _check_reader(self, now: float) -> None:
        if self.block_since is not None and now - self.block_since > BLOCK_TIMEOUT:
            self._connection.close_for_abuse("header block without an end")
        elif self._shutdown.is_draining:
            self._shutdown.check_drain(now)
        elif self._streams.idle_since is not None:
            self._check_idle(now, self._streams.idle_since)

    def _check_idle(self, now: float, since: float) -> None:
        if now - since > self._connection.worker.rules.keepalive_timeout:
            self._shutdown.close(ErrorCodes.NO_ERROR)
        elif not self._receiver.frames.preface_seen and now - self._opened_at > PREFACE_TIMEOUT:
            self._shutdown.close(ErrorCodes.PROTOCOL_ERROR, b"no connection preface")
        elif now - since > PARK_AFTER:
            self._connection.park()

    def _check_stream(self, stream: Http2Stream, now: float) -> None:
        buffer = stream.buffer
        if stream.response_ended:
            if now - stream.ended_at > DISCARD_TIMEOUT:
                self._streams.reset(stream, ErrorCodes.NO_ERROR)
        elif buffer.size and now - buffer.progress_at > self._send_timeout(stream, now):
            extra = {"client": self._connection.client}
            log.debug("Client does not take its response", extra=extra)
            self._streams.reset(stream, ErrorCodes.CANCEL)
        elif not (stream.client_ended or stream.headers_sent) and stream.too_slow(now):
            stream.refuse_slow()

    # -- responses that their client does not take ----------------------------

    def _send_timeout(self, stream: Http2Stream, now: float) -> float:
        worker = self._connection.worker
        if self._waits_for_client(stream.buffer, now):
            return worker.limits.send_timeout.now(holds_slot=not stream.greenlet_done)
        return worker.config.send_timeout

    def untaken(self) -> list[int]:
        """The bytes left of each whole response, if the client has taken nothing for a while.

        By its connection: of 100 streams on a slow link each waits for its turn longer than that.
        """
        if self._writer.taken_lately >= MIN_PROGRESS:
            return []
        now = time.monotonic()
        buffers = [stream.buffer for stream in self._streams.by_id.values() if stream.buffer.ending]
        return [b.size for b in buffers if b.size and self._waits_for_client(b, now, STALLED)]

    def _waits_for_client(
        self, buffer: SendBuffer, now: float, patience: float = SEND_TIMEOUT_UNDER_PRESSURE
    ) -> bool:
        """Whether the body waits for the client's windows or its socket, not just for its turn.

        One of 100 on a slow link waits for its turn longer than the short limits. `patience`:
        seconds for which its socket may take nothing.
        """
        writing_since = self._writer.writing_since
        return (
            not buffer.queued  # by a window: see Writer
            or self._state_machine.outbound_flow_control_window <= 0
            or (writing_since is not None and now - writing_since > patience)
        )
