"""Calls of a function in a native thread, while the calling greenlet waits."""

import functools
from collections.abc import Callable
from typing import Any

from gevent import Greenlet, get_hub, getcurrent
from gevent.threadpool import ThreadPool

from . import native
from .locks import Lock


def in_native_thread(
    function: Callable[..., Any],
    unless: Callable[..., bool] | None = None,
    pool: ThreadPool | None = None,
) -> Callable[..., Any]:
    """Wrap `function`: a greenlet that calls it has it called in a thread of `pool`.

    Without a `pool`, it is the pool of the greenlet's hub. Arguments for which `unless` is true,
    and callers that are no greenlets (the hub, an event loop, a native thread), call it directly.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if not isinstance(getcurrent(), Greenlet) or (unless and unless(*args, **kwargs)):
            return function(*args, **kwargs)
        hub = get_hub()  # a greenlet of an asyncio thread has another one
        threads = pool if pool is not None and pool.hub is hub else hub.threadpool
        return _settle(*threads.apply(_outcome, (function, args, kwargs)))

    return call


def call_in_new_thread(function: Callable[[], Any], stop: Callable[[], object]) -> Any:
    """Call `function` in a native thread that is started for it.

    A greenlet that is stopped meanwhile calls `stop()`, and waits until `function` has returned.
    """
    outcomes: list[tuple[Any, BaseException | None]] = []
    is_done = Lock()
    is_done.acquire()

    def work() -> None:
        outcomes.append(_outcome(function, (), {}))
        native.destroy_hub()
        is_done.release()

    native.start_new_thread(work, ())
    try:
        is_done.acquire()
    except BaseException:
        stop()
        is_done.acquire()
        raise
    return _settle(*outcomes.pop())  # so that this frame does not have the exception


def _outcome(
    function: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[Any, BaseException | None]:
    """What `function` returns, and what it raises: a thread pool would print that."""
    try:
        return function(*args, **kwargs), None
    except BaseException as exc:
        return None, exc


def _settle(result: Any, exc: BaseException | None) -> Any:
    if exc is not None:
        try:
            raise exc
        finally:
            del exc  # its traceback has this frame: the two would keep all callers' frames
    return result
