"""The paths that `workloads.py` asks for."""

from plain.urls import Router, path

from . import views


class AppRouter(Router):
    namespace = ""
    urls = (
        path("hello", views.Hello),
        path("sleep", views.Sleep),
        path("bytes", views.Bytes),
        path("upload", views.Upload),
        path("login", views.Login),
    )
