"""Views of the tests for request bodies and HTTP/1.1."""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar

from plain.http import JsonResponse, Response, StreamingResponse
from plain.urls import path
from plain.views import View

#: Seconds after which a gate that nobody opened gives up.
GATE_TIMEOUT = 60


class Gates(View):
    """Named gates that views wait at until a test opens them: `?open=` does."""

    gates: ClassVar[defaultdict[str, threading.Event]] = defaultdict(threading.Event)
    reached: ClassVar[list[str]] = []

    def get(self) -> Response:
        if name := self.request.query_params.get("open"):
            self.gates[name].set()
        return JsonResponse({"reached": self.reached})

    @classmethod
    def wait_at(cls, name: str) -> None:
        cls.reached.append(name)
        if not cls.gates[name].wait(GATE_TIMEOUT):
            raise TimeoutError(f"nobody opened the gate {name}")


class Hold(View):
    """Keeps the request, with its body, until the gate `name` is opened."""

    def post(self) -> Response:
        Gates.wait_at(self.request.query_params["name"])
        return JsonResponse({"length": len(self.request.body)})


class GatedChunks(View):
    """Three chunks; a gate after each of them (`name-0`, `name-1`, `name-2`)."""

    def get(self) -> Response:
        name = self.request.query_params["name"]

        def body() -> Iterator[bytes]:
            for i in range(3):
                yield b"chunk %d" % i
                Gates.wait_at(f"{name}-{i}")

        return StreamingResponse(body(), content_type="text/plain")


class Form(View):
    """What a form carried."""

    def post(self) -> Response:
        fields = {name: self.request.form_data.getlist(name) for name in self.request.form_data}
        files = {}
        for name in self.request.files:
            file = self.request.files[name]
            content = file.read()
            files[name] = {
                "name": file.name,
                "type": file.content_type,
                "size": file.size,
                "sha256": hashlib.sha256(content).hexdigest(),
            }
        return JsonResponse({"fields": fields, "files": files})


class ReadParts(View):
    """Reads the body as a file: its first ten bytes, and how many come after them."""

    def post(self) -> Response:
        first = self.request.read(10)
        rest = 0
        while part := self.request.read(100_000):
            rest += len(part)
        return JsonResponse({"first": first.decode(), "rest": rest})


urls: tuple[Any, ...] = (
    path("bodies/gates", Gates),
    path("bodies/hold", Hold),
    path("bodies/gated-chunks", GatedChunks),
    path("bodies/form", Form),
    path("bodies/read-parts", ReadParts),
)
