"""The classes that give views a deadline."""

import gc
import weakref
from typing import Any

from plain.views import View

from plain_gevent_h2.app.deadline import limited


def make_view(**attributes: Any) -> type[View]:
    return type("Page", (View,), attributes)


def test_each_view_is_limited_once_however_many_there_are() -> None:
    views = [make_view() for _ in range(500)]
    first = [limited(view, 1.5) for view in views]
    assert [limited(view, 1.5) for view in views] == first
    assert len(set(first)) == 500


def test_each_deadline_has_a_class_of_its_own() -> None:
    view = make_view()
    assert limited(view, 1) is not limited(view, 2)


def test_a_view_is_not_taken_for_its_parent() -> None:
    parent = make_view()
    limited(parent, 1)
    child = type("Child", (parent,), {})
    assert issubclass(limited(child, 1), child)


def test_a_limited_view_looks_like_the_view() -> None:
    view = make_view(__doc__="A page.")
    shown = limited(view, 1)
    assert (shown.__name__, shown.__module__, shown.__doc__) == ("Page", __name__, "A page.")


def test_a_class_that_nobody_uses_any_more_is_not_kept() -> None:
    view = make_view()
    gone = weakref.ref(limited(view, 1))
    del view
    gc.collect()
    assert gone() is None
