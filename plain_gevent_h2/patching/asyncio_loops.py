"""Event loops that blocking code runs: `asyncio.run()`, a `Runner`, `loop.run_forever()`.

asyncio knows a running loop by its native thread, which many greenlets share. So a loop that a
greenlet runs gets a native thread for as long as it runs, and a greenlet has no running loop.
"""

import asyncio
import functools
from collections.abc import Callable
from typing import Any

from gevent import Greenlet, getcurrent, spawn
from gevent.monkey import get_original

from . import native
from .native_calls import call_in_new_thread
from .threads import shared_threads

_loop_class: Any = asyncio.BaseEventLoop
_run_forever = _loop_class.run_forever
_run_in_executor = _loop_class.run_in_executor
_get_running_loop = asyncio.events._get_running_loop
_system_selector = get_original("selectors", "DefaultSelector")


def patch_loops() -> None:
    """Give a loop that a greenlet runs a native thread.

    Its selector is the system's. One of gevent's belongs to the thread that makes it, and this
    loop runs in another.
    """
    _loop_class.run_forever = _run_forever_in_new_thread
    vars(asyncio.events)["_get_running_loop"] = _get_loop_unless_greenlet
    selector_loop: Any = asyncio.SelectorEventLoop
    init = selector_loop.__init__

    @functools.wraps(init)
    def init_with_system_selector(self: Any, selector: Any = None) -> None:
        init(self, _system_selector() if selector is None else selector)

    selector_loop.__init__ = init_with_system_selector


@functools.wraps(_run_forever)
def _run_forever_in_new_thread(self: Any) -> None:
    if not isinstance(getcurrent(), Greenlet):
        _run_forever(self)
        return
    is_running = True

    def run() -> None:
        nonlocal is_running
        try:
            _run_forever(self)
        finally:
            is_running = False

    def stop_if_running() -> None:
        if is_running:  # if not, this is a later run of the same loop
            self.stop()

    call_in_new_thread(run, stop=lambda: self.call_soon_threadsafe(stop_if_running))


def _get_loop_unless_greenlet() -> Any:
    """`_get_running_loop()`, by which asyncio refuses to run a second loop in a thread.

    It finds the worker's own loop in a greenlet of that loop's thread (`asyncio.to_thread()`).
    """
    return None if isinstance(getcurrent(), Greenlet) else _get_running_loop()


def patch_executors() -> None:
    """Have loops of the threads in `shared_threads` run an executor's functions in greenlets."""
    _loop_class.run_in_executor = _run_in_greenlet


@functools.wraps(_run_in_executor)
def _run_in_greenlet(self: Any, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
    if native.get_ident() not in shared_threads:
        return _run_in_executor(self, executor, func, *args)
    future = self.create_future()

    def settle(how: Callable[[Any], None], value: Any) -> None:
        if not future.done():
            how(value)

    def work() -> None:
        try:
            # Not submitted in the loop's own greenlet, which must not wait for a thread.
            result = func(*args) if executor is None else executor.submit(func, *args).result()
        except BaseException as exc:
            self.call_soon_threadsafe(settle, future.set_exception, exc)
        else:
            self.call_soon_threadsafe(settle, future.set_result, result)

    spawn(work)
    return future
