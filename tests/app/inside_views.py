"""What the worker holds, counted from inside it, and views that go on when they are told to.

Both are asked over a socket of their own, which takes no place of a request's: `inside.py` has
its client.
"""

import gc
import json
import os
import re
import sys
from asyncio import Task
from collections import Counter
from collections.abc import Iterator
from typing import Any

from gevent import Greenlet
from gevent.event import Event
from gevent.server import StreamServer
from gevent.socket import AF_UNIX, socket
from plain.http import Response, StreamingResponse
from plain.urls import path
from plain.views import View

from plain_gevent_h2.app.plain_internals import BodySink
from plain_gevent_h2.app.websocket import WebSocketTransport
from plain_gevent_h2.http1.connection import Http1Connection
from plain_gevent_h2.http2.connection import Http2Connection
from plain_gevent_h2.process.diagnostics import stream_of
from plain_gevent_h2.stream import Stream


class Turnstile:
    """Lets the views that stand before it go, first come first served."""

    open = True
    waiting: list[Event] = []  # noqa: RUF012

    @classmethod
    def pass_through(cls) -> None:
        if not cls.open:
            event = Event()
            cls.waiting.append(event)
            event.wait()

    @classmethod
    def let_go(cls, number: int) -> None:
        for event in cls.waiting[:number]:
            event.set()
        del cls.waiting[:number]


class Gated(View):
    """`n` chunks of `size` bytes, each behind the turnstile if it is named in `gates`.

    `first` is before the response; `fail` is the chunk that raises.
    """

    def get(self) -> Response:
        params = self.request.query_params
        gates, size = params.get("gates", ""), int(params.get("size", "10"))
        number, fail = int(params.get("n", "0")), int(params.get("fail", "-1"))
        body = self.request.body
        if "first" in gates:
            Turnstile.pass_through()
        if not number:
            return Response(b"x" * size + body)

        def chunks() -> Iterator[bytes]:
            for i in range(number):
                if "each" in gates:
                    Turnstile.pass_through()
                if i == fail:
                    raise RuntimeError("the body failed on purpose")
                yield b"x" * size

        return StreamingResponse(chunks())

    post = put = get


#: What is alive of these is counted.
COUNTED: frozenset[type] = frozenset(
    (Greenlet, Task, Http1Connection, Http2Connection, Stream, WebSocketTransport, BodySink)
)


def count(worker: Any, *, collect: bool = True) -> dict[str, Any]:
    worker._sweep()  # as it does each second
    if collect:
        gc.collect()
    alive: Counter[str] = Counter()
    greenlets = []
    for found in gc.get_objects():
        # Not isinstance(), which asks the object itself, and a lazy one would make itself up.
        for kind in COUNTED.intersection(type(found).__mro__):
            if kind is Greenlet and (found.dead or found in worker.limits.slots.greenlets.idle):
                continue
            if kind is Task and found.done():
                continue
            alive[kind.__name__] += 1
            if kind is Greenlet:
                greenlets.append(repr(found))
    connections = worker._connections
    files = [_target(name) for name in os.listdir("/proc/self/fd")]
    return {
        "alive": dict(alive),
        "greenlets": sorted(greenlets),
        "connections": len(connections) + connections.handshakes,
        "served": len(connections),
        "running": worker.limits.slots.running,
        "clientless": worker.limits.slots.clientless,
        "waiting": len(worker.limits.slots._waiting),
        "idle": len(worker.limits.slots.greenlets.idle),
        "leaving": len(worker._leaving),
        "streams": sum(c.active_streams for c in connections if isinstance(c, Http2Connection)),
        "budget": worker.limits.uploads.used,
        "files": len(files),
        "sockets": sum(file.startswith("socket:") for file in files),
        # Temporary files have no name, or one that is deleted.
        "spooled": sum(bool(re.search(r"\(deleted\)$", file)) for file in files),
        "standing": len(Turnstile.waiting),
        "blocks": sys.getallocatedblocks(),
    }


def _target(name: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return ""  # the one that listed the others


def serve_orders(worker: Any, where: str) -> None:
    """Take orders over a Unix socket: "count" (before or after a collection of garbage), "open",
    "shut", or how many views to let go."""

    def answer(sock: socket, _address: Any) -> None:
        with sock, sock.makefile("rw") as file:
            for line in file:
                match line.strip():
                    case "count" | "count uncollected" as order:
                        counted = count(worker, collect=order == "count")
                        print(json.dumps(counted), file=file, flush=True)
                    case "open" | "shut" as order:
                        Turnstile.open = order == "open"
                        Turnstile.let_go(len(Turnstile.waiting) * Turnstile.open)
                        print("done", file=file, flush=True)
                    case number:
                        Turnstile.let_go(int(number))
                        print("done", file=file, flush=True)

    listener = socket(AF_UNIX)
    listener.bind(where)
    listener.listen()
    StreamServer(listener, answer).start()


class Inside(View):
    """Starts to take orders at the path `at`."""

    def get(self) -> Response:
        stream = stream_of(sys._getframe())
        assert stream is not None
        serve_orders(stream.worker, self.request.query_params["at"])
        return Response("ready")


urls: tuple[Any, ...] = (
    path("inside", Inside),
    path("gated", Gated),
)
