from plain.urls import Router, path

from . import parts
from .notes import views as notes
from .pid import Pid
from .users import views as users


class AppRouter(Router):
    namespace = ""
    urls = (path("pid", Pid), *notes.urls, *users.urls, *parts.urls)
