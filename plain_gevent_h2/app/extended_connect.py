"""What may answer an extended CONNECT (RFC 8441), which Plain's views see as an HTTP/1.1 upgrade.

It must not get an ordinary page: a 2xx opens the tunnel, and the page would be the tunnel's first
bytes (RFC 9110 section 9.3.6, RFC 8441 section 5).
"""

import contextvars
from typing import TYPE_CHECKING, Any

from plain.http import NotAllowedResponse, Response
from plain.views import View

from .plain_internals import is_websocket_upgrade

if TYPE_CHECKING:
    from plain.http import Request

#: Whether the request that runs is one.
is_extended_connect = contextvars.ContextVar("plain_gevent_h2_is_extended_connect", default=False)


class NotAWebSocket(View):
    """Takes the place of a view that is no WebSocket, and where the handshake is not right.

    405 is for a method that the server knows and the resource does not (RFC 9110 section 15.5.6).
    501, for one that nothing here knows, answers another `:protocol`.
    """

    def get_response(self) -> "Response":
        return _not_allowed()


def opens_websocket(view_class: Any, request: "Request") -> bool:
    """Whether the view is a WebSocket's, and takes this version of the handshake."""
    return getattr(view_class, "implements_websocket", False) and is_websocket_upgrade(request)


def without_a_page(response: "Response") -> "Response":
    """`response`, or a 405 in place of a page: a middleware may answer everybody with one."""
    if not 200 <= response.status_code < 300:
        return response
    response.close()
    return _not_allowed()


def _not_allowed() -> "Response":
    # Allow is empty, as no method is allowed in place of CONNECT (RFC 9110 section 10.2.1).
    return NotAllowedResponse([], headers={"Sec-WebSocket-Version": "13"})
