"""The views that need no library but Plain and gevent: all that the protocol tier serves."""

from plain.urls import Router, path

from . import (
    body_views,
    failure_views,
    header_views,
    left_views,
    length_views,
    stream_views,
    views,
    ws_views,
)


class MemoryRouter(Router):
    namespace = ""
    urls = (
        path("", views.Hello),
        path("echo", views.Echo),
        path("meta", views.Meta),
        path("sleep", views.Sleep),
        path("bytes", views.Bytes),
        path("chunks", views.Chunks),
        path("statuses", views.Statuses),
        path("file", views.File),
        path("failing-body", views.FailingBody),
        path("watched", views.Watched),
        path("endless", views.Endless),
        path("slow", views.Slow),
        path("together", views.Together),
        path("left/async", left_views.Async),
        *body_views.urls,
        *failure_views.urls,
        *header_views.urls,
        *length_views.urls,
        *stream_views.urls,
        *ws_views.urls,
    )
