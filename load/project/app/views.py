"""One view for each kind of work that the benchmark asks of a server; `wsgi.py` has its twin."""

import asyncio
import time
from collections.abc import AsyncIterator

from plain.http import (
    AsyncStreamingResponse,
    FileResponse,
    JsonResponse,
    Response,
    StreamingResponse,
)
from plain.views import View

from . import payload


def plain_text(body: bytes) -> Response:
    return Response(body, content_type="text/plain")


class Hello(View):
    """A small response, for the cost of a request itself."""

    def get(self) -> Response:
        return plain_text(b"Hello, world!")


class Json(View):
    """10 KB, made anew for each request."""

    def get(self) -> Response:
        return JsonResponse(payload.TABLE)


class Sleep(View):
    """Waits `ms` milliseconds, as a view does that asks another service."""

    def get(self) -> Response:
        with payload.waiting:
            time.sleep(int(self.request.query_params["ms"]) / 1000)
        return plain_text(b"slept")


class Waiting(View):
    """How many requests wait in `Sleep`."""

    def get(self) -> Response:
        return plain_text(b"%d" % payload.waiting.value)


class Bytes(View):
    """A body of `n` bytes."""

    def get(self) -> Response:
        return plain_text(payload.prebuilt(int(self.request.query_params["n"])))


class Stream(View):
    """`n` bytes, a piece at a time."""

    def get(self) -> Response:
        size = int(self.request.query_params["n"])
        return StreamingResponse(payload.pieces(size), content_type="application/octet-stream")


class Login(View):
    """Checks a password as plain.passwords does, with its number of iterations or `iterations`."""

    def get(self) -> Response:
        from plain.passwords.hashers import PBKDF2PasswordHasher

        hasher = PBKDF2PasswordHasher()
        iterations = int(self.request.query_params.get("iterations", hasher.iterations))
        return plain_text(hasher.encode("correct horse", "salt", iterations).encode())


class Upload(View):
    """Reads the body to its end and answers with its length."""

    def post(self) -> Response:
        length = 0
        while part := self.request.read(payload.PIECE):
            length += len(part)
        return plain_text(b"%d" % length)


class File(View):
    """A file from the disk."""

    def get(self) -> Response:
        return FileResponse(payload.file().open("rb"))


class Events(View):
    """An event a second, from ordinary blocking code."""

    def get(self) -> Response:
        at = float(self.request.query_params["at"])
        return StreamingResponse(payload.events(at), content_type="text/event-stream")


class EventsAsync(View):
    """The same from a coroutine, as Plain's own `ServerSentEventsView` does it."""

    def get(self) -> Response:
        at = float(self.request.query_params["at"])
        return AsyncStreamingResponse(self._events(at), content_type="text/event-stream")

    async def _events(self, at: float) -> AsyncIterator[bytes]:
        due = payload.next_event(time.monotonic(), at)
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            yield payload.event(due)
            due += payload.PERIOD
