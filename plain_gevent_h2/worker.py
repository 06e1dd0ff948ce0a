"""The worker process: its start, signals, heartbeat, once-a-second checks and drain.

Its connections are accepted in `process/connections.py`.
"""

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

from . import patches
from .app.pipeline import Pipeline
from .app.plain_internals import (
    DRAIN_TEARDOWN_MARGIN,
    RECV_PROGRESS_TIMEOUT,
    WORKER_BOOT_ERROR,
    Worker,
    close_on_exec,
    import_string,
    make_reloader,
    run_worker,
    seed,
)
from .app.request_rules import RequestRules
from .app.shared_limits import SharedLimits
from .app.unread_websockets import UnreadBudget
from .app.upload_budget import UploadBudget
from .config import Config
from .http1.connection import Http1Connection
from .http2.connection import Http2Connection
from .limits.idle_connections import IdleConnections
from .limits.send_timeout import SendTimeout
from .limits.slots import Slots
from .limits.unread_responses import UnreadResponses
from .limits.unsent import UnsentBytes
from .net import metrics
from .net.fairness import SWEEP_INTERVAL
from .net.log_throttle import Failures
from .net.tls_context import server_context
from .process import standard_output as output
from .process.boot_report import BootReport, describe
from .process.compatibility import incompatibilities
from .process.connections import Connections
from .process.descriptors import Descriptors
from .process.diagnostics import BlockedHub, log_stacks
from .process.memory import Trimmer, expect_streams, tune_allocator, tune_garbage_collector
from .stream import Stream

#: The logger of Plain's entry point for workers.
log = logging.getLogger("plain.server")


def worker_main(boot_failure: Any, *args: Any) -> None:
    """The target of a worker process: Plain's own, with our worker in place of its."""
    output.install()
    for workaround in patches.BEFORE_APP:
        workaround()
    _, _, app, *_ = args
    report = BootReport(boot_failure, is_replacement=app.is_replacement)
    if app.gevent_patch:
        _call_patch_of_the_app(app.gevent_patch, report)
    if not app.reload:  # with it, Plain serves the traceback
        log.addFilter(report)
    run_worker(GeventWorker, *args)


def _call_patch_of_the_app(path: str, report: BootReport) -> None:
    """Call the function of `SERVER_GEVENT_PATCH`. If it fails, the worker does not start."""
    try:
        import_string(path)()
    except Exception as exc:
        report.tell(f"SERVER_GEVENT_PATCH: {path} failed: {describe(exc)}")
        sys.exit(WORKER_BOOT_ERROR)


class GeventWorker(Worker):
    """Plain's worker with greenlets in place of its asyncio loop and thread pool.

    Everything here runs in greenlets of the process's main thread.

    Plain's `Worker` defines:

    - `sockets`, `app`, `handler`, `log`: the listening sockets, the command line's options, Plain's
      request handler, and the logger.
    - `max_connections`, `max_requests`, `max_inflight_body` and more: the settings.
    - `alive`, `drain_read_deadline` and `_begin_drain()`, which sets both: False, and until when
      (monotonic) requests that arrive may be read.
    - `heartbeat` and `notify()`: tells the arbiter that this worker lives.
    - `_count_request()`: asks the arbiter for another worker after `max_requests`.
    - `init_process()`: what `run_worker()` calls, and this class replaces. `booted` tells that
      entry point that the worker came up.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        from plain.runtime import settings

        self.config = Config.load(settings, self.app.http_protocols)  # type: ignore[attr-defined]
        self.graceful_timeout: float = settings.SERVER_GRACEFUL_TIMEOUT
        self.rules = RequestRules.of(self)
        self.pipeline = Pipeline(self.handler, self.config.request_deadline)
        self._descriptors = Descriptors()
        self._connections = self._make_connections()
        self.limits = self._make_limits()
        self._leaving: set[Stream] = set()  # streams whose client left before they ended
        self._trimmer = Trimmer()
        self.failed_handshakes = Failures("TLS handshakes failed")
        self.http2_without_alpn = Failures("HTTP/2 was spoken where it is not served")
        self._wake = Event()  # wakes the main greenlet before its next interval

    def _make_connections(self) -> Connections:
        return Connections(
            self,
            most=self.max_connections,
            descriptors=self._descriptors,
            tls=self._tls_context(),
            alone=self.app.workers == 1,
        )

    def _tls_context(self) -> ssl.SSLContext | None:
        if not self.rules.is_tls:
            return None
        return server_context(self.app.certfile, self.app.keyfile, self.config.protocols)

    def _make_limits(self) -> SharedLimits:
        slots = Slots(self.config.max_running_streams, self._count_request)
        uploads = UploadBudget(self.max_inflight_body)
        unsent = UnsentBytes()
        return SharedLimits(
            slots=slots,
            idle=IdleConnections(min(self.max_connections, self._descriptors.limit)),
            uploads=uploads,
            unsent=unsent,
            unread_responses=UnreadResponses(self._connections.http2, unsent),
            send_timeout=SendTimeout(self.config.send_timeout, slots.is_full, unsent),
            unread_websockets=UnreadBudget(uploads),
        )

    # -- life -----------------------------------------------------------------

    def init_process(self) -> None:
        """Run the worker. Called by Plain's entry point; returns when it is to exit."""
        seed()
        self._apply_jitter()
        for listener in self.sockets:
            close_on_exec(listener.fileno())
        self._install_signals()
        for workaround in patches.AFTER_APP:
            workaround()
        self._log_patches()
        self._warn_of_incompatibilities()
        if self.app.reload:
            self._start_reloader()
        tune_garbage_collector()
        tune_allocator()
        metrics.observe_active_streams(self._connections.active_streams)
        if self.config.hub_blocked_after:
            BlockedHub(self.config.hub_blocked_after).start()
        self._connections.listen(self.sockets)
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
        for workaround in patches.workarounds():
            self.log.debug("Workaround: %s", workaround)
        if self.app.gevent_patch:  # type: ignore[attr-defined]
            self.log.debug("Patched by the app: %s", self.app.gevent_patch)  # type: ignore[attr-defined]
        self.log.debug("File descriptors: %d", self._descriptors.limit)

    def _warn_of_incompatibilities(self) -> None:
        from plain.runtime import settings

        for found in incompatibilities(settings, in_worker=True):
            self.log.warning("%s (gevent_h2.%s)", found.fix, found.id)

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
        # Python runs its handlers only between calls into C. This one writes the stack at once.
        faulthandler.enable()
        signal.signal(signal.SIGWINCH, signal.SIG_IGN)

    def _start_reloader(self) -> None:
        """Drain when the code changes; the arbiter then starts a worker with the new code."""
        loop = gevent.get_hub().loop

        def changed(_file: str) -> None:  # in the watcher's native thread
            loop.run_callback_threadsafe(self._signal_exit)

        self.reloader = make_reloader(changed)
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
        self._connections.stop_listening()
        self._wake.set()

    def _drain(self) -> None:
        started = time.monotonic()
        deadline = started + self.graceful_timeout
        margin = min(DRAIN_TEARDOWN_MARGIN, self.graceful_timeout / 2)
        self._connections.drain()
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

        Views that still run have until then (monotonic) to clean up and to be logged.
        """
        self._connections.abort()
        slots = self.limits.slots
        while slots.busy and time.monotonic() < until:
            for stream in self._leaving:
                stream.stop_body(float("inf"))
            self.notify()
            gevent.sleep(SWEEP_INTERVAL / 10)
        if left := slots.busy:
            self.log.warning("Worker stops before its requests have ended", extra={"count": left})

    def _is_busy(self) -> bool:
        """Whether there are connections or views, also of clients that have left.

        Async views without a client are cancelled, and end soon. Blocking ones may finish.
        """
        return bool(self._connections or self.limits.slots.busy)

    def _handshakes_since(self, drain_started: float) -> bool:
        """Whether clients that connected before the drain are still to be served."""
        return (
            self._connections.handshakes > 0
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

    # -- for connections and streams (`WorkerInterface`) ------------------------

    def read(self, connection: Http1Connection | Http2Connection) -> None:
        """Run the reader of `connection`, in its greenlet, until it is over or parks."""
        self._connections.read(connection)

    def stop_body_later(self, stream: Stream) -> None:
        """Have `stream.stop_body()` called each second, since its client has left."""
        self._leaving.add(stream)

    # -- each second ------------------------------------------------------------

    def _sweep(self) -> None:
        now = time.monotonic()
        output.report_lost()
        self.failed_handshakes.report()
        self.http2_without_alpn.report()
        self._trimmer.sweep(now)
        self.limits.uploads.tick(now)
        self.limits.unread_responses.sweep()
        self.limits.slots.refuse_waiting()
        self._connections.sweep(now)
        self._leaving = {stream for stream in self._leaving if not stream.stop_body(now)}
        expect_streams(self.limits.slots.most_running)
        self.limits.slots.lower_most_running()
        self.limits.slots.greenlets.trim()
