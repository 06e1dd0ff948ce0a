"""Views of the tests for the worker's life."""

import asyncio
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import gevent
from plain.http import JsonResponse, Response, StreamingResponse
from plain.logs import app_logger
from plain.urls import path
from plain.views import View

from plain_gevent_h2.process.diagnostics import stream_of

#: What `Raise` and `RaiseInBody` raise: none of them an `Exception`.
RAISED: dict[str, type[BaseException]] = {
    "BaseException": BaseException,
    "SystemExit": SystemExit,
    "KeyboardInterrupt": KeyboardInterrupt,
    "GreenletExit": gevent.GreenletExit,
    "Timeout": gevent.Timeout,
    "CancelledError": asyncio.CancelledError,
    "GeneratorExit": GeneratorExit,
}


def text(body: str | bytes) -> Response:
    return Response(body, content_type="text/plain")


class Pid(View):
    """Which worker answers, after a wait of `s` seconds."""

    def get(self) -> Response:
        time.sleep(float(self.request.query_params.get("s", "0")))
        return text(str(os.getpid()))


class Log(View):
    """Writes as many lines of 1 KB to the log."""

    def get(self) -> Response:
        for _ in range(int(self.request.query_params["lines"])):
            app_logger.info("a line of the app %s", "x" * 1000)
        return text("logged")


class Spin(View):
    """Blocks the hub, in Python."""

    def get(self) -> Response:
        while True:
            pass


#: The function itself: a worker has put one in its place that hashes in another thread.
pbkdf2_hmac = getattr(hashlib.pbkdf2_hmac, "__wrapped__", hashlib.pbkdf2_hmac)


class Hash(View):
    """Blocks the hub, mostly in C."""

    def get(self) -> Response:
        while True:
            pbkdf2_hmac("sha256", b"password", b"salt", 50_000)


class OneHash(View):
    """Blocks the hub in one call, in which no Python code can run."""

    def get(self) -> Response:
        return text(pbkdf2_hmac("sha256", b"password", b"salt", 2_000_000_000))


def pass_gate(gate: Path) -> None:
    """Tell the test that we are here, then wait until it lets us go."""
    gate.with_suffix(".reached").touch()
    while not gate.exists():
        time.sleep(0.02)


class Gate(View):
    """An ordinary response of `n` bytes, when the file `gate` is there."""

    def get(self) -> Response:
        params = self.request.query_params
        pass_gate(Path(params["gate"]))
        return text(b"x" * int(params.get("n", "4")))


class GateInBody(View):
    """A streaming response whose second chunk waits for the file `gate`."""

    def get(self) -> Response:
        gate = Path(self.request.query_params["gate"])

        def body() -> Iterator[bytes]:
            yield b"first"
            pass_gate(gate)
            yield b"last"

        return StreamingResponse(body(), content_type="text/plain")


class Endless(View):
    """A body that never ends."""

    def get(self) -> Response:
        def body() -> Iterator[bytes]:
            while True:
                yield b"more"
                time.sleep(0.05)

        return StreamingResponse(body(), content_type="text/plain")


class AtOnce(View):
    """How many of these views ran at once, at the most, so far."""

    running: ClassVar[int] = 0
    most: ClassVar[int] = 0

    def get(self) -> Response:
        cls = type(self)
        cls.running += 1
        cls.most = max(cls.most, cls.running)
        time.sleep(0.05)
        cls.running -= 1
        return JsonResponse({"most": cls.most})


class Quiet(View):
    def get(self) -> Response:
        response = text("quiet")
        response.log_access = False
        return response


class Raise(View):
    def get(self) -> Response:
        raise RAISED[self.request.query_params["what"]]


class RaiseInBody(View):
    def get(self) -> Response:
        what = RAISED[self.request.query_params["what"]]

        def body() -> Iterator[bytes]:
            yield b"first"
            raise what

        return StreamingResponse(body(), content_type="text/plain")


class Turn(View):
    """How many requests this greenlet has run, this one included."""

    def get(self) -> Response:
        current: Any = gevent.getcurrent()
        current.turns = getattr(current, "turns", 0) + 1
        return text(str(current.turns))


class Leave(View):
    """Leaves something that will raise in its greenlet."""

    def get(self) -> Response:
        current: Any = gevent.getcurrent()
        match self.request.query_params["what"]:
            case "timeout":
                gevent.Timeout(0.1).start()
            case "kill":
                gevent.spawn_later(0.1, current.kill)
            case "throw":
                gevent.get_hub().loop.timer(0.1).start(current.throw, ValueError)
        return text("left")


class Sabotage(View):
    """Breaks the inside of the connection that this request came on."""

    def get(self) -> Response:
        stream: Any = stream_of(sys._getframe())
        connection: Any = stream.streams._connection
        match self.request.query_params["part"]:
            case "reader":
                connection._receiver.frames = None
            case "writer":
                connection._writer._sock = None
            case "sweep":
                connection._timeouts._writer = None
        return text("broken")


urls: tuple[Any, ...] = (
    path("life/pid", Pid),
    path("life/log", Log),
    path("life/spin", Spin),
    path("life/hash", Hash),
    path("life/one-hash", OneHash),
    path("life/gate", Gate),
    path("life/gate-in-body", GateInBody),
    path("life/endless", Endless),
    path("life/at-once", AtOnce),
    path("life/quiet", Quiet),
    path("life/raise", Raise),
    path("life/raise-in-body", RaiseInBody),
    path("life/turn", Turn),
    path("life/leave", Leave),
    path("life/sabotage", Sabotage),
)
