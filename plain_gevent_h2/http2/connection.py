"""One HTTP/2 connection: its reader, and what belongs together in it."""

import time
from typing import Any

import gevent
from plain.logs import get_framework_logger

from plain_gevent_h2.app.worker_interface import WorkerInterface
from plain_gevent_h2.limits.header_budget import LONG_BLOCK
from plain_gevent_h2.net.abuse import report_abuse
from plain_gevent_h2.net.fairness import LONG_TURN, TURN, penalty, yield_to_others
from plain_gevent_h2.net.tls_socket import TlsSocket

from .faults import ConnectionFault
from .frames import ErrorCodes
from .receiver import Receiver
from .shutdown import Shutdown
from .state_machine import new_state_machine
from .streams import Streams
from .timeouts import Timeouts
from .token_buckets import TokenBuckets

log = get_framework_logger("plain.server")

_READ = 1  # a loop's io watcher: readable

#: Bytes of a header block that are not counted while its end is still to come: a frame's.
BLOCK_NOT_CHARGED = 16 * 1024

#: Seconds that a byte of a header block takes at worst: one of Huffman's code.
DECODING_A_BYTE = 80e-9


class _Park(Exception):
    """Thrown into a reader that waits for an idle peer."""


class Http2Connection:
    """The HTTP/2 side of one accepted connection.

    `run()` is the reader's greenlet, the only one that blocks here. Streams call the verbs of
    `Streams` from theirs, the worker calls `drain()`, `sweep()` and `abort()` from its own. All
    of these are greenlets of one thread, so there are no locks.
    """

    __slots__ = (
        "_buckets",
        "_parked",
        "_reader",
        "_receiver",
        "_receiving",
        "_shutdown",
        "_sock",
        "_state_machine",
        "_streams",
        "_timeouts",
        "_turn_began",
        "_writer",
        "client",
        "penalties",
        "server",
        "worker",
    )

    protocol_version = "2"

    def __init__(self, worker: WorkerInterface, sock: TlsSocket, client: Any, server: Any) -> None:
        # Set once.
        self.worker = worker
        self.client = client
        self.server = server
        self._sock = sock

        # The reader, and what stands for it while it is parked.
        self._reader: Any = None
        self._receiving = False  # it waits for the peer, in recv()
        self._parked: Any = None  # the watcher that starts it again
        self._turn_began = time.monotonic()
        self.penalties = 0  # see `PenaltyBox`

        # The parts. Each says what it owns.
        self._state_machine = machine = new_state_machine(worker.config)
        self._buckets = buckets = TokenBuckets()
        self._streams = streams = Streams(self, sock, machine, buckets)
        self._writer = streams.writer
        self._shutdown = shutdown = Shutdown(
            sock, machine, streams, send_timeout=worker.config.send_timeout, closing=self._closing
        )
        self._receiver = receiver = Receiver(self, machine, buckets, streams, shutdown)
        self._timeouts = Timeouts(self, machine, streams, shutdown, receiver)
        worker.limits.idle.add(self)

    @property
    def active_streams(self) -> int:
        return len(self._streams.by_id)

    # -- the reader -----------------------------------------------------------

    def run(self) -> bool:
        """Read until the connection is over (True) or idle for long enough to park (False).

        A parked connection has no greenlet (8 KiB): the worker's `read()` runs it again when
        the peer sends something. Raises `OSError` if the socket fails.
        """
        self._reader = gevent.getcurrent()
        self._writer.wake()
        try:
            while data := self._recv():
                self._turn_began = time.monotonic()
                if self._shutdown.is_open:
                    self._process(data)
                # Else it is thrown away: see LINGER_TIMEOUT in `shutdown.py`.
                del data  # before a wait
                self._end_turn()
        except _Park:
            self._reader = None
            self._parked = gevent.get_hub().loop.io(self._sock.fileno(), _READ)
            self._parked.start(self._unpark)
            return False
        except BaseException:
            self._over()
            raise
        self._over()
        return True

    def _recv(self) -> bytes:
        self._receiving = True
        try:
            return self._sock.recv(self._receiver.recv_size)
        finally:
            self._receiving = False

    def _process(self, data: bytes) -> None:
        receiver = self._receiver
        try:
            for item in receiver.frames.feed(data):
                if not isinstance(item, list):  # no `Run` of frames
                    receiver.process_without_h2(item)
                elif item and self._may_decode():
                    receiver.process(item)
                if time.monotonic() > self._turn_began + TURN:
                    self._end_turn()
                if not self._shutdown.is_open:
                    return
            self._count_unfinished_block()
        except ConnectionFault as fault:
            self.fail(fault)

    def _may_decode(self) -> bool:
        """Wait before a long header block is decoded, if need be; False if that was the end."""
        size = self._receiver.frames.take_finished_block()
        limits = self.worker.limits
        if size > LONG_BLOCK and limits.headers.must_wait(size):
            limits.penalty_box.wait(self, penalty(size * DECODING_A_BYTE))
            self._turn_began = time.monotonic()
        return self._shutdown.is_open

    def _count_unfinished_block(self) -> None:
        size = self._receiver.frames.unfinished_block
        if not size and self._timeouts.block_since is None:
            return  # as after nearly every read
        self._timeouts.header_block(size)
        # The connection's share of the header budget is that of its streams.
        self.worker.limits.headers.unfinished(self._streams, max(0, size - BLOCK_NOT_CHARGED))

    def _end_turn(self) -> None:
        """Send what is to be sent, wait for a peer that does not read it, let others run."""
        too_long = time.monotonic() - self._turn_began - LONG_TURN
        self._writer.wake()
        self._writer.wait_for_room()
        if self._shutdown.is_faulty or self._buckets.low():
            self._wait_in_penalty_box(too_long)
        else:
            yield_to_others()
            self.penalties = 0
        self._turn_began = time.monotonic()

    def _wait_in_penalty_box(self, too_long: float) -> None:
        """Wait after a turn that took `too_long` seconds more than a long one."""
        self._receiver.throttled(is_faulty=self._shutdown.is_faulty)
        began = time.monotonic()
        self.worker.limits.penalty_box.wait(self, penalty(too_long))
        # The time in the box refills nothing: a flood would get back what it uses, and never be
        # closed.
        self._buckets.skip_refill(time.monotonic() - began)

    def _over(self) -> None:
        """The reader has ended: take apart what holds the connection in turn.

        Such a cycle is left to the garbage collector, which comes seldom (`memory.py`). A
        connection takes up to 100 KiB.
        """
        self._shutdown.connection_over()
        self._streams.connection_over()
        self._receiver.connection_over()
        self._state_machine.connection_over()
        del self._timeouts
        self._reader = None

    # -- parking --------------------------------------------------------------

    def park(self) -> None:
        """Have the reader stop, if it waits."""
        if self._receiving:
            gevent.get_hub().loop.run_callback(self._park)

    def _park(self) -> None:
        """Stop the reader where it waits. Runs in the hub, as the timer of a Timeout does."""
        if self._receiving and self._shutdown.is_open and self._streams.idle_since is not None:
            self._reader.throw(_Park())

    def _unpark(self) -> None:
        if self._parked is not None:
            self._parked.stop()
            self._parked.close()
            self._parked = None
            gevent.spawn(self.worker.read, self)

    # -- called by its parts --------------------------------------------------

    def became_busy(self) -> None:
        """See `StreamsConnection`."""
        self.worker.limits.idle.remove(self)

    def became_idle(self) -> None:
        """See `StreamsConnection`."""
        self.worker.limits.idle.add(self)
        self._shutdown.close_if_done()

    def _closing(self, code: ErrorCodes) -> None:
        """The final GOAWAY is to be sent: see `Shutdown`."""
        self.worker.limits.idle.remove(self)
        if code != ErrorCodes.NO_ERROR:
            self.worker.limits.idle.faulty(self)
        self._unpark()

    def fail(self, fault: ConnectionFault) -> None:
        """Close for what the client did."""
        if fault.code == ErrorCodes.ENHANCE_YOUR_CALM:
            self.close_for_abuse(fault.reason)
            return
        log.debug("HTTP/2 connection fault", extra={"client": self.client, "error": str(fault)})
        self._shutdown.close(fault.code, fault.reason.encode())

    # -- closing ---------------------------------------------------------------

    def close_for_penalties(self) -> None:
        """Make room in the penalty box: no other was there as often."""
        if self._shutdown.is_faulty:
            self.abort()
        else:
            self.close_for_abuse("too many penalties")

    def close_for_headers(self) -> None:
        """Make room for other requests' headers: no other holds as many bytes."""
        self.close_for_abuse("too many bytes of header fields")

    def close_for_responses(self) -> None:
        """Make room for other responses: this client takes none of its own."""
        self.close_for_abuse("responses that are not taken")

    def close_for_abuse(self, reason: str) -> None:
        if self._shutdown.is_open:
            report_abuse(self.client, reason)
            self._shutdown.close(ErrorCodes.ENHANCE_YOUR_CALM, reason.encode())
        self.worker.limits.penalty_box.leave(self)

    def drain(self) -> None:
        """The worker shuts down: take no new streams, end WebSockets, close after the last."""
        for stream in list(self._streams.by_id.values()):
            stream.worker_shuts_down()
        self._shutdown.drain()

    def evict(self) -> None:
        """Close, being idle. The GOAWAY tells a client that asks just now to ask again."""
        self._shutdown.close(ErrorCodes.NO_ERROR)

    def abort(self) -> None:
        """Close at once, whatever is still to be sent."""
        self.worker.limits.penalty_box.leave(self)
        self.worker.limits.idle.remove(self)
        self._shutdown.abort()
        self._unpark()

    # -- called by the worker -------------------------------------------------

    def sweep(self, now: float) -> None:
        """Check the timeouts. Called at least once a second."""
        if not self._shutdown.aborted:
            self._timeouts.check(now)

    def untaken(self) -> list[int]:
        """See `unread_responses.Holder`."""
        return [] if self._shutdown.aborted else self._timeouts.untaken()
