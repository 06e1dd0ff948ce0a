from plain.urls import Router, path

from . import views


class AppRouter(Router):
    namespace = ""
    urls = (
        path("", views.Index),
        path("items/<int:number>", views.Item),
        path("items", views.AddItem),
        path("orders", views.Order),
        path("picture", views.Picture),
        path("last", views.Last),
        path("export", views.Export),
        path("wait", views.Wait),
        path("fails", views.Fails),
    )
