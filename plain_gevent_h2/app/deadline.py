"""Request deadlines: a view that takes too long is stopped where it waits."""

import asyncio
import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from plain.http import Response
from plain.logs import get_framework_logger
from plain.views import View

log = get_framework_logger("plain.server")


class DeadlinePassed(BaseException):
    """Raised where a view waits. No `Exception`, which a view might take for its call's."""


#: The attribute of a view class in which its classes with a deadline are, by their seconds. They
#: live as long as it does.
_CLASSES = "_plain_gevent_h2_with_deadline"


def with_deadline(view_class: type[View], seconds: float) -> type[View]:
    """`view_class` with its `get_response()` limited to `seconds`; past them it is a 503.

    A blocking view is stopped at its next blocking point by `DeadlinePassed`, an async one by
    cancelling it: both run their `finally` blocks. Middleware sees an ordinary response, so
    what it holds for the request is given back. A view that asked for it itself has its
    streaming body limited as well (`body_in_time`); a setting for all views must not end
    downloads and event streams.
    """
    # Of the class itself: what it inherits is for its parent. A cache with a limit made a new class
    # for each request of an app with more views than that.
    known: dict[float, type[View]] | None = vars(view_class).get(_CLASSES)
    if known is None:
        known = {}
        setattr(view_class, _CLASSES, known)
    if seconds not in known:
        known[seconds] = _make_class(view_class, seconds)
    return known[seconds]


def _make_class(view_class: type[View], seconds: float) -> type[View]:
    with_body = hasattr(view_class, "request_deadline")

    class WithDeadline(view_class):  # type: ignore[misc, valid-type]
        def get_response(self) -> Any:
            ends_at = time.monotonic() + seconds
            timer = gevent.Timeout(seconds, DeadlinePassed())
            timer.start()
            try:
                response = super().get_response()
            except (DeadlinePassed, Exception):
                # A call that was interrupted may have made an error of its own of it.
                if timer.pending:
                    raise
                return _unavailable(self)
            finally:
                timer.close()
            if inspect.iscoroutine(response):
                return self._in_time(response, ends_at)
            return _limit_body(response, ends_at) if with_body else response

        async def _in_time(self, coroutine: Any, ends_at: float) -> Any:
            try:
                async with asyncio.timeout(seconds) as deadline:
                    response = await coroutine
            except TimeoutError:
                if not deadline.expired():
                    raise
                return _unavailable(self)
            return _limit_body(response, ends_at) if with_body else response

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(WithDeadline, name, getattr(view_class, name))
    return WithDeadline


def _limit_body(response: Any, ends_at: float) -> Any:
    response.deadline_ends_at = ends_at
    return response


@contextmanager
def body_in_time(response: Response) -> Iterator[None]:
    """Raise `DeadlinePassed` in this block where the view set the response a deadline."""
    ends_at = getattr(response, "deadline_ends_at", None)
    if ends_at is None:
        yield
        return
    timer = gevent.Timeout(max(0.0, ends_at - time.monotonic()), DeadlinePassed())
    timer.start()
    try:
        yield
    finally:
        timer.close()


def log_passed(request: Any) -> None:
    log.warning("Request deadline passed", extra={"method": request.method, "path": request.path})


def _unavailable(view: View) -> Response:
    log_passed(view.request)
    body = "<h1>503</h1>"
    return Response(body, status_code=503, headers={"Retry-After": "1"})
