"""The error pages of one HTTP/1.1 connection, which no view makes."""

from http import HTTPStatus
from typing import Any

from plain.logs import get_framework_logger

from plain_gevent_h2.app.plain_internals import ParsedRequest, answer_error, error_page
from plain_gevent_h2.app.worker_interface import WorkerInterface

from .head import HeadReader
from .output import Output, complete

log = get_framework_logger("plain.server")


class ErrorPages:
    """Sends error pages on one connection, which the caller then closes.

    Plain's own page is written here, too (`ErrorTarget`). All attributes are set once.
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

    def send(self, status: int, message: str = "") -> None:
        """Send the page of `status`. Raises nothing if the client has left."""
        self._send(error_page(status, HTTPStatus(status).phrase, message, head=self._heads.is_head))

    def send_for(self, exc: Exception, parsed: ParsedRequest | None) -> None:
        """Send Plain's page for `exc`, and log it. Called while it is handled."""
        complete(answer_error(self._worker, parsed, self, exc))

    async def write_error(self, status: int, reason: str, message: str) -> None:
        """Send a page of Plain's. Called by `answer_error()` alone."""
        self._send(error_page(status, reason, message, head=self._heads.is_head))

    def _send(self, page: bytes) -> None:
        self.writer.write(page)
        try:
            self.writer.flush()
        except OSError:
            log.debug("Client left before its error page", extra={"client": self.client})
