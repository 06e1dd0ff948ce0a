"""The deadlines of views, and the classes that give views one."""

import asyncio
import gc
import time
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import GreenletExit
from gevent.event import Event
from plain.http import Response
from plain.views import View

from plain_gevent_h2.app.deadline import DeadlinePassed, body_in_time, with_deadline


def make_view(**attributes: Any) -> type[View]:
    return type("Page", (View,), attributes)


def test_each_view_is_limited_once_however_many_there_are() -> None:
    views = [make_view() for _ in range(500)]
    first = [with_deadline(view, 1.5) for view in views]
    assert [with_deadline(view, 1.5) for view in views] == first
    assert len(set(first)) == 500


def test_each_deadline_has_a_class_of_its_own() -> None:
    view = make_view()
    assert with_deadline(view, 1) is not with_deadline(view, 2)


def test_a_view_is_not_taken_for_its_parent() -> None:
    parent = make_view()
    with_deadline(parent, 1)
    child = type("Child", (parent,), {})
    assert issubclass(with_deadline(child, 1), child)


def test_a_limited_view_looks_like_the_view() -> None:
    view = make_view(__doc__="A page.")
    shown = with_deadline(view, 1)
    assert (shown.__name__, shown.__module__, shown.__doc__) == ("Page", __name__, "A page.")


def test_a_class_that_nobody_uses_any_more_is_not_kept() -> None:
    view = make_view()
    gone = weakref.ref(with_deadline(view, 1))
    del view
    gc.collect()
    assert gone() is None


SOON = 0.02


def let_timers_fire() -> None:
    """Wait for a timer that is later than all others: what they raise is raised here."""
    with gevent.Timeout(2 * SOON, False):  # type: ignore[arg-type]  # the stubs lack False
        Event().wait()


def respond(get_response: Callable[[Any], Any], seconds: float = SOON, **attributes: object) -> Any:
    """What a view with this deadline answers."""
    view = with_deadline(make_view(get_response=get_response, **attributes), seconds)
    page = view.__new__(view)
    page.request = SimpleNamespace(method="GET", path="/x")  # type: ignore[assignment]
    return page.get_response()


class TestBlockingView:
    def test_in_time_its_response_comes_and_no_timer_goes_on(self) -> None:
        response = Response("x")
        assert respond(lambda _: response) is response
        let_timers_fire()

    def test_a_failure_in_time_is_raised_and_no_timer_goes_on(self) -> None:
        def fail(_: object) -> None:
            raise LookupError("on purpose")

        with pytest.raises(LookupError):
            respond(fail, seconds=60)
        with pytest.raises(LookupError):
            respond(fail)
        let_timers_fire()

    def test_past_it_it_is_a_503(self, caplog: pytest.LogCaptureFixture) -> None:
        ended: list[str] = []

        def wait(_: object) -> Response:
            try:
                Event().wait()
            finally:
                ended.append("ended")
            return Response()

        with caplog.at_level("WARNING", "plain.server"):
            response = respond(wait)
        assert response.status_code == 503
        assert response.headers.items() >= {"Retry-After": "1"}.items()
        assert response.content == b"<h1>503</h1>"
        assert ended == ["ended"]
        (line,) = caplog.records
        assert line.getMessage() == "Request deadline passed"
        assert (line.method, line.path) == ("GET", "/x")  # type: ignore[attr-defined]

    def test_past_it_an_error_that_was_made_of_it_is_a_503_too(self) -> None:
        def wait(_: object) -> Response:
            try:
                Event().wait()
            except BaseException as exc:
                raise ConnectionError("the call was cut") from exc
            return Response()

        assert respond(wait).status_code == 503

    @pytest.mark.parametrize("exc", [GreenletExit, SystemExit])
    def test_what_stops_the_greenlet_stops_it(self, exc: type[BaseException]) -> None:
        def stop(_: object) -> None:
            raise exc

        with pytest.raises(exc):
            respond(stop)

    def test_only_a_view_that_asked_for_it_has_its_body_limited(self) -> None:
        assert not hasattr(respond(lambda _: Response()), "deadline_ends_at")
        before = time.monotonic()
        response = respond(lambda _: Response(), 60, request_deadline=60)
        assert before + 60 <= response.deadline_ends_at <= time.monotonic() + 60


class TestAsyncView:
    @staticmethod
    def respond(
        coroutine: Callable[[Any], Any], seconds: float = SOON, **attributes: object
    ) -> Any:
        return asyncio.run(respond(coroutine, seconds, **attributes))

    def test_in_time_its_response_comes(self) -> None:
        response = Response()

        async def view(_: object) -> Response:
            return response

        assert self.respond(view) is response
        assert not hasattr(response, "deadline_ends_at")
        before = time.monotonic()
        assert self.respond(view, 60, request_deadline=60) is response
        ends_at = response.deadline_ends_at
        assert before + 60 <= ends_at <= time.monotonic() + 60

    def test_past_it_it_is_cancelled_and_a_503(self) -> None:
        ended: list[str] = []

        async def view(_: object) -> Response:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("ended")
            return Response()

        assert self.respond(view).status_code == 503
        assert ended == ["ended"]

    def test_a_timeout_of_its_own_is_raised(self) -> None:
        async def view(_: object) -> Response:
            raise TimeoutError("on purpose")

        with pytest.raises(TimeoutError, match="on purpose"):
            self.respond(view, 60)


class TestBody:
    @staticmethod
    def limited_to(seconds: float) -> Any:
        response = Response()
        response.deadline_ends_at = time.monotonic() + seconds  # type: ignore[attr-defined]
        return response

    def test_without_a_deadline(self) -> None:
        with body_in_time(Response()):
            let_timers_fire()

    def test_in_time_no_timer_goes_on_after_it(self) -> None:
        with body_in_time(self.limited_to(SOON)):
            pass
        with pytest.raises(LookupError), body_in_time(self.limited_to(SOON)):
            raise LookupError("on purpose")
        let_timers_fire()

    @pytest.mark.parametrize("left", [SOON, -1.0])
    def test_past_it_it_is_stopped(self, left: float) -> None:
        with pytest.raises(DeadlinePassed), body_in_time(self.limited_to(left)):
            Event().wait()
