"""Ordinary blocking Plain views: but for `WORKER`, nothing here knows of gevent or of HTTP/2."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from gevent.monkey import is_module_patched
from plain.http import BadRequestError400, JsonResponse, Response, StreamingResponse
from plain.views import View

PAGE = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
README = Path(__file__).parents[2] / "README.md"

#: Who runs these views, for the page to tell: a worker of this package, or Plain's own.
WORKER = "gevent-h2" if is_module_patched("threading") else "asyncio"

SENTENCE = (
    "Each word leaves the server the moment this generator yields it. Then the generator "
    "sleeps, as it would for the next row or the next token, and the same process goes on "
    "answering everybody else."
)


class Page(View):
    def get(self) -> Response:
        return Response(PAGE, headers={"Server-Timing": f'worker;desc="{WORKER}"'})


class Readme(View):
    def get(self) -> Response:
        return Response(
            README.read_text(encoding="utf-8"), content_type="text/plain; charset=utf-8"
        )


class Slow(View):
    """Half a second of waiting, as for a database or for another service."""

    running: ClassVar[set[View]] = set()

    def get(self) -> JsonResponse:
        self.running.add(self)
        time.sleep(0.5)
        at_once = len(self.running)
        self.running.remove(self)
        return JsonResponse({"at_once": at_once})


class Words(View):
    """A response that is sent while it is being made."""

    def get(self) -> StreamingResponse:
        return StreamingResponse(self.words(), content_type="text/plain")

    def words(self) -> Iterator[str]:
        for word in SENTENCE.split():
            yield f"{word} "
            time.sleep(0.08)


class Upload(View):
    """The SHA-256 of an uploaded file, read a piece at a time."""

    def post(self) -> JsonResponse:
        file = self.request.files.get("file")
        if file is None:
            raise BadRequestError400("No file was sent in the field 'file'")
        digest = hashlib.sha256()
        for chunk in file.chunks():
            digest.update(chunk)
        return JsonResponse({"size": file.size, "sha256": digest.hexdigest()})
