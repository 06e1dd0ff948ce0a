from plain.urls import Router

from . import hub_views, inside_views, left_views, life_views, native_views, trace_views
from .memory_urls import MemoryRouter


class AppRouter(Router):
    namespace = ""
    urls = (
        *MemoryRouter.urls,
        *life_views.urls,
        *trace_views.urls,
        *hub_views.urls,
        *inside_views.urls,
        *left_views.urls,
        *native_views.urls,
    )
