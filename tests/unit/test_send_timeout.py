"""How long a client may leave its response, and what both protocols decide alike."""

from dataclasses import replace

import pytest

from plain_gevent_h2.app.plain_internals import LimitRequestBody
from plain_gevent_h2.app.request_rules import RequestRules, expects_continue
from plain_gevent_h2.limits.send_timeout import (
    PRESSURE,
    SEND_TIMEOUT_UNDER_PRESSURE,
    SEND_TIMEOUT_WHEN_FULL,
    SendTimeout,
)
from plain_gevent_h2.limits.unsent import UnsentBytes


@pytest.mark.parametrize("seconds", [30.0, 0.5])
@pytest.mark.parametrize("holds_slot", [True, False])
@pytest.mark.parametrize("is_full", [True, False])
@pytest.mark.parametrize("pressed", [True, False])
def test_the_timeout(seconds: float, holds_slot: bool, is_full: bool, pressed: bool) -> None:
    unsent = UnsentBytes()
    unsent.http1, unsent.http2 = PRESSURE // 2 + pressed, PRESSURE // 2
    timeout = SendTimeout(seconds, lambda: is_full, unsent)
    if is_full and holds_slot:
        expected = SEND_TIMEOUT_WHEN_FULL
    elif pressed:
        expected = SEND_TIMEOUT_UNDER_PRESSURE
    else:
        expected = seconds
    assert timeout.now(holds_slot=holds_slot) == min(seconds, expected)
    assert timeout.now() == timeout.now(holds_slot=True)


def test_at_first_nothing_is_unsent() -> None:
    unsent = UnsentBytes()
    assert (unsent.http1, unsent.http2, unsent.total) == (0, 0, 0)


RULES = RequestRules(
    is_tls=True,
    health_check_path="/health",
    keepalive_timeout=5,
    max_body_size=1000,
    body_memory_size=100,
    min_body_rate=10,
)


def test_a_length_up_to_the_limit() -> None:
    for length in (None, 0, 1000):
        RULES.check_length(length)
    with pytest.raises(LimitRequestBody):
        RULES.check_length(1001)
    replace(RULES, max_body_size=None).check_length(10**9)
    with pytest.raises(LimitRequestBody):
        replace(RULES, max_body_size=0).check_length(1)


def test_the_health_check() -> None:
    assert RULES.is_health_check("/health")
    assert not RULES.is_health_check("/health/")
    assert not replace(RULES, health_check_path="").is_health_check("")


def test_the_scheme() -> None:
    assert RULES.scheme == "https"
    assert replace(RULES, is_tls=False).scheme == "http"


def test_the_rate_floor_is_the_settings() -> None:
    assert RULES.rate_floor().min_rate == 10


@pytest.mark.parametrize(
    ("values", "expects"),
    [
        ([], False),
        (["100-continue"], True),
        (["100-Continue"], True),
        (["x, \t100-continue"], True),
        (["x", "100-continue"], True),
        (["100"], False),
        (["100-continued"], False),
    ],
)
def test_who_waits_for_a_100(values: list[str], expects: bool) -> None:
    assert expects_continue(values) == expects
