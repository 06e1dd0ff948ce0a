"""The views the tests drive, each an ordinary blocking Plain view."""

import hashlib
import time
from collections.abc import Iterator

from plain.http import JsonResponse, Response, StreamingResponse
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
