"""A real browser: headless Chromium."""

import fcntl
import json
import os
import select
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness import WAIT, wait_for


class Browser:
    """Chromium with one tab, driven by the DevTools protocol.

    With --remote-debugging-pipe the browser reads commands from its file descriptor 3 and
    writes answers to 4, as JSON texts that end with a NUL: no port, no WebSocket client.
    """

    FLAGS = (
        "--headless",
        "--remote-debugging-pipe",
        "--no-sandbox",
        "--no-first-run",
        "--disable-gpu",
        "--disable-quic",
        "--disable-sync",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-dev-shm-usage",
        "--ignore-certificate-errors",
    )

    def __init__(self, program: str, tmp: Path) -> None:
        self._command = [program, *self.FLAGS, f"--user-data-dir={tmp}/profile", "about:blank"]
        self._logfile = tmp / "chromium.log"
        self._buffer = b""
        self._last_id = 0
        self._session: str | None = None

    def __enter__(self) -> Self:
        theirs_in, self._commands = _pipe()
        self._answers, theirs_out = _pipe()
        # A shell does the renumbering to 3 and 4: it is the only part that needs exact numbers.
        script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        with self._logfile.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "-c", script, "chromium", *self._command],
                pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        tab = wait_for(self._tab, "tab of the browser")
        attached = self.call("Target.attachToTarget", targetId=tab, flatten=True)
        self._session = attached["sessionId"]
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        os.close(self._commands)  # the end of its commands ends the browser
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._answers)

    def _tab(self) -> str | None:
        targets = self.call("Target.getTargets")["targetInfos"]
        return next((target["targetId"] for target in targets if target["type"] == "page"), None)

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Send one DevTools command and return its result."""
        self._last_id += 1
        command: dict[str, object] = {"id": self._last_id, "method": method, "params": params}
        if self._session is not None:
            command["sessionId"] = self._session
        os.write(self._commands, json.dumps(command).encode() + b"\0")
        deadline = time.monotonic() + WAIT
        while (answer := self._read(method, deadline)).get("id") != self._last_id:
            pass  # an event: nothing here needs one
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self, method: str, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            readable, _, _ = select.select(
                [self._answers], [], [], max(0, deadline - time.monotonic())
            )
            data = os.read(self._answers, 65536) if readable else b""
            if not data:
                log = self._logfile.read_text(errors="replace")
                raise AssertionError(f"no answer from the browser to {method}:\n{log}")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def open(self, url: str) -> None:
        result = self.call("Page.navigate", url=url)
        assert "errorText" not in result, f"{url}: {result['errorText']}"

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, element_id: str) -> str:
        return str(self.evaluate(f"document.getElementById({element_id!r}).textContent"))

    def data(self) -> dict[str, str]:
        """What the page says of itself, in data-* attributes of its root element."""
        data: dict[str, str] = self.evaluate("({...document.documentElement?.dataset})")
        return data

    def choose_file(self, element_id: str, path: Path) -> None:
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=f"#{element_id}")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def _pipe() -> tuple[int, int]:
    """A pipe with numbers well above 3 and 4."""
    low = os.pipe()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in low]
    for fd in low:
        os.close(fd)
    return high[0], high[1]
