from plain.http import HttpMiddleware, Request, Response


class TestMiddleware(HttpMiddleware):
    def before_request(self, request: Request) -> Response | None:
        if request.path == "/middleware-error":
            raise RuntimeError("the middleware failed on purpose")
        return None

    def after_response(self, request: Request, response: Response) -> Response:
        response.headers["X-Test-Middleware"] = "seen"
        return response
