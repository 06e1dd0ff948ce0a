"""The worker process: listeners, connections, signals, heartbeat, drain and recycling."""

import errno
import faulthandler
import logging
import os
import random
import signal
import ssl
import sys
import time
import traceback
from types import FrameType
from typing import Any

import gevent
from gevent import monkey
from gevent.event import Event
from gevent.server import StreamServer
from gevent.socket import IPPROTO_TCP, socket

from . import patches
from .app.host import SharedLimits
from .app.pipeline import Pipeline
from .app.plain_internals import (
    DRAIN_TEARDOWN_MARGIN,
    RECV_PROGRESS_TIMEOUT,
    WORKER_BOOT_ERROR,
    Reloader,
    Worker,
    close_on_exec,
    import_string,
    is_client_socket_noise,
    run_worker,
    seed,
)
from .app.request_rules import RequestRules
from .app.upload_budget import UploadBudget
from .app.websocket import Unread
from .config import Config
from .http1.connection import Http1Connection
from .http2.connection import Http2Connection
from .limits.idle_connections import IdleConnections
from .limits.send_timeout import SendTimeout
from .limits.slots import Slots
from .limits.unread_responses import UnreadResponses
from .limits.unsent import UnsentBytes
from .net import metrics
from .net.abuse import report_abuse
from .net.fairness import SWEEP_INTERVAL, HandshakeTurns
from .net.log_throttle import Failures, OnceAMinute
from .net.tls import RecordFlood, TlsSocket, server_context, why_handshake_failed
from .process import descriptors
from .process import standard_output as output
from .process.boot_report import BootReport, describe
from .process.compatibility import obstacles
from .process.diagnostics import BlockedHub, log_stacks
from .process.listener import Listener, turn_away
from .process.memory import Trimmer, expect_streams, tune_allocator, tune_garbage_collector
from .stream import Stream

#: Bytes that the kernel may hold unsent for a connection. With its default of megabytes, a
#: small response would queue behind that much of a download on the same connection.
TCP_NOTSENT_LOWAT_BYTES = 256 * 1024
_TCP_NOTSENT_LOWAT = getattr(gevent.socket, "TCP_NOTSENT_LOWAT", None)

#: Connections taken from one listener in a turn of the loop. With several workers on it,
#: one, so that a burst is shared among them.
MAX_ACCEPT = 100

#: The logger of Plain's entry point for workers.
log = logging.getLogger("plain.server")


def worker_main(boot_failure: Any, *args: Any) -> None:
    """The target of a worker process: Plain's own, with our worker in place of its."""
    output.install()
    for mend in patches.BEFORE_APP:
        mend()
    _, _, app, *_ = args
    report = BootReport(boot_failure, is_replacement=app.is_replacement)
    if app.gevent_patch:
        _call_patch_of_the_app(app.gevent_patch, report)
    if not app.reload:  # there, Plain serves the traceback
        log.addFilter(report)
    run_worker(GeventWorker, *args)


def _call_patch_of_the_app(path: str, report: BootReport) -> None:
    """Call the function that `SERVER_GEVENT_PATCH` names. Without it no worker should run."""
    try:
        import_string(path)()
    except Exception as exc:
        report.tell(f"SERVER_GEVENT_PATCH: {path} failed: {describe(exc)}")
        sys.exit(WORKER_BOOT_ERROR)


class _Handshake:
    """A connection whose TLS handshake is under way: as idle as any other."""

    def __init__(self, sock: socket) -> None:
        self._sock = sock

    def evict(self) -> None:
        self._sock.close()

    abort = evict


class GeventWorker(Worker):
    """Plain's worker with greenlets in place of its asyncio loop and thread pool.

    Its settings, counters, heartbeat and drain deadlines are Plain's. Everything here runs
    in greenlets of the process's main thread.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        from plain.runtime import settings

        self.config = Config.load(settings, self.app.http_protocols)  # type: ignore[attr-defined]
        self.graceful_timeout: float = settings.SERVER_GRACEFUL_TIMEOUT
        self.rules = RequestRules.of(self)
        self.pipeline = Pipeline(self.handler, self.config.request_deadline)
        self._descriptors = descriptors.raise_limit()
        self._reserved_descriptors = int(self._descriptors * descriptors.RESERVED_SHARE)
        self.limits = self._make_limits()
        self._handshake_turns = HandshakeTurns()
        self._leaving: set[Stream] = set()  # streams whose client left before they ended
        self._connections: set[Http1Connection | Http2Connection] = set()
        self._listening: list[StreamServer] = []
        self._trimmer = Trimmer()
        # The worker is at its limit of connections, or of file descriptors.
        self._capacity_line = OnceAMinute()
        self.failed_handshakes = Failures("TLS handshakes failed")
        self.http2_without_alpn = Failures("HTTP/2 was spoken where it is not served")
        self._wake = Event()  # wakes the main greenlet before its next interval
        self._tls = (
            server_context(self.app.certfile, self.app.keyfile, self.config.protocols)
            if self.app.is_ssl
            else None
        )

    def _make_limits(self) -> SharedLimits:
        slots = Slots(self.config.max_running_streams, self._count_request)
        uploads = UploadBudget(self.max_inflight_body)
        unsent = UnsentBytes()
        return SharedLimits(
            slots=slots,
            idle=IdleConnections(min(self.max_connections, self._descriptors)),
            uploads=uploads,
            unsent=unsent,
            unread_responses=UnreadResponses(self._http2_connections, unsent),
            send_timeout=SendTimeout(self.config.send_timeout, slots.is_full, unsent),
            unread_websockets=Unread(uploads),
        )

    # -- life -----------------------------------------------------------------

    def init_process(self) -> None:
        """Run the worker. Called by Plain's entry point; returns when it is to exit."""
        seed()
        self._apply_jitter()
        for listener in self.sockets:
            close_on_exec(listener.fileno())
        self._install_signals()
        for mend in patches.AFTER_APP:
            mend()
        self._log_patches()
        self._warn_of_obstacles()
        if self.app.reload:
            self._start_reloader()
        tune_garbage_collector()
        tune_allocator()
        metrics.observe_active_streams(self._active_streams)
        if self.config.hub_blocked_after:
            BlockedHub(self.config.hub_blocked_after).start()
        self._listen()
        self.booted = True
        for boot_report in [f for f in log.filters if isinstance(f, BootReport)]:
            log.removeFilter(boot_report)
        self._live()
        self._drain()

    def _log_patches(self) -> None:
        # Plain's entry point sets INFO while it boots: back to FRAMEWORK_LOG_LEVEL.
        self.log.setLevel(logging.NOTSET)
        modules = sorted(name for name in vars(monkey)["saved"] if not name.startswith("_gevent"))
        self.log.debug("Patched by gevent: %s", ", ".join(modules))
        for mend in patches.mends():
            self.log.debug("Mended: %s", mend)
        if self.app.gevent_patch:  # type: ignore[attr-defined]
            self.log.debug("Patched by the app: %s", self.app.gevent_patch)  # type: ignore[attr-defined]
        self.log.debug("File descriptors: %d", self._descriptors)

    def _warn_of_obstacles(self) -> None:
        from plain.runtime import settings

        for found in obstacles(settings, in_worker=True):
            self.log.warning("%s (gevent_h2.%s)", found.cure, found.id)

    def _apply_jitter(self) -> None:
        from plain.runtime import settings

        jitter = settings.SERVER_MAX_REQUESTS_JITTER
        if self.max_requests and jitter:
            self.max_requests = max(1, self.max_requests + random.randint(-jitter, jitter))

    def _install_signals(self) -> None:
        gevent.signal_handler(signal.SIGTERM, self._signal_exit)
        gevent.signal_handler(signal.SIGUSR1, self._handle_memory_signal)
        gevent.signal_handler(signal.SIGUSR2, log_stacks)
        # Python's own handlers run even while a view blocks the hub.
        signal.signal(signal.SIGINT, self._stop_now)
        signal.signal(signal.SIGQUIT, self._stop_now)
        signal.signal(signal.SIGABRT, self._abort)
        # In one call into C that handler has to wait; this one, before it, writes the stack.
        faulthandler.enable()
        signal.signal(signal.SIGWINCH, signal.SIG_IGN)

    def _start_reloader(self) -> None:
        """Drain when the code changes; the arbiter then starts a worker with the new code."""
        loop = gevent.get_hub().loop

        def changed(_file: str) -> None:  # in the watcher's native thread
            loop.run_callback_threadsafe(self._signal_exit)

        self.reloader = Reloader(callback=changed, watch_html=True)
        self.reloader.start()

    def _live(self) -> None:
        while self.alive and self.is_parent_alive():
            self.notify()
            self._sweep()
            self._wake.wait(SWEEP_INTERVAL)
        self._signal_exit()

    def _signal_exit(self) -> None:
        """Start the drain: take no new connections, let requests finish."""
        self._begin_drain()
        for server in self._listening:
            server.close()
        self._wake.set()

    def _drain(self) -> None:
        started = time.monotonic()
        deadline = started + self.graceful_timeout
        margin = min(DRAIN_TEARDOWN_MARGIN, self.graceful_timeout / 2)
        for connection in list(self._connections):
            connection.drain()
        while self._is_busy() or self._handshakes_since(started):
            now = time.monotonic()
            # The arbiter tells when it will kill this worker: finish before that.
            if kill_at := self.heartbeat.kill_deadline():
                deadline = min(deadline, kill_at - margin)
            if now >= deadline or not self.is_parent_alive():
                break
            self.notify()
            self._sweep()
            gevent.sleep(SWEEP_INTERVAL / 10)
        self._cut(until=deadline + margin / 2)

    def _cut(self, until: float) -> None:
        """Close the connections that are left.

        What they run has until then (monotonic) to clean up and to write its line in the log.
        """
        for connection in list(self._connections):
            connection.abort()
        while (
            self.limits.slots.running or self.limits.slots.clientless
        ) and time.monotonic() < until:
            for stream in self._leaving:
                stream.stop_body(float("inf"))
            self.notify()
            gevent.sleep(SWEEP_INTERVAL / 10)
        if left := self.limits.slots.running + self.limits.slots.clientless:
            self.log.warning("Worker stops before its requests have ended", extra={"count": left})

    def _is_busy(self) -> bool:
        """Whether there are connections or views, also of clients that have left.

        Their async views are cancelled, and so over soon. Their blocking ones are let finish.
        """
        return bool(self._connections or self.limits.slots.running or self.limits.slots.clientless)

    def _handshakes_since(self, drain_started: float) -> bool:
        """Whether clients that connected before the drain are still to be served."""
        return (
            self.nr_conns > len(self._connections)
            and time.monotonic() - drain_started < RECV_PROGRESS_TIMEOUT
        )

    def _stop_now(self, _signal: int, _frame: FrameType | None) -> None:
        # Not SystemExit: raised in whatever greenlet runs now, a view could catch it.
        output.finish()
        os._exit(0)

    def _abort(self, _signal: int, frame: FrameType | None) -> None:
        """The arbiter's SIGABRT: a view blocked the hub for longer than `--timeout`."""
        stack = "".join(traceback.format_stack(frame))
        sys.stderr.write(f"Worker {self.pid} was blocked and is stopped here:\n{stack}")
        output.finish()
        os._exit(1)

    # -- connections ----------------------------------------------------------

    def _listen(self) -> None:
        for listener in self.sockets:
            sock = listener.sock
            assert sock is not None
            if _TCP_NOTSENT_LOWAT is not None and not isinstance(listener.cfg_addr, str):
                # Inherited by the connections that it accepts.
                sock.setsockopt(IPPROTO_TCP, _TCP_NOTSENT_LOWAT, TCP_NOTSENT_LOWAT_BYTES)
            server = Listener(
                sock,
                self._accepted,
                is_tls=self._tls is not None,
                out_of_descriptors=self._log_descriptors,
            )
            server.max_accept = self._max_accept()
            server.start()
            self._listening.append(server)

    def _max_accept(self) -> int:
        if self.app.workers > 1:
            return 1
        # So many have a descriptor before anybody looks at its number.
        return max(1, min(MAX_ACCEPT, self._reserved_descriptors // 4))

    def _accepted(self, sock: socket, client: Any) -> None:
        """An accepted connection's first greenlet: the TLS handshake, then its reader."""
        if not self._has_room(sock.fileno()):
            turn_away(sock.detach(), is_tls=self._tls is not None)
            return
        self.nr_conns += 1
        connection = None
        try:
            connection = self._open(sock, client)
        except Exception as exc:
            self._log_failure(exc, client)
        if connection is None:
            sock.close()
            self.nr_conns -= 1
            return
        self._connections.add(connection)
        metrics.connections_changed(1, connection.protocol_version)
        if not self.alive:
            connection.drain()
        self.read(connection)

    def _has_room(self, descriptor: int) -> bool:
        """Whether there is room for a connection, or another makes it."""
        # The lowest number that is free (POSIX), and so it tells how many are taken.
        descriptors_left = self._descriptors - self._reserved_descriptors - descriptor
        places_left = self.max_connections - self.nr_conns + self.limits.idle.closing
        if (descriptors_left > 0 and places_left > 0) or self.limits.idle.make_room():
            return True
        if descriptors_left > 0:
            self._log_capacity()
        else:
            self._log_descriptors()
        return False

    def _open(self, sock: socket, client: Any) -> Http1Connection | Http2Connection | None:
        """The connection, of the protocol that the TLS handshake agreed on."""
        server = sock.getsockname()
        if self._tls is None:
            return Http1Connection(self, sock, client, server)
        tls = TlsSocket(sock, self._tls, self.config.protocols, self._handshake_turns)
        handshake = _Handshake(sock)
        self.limits.idle.add_handshake(handshake)
        try:
            tls.handshake()
        except ssl.SSLError as exc:
            self.failed_handshakes.add(why_handshake_failed(exc))
            raise
        finally:
            self.limits.idle.closed(handshake)
        protocol = tls.protocol or "http/1.1"
        if protocol not in self.config.protocols:
            self.failed_handshakes.add("the client offers no protocol (ALPN), and h1 is turned off")
            return None
        kind = Http2Connection if protocol == "h2" else Http1Connection
        return kind(self, tls, client, server)

    def read(self, connection: Http1Connection | Http2Connection) -> None:
        """Run the reader of `connection`, in its greenlet, until it is over or parks."""
        over = True
        try:
            over = connection.run()
        except Exception as exc:
            self._log_failure(exc, connection.client)
        if over:
            self._connections.discard(connection)
            self.limits.idle.closed(connection)
            self.nr_conns -= 1
            metrics.connections_changed(-1, connection.protocol_version)

    def stop_body_later(self, stream: Stream) -> None:
        """Have `stream.stop_body()` called each second, since its client has left."""
        self._leaving.add(stream)

    def _http2_connections(self) -> list[Http2Connection]:
        return [c for c in self._connections if isinstance(c, Http2Connection)]

    def _active_streams(self) -> int:
        return sum(connection.active_streams for connection in self._http2_connections())

    def _log_failure(self, exc: Exception, client: Any) -> None:
        """Log what ended one connection, as loud as it deserves."""
        if isinstance(exc, RecordFlood):
            report_abuse(client, str(exc))
            return
        # Our own doing: a time limit; a connection closed in another greenlet (EBADF).
        ours = isinstance(exc, TimeoutError) or getattr(exc, "errno", None) == errno.EBADF
        if isinstance(exc, OSError) and (ours or is_client_socket_noise(exc)):
            self.log.debug("Connection closed", extra={"client": client, "error": str(exc)})
        else:
            self.log.error("Unexpected connection error", extra={"client": client}, exc_info=exc)

    def _log_capacity(self) -> None:
        if self._capacity_line.is_due():
            self.log.warning(
                "Worker at connection capacity, rejecting new connections",
                extra={"max_connections": self.max_connections},
            )

    def _log_descriptors(self) -> None:
        if self._capacity_line.is_due():
            self.log.warning("Worker out of file descriptors, rejecting new connections")

    def _sweep(self) -> None:
        now = time.monotonic()
        output.report_lost()
        self.failed_handshakes.report()
        self.http2_without_alpn.report()
        self._trimmer.sweep(now)
        self.limits.uploads.sweep(now)
        self.limits.unread_responses.sweep()
        self.limits.slots.refuse_waiting()
        for connection in list(self._connections):
            try:
                connection.sweep(now)
            except Exception:
                self.log.exception("Unexpected connection error")
                connection.abort()
        self._leaving = {stream for stream in self._leaving if not stream.stop_body(now)}
        expect_streams(self.limits.slots.most_running)
        self.limits.slots.trim()
