"""Views that fail in every way a program can."""

import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import gevent
from plain.http import AsyncStreamingResponse, Response, StreamingResponse, WebSocket
from plain.urls import path
from plain.views import View


def no_memory() -> None:
    """A real MemoryError: no machine has so much."""
    bytearray(2**60)


def _current() -> "gevent.Greenlet[..., object]":
    current = gevent.getcurrent()
    assert isinstance(current, gevent.Greenlet)
    return current


def kill() -> None:
    """Killed by itself, at once."""
    _current().kill()


def kill_later() -> None:
    """Killed by another greenlet, where it waits."""
    _current().kill(block=False)
    time.sleep(30)


def greenlet_exit() -> None:
    raise gevent.GreenletExit


def system_exit() -> None:
    sys.exit("on purpose")


def interrupt() -> None:
    raise KeyboardInterrupt


def recursion() -> None:
    recursion()


def error() -> None:
    raise RuntimeError("the view failed on purpose")


FAILURES: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        *(no_memory, kill, kill_later, greenlet_exit, system_exit, interrupt, recursion, error),
    )
}


class _Failing(View):
    def fail(self) -> None:
        FAILURES[self.request.query_params["how"]]()


class InView(_Failing):
    def get(self) -> Response:
        self.fail()
        return Response("not reached")

    post = get


class InBody(_Failing):
    """Fails after `after` chunks."""

    def get(self) -> Response:
        def body() -> Iterator[bytes]:
            for _ in range(int(self.request.query_params["after"])):
                yield b"chunk"
            self.fail()

        return StreamingResponse(body())


class InAsyncView(_Failing):
    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        self.fail()
        return Response("not reached")


class InAsyncBody(_Failing):
    async def get(self) -> AsyncStreamingResponse:  # type: ignore[override]  # Plain awaits it
        async def body() -> AsyncIterator[bytes]:
            for _ in range(int(self.request.query_params["after"])):
                yield b"chunk"
            self.fail()

        return AsyncStreamingResponse(body())


class InWebSocket(_Failing):
    """Fails once a message has come and gone."""

    async def websocket(self, ws: WebSocket) -> None:
        async for message in ws:
            await ws.send(message)
            self.fail()


class InCloser(_Failing):
    """Fails when the response is closed, after its last byte."""

    def get(self) -> Response:
        response = Response("whole")
        response._resource_closers.append(self.fail)
        return response


class InMiddleware(View):
    """`middleware.py` fails, in the part that its query names."""

    def get(self) -> Response:
        return Response("whole")


#: What a view may return by mistake.
JUNK: dict[str, Any] = {
    "none": lambda: None,
    "int": lambda: 42,
    "str": lambda: "text",
    "bytes": lambda: b"bytes",
    "dict": lambda: {"a": 1},
    "class": lambda: Response,
    "exception": lambda: ValueError("returned"),
    "generator": lambda: (b"x" for _ in range(3)),
    "status-of-text": lambda: Response("x", status_code="many"),  # type: ignore[arg-type]
    "status-past-all": lambda: Response("x", status_code=10**6),
    "header-of-int": lambda: Response("x", headers={"X-Number": 5}),
    "header-of-none": lambda: Response("x", headers={"X-None": None}),
    "header-with-line-break": lambda: Response("x", headers={"X-Line": "a\r\nb: c"}),
    "stream-of-none": lambda: StreamingResponse(None),
    "stream-of-int": lambda: StreamingResponse(5),
    "chunk-of-none": lambda: StreamingResponse(iter([None])),
    "chunk-of-object": lambda: StreamingResponse(iter([object()])),
}


class Junk(View):
    def get(self) -> Response:
        junk: Response = JUNK[self.request.query_params["what"]]()
        return junk


urls: tuple[Any, ...] = (
    path("failures/view", InView),
    path("failures/body", InBody),
    path("failures/async-view", InAsyncView),
    path("failures/async-body", InAsyncBody),
    path("failures/websocket", InWebSocket),
    path("failures/closer", InCloser),
    path("failures/middleware", InMiddleware),
    path("failures/junk", Junk),
)
