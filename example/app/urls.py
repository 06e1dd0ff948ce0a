from plain.urls import Router, path

from . import views


class AppRouter(Router):
    namespace = ""
    urls = (
        path("", views.Page),
        path("readme", views.Readme),
        path("slow", views.Slow),
        path("words", views.Words),
        path("upload", views.Upload),
    )
