"""The signals that are blocked after a fork, in the process that forked and in its child."""

import signal
from collections.abc import Iterator

import pytest

from plain_gevent_h2.patching import forks


def blocked() -> set[int]:
    return signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.fixture
def mask() -> Iterator[set[int]]:
    before = blocked()
    yield before
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_two_greenlets_of_a_thread_that_fork_at_once_leave_no_signal_blocked(
    mask: set[int],
) -> None:
    """The first waits in a later hook, for a lock, and lets the second begin."""
    forks._block_signals()
    forks._block_signals()
    assert signal.SIGTERM in blocked()
    forks._unblock_signals()
    assert signal.SIGTERM in blocked()  # the other one has yet to fork
    forks._unblock_signals()
    assert blocked() == mask
    assert not forks._blocked
