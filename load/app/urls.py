"""The paths that `workloads.py` and the locust files ask for."""

from plain.urls import Router, path

from . import site, views


class AppRouter(Router):
    namespace = ""
    urls = (
        path("hello", views.Hello),
        path("sleep", views.Sleep),
        path("bytes", views.Bytes),
        path("upload", views.Upload),
        *site.urls,
    )
