"""What may answer an extended CONNECT (RFC 8441 section 5): a WebSocket, or no 2xx."""

from typing import Any

import pytest
from plain.http import Request, Response
from plain.views import View

from plain_gevent_h2.app.extended_connect import NotAWebSocket, opens_websocket, without_a_page

#: As the worker gives Plain the request of an extended CONNECT.
HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


class Page(View):
    def get(self) -> Response:
        return Response("page")


class Socket(View):
    async def websocket(self, ws: Any) -> None: ...


def upgrade(**changes: str) -> Request:
    headers = HANDSHAKE | {name.replace("_", "-"): value for name, value in changes.items()}
    return Request(method="GET", path="/", headers=headers)


@pytest.mark.parametrize("view_class", [Socket, Page, object])
@pytest.mark.parametrize("version", ["13", "8"])
def test_a_websockets_view_takes_a_right_handshake(view_class: type, version: str) -> None:
    opens = opens_websocket(view_class, upgrade(Sec_WebSocket_Version=version))
    assert bool(opens) == (view_class is Socket and version == "13")


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_a_page_becomes_a_405(status: int) -> None:
    page, closed = Response(status_code=status), []
    page._resource_closers.append(lambda: closed.append("closed"))
    expect_refusal(without_a_page(page))
    assert closed == ["closed"]


@pytest.mark.parametrize("status", [300, 302, 304, 400, 404, 500])
def test_what_opens_no_tunnel_stays(status: int) -> None:
    answer, closed = Response(status_code=status), []
    answer._resource_closers.append(lambda: closed.append("closed"))
    assert without_a_page(answer) is answer
    assert closed == []


def test_a_view_that_is_none_refuses() -> None:
    expect_refusal(NotAWebSocket(request=upgrade()).get_response())


def expect_refusal(response: Response) -> None:
    """A 405 that names no method in place of CONNECT, and the version that is right."""
    assert response.status_code == 405
    assert response.headers["Allow"] == ""
    assert response.headers["Sec-WebSocket-Version"] == "13"
