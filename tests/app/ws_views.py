"""WebSocket views, and what they leave behind."""

import asyncio
import contextvars
import itertools
import queue
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from plain.http import ForbiddenError403, JsonResponse, Response, StreamingResponse, WebSocket
from plain.urls import path
from plain.views import ServerSentEvent, ServerSentEventsView, View

#: What each view did, by the request's `name`.
events: dict[str, list[str]] = {}
name_var = contextvars.ContextVar("ws_name", default="")


class _Socket(View):
    websocket_max_message_size = 20 * 1024 * 1024

    def note(self, what: str) -> None:
        events.setdefault(self.request.query_params.get("name", ""), []).append(what)


class Echo(_Socket):
    websocket_subprotocols = ("chat", "other")

    async def websocket(self, ws: WebSocket) -> None:
        name_var.set(self.request.query_params.get("name", ""))
        self.note(f"open {self.request.scheme} {self.request.method}")
        try:
            async for message in ws:
                if message == "close":
                    await ws.close(4000, "as asked")
                elif message == "name":
                    await ws.send(name_var.get())
                elif message == "fail":
                    raise ValueError("as asked")
                else:
                    await ws.send(message)
        finally:
            self.note(f"closed {ws.close_code}")


class Small(Echo):
    websocket_max_message_size = 1000


class SlowToAccept(Echo):
    def before_request(self) -> None:
        time.sleep(float(self.request.query_params["s"]))


class Push(View):
    """Sends, and never reads. Its messages may have the default size."""

    async def websocket(self, ws: WebSocket) -> None:
        while True:
            await ws.send("tick")
            await asyncio.sleep(0.05)


class Flood(_Socket):
    """Sends without end, and says how much it could."""

    async def websocket(self, ws: WebSocket) -> None:
        try:
            while True:
                await ws.send(b"x" * 65536)
                self.note("sent")
        finally:
            self.note("ended")


class Deaf(_Socket):
    """Reads nothing until it is told to."""

    gate: asyncio.Event | None = None

    async def websocket(self, ws: WebSocket) -> None:
        Deaf.gate = asyncio.Event()
        await Deaf.gate.wait()
        total = 0
        async for message in ws:
            total += len(message)
            if message == b"last":
                await ws.send(str(total))


class OpenGate(View):
    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        assert Deaf.gate is not None
        Deaf.gate.set()
        return Response("open")


class Ticks(_Socket):
    """Works on beside what it reads, until it is cancelled."""

    async def websocket(self, ws: WebSocket) -> None:
        try:
            while True:
                await ws.send("tick")
                await asyncio.sleep(0.05)
        finally:
            self.note("cleaned up")


class Clock(ServerSentEventsView):
    """An event every so often; `Clocks` counts those that are heard."""

    async def stream(self) -> AsyncIterator[ServerSentEvent]:
        every = float(self.request.query_params.get("every", "0.05"))
        Clocks.open += 1
        try:
            for i in itertools.count():
                yield ServerSentEvent(data=str(i))
                await asyncio.sleep(every)
        finally:
            Clocks.open -= 1


class BlockingClock(View):
    """The same from blocking code, which waits on a queue."""

    def get(self) -> Response:
        every = float(self.request.query_params.get("every", "0.05"))
        events: queue.Queue[int] = queue.Queue()

        def produce() -> None:
            for i in itertools.count():
                if not alive:
                    return
                events.put(i)
                time.sleep(every)

        def body() -> Iterator[bytes]:
            Clocks.open += 1
            threading.Thread(target=produce, daemon=True).start()
            try:
                while True:
                    yield b"data: %d\n\n" % events.get()
            finally:
                alive.clear()
                Clocks.open -= 1

        alive = [True]
        return StreamingResponse(body(), content_type="text/event-stream")


class Clocks(View):
    open = 0

    def get(self) -> Response:
        return Response(str(Clocks.open))


class Refused(_Socket):
    def before_request(self) -> None:
        raise ForbiddenError403("not you")

    async def websocket(self, ws: WebSocket) -> None:
        raise AssertionError("not reached")


class Events(View):
    def get(self) -> Response:
        name = self.request.query_params["name"]
        return JsonResponse({"events": events.get(name, []), "sent": len(events.get(name, []))})


urls: tuple[Any, ...] = (
    path("ws/echo", Echo),
    path("ws/small", Small),
    path("ws/slow-to-accept", SlowToAccept),
    path("ws/push", Push),
    path("ws/flood", Flood),
    path("ws/deaf", Deaf),
    path("ws/open-gate", OpenGate),
    path("ws/ticks", Ticks),
    path("ws/refused", Refused),
    path("ws/clock", Clock),
    path("ws/blocking-clock", BlockingClock),
    path("ws/clocks", Clocks),
    path("ws/events", Events),
)
