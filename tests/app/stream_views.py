"""Async streams, and how far each has come."""

import asyncio
from collections.abc import AsyncIterator

from plain.http import AsyncStreamingResponse, JsonResponse, Response
from plain.urls import path
from plain.views import View

#: By the `name` of the request: the chunks that were taken from each stream, and how it ended.
progress: dict[str, int] = {}
endings: dict[str, list[str]] = {}
steps: dict[str, asyncio.Queue[str]] = {}


class Numbers(View):
    """`n` chunks (or without end) of `size` bytes, each its own number; then perhaps it fails."""

    def get(self) -> Response:
        return AsyncStreamingResponse(self.body(), content_type="text/plain")

    async def body(self) -> AsyncIterator[bytes]:
        query = self.request.query_params
        name, n, size = query["name"], int(query.get("n", "-1")), int(query["size"])
        task = asyncio.current_task()
        ending = endings[name] = []
        progress[name] = 0
        try:
            while progress[name] != n:
                yield b"%0*d" % (size, progress[name])
                progress[name] += 1
            if "fails" in query:
                raise ValueError("as asked")
            ending.append("whole")
        except asyncio.CancelledError:
            ending.append("cancelled")
            raise
        finally:
            ending.append("same task" if asyncio.current_task() is task else "another task")


class Steps(View):
    """Sends what `Step` says, when it says so."""

    def get(self) -> Response:
        return AsyncStreamingResponse(self.body(), content_type="text/plain")

    async def body(self) -> AsyncIterator[str]:
        queue = steps[self.request.query_params["name"]] = asyncio.Queue()
        yield "ready"
        while (text := await queue.get()) != "end":
            yield text


class Step(View):
    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        query = self.request.query_params
        steps[query["name"]].put_nowait(query["text"])
        return Response("taken")


class Progress(View):
    def get(self) -> Response:
        name = self.request.query_params["name"]
        return JsonResponse({"taken": progress.get(name, 0), "ending": endings.get(name, [])})


urls = (
    path("streams/numbers", Numbers),
    path("streams/steps", Steps),
    path("streams/step", Step),
    path("streams/progress", Progress),
)
