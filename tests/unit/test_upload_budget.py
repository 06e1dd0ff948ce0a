"""Which upload gives way when the budget for bodies is used up, with time that the test sets."""

import pytest

from plain_gevent_h2.app.upload_budget import PATIENCE, RATE_WINDOW, Pace, UploadBudget
from plain_gevent_h2.net.fairness import SWEEP_INTERVAL


class Upload:
    """As much of an upload as is evicted."""

    def __init__(self, budget: UploadBudget, size: int, seconds: float) -> None:
        self.budget, self.size, self.seconds = budget, size, seconds
        self.evicted = 0
        budget.charge(size)
        budget.begin(self)

    def seconds_at_rate(self, more: int = 0) -> float:
        return self.seconds + more / 1000

    def evict(self) -> None:
        self.evicted += 1
        self.budget.release(self.size)
        self.budget.end(self)


def evicted(*uploads: Upload) -> list[int]:
    return [upload.evicted for upload in uploads]


class TestPace:
    def test_a_steady_upload(self) -> None:
        pace, received = Pace(0.0), 0
        for second in range(20):
            pace.record(second, received)
            received += 100
            # All of it at 100 bytes a second, or at what the last seconds say.
            assert pace.seconds_at_rate(second + 1, received) == pytest.approx(max(2, second + 1))

    def test_the_first_bytes_take_no_less_than_the_window(self) -> None:
        assert Pace(5.0).seconds_at_rate(5.0, 100) == RATE_WINDOW
        assert Pace(5.0).seconds_at_rate(5.0, 0) == 0.0

    def test_one_that_stalls_gets_slower(self) -> None:
        pace = Pace(0.0)
        pace.record(0.0, 0)
        pace.record(2.0, 1000)
        assert pace.seconds_at_rate(3.9, 1000) == pytest.approx(3.9)
        assert pace.seconds_at_rate(4.0, 1000) == float("inf")
        assert pace.seconds_at_rate(4.0, 1500) == pytest.approx(1500 * 2 / 500)

    def test_a_fast_start_is_forgotten(self) -> None:
        pace, received = Pace(0.0), 1_000_000
        for second in range(1, 8):
            pace.record(second, received)
            received += 1
        assert pace.seconds_at_rate(8, received) > 1_000_000

    @pytest.mark.parametrize("start", [0.0, 100.0])
    def test_it_is_measured_over_one_to_two_windows(self, start: float) -> None:
        pace = Pace(start)
        pace.record(start + RATE_WINDOW - 0.1, 1)  # too early for a mark
        pace.record(start + RATE_WINDOW, 200)
        pace.record(start + RATE_WINDOW + 1, 600)
        received = 1000
        at = start + RATE_WINDOW + 1
        assert pace.seconds_at_rate(at, received) == pytest.approx(RATE_WINDOW + 1)
        # The mark of before is left once the next is old enough.
        at = start + 2 * RATE_WINDOW
        assert pace.seconds_at_rate(at, received) == pytest.approx(received * RATE_WINDOW / 800)


class TestNow:
    def test_it_is_the_time_that_clients_had(self) -> None:
        budget = UploadBudget(1000)
        for now in (50.0, 50.5, 51.0, 60.0, 60.1):
            budget.tick(now)
        assert budget.client_seconds == pytest.approx(0.5 + 0.5 + SWEEP_INTERVAL + 0.1)


class TestMakeRoom:
    def test_the_slowest_goes_first_and_no_more_than_need_be(self) -> None:
        budget = UploadBudget(1000)
        slow, slowest, slower = (Upload(budget, 300, PATIENCE + s) for s in (1, 3, 2))
        asks = Upload(budget, 100, 0)
        assert budget.make_room(asks, 1)
        assert evicted(slow, slowest, slower) == [0, 1, 0]
        budget.charge(1)
        assert budget.make_room(asks, 299)
        assert evicted(slow, slowest, slower) == [0, 1, 0]
        assert budget.make_room(asks, 300)
        assert evicted(slow, slowest, slower) == [0, 1, 1]

    def test_up_to_the_last_byte(self) -> None:
        budget = UploadBudget(1000)
        upload = Upload(budget, 500, 100)
        asks = Upload(budget, 0, 0)
        assert budget.make_room(asks, 500)
        assert upload.evicted == 0
        assert budget.make_room(asks, 501)
        assert upload.evicted == 1

    def test_one_within_its_patience_stays(self) -> None:
        budget = UploadBudget(1000)
        upload = Upload(budget, 1000, PATIENCE)
        assert not budget.make_room(Upload(budget, 0, 0), 1)
        assert upload.evicted == 0

    def test_one_that_is_slower_itself_evicts_nobody(self) -> None:
        """Counted with the bytes that it asks for."""
        budget = UploadBudget(1000)
        upload = Upload(budget, 900, PATIENCE + 50)
        asks = Upload(budget, 0, PATIENCE + 49.7)
        assert not budget.make_room(asks, 400)
        assert upload.evicted == 0
        assert budget.make_room(asks, 200)
        assert upload.evicted == 1

    def test_the_slowest_does_not_evict_itself(self) -> None:
        budget = UploadBudget(1000)
        asks = Upload(budget, 1000, 1000)
        asks.seconds_at_rate = lambda more=0: 0.0 if more else 1000.0  # type: ignore[method-assign]
        assert not budget.make_room(asks, 1)
        assert asks.evicted == 0

    @pytest.mark.parametrize(("limit", "size"), [(None, 1), (1000, 1001)])
    def test_what_never_fits_evicts_nobody(self, limit: int | None, size: int) -> None:
        budget = UploadBudget(limit)
        upload = Upload(budget, 500, 100)
        assert not budget.make_room(Upload(budget, 0, 0), size)
        assert upload.evicted == 0
        assert not limit or budget.make_room(Upload(budget, 0, 0), limit)

    def test_one_that_is_whole_stays(self) -> None:
        budget = UploadBudget(1000)
        upload = Upload(budget, 1000, 100)
        budget.end(upload)
        budget.end(upload)
        assert not budget.make_room(Upload(budget, 0, 0), 1)
        assert upload.evicted == 0

    def test_the_ranking_holds_for_a_while_but_for_those_that_changed(self) -> None:
        budget = UploadBudget(1000)
        ends, speeds_up, slow = (Upload(budget, 300, 100 - i) for i in range(3))
        assert budget._worst() is ends
        later = Upload(budget, 0, 10_000)
        assert budget._worst() is ends
        budget.end(ends)
        speeds_up.seconds = PATIENCE
        assert budget._worst() is slow
        budget.tick(1.0)
        budget.tick(2.0)
        assert budget._worst() is later

    def test_for_websockets(self) -> None:
        budget = UploadBudget(1000)
        upload = Upload(budget, 1000, 100)
        assert budget.make_room_for_websockets()
        assert upload.evicted == 0
        budget.release(-100)  # as WebSockets are counted
        assert budget.make_room_for_websockets()
        assert upload.evicted == 1
        budget.release(-901)
        assert not budget.make_room_for_websockets()
        assert UploadBudget(None).make_room_for_websockets()
