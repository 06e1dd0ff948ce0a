"""The arbiter's side: worker processes that are patched before they import anything.

The arbiter itself is not patched. It is Plain's, but for how it starts a worker.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import context, popen_spawn_posix, process, spawn
from typing import Any

from plain.runtime import settings
from plain.server.arbiter import Arbiter

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
    @staticmethod
    def _Popen(process_obj: process.BaseProcess) -> Any:
        return _PatchedPopen(process_obj)


class _PatchedSpawnContext(context.SpawnContext):
    """Starts processes as "spawn" does, with gevent's patch first and our target."""

    def Process(self, *, target: Any, args: tuple[Any, ...]) -> process.BaseProcess:  # type: ignore[override]
        from .worker import worker_main

        return _PatchedProcess(target=worker_main, args=args)


class GeventArbiter(Arbiter):
    """Plain's arbiter with gevent workers.

    `http_protocols` is the command line's value; the application takes it along to the
    worker processes, with the other command line values it already holds.
    """

    def __init__(self, app: Any, *, http_protocols: str | None) -> None:
        app.http_protocols = http_protocols
        app.gevent_patch = settings.SERVER_GEVENT_PATCH  # a worker needs it before its settings
        super().__init__(app)
        self._mp_context = _PatchedSpawnContext()

    def _start(self) -> None:
        signal.signal(signal.SIGUSR2, self._forward_sigusr2)
        super()._start()

    def _forward_sigusr2(self, _signal: int, _frame: object) -> None:
        """Have every worker log the stacks of its greenlets."""
        self._kill_workers(signal.SIGUSR2)
