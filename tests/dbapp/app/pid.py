import os

from plain.http import Response
from plain.views import View


class Pid(View):
    """Which worker answers. Needs no database."""

    def get(self) -> Response:
        return Response(str(os.getpid()))
