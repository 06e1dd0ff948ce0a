"""Looks into a worker while clients do their worst to it, and says what they left behind."""

import json
import re
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from closing import Closing
from h2client import Client
from harness import WAIT, Server, wait_for

#: Seconds after which what a client left behind counts as left for good. A view that blocks
#: without its client is stopped after one to two; a linger lasts for two.
LEFT_FOR_GOOD = 30.0

#: What may be in the log on purpose, by the line that ends its traceback.
ON_PURPOSE = "on purpose"


class Inside(Closing):
    """The orders that `app/inside_views.py` takes from the one worker of `server`.

    What is there when it is made is what `expect_nothing_left()` compares with: make it when all
    that starts once (threads, the asyncio loop) has started.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._folder = Path(tempfile.mkdtemp())  # its path is short, as a socket's must be
        where = self._folder / "orders"
        with Client(server) as client:
            assert client.get(f"/inside?at={where}").body == b"ready"
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(WAIT)
        self._sock.connect(str(where))
        self._file = self._sock.makefile("rw")
        self._log_read = len(server.log())
        self._pid = server.worker().pid
        self.before = self._settled()

    def close(self) -> None:
        self._file.close()
        self._sock.close()
        shutil.rmtree(self._folder)

    def order(self, what: str) -> str:
        print(what, file=self._file, flush=True)
        answer = self._file.readline()
        assert answer, f"the worker is gone:\n{self._server.log()[-8000:]}"
        return answer

    def count(self, *, collect: bool = True) -> dict[str, Any]:
        counted: dict[str, Any] = json.loads(
            self.order("count" if collect else "count uncollected")
        )
        return counted

    def _settled(self) -> dict[str, Any]:
        """The count once nothing is served any more, and nothing else ends."""
        counted = self.count()

        def settled() -> dict[str, Any] | None:
            nonlocal counted
            before, counted = counted, self.count()
            names = ("connections", "running", "clientless", "leaving", "standing")
            busy = [counted[name] for name in names]
            return None if any(busy) or counted["alive"] != before["alive"] else counted

        return wait_for(settled, "end of all that is served", LEFT_FOR_GOOD) or counted

    def left(self) -> dict[str, str]:
        """What there is more of than at first, in words; waits for it to go."""
        more: dict[str, str] = {}

        def nothing_left() -> bool:
            nonlocal more
            more = self._more(self.count())
            return not more

        with suppress(AssertionError):  # the caller says what was left
            wait_for(nothing_left, "end of what was left", LEFT_FOR_GOOD)
        return more

    def _more(self, now: dict[str, Any]) -> dict[str, str]:
        more = {
            name: f"{self.before[name]} -> {now[name]}"
            for name in now
            if isinstance(now[name], int)
            and name not in ("blocks", "idle")
            and now[name] > self.before[name]
        }
        for kind, number in now["alive"].items():
            if number > (before := self.before["alive"].get(kind, 0)):
                more[kind] = f"{before} -> {number}"
        if "Greenlet" in more:
            more["greenlets"] = "; ".join(now["greenlets"])
        return more

    def expect_nothing_left(self) -> None:
        """No greenlet, socket, file, stream or byte of budget is left, and no surprise logged."""
        left = self.left()
        assert not left, f"left behind: {left}"
        self.expect_quiet_log()

    def expect_quiet_log(self) -> None:
        log = self._server.log()[self._log_read :]
        self._log_read += len(log)
        for bad in ("Unexpected", "Error handling request", "Exception ignored"):
            assert bad not in log, log[-8000:]
        ends = re.findall(r"^\w[\w.]*(?:Error|Exception|Exit)\b.*$", log, re.MULTILINE)
        surprises = [line for line in ends if ON_PURPOSE not in line]
        assert not surprises, log[-8000:]
        assert log.count("Traceback") <= len(ends), log[-8000:]
        assert [worker.pid for worker in self._server.workers()] == [self._pid], log[-8000:]
