"""The work of `views.py` as a bare WSGI app, for the servers that run no Plain.

Plain brings no WSGI app, so these servers answer without any framework: no middleware, no
sessions, no spans, a chain of `if` for the URLs. It is the least work a WSGI server can have.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import parse_qs

from . import payload

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]


def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    view = VIEWS.get(environ["PATH_INFO"])
    if view is None:
        return respond(start_response, b"not found", status="404 Not Found")
    return view(environ, start_response)


def respond(
    start_response: StartResponse,
    body: bytes,
    content_type: str = "text/plain",
    status: str = "200 OK",
) -> list[bytes]:
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
    start_response(status, headers)
    return [body]


def argument(environ: Environ, name: str) -> str:
    return str(parse_qs(environ["QUERY_STRING"])[name][0])


def hello(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return respond(start_response, b"Hello, world!")


def as_json(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return respond(start_response, json.dumps(payload.TABLE).encode(), "application/json")


def sleep(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    with payload.waiting:
        time.sleep(int(argument(environ, "ms")) / 1000)
    return respond(start_response, b"slept")


def waiting(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return respond(start_response, b"%d" % payload.waiting.value)


def prebuilt(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    return respond(start_response, payload.prebuilt(int(argument(environ, "n"))))


def stream(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return payload.pieces(int(argument(environ, "n")))


def upload(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    length = 0
    while part := environ["wsgi.input"].read(payload.PIECE):
        length += len(part)
    return respond(start_response, b"%d" % length)


def file(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    path = payload.file()
    headers = [
        ("Content-Type", "application/octet-stream"),
        ("Content-Length", str(path.stat().st_size)),
    ]
    start_response("200 OK", headers)
    wrap: Callable[..., Iterable[bytes]] = environ.get("wsgi.file_wrapper", payload.FileParts)
    return wrap(path.open("rb"), payload.PIECE)


def events(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return payload.events(float(argument(environ, "at")))


VIEWS: dict[str, Callable[[Environ, StartResponse], Iterable[bytes]]] = {
    "/hello": hello,
    "/json": as_json,
    "/sleep": sleep,
    "/waiting": waiting,
    "/bytes": prebuilt,
    "/stream": stream,
    "/upload": upload,
    "/file": file,
    "/events": events,
}
