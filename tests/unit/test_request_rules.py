"""What both protocols decide alike about a request, before any view."""

from types import SimpleNamespace
from typing import Any

import pytest

from plain_gevent_h2.app.plain_internals import LimitRequestBody
from plain_gevent_h2.app.request_rules import RequestRules, expects_continue

LIMIT = 1000


def rules(**changed: Any) -> RequestRules:
    values: dict[str, Any] = {
        "is_tls": True,
        "health_check_path": "/health",
        "keepalive_timeout": 120.0,
        "max_body_size": LIMIT,
        "body_memory_size": 64,
        "min_body_rate": 500,
    }
    return RequestRules(**{**values, **changed})


def test_they_are_those_of_the_worker() -> None:
    worker: Any = SimpleNamespace(
        app=SimpleNamespace(is_ssl=False),
        healthcheck_path_bytes=b"/up",
        keepalive_timeout=7.0,
        max_request_body=2000,
        body_max_memory_size=128,
        body_min_rate=250,
    )
    assert RequestRules.of(worker) == RequestRules(
        is_tls=False,
        health_check_path="/up",
        keepalive_timeout=7.0,
        max_body_size=2000,
        body_memory_size=128,
        min_body_rate=250,
    )


@pytest.mark.parametrize(("is_tls", "scheme"), [(True, "https"), (False, "http")])
def test_the_scheme_is_that_of_the_server(is_tls: bool, scheme: str) -> None:
    assert rules(is_tls=is_tls).scheme == scheme


class TestDeclaredLength:
    """A 413 by the header fields alone (RFC 9110 section 15.5.14)."""

    @pytest.mark.parametrize("length", [None, 0, 1, LIMIT - 1, LIMIT])
    def test_within_the_limit(self, length: int | None) -> None:
        rules().check_length(length)

    @pytest.mark.parametrize("length", [LIMIT + 1, 2**63])
    def test_past_the_limit(self, length: int) -> None:
        with pytest.raises(LimitRequestBody) as caught:
            rules().check_length(length)
        assert (caught.value.size, caught.value.max_size) == (length, LIMIT)

    @pytest.mark.parametrize("length", [None, 0, LIMIT + 1, 2**63])
    def test_without_a_limit(self, length: int | None) -> None:
        rules(max_body_size=None).check_length(length)

    def test_a_limit_of_nothing(self) -> None:
        """Zero is a limit, and not the lack of one."""
        nothing = rules(max_body_size=0)
        nothing.check_length(0)
        with pytest.raises(LimitRequestBody):
            nothing.check_length(1)


class TestHealthCheck:
    @pytest.mark.parametrize("target", ["/health", "/health?", "/health?verbose=1", "/health?a?b"])
    def test_it_is_the_path_whatever_the_query(self, target: str) -> None:
        assert rules().is_health_check(target)

    @pytest.mark.parametrize(
        "target",
        ["", "/", "/healt", "/healthz", "/health/", "/Health", "health", "/a?/health", "?/health"],
    )
    def test_no_other_path_is(self, target: str) -> None:
        assert not rules().is_health_check(target)

    @pytest.mark.parametrize("target", ["", "/", "?", "?a=1", "/health"])
    def test_turned_off_nothing_is(self, target: str) -> None:
        assert not rules(health_check_path="").is_health_check(target)


class TestExpect:
    """RFC 9110 section 10.1.1: a list, in any case, in any number of fields."""

    @pytest.mark.parametrize(
        "values",
        [
            ["100-continue"],
            ["100-Continue"],
            ["100-CONTINUE"],
            [" \t100-continue\t "],
            ["other, 100-continue"],
            ["100-continue,other"],
            ["a=b;c , 100-continue , d"],
            [",100-continue"],
            ["other", "100-continue"],
            ["100-continue", "100-continue"],
        ],
    )
    def test_a_100_is_expected(self, values: list[str]) -> None:
        assert expects_continue(values)

    @pytest.mark.parametrize(
        "values",
        [
            [],
            [""],
            [","],
            ["continue"],
            ["100"],
            ["100-continue;q=1"],
            ["100 -continue"],
            ["x100-continue"],
            ["100-continued"],
            ["100-", "continue"],
            ["\xa0100-continue"],  # white space is a space or a tab (section 5.6.3)
        ],
    )
    def test_none_is(self, values: list[str]) -> None:
        assert not expects_continue(values)

    def test_the_fields_may_come_one_by_one(self) -> None:
        assert expects_continue(value for value in ("other", "100-continue"))


class TestRateFloor:
    """Plain's: it asks for so many bytes for each second of waiting past a grace period."""

    GRACE = 5.0  # seconds: Plain's BODY_RATE_GRACE_PERIOD
    WAITED = GRACE + 100

    @pytest.mark.parametrize(
        ("received", "slow"), [(49_999, True), (50_000, False), (50_001, False)]
    )
    def test_it_is_the_minimum_rate(self, received: int, slow: bool) -> None:
        floor = rules(min_body_rate=500).rate_floor()
        floor.record(waited=self.WAITED, received=received)
        assert floor.violated() is slow

    def test_no_floor(self) -> None:
        floor = rules(min_body_rate=0).rate_floor()
        floor.record(waited=self.WAITED, received=0)
        assert not floor.violated()

    def test_each_body_has_its_own(self) -> None:
        one = rules()
        slow = one.rate_floor()
        slow.record(waited=self.WAITED, received=0)
        assert slow.violated()
        assert not one.rate_floor().violated()
