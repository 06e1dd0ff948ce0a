from plain.urls import Router, path

from . import views


class AppRouter(Router):
    namespace = ""
    urls = (
        path("", views.Page),
        path("slow", views.Slow),
        path("words", views.Words),
        path("upload", views.Upload),
    )
