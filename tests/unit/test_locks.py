"""The lock and the queue for greenlets and native threads at once."""

import queue
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.exceptions import BlockingSwitchOutError
from harness import WAIT

from plain_gevent_h2.patching import locks
from plain_gevent_h2.patching.locks import Lock, SimpleQueue

#: A turn of the hub, in a loop that waits for a condition.
let_others_run = gevent.sleep


def in_native_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Start `function` in a native thread. Returns a function that waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()

    def result() -> Any:
        while thread.is_alive():
            let_others_run(0.001)
        return results[0]

    return result


def until_waited_for(lock: Lock, count: int = 1) -> None:
    with gevent.Timeout(WAIT):
        while len(lock._waiters) < count:
            let_others_run()


def held() -> Lock:
    lock = Lock()
    lock.acquire()
    return lock


def test_a_native_thread_wakes_a_greenlet() -> None:
    lock = held()
    waiting = gevent.spawn(lock.acquire)
    until_waited_for(lock)
    in_native_thread(lock.release)()
    assert waiting.get(timeout=WAIT) is True
    assert lock.locked()


def test_a_greenlet_wakes_a_native_thread() -> None:
    lock = held()
    result = in_native_thread(lock.acquire)
    until_waited_for(lock)
    lock.release()
    assert result() is True
    assert lock.locked()


def test_a_greenlet_of_another_hub_is_woken() -> None:
    lock = held()
    result = in_native_thread(lambda: gevent.spawn(lock.acquire).get())
    until_waited_for(lock)
    lock.release()
    assert result() is True


def test_in_a_thread_whose_hub_waits_for_nothing_else() -> None:
    """Its loop would end, with LoopExit in the greenlet that waits."""
    lock = held()

    def wait() -> bool:
        let_others_run()  # makes the hub
        return lock.acquire()

    result = in_native_thread(wait)
    until_waited_for(lock)
    lock.release()
    assert result() is True


def test_a_timeout() -> None:
    lock = held()
    assert lock.acquire(timeout=0.01) is False
    assert in_native_thread(lambda: lock.acquire(timeout=0.01))() is False
    assert not lock._waiters
    lock.release()
    assert lock.acquire(timeout=0.01) is True


def test_without_blocking() -> None:
    lock = Lock()
    assert lock.acquire(False) is True
    assert lock.acquire(False) is False
    assert lock.acquire(timeout=0) is False
    lock.release()
    assert not lock.locked()


def test_a_caller_that_tries_in_a_loop_lets_the_owner_run() -> None:
    lock = held()
    gevent.spawn(lock.release)
    with gevent.Timeout(WAIT):
        while not lock.acquire(False):
            pass


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((False, 1), ValueError), ((True, -2), ValueError), ((True, 1e12), OverflowError)],
)
def test_arguments_are_checked_as_those_of_the_original(
    arguments: Any, error: type[Exception]
) -> None:
    original = threading.Lock()
    original.acquire()
    with pytest.raises(error):
        original.acquire(*arguments)
    with pytest.raises(error):
        held().acquire(*arguments)


def test_a_release_too_many() -> None:
    with pytest.raises(RuntimeError):
        Lock().release()


def test_a_release_too_many_loses_no_waiter() -> None:
    lock = held()
    first, second = gevent.spawn(lock.acquire), gevent.spawn(lock.acquire)
    until_waited_for(lock, 2)
    lock.release()
    with pytest.raises(RuntimeError):  # the first has not run yet
        lock.release()
    assert first.get(timeout=WAIT) is True
    lock.release()
    assert second.get(timeout=WAIT) is True


def test_it_has_what_the_original_has() -> None:
    public = {name for name in dir(threading.Lock()) if not name.startswith("__")}
    assert public <= set(dir(Lock()))


def test_a_waiter_that_is_killed_as_it_is_woken_wakes_the_next() -> None:
    lock = held()
    first, second = gevent.spawn(lock.acquire), gevent.spawn(lock.acquire)
    until_waited_for(lock, 2)
    first.kill(block=False)  # in the next turn of the hub, before it is woken there
    lock.release()
    assert second.get(timeout=WAIT) is True
    assert not isinstance(first.value, bool)


def test_a_waiter_that_is_killed_as_it_gets_the_lock_passes_it_on() -> None:
    lock = held()
    first, second = gevent.spawn(lock.acquire), gevent.spawn(lock.acquire)
    until_waited_for(lock, 2)
    lock.release()
    lock.acquire()  # before the first has run: it will be given the lock
    until_waited_for(lock, 2)
    first.kill(block=False)
    lock.release()
    assert lock.locked()  # it is the first one's already
    assert second.get(timeout=WAIT) is True


def test_a_caller_that_locks_in_a_loop_keeps_no_waiter_out() -> None:
    lock = Lock()
    waiting = gevent.Greenlet(lock.acquire)

    def hog() -> None:
        while not waiting.ready():
            with lock:
                let_others_run()

    hogging = gevent.spawn(hog)
    waiting.start()
    assert waiting.get(timeout=WAIT) is True
    lock.release()
    hogging.get(timeout=WAIT)


def test_the_hub_itself_gets_an_error_in_place_of_a_deadlock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks, "HUB_TIMEOUT", 0.01)
    lock = held()
    outcome: list[object] = []

    def callback() -> None:
        try:
            outcome.append(lock.acquire())
        except BlockingSwitchOutError as exc:
            outcome.append(exc)

    gevent.get_hub().loop.run_callback(callback)
    with gevent.Timeout(WAIT):
        while not outcome:
            let_others_run()
    assert isinstance(outcome[0], BlockingSwitchOutError)
    assert not lock._waiters


def test_greenlets_and_threads_of_all_kinds_exclude_each_other() -> None:
    """One holds the lock at a time, and no waiter is left."""
    lock, inside, most = Lock(), 0, 0
    numbers = random.Random(20261130)

    def work(rounds: int, pause: Callable[[], object]) -> int:
        nonlocal inside, most
        taken = 0
        for _ in range(rounds):
            if not lock.acquire(timeout=numbers.choice((-1, -1, 0.0005, 0))):
                continue
            inside += 1
            most = max(most, inside)
            if numbers.random() < 0.1:
                pause()
            inside -= 1
            lock.release()
            taken += 1
        return taken

    def in_a_hub() -> int:
        greenlets = [gevent.spawn(work, 100, let_others_run) for _ in range(4)]
        return sum(greenlet.get() for greenlet in greenlets)

    natives = [in_native_thread(lambda: work(300, lambda: None)) for _ in range(3)]
    natives += [in_native_thread(in_a_hub) for _ in range(2)]
    greenlets = [gevent.spawn(work, 200, lambda: let_others_run(0.0001)) for _ in range(8)]
    with gevent.Timeout(WAIT):
        taken = [greenlet.get() for greenlet in greenlets] + [result() for result in natives]
    assert all(taken)
    assert most == 1
    assert not lock.locked()
    assert not lock._waiters


class TestSimpleQueue:
    def test_it_has_what_the_original_has(self) -> None:
        public = {name for name in dir(queue.SimpleQueue()) if not name.startswith("__")}
        assert public <= set(dir(SimpleQueue()))

    def test_nothing_in_time(self) -> None:
        empty = SimpleQueue()
        for arguments in ((False,), (True, 0.01), (True, 0)):
            with pytest.raises(queue.Empty):
                empty.get(*arguments)
        with pytest.raises(ValueError, match="non-negative"):
            empty.get(timeout=-1)
        assert not empty._waiters

    def test_a_waiter_that_is_killed_as_it_is_woken_wakes_the_next(self) -> None:
        items = SimpleQueue()
        first, second = gevent.spawn(items.get), gevent.spawn(items.get)
        with gevent.Timeout(WAIT):
            while len(items._waiters) < 2:
                let_others_run()
        first.kill(block=False)  # in the next turn of the hub, before it is woken there
        items.put("item")
        assert second.get(timeout=WAIT) == "item"

    def test_put_in_the_middle_of_get(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As a finalizer does that the garbage collector calls."""
        items = SimpleQueue()
        waiter_class = locks._Waiter

        def new_waiter() -> Any:
            items.put("item")
            return waiter_class()

        monkeypatch.setattr(locks, "_Waiter", new_waiter)
        with gevent.Timeout(WAIT):
            assert items.get() == "item"

    def test_each_item_is_taken_once_by_greenlets_and_threads(self) -> None:
        items = SimpleQueue()

        def take() -> list[int]:
            return list(iter(items.get, None))

        def put(start: int) -> None:
            for number in range(start, start + 200):
                items.put(number)

        takers = [in_native_thread(take) for _ in range(3)]
        takers += [in_native_thread(lambda: gevent.spawn(take).get()) for _ in range(2)]
        greenlets = [gevent.spawn(take) for _ in range(4)]
        putters = [in_native_thread(partial(put, start)) for start in (0, 200)]
        with gevent.Timeout(WAIT):
            put(400)
            for done in putters:
                done()
            for _ in range(9):
                items.put(None)
            taken = [greenlet.get() for greenlet in greenlets] + [result() for result in takers]
        assert sorted(number for numbers in taken for number in numbers) == list(range(600))
        assert items.empty()
