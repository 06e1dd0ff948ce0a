"""before_request and after_request; gunicorn's pre_request and post_request."""

from plain.http import HttpMiddleware

from .notes import note


class Notes(HttpMiddleware):
    def before_request(self, request):
        note(f"request {request.method} {request.path}")

    def after_response(self, request, response):
        note(f"response {response.status_code}")
        return response


class Visitor(HttpMiddleware):
    def before_request(self, request):
        request.visitor = request.headers.get("X-Visitor", "nobody")

    def after_response(self, request, response):
        response.headers["X-Shop"] = f"open for {request.visitor}"
        return response
