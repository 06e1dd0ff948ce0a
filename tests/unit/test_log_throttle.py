"""Lines that come once a minute, with time that the test sets."""

import pytest
from clock import Clock

from plain_gevent_h2.net import log_throttle
from plain_gevent_h2.net.log_throttle import INTERVAL, Failures, OnceAMinute


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock.of(log_throttle, monkeypatch)
    clock.now = 0.0
    return clock


def test_the_first_is_due_and_the_next_after_a_minute(clock: Clock) -> None:
    line = OnceAMinute()
    due = []
    for now in (0.0, 0.0, INTERVAL - 0.5, INTERVAL, INTERVAL + 0.5, 2 * INTERVAL):
        clock.now = now
        due.append(line.is_due())
    assert due == [True, False, False, True, False, True]


def test_who_asks_in_between_does_not_put_it_off(clock: Clock) -> None:
    line = OnceAMinute()
    assert line.is_due()
    for second in range(1, int(INTERVAL)):
        clock.now = second
        assert not line.is_due()
    clock.now = INTERVAL
    assert line.is_due()


def test_failures_are_counted_until_they_are_told(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    failures = Failures("TLS handshakes failed")
    failures.report()  # of none there is no line, and the next is due
    for reason in ("a", "b", "b"):
        failures.add(reason)
    with caplog.at_level("WARNING", "plain.server"):
        failures.report()
        failures.add("c")
        failures.report()
        clock.now = INTERVAL
        failures.report()
        clock.now = 2 * INTERVAL
        failures.report()  # all are told
    told = [(r.getMessage(), r.count, r.commonest) for r in caplog.records]  # type: ignore[attr-defined]
    assert told == [("TLS handshakes failed", 3, "b"), ("TLS handshakes failed", 1, "c")]
