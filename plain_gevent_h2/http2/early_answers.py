"""Requests that are answered without a view, before their body is here.

None of these is in the access log, as in Plain's own HTTP/2.
"""

from plain.http import NotAllowedResponse, Response
from plain.logs import get_framework_logger

from plain_gevent_h2.app import request_rules
from plain_gevent_h2.app.plain_internals import HEALTHCHECK_BODY, LimitRequestBody

from .headers import RequestHead
from .stream import Http2Stream

log = get_framework_logger("plain.server")


def answer_early(stream: Http2Stream, head: RequestHead) -> bool:
    """Answer CONNECT, a health check and a body over the limit. Returns whether it was one."""
    rules = stream.worker.rules
    if head.method == "CONNECT":
        # This is no proxy. Of a tunnel's client no end of a body is to be waited for.
        stream.respond_whole(NotAllowedResponse([]))
        return True
    try:
        rules.check_length(head.content_length)
    except LimitRequestBody as exc:
        extra = {"client": stream.streams.client, "error": str(exc)}
        log.warning("Invalid request", extra=extra)
        stream.send_error(413)
        return True
    if rules.is_health_check(head.path):
        stream.respond_whole(Response(HEALTHCHECK_BODY, content_type="text/plain"))
        return True
    return False


def expects_continue(head: RequestHead) -> bool:
    """Whether the client waits for a 100 before it sends the body (RFC 9110 section 10.1.1)."""
    return request_rules.expects_continue(v for name, v in head.fields if name == "expect")
