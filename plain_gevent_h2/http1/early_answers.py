"""Requests that are answered from their heads, without a view.

A body that is declared too large is refused in `Http1Connection._serve_request()`. Neither reaches
the access log.
"""

import struct

from plain_gevent_h2.app import request_rules
from plain_gevent_h2.app.plain_internals import (
    HEALTHCHECK_RESPONSE,
    HEALTHCHECK_RESPONSE_HEAD,
    ParsedRequest,
    extract_request_path,
)
from plain_gevent_h2.app.worker_interface import WorkerInterface
from plain_gevent_h2.http2.frames import FrameType, pack_frame

from .head import HeadReader
from .output import Output

#: The preface of HTTP/2 begins like the head of a request (RFC 9113 section 3.4).
HTTP2_HEAD = b"PRI * HTTP/2.0\r\n"

#: The error code that asks for HTTP/1.1 (RFC 9113 section 7).
_HTTP_1_1_REQUIRED = 0xD


class EarlyAnswers:
    """Those of one connection, which the caller then closes. All attributes are set once."""

    __slots__ = ("_heads", "_output", "_worker")

    def __init__(self, worker: WorkerInterface, output: Output, heads: HeadReader) -> None:
        self._worker = worker
        self._output = output
        self._heads = heads

    def answer(self, head: bytes) -> bool:
        """Answer a health check, or HTTP/2 without ALPN. Return False if it is neither.

        Raises `OSError`.
        """
        if head.startswith(HTTP2_HEAD):
            self._refuse_http2()
        elif self._is_health_check(head):
            is_head = self._heads.is_head
            self._output.write(HEALTHCHECK_RESPONSE_HEAD if is_head else HEALTHCHECK_RESPONSE)
            self._output.flush()
        else:
            return False
        return True

    def _is_health_check(self, head: bytes) -> bool:
        rules = self._worker.rules
        if not rules.health_check_path:
            return False  # most apps have none, and to take the target from the head costs 1 us
        return rules.is_health_check(extract_request_path(head).decode("latin-1"))

    def _refuse_http2(self) -> None:
        """Tell a client that speaks HTTP/2 without ALPN to use HTTP/1.1, in its own protocol."""
        why = "HTTP/2 needs TLS and ALPN"
        hint = "" if self._worker.rules.is_tls else " (--certfile)"
        self._worker.http2_without_alpn.add(f"{why}{hint}")
        goaway = struct.pack(">LL", 0, _HTTP_1_1_REQUIRED) + why.encode()
        self._output.write(pack_frame(FrameType.SETTINGS, 0, 0))
        self._output.write(pack_frame(FrameType.GOAWAY, 0, 0, goaway))
        self._output.flush()


def expects_continue(parsed: ParsedRequest) -> bool:
    """Whether the client waits for a 100 before it sends the body (RFC 9110 section 10.1.1).

    HTTP/1.0 has no interim responses (section 15.2).
    """
    expected = [value for name, value in parsed.headers if name == "EXPECT"]
    return bool(expected) and parsed.version >= (1, 1) and request_rules.expects_continue(expected)
