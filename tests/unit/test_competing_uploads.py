"""Uploads that share a budget: who holds much and sends little gives way."""

import pytest

from plain_gevent_h2.app.plain_internals import BodyBudgetExceeded
from plain_gevent_h2.app.request_rules import RequestRules
from plain_gevent_h2.app.spool import SpooledBody
from plain_gevent_h2.app.upload_budget import PATIENCE, UploadBudget


class Worker:
    """As much of a worker as uploads need. `pass_time` is its clock."""

    def __init__(self, limit: int) -> None:
        self._rules = RequestRules(
            is_tls=True,
            health_check_path="",
            keepalive_timeout=60,
            max_body_size=None,
            body_memory_size=10_000,
            min_body_rate=0,
        )
        self.uploads = UploadBudget(limit)
        self.evicted: list[str] = []
        self._now = 0.0
        self.uploads.tick(self._now)

    def upload(self, name: str, size: int = 0) -> SpooledBody:
        body = SpooledBody(self._rules, self.uploads, lambda: self.evicted.append(name))
        if size:
            body.feed(b"x" * size)
        return body

    def pass_time(self, seconds: int, *uploads: tuple[SpooledBody, int]) -> None:
        """Let time pass, in which each of `uploads` gets so many bytes a second."""
        for _ in range(seconds):
            self._now += 1
            self.uploads.tick(self._now)
            for upload, size in uploads:
                upload.feed(b"x" * size)


class TestUploadBudget:
    def test_who_holds_much_and_sends_little_gives_way(self) -> None:
        worker = Worker(1000)
        slow, slower = worker.upload("slow", 400), worker.upload("slower", 500)
        worker.pass_time(6, (slow, 2), (slower, 1))
        small = worker.upload("small", 100)
        assert worker.evicted == ["slower"]
        assert worker.uploads.used == 412 + 100
        with pytest.raises(BodyBudgetExceeded):
            slower.feed(b"x")  # what came meanwhile
        with pytest.raises(BodyBudgetExceeded):
            slower.end()
        for body in (slow, slower, small):
            body.close()
        assert worker.uploads.used == 0

    def test_no_more_are_evicted_than_must_be(self) -> None:
        worker = Worker(1000)
        for i in range(10):
            worker.upload(f"{i}", 100)
        worker.pass_time(int(PATIENCE) + 1)
        worker.upload("new", 250)
        assert len(worker.evicted) == 3

    def test_who_asks_is_refused_if_it_is_the_worst(self) -> None:
        worker = Worker(1000)
        slow, steady = worker.upload("slow", 500), worker.upload("steady", 200)
        worker.pass_time(15, (slow, 1), (steady, 10))
        slow_left = 1000 - worker.uploads.used
        with pytest.raises(BodyBudgetExceeded):
            slow.feed(b"x" * (slow_left + 1))
        assert worker.evicted == []

    def test_none_is_evicted_that_sends_as_fast_as_it_holds(self) -> None:
        worker = Worker(1000)
        fast = worker.upload("fast", 100)
        worker.pass_time(8, (fast, 100))
        with pytest.raises(BodyBudgetExceeded):
            worker.upload("new", 200)
        assert worker.evicted == []

    def test_none_is_evicted_that_stalls_for_a_moment(self) -> None:
        worker = Worker(1000)
        worker.upload("stalled", 1000)
        worker.pass_time(int(PATIENCE) - 1)
        with pytest.raises(BodyBudgetExceeded):
            worker.upload("new", 1)
        worker.pass_time(2)
        worker.upload("newer", 1)
        assert worker.evicted == ["stalled"]

    def test_a_slow_one_is_left_alone_while_there_is_room(self) -> None:
        worker = Worker(1000)
        slow = worker.upload("slow", 500)
        worker.pass_time(100, (slow, 1))
        worker.upload("new", 400)
        slow.end()
        assert worker.evicted == []

    def test_one_that_is_whole_stays(self) -> None:
        worker = Worker(1000)
        whole, given_up = worker.upload("whole", 600), worker.upload("given up", 100)
        whole.end()
        given_up.close()
        worker.pass_time(100)
        with pytest.raises(BodyBudgetExceeded):
            worker.upload("new", 401)
        assert worker.evicted == []

    def test_one_that_fits_in_no_case_evicts_nobody(self) -> None:
        worker = Worker(1000)
        worker.upload("slow", 500)
        worker.pass_time(100)
        with pytest.raises(BodyBudgetExceeded):
            worker.upload("huge", 1001)
        assert worker.evicted == []

    def test_time_in_which_the_hub_was_blocked_is_not_the_clients(self) -> None:
        budget = UploadBudget(1000)
        budget.tick(100)
        budget.tick(101)
        budget.tick(500)
        assert budget.client_seconds == 2
