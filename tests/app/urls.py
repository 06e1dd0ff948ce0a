from plain.urls import Router, path

from . import views


class AppRouter(Router):
    namespace = ""
    urls = (
        path("", views.Hello),
        path("echo", views.Echo),
        path("meta", views.Meta),
        path("sleep", views.Sleep),
        path("bytes", views.Bytes),
        path("chunks", views.Chunks),
    )
