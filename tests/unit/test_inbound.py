"""Whatever takes a stream's bytes says of each byte, once, that it is consumed."""

from collections.abc import Callable

import gevent
import pytest

from plain_gevent_h2.app.inbound import Inbound
from plain_gevent_h2.app.request_rules import RequestRules
from plain_gevent_h2.app.spool import SpooledBody
from plain_gevent_h2.app.unread_websockets import UnreadBudget
from plain_gevent_h2.app.upload_budget import UploadBudget
from plain_gevent_h2.app.websocket import MAX_EARLY, WebSocketTransport
from plain_gevent_h2.net.fairness import yield_to_others

IN_MEMORY = 1000

RULES = RequestRules(
    is_tls=True,
    health_check_path="",
    keepalive_timeout=60,
    max_body_size=None,
    body_memory_size=IN_MEMORY,
    min_body_rate=0,
)

type Make = Callable[[Callable[[int], None]], Inbound]


def body(consumed: Callable[[int], None]) -> Inbound:
    return SpooledBody(RULES, UploadBudget(None), lambda: None, consumed)


def websocket(consumed: Callable[[int], None]) -> Inbound:
    return WebSocketTransport(UnreadBudget(UploadBudget(None)), consumed, lambda: None)


class Window:
    """The bytes of a stream's window, as its client counts them."""

    def __init__(self, make: Make) -> None:
        self.missing = 0
        self.inbound = make(self._consumed)

    def _consumed(self, size: int) -> None:
        self.missing -= size

    def send(self, size: int) -> int:
        """Returns how many of these bytes wait."""
        self.missing += size
        waits = self.inbound.feed(bytes(size))
        self._consumed(size - waits)
        return waits


def until_consumed(window: Window) -> None:
    with gevent.Timeout(60):  # a guard against a hang
        while window.missing:
            yield_to_others()


def test_what_a_body_keeps_in_memory_does_not_wait() -> None:
    window = Window(body)
    assert window.send(IN_MEMORY) == 0
    assert window.missing == 0
    assert window.inbound.progress == IN_MEMORY


def test_what_goes_to_disk_waits_until_it_is_there() -> None:
    window = Window(body)
    assert window.send(IN_MEMORY + 1) == IN_MEMORY + 1
    assert window.missing == IN_MEMORY + 1
    assert window.inbound.progress is None  # our disk is slow, not the client
    until_consumed(window)
    yield_to_others()
    assert window.inbound.progress == IN_MEMORY + 1


def test_a_body_that_is_lost_keeps_nothing_waiting() -> None:
    window = Window(body)
    window.send(IN_MEMORY + 1)
    window.inbound.lost()
    until_consumed(window)


def test_all_of_a_websocket_waits_for_its_view() -> None:
    window = Window(websocket)
    assert window.inbound.progress is None  # it need not send
    assert window.send(10) == 10
    assert window.inbound.progress == window.missing == 10


@pytest.mark.parametrize("more", [0, 5])
def test_a_websocket_that_is_lost_keeps_nothing_waiting(more: int) -> None:
    window = Window(websocket)
    window.send(10)
    window.inbound.lost()
    assert window.missing == 0
    assert window.send(more) == 0
    assert window.missing == 0


def test_a_websocket_that_may_hold_no_more_keeps_nothing_waiting() -> None:
    window = Window(websocket)
    window.send(MAX_EARLY + 1)
    assert window.missing == 0
