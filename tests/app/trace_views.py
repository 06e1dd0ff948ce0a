"""Views of the tests for patches and for what belongs to one request alone."""

import contextvars
import threading
from collections.abc import Iterator
from typing import Any

from plain.http import JsonResponse, Response, StreamingResponse
from plain.urls import path
from plain.views import View

name_var = contextvars.ContextVar("name", default="")
local = threading.local()


class Patched(View):
    """What gevent has patched in this process, and whose classes stand in the modules."""

    def get(self) -> Response:
        import queue
        import socket
        import ssl
        import subprocess
        import sys

        from plain.server.http import request
        from plain.utils import http

        saved = getattr(sys.modules.get("gevent.monkey"), "saved", {})
        return JsonResponse(
            {
                "patched": sorted(saved),
                "classes": {
                    "ssl.SSLSocket": ssl.SSLSocket.__module__,
                    "socket.socket": socket.socket.__module__,
                    "threading.Lock": type(threading.Lock()).__module__,
                    "subprocess.Popen": subprocess.Popen.__module__,
                    "queue.SimpleQueue": queue.SimpleQueue.__module__,
                },
                "parsers": [
                    request._decode_path.__module__,
                    http._parseparam.__module__,
                    self.request.__class__.accepted_types.func.__module__,  # type: ignore[attr-defined]
                ],
            }
        )


_meetings: dict[int, threading.Barrier] = {}


def meet(n: int) -> None:
    """Wait until `n` requests are here."""
    _meetings.setdefault(n, threading.Barrier(n)).wait(30)


class Own(View):
    """Sets values that belong to this request, waits for `n` such, and reads them back."""

    def get(self) -> Response:
        name, n = self.request.query_params["name"], int(self.request.query_params["n"])
        before = [name_var.get(), getattr(local, "name", "")]
        name_var.set(name)
        local.name = name

        def body() -> Iterator[str]:
            for _ in range(3):
                meet(n)
                yield f"{name_var.get()},{local.name};"

        meet(n)
        if before != ["", ""] or [name_var.get(), local.name] != [name, name]:
            return Response("leaked", status_code=500)
        return StreamingResponse(body())


class Spanned(View):
    """Makes a span of its own, named by the request, while 49 others do."""

    def get(self) -> Response:
        from opentelemetry import trace

        with trace.get_tracer("app").start_as_current_span(self.request.query_params["name"]):
            meet(50)
        return Response("spanned")


class Metric(View):
    """The points of one metric."""

    def get(self) -> Response:
        from app import telemetry

        points = telemetry.points(self.request.query_params["name"])
        return JsonResponse(points, json_dumps_params={"sort_keys": True})


class Asynchronous(View):
    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        import asyncio

        await asyncio.sleep(0.01)
        return Response(f"async {await asyncio.to_thread(lambda: 'view')}")


urls: tuple[Any, ...] = (
    path("patched", Patched),
    path("own", Own),
    path("asynchronous", Asynchronous),
    path("spanned", Spanned),
    path("metric", Metric),
)
