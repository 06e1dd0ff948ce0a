"""Answers that need no view."""

import struct
from http import HTTPStatus
from typing import Any

from plain.logs import get_framework_logger

from plain_gevent_h2.app.plain_internals import (
    HEALTHCHECK_RESPONSE,
    HEALTHCHECK_RESPONSE_HEAD,
    ParsedRequest,
    answer_error,
    error_page,
)
from plain_gevent_h2.app.worker_interface import WorkerInterface
from plain_gevent_h2.http2.frames import FrameType, pack_frame

from .head import HeadReader
from .output import Output, complete

log = get_framework_logger("plain.server")

#: The preface of HTTP/2 begins like the head of a request (RFC 9113 section 3.4).
HTTP2_HEAD = b"PRI * HTTP/2.0\r\n"

#: The error code that asks for HTTP/1.1 (RFC 9113 section 7).
_HTTP_1_1_REQUIRED = 0xD


class Refusals:
    """Answers the requests of one connection that no view sees. The caller then closes it.

    Plain's error page writes to it (`ErrorTarget`). All attributes are set once.
    """

    __slots__ = ("_heads", "_worker", "client", "is_ssl", "writer")

    def __init__(
        self, worker: WorkerInterface, output: Output, heads: HeadReader, client: Any
    ) -> None:
        self._worker = worker
        self._heads = heads
        self.client = client
        self.is_ssl = worker.rules.is_tls
        self.writer = output

    def answer_exception(self, parsed: ParsedRequest | None, exc: Exception) -> None:
        """Answer with Plain's error page for `exc`, and log it. Called while it is handled."""
        complete(answer_error(self._worker, parsed, self, exc))

    def send_error(self, status: int, message: str = "") -> None:
        """Answer with the error page of `status`. Raises nothing if the client has left."""
        page = error_page(status, HTTPStatus(status).phrase, message, head=self._heads.is_head)
        self._send_page(page)

    async def write_error(self, status: int, reason: str, message: str) -> None:
        """Answer with an error page of Plain's. Called by `answer_error()` alone."""
        self._send_page(error_page(status, reason, message, head=self._heads.is_head))

    def send_health(self) -> None:
        """Answer a health check. Raises `OSError`."""
        head_only = self._heads.is_head
        self.writer.write(HEALTHCHECK_RESPONSE_HEAD if head_only else HEALTHCHECK_RESPONSE)
        self.writer.flush()

    def refuse_http2(self) -> None:
        """Tell a client that speaks HTTP/2 without ALPN to use HTTP/1.1, in its own protocol.

        Raises `OSError`.
        """
        why = "HTTP/2 needs TLS and ALPN"
        self._worker.http2_without_alpn.add(f"{why}{'' if self.is_ssl else ' (--certfile)'}")
        goaway = struct.pack(">LL", 0, _HTTP_1_1_REQUIRED) + why.encode()
        self.writer.write(pack_frame(FrameType.SETTINGS, 0, 0))
        self.writer.write(pack_frame(FrameType.GOAWAY, 0, 0, goaway))
        self.writer.flush()

    def _send_page(self, page: bytes) -> None:
        self.writer.write(page)
        try:
            self.writer.flush()
        except OSError:
            log.debug("Client left before its error page", extra={"client": self.client})
