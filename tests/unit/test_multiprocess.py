"""Polls of a child by several threads, as `multiprocessing` does them in a worker."""

import threading
from types import SimpleNamespace

from harness import WAIT

from plain_gevent_h2.patching.multiprocess import _poll_one_at_a_time

#: Seconds that a second poll has to be wrong in. It waits for the first for as long.
OVERLAP = 0.2


def test_of_two_polls_at_once_both_learn_how_the_process_ended() -> None:
    """The system tells one caller alone: to the other there is no such child."""
    popen = SimpleNamespace(returncode=None)
    polled: list[bool] = []
    is_asked, may_answer = threading.Event(), threading.Event()

    def ask_the_system(popen: SimpleNamespace) -> None:
        is_first = not polled
        polled.append(is_first)
        if is_first:
            is_asked.set()
            assert may_answer.wait(WAIT)
            popen.returncode = 3

    poll = _poll_one_at_a_time(ask_the_system, lambda _: None)
    codes: list[int | None] = []
    callers = [threading.Thread(target=lambda: codes.append(poll(popen))) for _ in range(2)]
    callers[0].start()
    assert is_asked.wait(WAIT)
    callers[1].start()
    callers[1].join(OVERLAP)
    may_answer.set()
    for caller in callers:
        caller.join(WAIT)
    assert codes == [3, 3]


def test_a_handler_that_polls_during_a_poll_does_not_block() -> None:
    """As a handler of SIGCHLD does, in the same thread."""
    popen = SimpleNamespace(returncode=None)

    def ask_the_system(popen: SimpleNamespace) -> None:
        if popen.returncode is None:
            popen.returncode = 3
            assert poll(popen) == 3

    poll = _poll_one_at_a_time(ask_the_system, lambda _: None)
    assert poll(popen) == 3
