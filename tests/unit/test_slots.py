"""The places for streams and the greenlets that run them, without a server."""

import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent
import pytest
from gevent.event import Event

from plain_gevent_h2.limits.slots import AHEAD, STREAMS_IN_A_TURN, Slots
from plain_gevent_h2.net.fairness import yield_to_others


class Stream:
    """As much of a stream as a greenlet runs."""

    def __init__(self, view: Callable[[], object] = lambda: None) -> None:
        self._view = view
        self.greenlet: Any = None
        self.ran_in = 0  # the identity of its greenlet
        self.raised: BaseException | None = None
        self.is_clientless = False
        self.over = Event()

    def run(self) -> bool:
        self.ran_in = id(gevent.getcurrent())
        try:
            self._view()
        except BaseException as exc:
            self.raised = exc
        self.greenlet = None
        self.over.set()
        return self.raised is None


class Source:
    """A connection with streams to start."""

    def __init__(self, *streams: Any) -> None:
        self._streams = list(streams)
        self.refused = 0

    @property
    def has_stream_to_start(self) -> bool:
        return bool(self._streams)

    def next_stream(self) -> Any:
        return self._streams.pop(0) if self._streams else None

    def refuse_waiting(self) -> None:
        self.refused += len(self._streams)
        self._streams.clear()


@pytest.fixture
def slots() -> Slots:
    return Slots(100, lambda: None)


def wait_while(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(60):
        while condition():
            yield_to_others()


def run(slots: Slots, view: Callable[[], object] = lambda: None) -> Stream:
    """Run a stream from its start to its end."""
    stream = Stream(view)
    slots.start_from(Source(stream))
    assert stream.over.wait(60)
    yield_to_others()  # its greenlet becomes idle
    return stream


def test_a_greenlet_runs_one_stream_after_another(slots: Slots) -> None:
    first = run(slots)
    assert run(slots, yield_to_others).ran_in == first.ran_in
    assert run(slots, threading.current_thread).ran_in == first.ran_in
    assert run(slots).ran_in == first.ran_in


def test_links_that_are_still_to_be_called_are_no_leftovers(slots: Slots) -> None:
    """As those of each request that logs: `threading.current_thread()` makes one."""
    made: list[str] = []  # one for each greenlet; their identities come again

    def view() -> None:
        current: Any = gevent.getcurrent()
        current.rawlink(lambda _greenlet: None)
        if not hasattr(current, "known"):
            current.known = True
            made.append("one")

    streams = [Stream(view) for _ in range(100)]
    slots.start_from(Source(*streams))
    assert streams[-1].over.wait(60)
    more = [Stream(view) for _ in range(100)]
    slots.start_from(Source(*more))  # none of the links above was called
    assert more[-1].over.wait(60)
    assert len(made) < AHEAD + 2 * STREAMS_IN_A_TURN


class TestLeftovers:
    """What a request leaves running reaches no other."""

    @pytest.fixture
    def left(self) -> list[Callable[[], object]]:
        """What was left; to call it has it strike, or waits until it has."""
        return []

    @pytest.fixture(
        params=["timeout", "timer", "reference", "weak reference", "throw", "bound method"]
    )
    def leave(
        self, request: pytest.FixtureRequest, left: list[Callable[[], object]]
    ) -> Callable[[], None]:
        def leave() -> None:
            current: Any = gevent.getcurrent()
            if request.param == "timeout":
                timeout = gevent.Timeout.start_new(0.02)
                left.append(lambda: wait_while(lambda: timeout.pending))
            elif request.param == "timer":
                left.append(gevent.spawn_later(0.02, current.throw, ValueError).join)
            elif request.param == "reference":
                left.append(lambda: current.kill(block=False))
            elif request.param == "weak reference":
                known = weakref.proxy(current)
                left.append(lambda: known.kill(block=False))
            elif request.param == "throw":
                left.append(current.throw)
            else:
                left.append(current.kill)

        return leave

    @pytest.mark.parametrize("waits", [False, True], ids=["at once", "after a wait"])
    def test_they_have_their_greenlet_to_themselves(
        self,
        slots: Slots,
        leave: Callable[[], None],
        left: list[Callable[[], object]],
        *,
        waits: bool,
    ) -> None:
        def view() -> None:
            if waits:
                yield_to_others()
            leave()

        with_leftovers = run(slots, view)
        assert with_leftovers.raised is None
        have_struck = Event()
        others = [Stream(lambda: have_struck.wait(10)) for _ in range(3)]
        slots.start_from(Source(*others))
        wait_while(lambda: not all(other.ran_in for other in others))
        for strike in left:
            with suppress(ReferenceError):  # the greenlet has ended
                strike()
        yield_to_others()
        have_struck.set()
        for other in others:
            assert other.over.wait(60)
            assert other.raised is None
        assert slots.running == 0

    def test_after_a_kill_without_a_wait(self, slots: Slots) -> None:
        run(slots, lambda: gevent.getcurrent().kill(block=False))  # type: ignore[attr-defined]
        assert run(slots, yield_to_others).raised is None


def test_who_is_over_leaves_the_queue() -> None:
    slots = Slots(1, lambda: None)
    goes_on = Event()
    running, gone, waiting = Stream(goes_on.wait), Stream(), Stream()
    slots.start_from(Source(running))
    over = Source(gone)
    slots.start_from(over)
    slots.start_from(Source(waiting))
    for _ in range(2):
        slots.leave(over)
    goes_on.set()
    assert waiting.over.wait(60)
    assert not gone.over.is_set()
    assert not slots.is_full()


class TestClientless:
    """Streams whose clients have left, in a worker with four places."""

    @pytest.fixture
    def slots(self) -> Slots:
        return Slots(4, lambda: None)

    @pytest.fixture
    def end(self) -> Event:
        """What the views wait for."""
        return Event()

    @staticmethod
    def start(slots: Slots, end: Event, number: int) -> list[Stream]:
        streams = [Stream(end.wait) for _ in range(number)]
        slots.start_from(Source(*streams))
        wait_while(lambda: not all(stream.ran_in for stream in streams))
        return streams

    @staticmethod
    def leave(slots: Slots, streams: list[Stream]) -> None:
        for stream in streams:
            stream.is_clientless = True
            slots.client_left()

    def test_they_give_their_places_to_those_who_wait(self, slots: Slots, end: Event) -> None:
        streams = self.start(slots, end, 4)
        waiting = Stream()
        slots.start_from(Source(waiting))
        yield_to_others()
        assert not waiting.over.is_set()
        self.leave(slots, streams[:1])
        assert waiting.over.wait(60)

    def test_past_their_number_they_keep_their_places(self, slots: Slots, end: Event) -> None:
        for places in (4, 4):
            self.leave(slots, self.start(slots, end, places))
        assert (slots.running, slots.clientless) == (4, 8)
        assert slots.busy == 8
        waiting = Stream()
        slots.start_from(Source(waiting))
        yield_to_others()
        assert not waiting.over.is_set()
        end.set()
        assert waiting.over.wait(60)
        wait_while(lambda: bool(slots.running or slots.clientless))

    @pytest.mark.parametrize("held", [0, 1, 2, 4])
    def test_who_waits_is_refused_once_they_hold_half_of_the_places(
        self, slots: Slots, end: Event, held: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.leave(slots, self.start(slots, end, 4))
        self.leave(slots, self.start(slots, end, 4)[:held])
        source = Source(Stream(), Stream())
        slots.start_from(source)
        with caplog.at_level("WARNING", "plain.server"):
            for _ in range(2):
                slots.refuse_waiting()
        assert source.refused == (2 if held >= 2 else 0)
        lines = [line for line in caplog.records if "without their clients" in line.getMessage()]
        assert [vars(line)["clientless"] for line in lines] == ([4 + held] if held >= 2 else [])
        end.set()

    def test_nobody_is_refused_while_there_are_places(self, slots: Slots, end: Event) -> None:
        self.leave(slots, self.start(slots, end, 4))
        self.leave(slots, self.start(slots, end, 3))
        served = Stream()
        slots.start_from(Source(served))
        slots.refuse_waiting()
        assert served.over.wait(60)
        end.set()

    @pytest.mark.parametrize(
        ("places", "streams", "share"),
        [(10_000, 100, 200), (50, 100, 75), (10, 5, 10), (1, 100, 2)],
    )
    def test_one_connection_leaves_places_to_others(
        self, places: int, streams: int, share: int
    ) -> None:
        assert Slots(places, lambda: None).share(streams) == share


class TestGreenlets:
    """Which greenlets run another stream."""

    def test_one_that_failed_runs_no_other(self, slots: Slots) -> None:
        """What failed may have been thrown into it, and more of it may be to come."""

        def fail() -> None:
            raise ValueError("on purpose")

        failed = Stream(fail)
        slots.start_from(Source(failed))
        greenlet = failed.greenlet
        assert failed.over.wait(60)
        yield_to_others()
        assert greenlet.dead
        assert greenlet not in slots.greenlets.idle

    def test_one_that_something_is_thrown_into_while_idle_ends(self, slots: Slots) -> None:
        stream = Stream()
        slots.start_from(Source(stream))
        greenlet = stream.greenlet
        assert stream.over.wait(60)
        wait_while(lambda: greenlet not in slots.greenlets.idle)
        greenlet.kill(ValueError, block=False)
        wait_while(lambda: not greenlet.dead)
        assert greenlet not in slots.greenlets.idle
        assert run(slots).raised is None

    def test_one_that_something_is_thrown_into_as_a_stream_is_to_begin(self, slots: Slots) -> None:
        """It was meant for the stream before. The next one runs undisturbed; then both end."""
        run(slots)
        goes_on = Event()
        stream = Stream(goes_on.wait)
        gevent.get_hub().loop.run_callback(lambda: stream.greenlet.throw(ValueError))
        slots.start_from(Source(stream))
        greenlet = stream.greenlet
        for _ in range(3):  # what was to begin it has its turn, too
            yield_to_others()
        assert stream.ran_in == id(greenlet)
        assert not stream.over.is_set()
        goes_on.set()
        assert stream.over.wait(60)
        assert stream.raised is None
        wait_while(lambda: not greenlet.dead)
        assert greenlet not in slots.greenlets.idle

    def test_a_stream_that_raises_gives_its_place_back(
        self, slots: Slots, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Broken(Stream):
            def run(self) -> bool:
                raise ValueError("on purpose")

        monkeypatch.setattr(gevent.get_hub(), "print_exception", lambda *_: None)
        slots.start_from(Source(Broken()))
        wait_while(lambda: slots.running > 0)
        assert slots.running == slots._ahead == 0

    def test_links_hear_of_the_streams_end(self, slots: Slots) -> None:
        heard: list[str] = []

        def view() -> None:
            current: Any = gevent.getcurrent()
            taken_back = heard.append
            current.rawlink(taken_back)
            current.unlink(taken_back)
            current.unlink(taken_back)
            current.rawlink(lambda of: heard.append("over" if of is current else "another"))

        run(slots, view)
        assert heard == ["over"]
        run(slots)
        assert heard == ["over"]

    def test_before_the_first_stream_there_are_none_to_end(self, slots: Slots) -> None:
        assert slots.most_running == slots.busy == 0
        slots.greenlets.trim()
        assert slots.greenlets.idle == []
        run(slots)
        slots.greenlets.trim()
        assert len(slots.greenlets.idle) == 1

    def test_those_not_needed_lately_end_a_tenth_at_a_time(self, slots: Slots) -> None:
        many = Slots(1000, lambda: None)
        goes_on = Event()
        streams = [Stream(goes_on.wait) for _ in range(300)]
        many.start_from(Source(*streams))
        wait_while(lambda: not all(stream.ran_in for stream in streams))
        goes_on.set()
        wait_while(lambda: len(many.greenlets.idle) < 300)
        for spare in (0, 10, 9):  # of a second in which they were needed, none
            before = len(many.greenlets.idle)
            many.greenlets.trim()
            assert before - len(many.greenlets.idle) == spare
        run(many)
        assert many.greenlets._least_idle == 280

    def test_most_running_falls_by_a_tenth_a_second(self) -> None:
        slots = Slots(1000, lambda: None)
        goes_on = Event()
        streams = [Stream(goes_on.wait) for _ in range(100)]
        slots.start_from(Source(*streams))
        wait_while(lambda: not all(stream.ran_in for stream in streams))
        slots.lower_most_running()
        assert slots.most_running == 100
        goes_on.set()
        wait_while(lambda: slots.running > 0)
        slots.lower_most_running()
        slots.lower_most_running()
        assert slots.most_running == 81


class TestTurns:
    """Which streams start, and when."""

    @staticmethod
    def started(sources: list[list[Stream]]) -> list[int]:
        return [sum(bool(stream.greenlet) for stream in streams) for streams in sources]

    def test_a_connection_has_so_many_at_once_and_then_waits_for_its_turn(self) -> None:
        slots = Slots(10_000, lambda: None)
        goes_on = Event()
        streams = [[Stream(goes_on.wait) for _ in range(100)] for _ in range(3)]
        sources = [Source(*each) for each in streams]
        slots.start_from(sources[0])
        ahead = self.started(streams)[0]  # whole turns
        assert AHEAD <= ahead < AHEAD + STREAMS_IN_A_TURN
        for source in sources[1:]:
            slots.start_from(source)
        assert self.started(streams) == [ahead, 0, 0]
        most_apart = 0
        while sum(self.started(streams)) < 300:
            _, second, third = self.started(streams)
            most_apart = max(most_apart, second - third)
            yield_to_others()
        assert most_apart <= STREAMS_IN_A_TURN
        goes_on.set()
        for stream in (stream for each in streams for stream in each):
            assert stream.over.wait(60)
        assert slots.running == 0
        assert not slots._waiting

    def test_of_many_connections_as_few_start_ahead_of_the_view_that_runs(self) -> None:
        slots = Slots(10_000, lambda: None)
        streams = [Stream() for _ in range(2 * AHEAD)]
        for stream in streams:
            slots.start_from(Source(stream))
        assert sum(bool(stream.greenlet) for stream in streams) == AHEAD
        assert not slots.is_full()  # they wait for their turn, not for a slot
        for stream in streams:
            assert stream.over.wait(60)

    def test_it_is_full_while_someone_waits_for_a_slot(self) -> None:
        slots = Slots(2, lambda: None)
        goes_on = Event()
        slots.start_from(Source(Stream(goes_on.wait), Stream(goes_on.wait)))
        assert not slots.is_full()
        waiting = Source(Stream())
        slots.start_from(waiting)
        assert slots.is_full()
        waiting.next_stream()  # its client has reset it
        assert not slots.is_full()
        goes_on.set()

    def test_a_slot_that_becomes_free_is_for_the_first_that_waits(self) -> None:
        """Also if another comes before the hub has given it away."""
        slots = Slots(1, lambda: None)
        order: list[str] = []
        runs = Stream(Event().wait)
        slots.start_from(Source(runs))
        slots.start_from(Source(Stream(lambda: order.append("waited"))))
        yield_to_others()
        runs.is_clientless = True
        slots.client_left()
        last = Stream(lambda: order.append("came"))
        slots.start_from(Source(last))
        assert last.over.wait(60)
        assert order == ["waited", "came"]
        runs.greenlet.kill()

    def test_no_more_run_than_there_are_places(self) -> None:
        most, number = 0, []
        slots = Slots(3, lambda: number.append(1))

        def view() -> None:
            nonlocal most
            most = max(most, slots.running)
            yield_to_others()

        streams = [Stream(view) for _ in range(10)]
        slots.start_from(Source(*streams))
        assert slots.is_full()
        for stream in streams:
            assert stream.over.wait(60)
        assert most == 3
        assert len(number) == 10  # each is told as it starts
        assert not slots.is_full()
        assert slots.most_running == 3

    def test_one_that_comes_later_waits_behind_those_that_wait(self) -> None:
        slots = Slots(1, lambda: None)
        order: list[int] = []
        streams = [Stream(lambda i=i: order.append(i)) for i in range(4)]  # type: ignore[misc]
        for stream in streams:
            slots.start_from(Source(stream))
        for stream in streams:
            assert stream.over.wait(60)
        assert order == [0, 1, 2, 3]
