"""Calls in native threads, as greenlets make them."""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from plain_gevent_h2.patching.native_calls import call_in_new_thread, in_native_thread


class Caller:
    """What a caller has in its frame."""


def call_in_thread_of_pool(function: Callable[[], Any]) -> None:
    in_native_thread(function)()


def call_in_thread_of_its_own(function: Callable[[], Any]) -> None:
    call_in_new_thread(function, lambda: None)


@pytest.mark.parametrize("call", [call_in_thread_of_pool, call_in_thread_of_its_own])
def test_an_exception_keeps_no_caller_once_it_is_handled(
    call: Callable[[Callable[[], Any]], None],
) -> None:
    """A cycle of a traceback and its frame would, until the garbage collector comes."""
    seen: list[weakref.ref[Caller]] = []

    def fail() -> None:
        raise OSError("as asked")

    def calls() -> None:
        caller = Caller()
        seen.append(weakref.ref(caller))
        with pytest.raises(OSError, match="as asked"):
            call(fail)

    gc.disable()
    try:
        gevent.spawn(calls).get(timeout=60)
        assert seen[0]() is None
    finally:
        gc.enable()
