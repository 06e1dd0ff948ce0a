"""Views that go on for long, and say in the log how far they are and how they end."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from plain.http import AsyncStreamingResponse, Response
from plain.urls import path
from plain.views import View

from .life_views import pass_gate


class _Named(View):
    def say(self, what: str) -> None:
        print(f"{self.request.query_params['name']} {what}.", file=sys.stderr, flush=True)


class Async(_Named):
    """Waits until it is cancelled, or for the file `gate`."""

    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        gate = Path(self.request.query_params.get("gate", "/none"))
        self.say("started")
        try:
            while not gate.exists():
                await asyncio.sleep(0.02)
        finally:
            await asyncio.sleep(0.05)
            self.say("cleaned up")
        return Response("waited")


class Stubborn(_Named):
    """Goes on when it is cancelled."""

    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        self.say("started")
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            self.say("went on")
        return Response("went on")


class Blocking(_Named):
    """Waits for the file `gate`."""

    def get(self) -> Response:
        self.say("started")
        pass_gate(Path(self.request.query_params["gate"]))
        self.say("finished")
        return Response("waited")


class Silent(_Named):
    """An async stream with nothing to say."""

    async def get(self) -> AsyncStreamingResponse:  # type: ignore[override]  # Plain awaits it
        return AsyncStreamingResponse(self.body())

    async def body(self) -> AsyncIterator[bytes]:
        try:
            yield b"started"
            self.say("started")
            await asyncio.sleep(600)
        finally:
            await asyncio.sleep(0.05)
            self.say("cleaned up")


urls: tuple[Any, ...] = (
    path("left/async", Async),
    path("left/stubborn", Stubborn),
    path("left/blocking", Blocking),
    path("left/silent", Silent),
)
