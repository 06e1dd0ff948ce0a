"""Whether a request's body arrives fast enough, as sweeps see it."""

from dataclasses import replace

from plain.server.http.sink import BODY_RATE_GRACE_PERIOD

from plain_gevent_h2.app.body_rate import BodyRate
from plain_gevent_h2.app.plain_internals import BODY_RECV_TIMEOUT
from plain_gevent_h2.app.request_rules import RequestRules
from plain_gevent_h2.net.fairness import SWEEP_INTERVAL

RULES = RequestRules(
    is_tls=True,
    health_check_path="",
    keepalive_timeout=5,
    max_body_size=None,
    body_memory_size=100,
    min_body_rate=100,
)
GRACE = int(BODY_RATE_GRACE_PERIOD)


def slow_at(rate: BodyRate, per_second: int, seconds: int, length: int | None = None) -> int | None:
    """The second at which a body of so many bytes a second is too slow; None if it never is."""
    for second in range(1, seconds + 1):
        received = per_second * second if length is None else min(per_second * second, length)
        if rate.is_too_slow(second, received, length):
            return second
    return None


def test_at_the_floor_it_may_go_on() -> None:
    assert slow_at(BodyRate(RULES, 0), 100, 1000) is None


def test_below_it_it_is_too_slow_after_the_grace() -> None:
    for per_second in (0, 1):
        assert slow_at(BodyRate(RULES, 0), per_second, 10_000) == GRACE + 1


def test_a_hub_that_was_blocked_is_not_its_time() -> None:
    rate = BodyRate(RULES, 0)
    for now in range(100, 100 * GRACE + 1, 100):
        assert not rate.is_too_slow(now, 0, None)  # each an interval, however long it took
    assert rate.is_too_slow(100 * (GRACE + 1), 0, None)
    assert SWEEP_INTERVAL == 1


def test_without_its_end_a_whole_body_has_as_long_as_a_read() -> None:
    assert slow_at(BodyRate(RULES, 0), 10, 1000, length=10) == 1 + BODY_RECV_TIMEOUT + 1


def test_a_whole_body_of_no_bytes_has_as_long() -> None:
    assert slow_at(BodyRate(RULES, 0), 10, 1000, length=0) == BODY_RECV_TIMEOUT + 1


def test_with_no_floor_a_silent_one_has_as_long_as_an_idle_connection() -> None:
    rules = replace(RULES, min_body_rate=0)
    assert slow_at(BodyRate(rules, 0), 1, 1000) is None
    assert slow_at(BodyRate(rules, 0), 0, 1000) == 6
    rate = BodyRate(rules, 0)
    assert not rate.is_too_slow(5, 1, None)
    assert not rate.is_too_slow(10, 1, None)
    assert rate.is_too_slow(10.5, 1, None)
