from plain.http import HttpMiddleware, Request, Response

from .failure_views import FAILURES


class TestMiddleware(HttpMiddleware):
    def before_request(self, request: Request) -> Response | None:
        if request.path == "/middleware-error":
            raise RuntimeError("the middleware failed on purpose")
        if "maintenance" in request.query_params:
            return Response("back soon")
        self._fail(request, "before")
        return None

    def after_response(self, request: Request, response: Response) -> Response:
        self._fail(request, "after")
        response.headers["X-Test-Middleware"] = "seen"
        return response

    @staticmethod
    def _fail(request: Request, part: str) -> None:
        params = request.query_params
        if request.path == "/failures/middleware" and params["part"] == part:
            FAILURES[params["how"]]()
