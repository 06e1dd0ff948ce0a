"""The arbiter's side: worker processes that are patched before they import anything.

The arbiter itself is not patched. It is Plain's, except for how it starts workers.
"""

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import context, popen_spawn_posix, process, spawn
from typing import Any

from plain.runtime import settings

from plain_gevent_h2.app.plain_internals import (
    WORKER_BOOT_ERROR,
    Arbiter,
    HaltServer,
    WorkerInfo,
)

from . import standard_output as output
from .boot_report import MAX_LINE

#: What a worker's command line runs before anything else.
_PATCH = "from plain_gevent_h2.patches import patch; patch(); "


@contextmanager
def _patch_in_command_line() -> Iterator[None]:
    """Put `_PATCH` in front of the program of processes spawned in this block.

    Spawn runs `python -c "..."`, which imports the arbiter's `__main__` (and with it ssl
    and asyncio) before the process's target is called: patching there would be too late.
    """
    original = spawn.get_command_line

    def get_command_line(**kwargs: Any) -> list[str]:
        line = original(**kwargs)
        program = line.index("-c") + 1
        return [*line[:program], _PATCH + line[program], *line[program + 1 :]]

    spawn.get_command_line = get_command_line
    try:
        yield
    finally:
        spawn.get_command_line = original


class _PatchedPopen(popen_spawn_posix.Popen):
    def _launch(self, process_obj: process.BaseProcess) -> None:
        with _patch_in_command_line():
            super()._launch(process_obj)  # type: ignore[misc]


class _PatchedProcess(context.SpawnProcess):
    boot_failure: Any  # an array of bytes: why it did not start

    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        return _PatchedPopen(process_obj)


class _PatchedSpawnContext(context.SpawnContext):
    """Starts processes as "spawn" does, with gevent's patch first and our target."""

    def __init__(self, worker_main: Callable[..., None]) -> None:
        super().__init__()
        self._worker_main = worker_main

    def Process(self, *, target: Any, args: tuple[Any, ...]) -> process.BaseProcess:  # type: ignore[override]
        boot_failure = self.Array("c", MAX_LINE, lock=False)
        worker = _PatchedProcess(target=self._worker_main, args=(boot_failure, *args))
        worker.boot_failure = boot_failure
        return worker


#: Seconds before another worker is started in place of one that did not start: after the first
#: failure, and at most. Each further failure doubles them.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0


class GeventArbiter(Arbiter):
    """Plain's arbiter with gevent workers.

    If no worker has served yet, one that does not start ends the server: its set-up is wrong.
    Later, the cause may be temporary (certificate files that are half renewed, no descriptors, a
    database that is away). Another worker is started after a pause, and the others go on. A worker
    that retires goes on until its replacement serves.

    `http_protocols` is the command line's value; the application takes it along to the
    worker processes, with the other command line values it already holds. `worker_main` is what a
    worker process runs.
    """

    def __init__(
        self,
        app: Any,
        *,
        worker_main: Callable[..., None],
        http_protocols: str | None,
        protocols: tuple[str, ...],
    ) -> None:
        app.http_protocols = http_protocols
        app.gevent_patch = settings.SERVER_GEVENT_PATCH  # a worker needs it before its settings
        app.is_replacement = False  # True once a worker has served
        super().__init__(app)
        self._mp_context = _PatchedSpawnContext(worker_main)
        self._protocols = protocols
        self._pause = 0.0  # seconds after the last failure; 0 if a worker has started since
        self._failed_at = 0.0  # monotonic

    def _start(self) -> None:
        signal.signal(signal.SIGUSR2, self._forward_sigusr2)
        # Where gevent has patched the arbiter, too (by an environment variable of OpenTelemetry's),
        # its `subprocess` would reap our workers, and the arbiter would not learn of their end.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self.log.addFilter(self._complete_start_line)
        super()._start()
        self.log.removeFilter(self._complete_start_line)

    def _complete_start_line(self, record: logging.LogRecord) -> bool:
        """Say what serves, in place of the number of threads."""
        context = vars(record)
        if context.pop("threads", None) is not None:
            names = ["h1" if name == "http/1.1" else name for name in self._protocols]
            context["worker"] = "gevent-h2"
            context["protocols"] = ",".join(names if self.app.is_ssl else ["h1"])
            if not self.app.is_ssl and "h2" in names:
                context["note"] = "HTTP/2 needs --certfile and --keyfile"
        return True

    def _forward_sigusr2(self, _signal: int, _frame: object) -> None:
        """Have every worker log the stacks of its greenlets."""
        self._kill_workers(signal.SIGUSR2)

    # -- workers that do not start --------------------------------------------

    def _spawn_worker(self) -> None:
        if self._pause and (time.monotonic() < self._failed_at + self._pause or self._is_booting()):
            return
        try:
            super()._spawn_worker()
        except OSError as exc:  # no descriptors, no processes, no memory
            self._boot_failed(f"A worker process cannot be started: {exc}")

    def _is_booting(self) -> bool:
        return not all(_has_served(info) for info in self._workers.values())

    def reap_workers(self) -> None:
        output.report_lost()
        if any(map(_has_served, self._workers.values())):
            self.app.is_replacement = True  # type: ignore[attr-defined]
        for pid, info in list(self._workers.items()):
            if _has_served(info):
                if info.spawned_at > self._failed_at:
                    self._pause = 0.0
            elif info.aborted or info.process.is_alive():
                continue
            elif (code := info.process.exitcode or 0) > 0:
                self._reap_failed(pid, info, code)
            elif code not in (0, -signal.SIGTERM):
                self._grow_pause()
        halt = self._halt_error
        super().reap_workers()
        self._halt_error = halt  # only a worker that never served may end the server

    def _reap_failed(self, pid: int, info: WorkerInfo, code: int) -> None:
        why = info.process.boot_failure.value.decode(errors="replace")  # type: ignore[attr-defined]
        info.heartbeat.close()
        info.process.join(timeout=0)
        info.process.close()
        del self._workers[pid]
        self._boot_failed(why or f"A worker exited with code {code} before it served.")

    def _boot_failed(self, why: str) -> None:
        if not self.app.is_replacement:  # type: ignore[attr-defined]
            self._halt_error = self._halt_error or HaltServer(why, WORKER_BOOT_ERROR)
            return
        self._grow_pause()
        self.log.error(
            "Worker failed to start, another is started later",
            extra={"error": why, "retry_seconds": int(self._pause)},
        )

    def _grow_pause(self) -> None:
        self._failed_at = time.monotonic()
        self._pause = min(2 * self._pause or FIRST_PAUSE, LONGEST_PAUSE)

    def _halt(self, reason: str | None = None, exit_status: int = 0, graceful: bool = True) -> None:
        if reason is None:
            super()._halt(exit_status=exit_status, graceful=graceful)
        self._stop(graceful=graceful)
        self.log.error("Server ends: no worker can start", extra={"error": reason})
        sys.exit(exit_status)


def _has_served(info: WorkerInfo) -> bool:
    return info.heartbeat.last_update() > info.spawned_at
