"""Views whose body is not what their Content-Length says, and others that break the framing."""

import os
import queue
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from plain.http import AsyncStreamingResponse, FileResponse, Response, StreamingResponse
from plain.urls import path
from plain.views import View

from .body_views import Gates


class Promise(View):
    """Chunks of the sizes `sent` under a Content-Length `promised`, in a response of a `kind`."""

    def get(self) -> Response:
        query = self.request.query_params
        chunks = [b"x" * int(size) for size in query.get("sent", "").split(",") if size]
        response = self.response(query["kind"], chunks)
        response.headers["Content-Length"] = query["promised"]
        return response

    def response(self, kind: str, chunks: list[bytes]) -> Response:
        if kind == "whole":
            return Response(b"".join(chunks))
        if kind == "stream":
            return StreamingResponse(iter(chunks))
        if kind == "async":
            return AsyncStreamingResponse(self.body(chunks))
        return Response(status_code=int(kind))

    async def body(self, chunks: list[bytes]) -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    head = get


class ChangedFile(View):
    """A file of 600,000 bytes that has `n` when it is read."""

    def get(self) -> Response:
        file = tempfile.NamedTemporaryFile()  # noqa: SIM115
        file.write(b"x" * 600_000)
        file.flush()
        file.seek(0)
        response = FileResponse(file)
        os.truncate(file.name, int(self.request.query_params["n"]))
        return response


class Wire(View):
    """Puts `value` where `part` says."""

    def get(self) -> Response:
        query = self.request.query_params
        part, value = query["part"], query["value"]
        response = Response("body")
        match part:
            case "reason":
                response.reason_phrase = value
            case "name":
                response.headers[value] = "1"
            case "value":
                response.headers._store["x-value"] = ("X-Value", value)
            case "content-type":
                response.headers._store["content-type"] = ("Content-Type", value)
            case "cookie-name":
                response.cookies["name"] = "1"
                vars(response.cookies["name"])["_key"] = value
            case "cookie-value":
                response.cookies["name"] = "1"
                vars(response.cookies["name"])["_coded_value"] = value
            case "cookie-path":
                response.cookies["name"] = "1"
                dict.__setitem__(response.cookies["name"], "path", value)
            case _:
                response.headers[part] = value
        return response


class GatedBody(View):
    """A chunk before the gate `name`, and one after it, which may fail in its place."""

    def get(self) -> Response:
        query = self.request.query_params
        kind, name = query["kind"], query["name"]

        def body() -> Iterator[bytes]:
            yield b"before"
            Gates.wait_at(name)
            if "fails" in query:
                raise RuntimeError("the body failed on purpose")
            yield b"after"

        headers = {"Content-Length": "11"} if kind == "length" else {}
        return StreamingResponse(body(), content_type="text/plain", headers=headers)


class SilentStream(View):
    """A stream of type `type` whose first chunk never comes."""

    def get(self) -> Response:
        def body() -> Iterator[bytes]:
            yield queue.SimpleQueue[bytes]().get()

        return StreamingResponse(body(), content_type=self.request.query_params["type"])


class Pauses(View):
    """Six chunks of 1,000 bytes, `wait` seconds apart."""

    def get(self) -> Response:
        wait = float(self.request.query_params["wait"])

        def body() -> Iterator[bytes]:
            for _ in range(6):
                time.sleep(wait)
                yield b"x" * 1000

        return StreamingResponse(body())


urls: tuple[Any, ...] = (
    path("lengths/promise", Promise),
    path("lengths/changed-file", ChangedFile),
    path("lengths/wire", Wire),
    path("lengths/gated-body", GatedBody),
    path("lengths/silent-stream", SilentStream),
    path("lengths/pauses", Pauses),
)
