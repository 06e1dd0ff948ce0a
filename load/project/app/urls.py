"""The paths that `workloads.py` and the locust files ask for."""

from plain.runtime import settings
from plain.urls import Router, URLPattern, path

from . import site, views


def database_urls() -> list[URLPattern]:
    """None where no database was started."""
    if "app.shop" not in settings.INSTALLED_PACKAGES:
        return []
    from .shop.views import Shelf

    return [path("db", Shelf)]


class AppRouter(Router):
    namespace = ""
    urls = (
        path("hello", views.Hello),
        path("json", views.Json),
        path("sleep", views.Sleep),
        path("waiting", views.Waiting),
        path("bytes", views.Bytes),
        path("stream", views.Stream),
        path("upload", views.Upload),
        path("file", views.File),
        path("events", views.Events),
        path("events-async", views.EventsAsync),
        *database_urls(),
        *site.urls,
        path("login", views.Login),
    )
