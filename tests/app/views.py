"""The views the tests drive, each an ordinary blocking Plain view."""

import hashlib
import queue
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import ClassVar

from plain.http import (
    FileResponse,
    JsonResponse,
    NotModifiedResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from plain.views import View


class Hello(View):
    def get(self) -> Response:
        return Response("hello", content_type="text/plain")


class Echo(View):
    """What arrived: the body's length and SHA-256, so a 10 MB upload needs no 10 MB answer."""

    def post(self) -> Response:
        body = self.request.body
        return JsonResponse(
            {
                "length": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
                "content_length": self.request.headers.get("Content-Length"),
            }
        )

    put = post


class Meta(View):
    """What the request carries."""

    def get(self) -> Response:
        request = self.request
        return JsonResponse(
            {
                "method": request.method,
                "path": request.path,
                "query": request.query_string,
                "scheme": request.scheme,
                "host": request.host,
                "server_name": request.server_name,
                "server_port": request.server_port,
                "client_ip": request.client_ip,
                "headers": dict(request.headers),
                "cookies": request.cookies,
            }
        )


class Sleep(View):
    def get(self) -> Response:
        time.sleep(float(self.request.query_params.get("s", "0.5")))
        return Response("slept", content_type="text/plain")

    post = get


class Bytes(View):
    """`n` bytes in one ordinary response."""

    def get(self) -> Response:
        n = int(self.request.query_params["n"])
        return Response(b"x" * n, content_type="application/octet-stream")


class Chunks(View):
    """`n` chunks of `size` bytes, `wait` seconds apart."""

    def get(self) -> Response:
        params = self.request.query_params
        n, size = int(params.get("n", "3")), int(params.get("size", "5"))
        wait = float(params.get("wait", "0"))

        def body() -> Iterator[bytes]:
            for i in range(n):
                if i and wait:
                    time.sleep(wait)
                yield bytes([97 + i % 26]) * size

        return StreamingResponse(body(), content_type="application/octet-stream")


class Statuses(View):
    """The responses that have no body, or more than one of something."""

    def get(self) -> Response:
        kind = self.request.query_params["kind"]
        if kind == "204":
            return Response(status_code=204)
        if kind == "304":
            return NotModifiedResponse(headers={"ETag": '"x"'})
        if kind == "cookies":
            response = Response("cookies")
            response.set_cookie("a", "1")
            response.set_cookie("b", "2", httponly=True)
            return response
        if kind == "long-headers":
            n = int(self.request.query_params["n"])
            return Response("long", headers={f"X-Long-{i}": "x" * 8000 for i in range(n)})
        if kind == "308":
            return RedirectResponse("/elsewhere", status_code=308)
        if kind == "raise":
            raise RuntimeError("the view failed on purpose")
        if kind == "bad-header":
            response = Response("never sent")
            response.headers["X-Bad"] = "a\x00b"
            return response
        raise KeyError(kind)


class File(View):
    """A file of `n` bytes on disk."""

    def get(self) -> Response:
        file = tempfile.NamedTemporaryFile()  # noqa: SIM115
        n = int(self.request.query_params["n"])
        file.write(bytes(i % 251 for i in range(1000)) * (n // 1000))
        file.flush()
        file.seek(0)
        return FileResponse(file, filename="numbers.bin")


class FailingBody(View):
    """A body that fails after `after` chunks."""

    def get(self) -> Response:
        after = int(self.request.query_params["after"])

        def body() -> Iterator[bytes]:
            for _ in range(after):
                yield b"chunk"
            raise RuntimeError("the body failed on purpose")

        return StreamingResponse(body())


class Watched(View):
    """What became of bodies and views: names of those that began, and of those that ended."""

    began: ClassVar[list[str]] = []
    ended: ClassVar[list[str]] = []
    chunks: ClassVar[dict[str, int]] = {}

    def get(self) -> Response:
        return JsonResponse({"began": self.began, "ended": self.ended, "chunks": self.chunks})


class Endless(View):
    """A body without end, that yields (`wait` seconds apart) or waits for ever (`block`)."""

    def get(self) -> Response:
        params = self.request.query_params
        name, size = params["name"], int(params.get("size", "1000"))
        wait, block = float(params.get("wait", "0.01")), "block" in params

        def body() -> Iterator[bytes]:
            Watched.began.append(name)
            Watched.chunks[name] = 0
            try:
                while True:
                    Watched.chunks[name] += 1
                    yield b"e" * size
                    if block:
                        queue.SimpleQueue[None]().get()
                    time.sleep(wait)
            finally:
                Watched.ended.append(name)

        return StreamingResponse(body())


class Slow(View):
    """An ordinary response that takes `s` seconds, and says when it is through."""

    def get(self) -> Response:
        name = self.request.query_params["name"]
        Watched.began.append(name)
        time.sleep(float(self.request.query_params["s"]))
        Watched.ended.append(name)
        return Response("done")


class Together(View):
    """Waits until `n` of these run at once: it only ever answers if they can."""

    inside = 0
    all_inside = threading.Event()

    def get(self) -> Response:
        n = int(self.request.query_params["n"])
        Together.inside += 1
        if Together.inside >= n:
            Together.all_inside.set()
        together = Together.all_inside.wait(10)
        Together.inside -= 1
        if not Together.inside:
            Together.all_inside.clear()
        return Response("together" if together else "alone")
