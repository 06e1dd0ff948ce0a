"""Request deadlines: a view that takes too long is stopped where it waits."""

import asyncio
import inspect
from functools import lru_cache
from typing import Any

import gevent
from plain.http import Response
from plain.logs import get_framework_logger
from plain.views import View

log = get_framework_logger("plain.server")


class DeadlinePassed(BaseException):
    """Raised where a view waits. No `Exception`, which a view might take for its call's."""


@lru_cache
def limited(view_class: type[View], seconds: float) -> type[View]:
    """`view_class` with its `get_response()` limited to `seconds`; past them it is a 503.

    A blocking view is stopped at its next blocking point by `DeadlinePassed`, an async one by
    cancelling it: both run their `finally` blocks. Middleware sees an ordinary response, so
    what it holds for the request is given back.
    """

    class Limited(view_class):  # type: ignore[misc, valid-type]
        def get_response(self) -> Any:
            timer = gevent.Timeout(seconds, DeadlinePassed())
            timer.start()
            try:
                response = super().get_response()
            except (DeadlinePassed, Exception):
                # A call that was interrupted may have made an error of its own of it.
                if timer.pending:
                    raise
                return _unavailable(self, seconds)
            finally:
                timer.close()
            return self._limited(response) if inspect.iscoroutine(response) else response

        async def _limited(self, response: Any) -> Response:
            try:
                async with asyncio.timeout(seconds) as deadline:
                    return await response  # type: ignore[no-any-return]
            except TimeoutError:
                if not deadline.expired():
                    raise
                return _unavailable(self, seconds)

    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        setattr(Limited, name, getattr(view_class, name))
    return Limited


def _unavailable(view: View, seconds: float) -> Response:
    request = view.request
    log.warning(
        "Request deadline passed",
        extra={"method": request.method, "path": request.path, "seconds": seconds},
    )
    body = "<h1>503</h1>"
    return Response(body, status_code=503, headers={"Retry-After": "1"})
