"""What a request's header fields, path and form are to a view, and sent back by it."""

from plain.http import JsonResponse, Response
from plain.urls import path
from plain.views import View


class Fields(View):
    """All that a view can read of a head. Fields that begin with `X-` are sent back."""

    def get(self) -> Response:
        request = self.request
        response = JsonResponse(
            {
                "method": request.method,
                "path": request.get_full_path(),
                "query": dict(request.query_params.lists()),
                "uri": request.build_absolute_uri(),
                "client_ip": request.client_ip,
                "port": request.port,
                "content_type": request.content_type,
                "content_params": request.content_params,
                "encoding": request.encoding,
                "accepted": [str(accepted) for accepted in request.accepted_types],
                "cookies": request.cookies,
                "headers": dict(request.headers),
            }
        )
        for name, value in request.headers.items():
            if name.startswith("X-"):
                response.headers[name] = value
        for name in request.cookies:
            if name.isascii() and name.isalnum():
                response.set_cookie(name, request.cookies[name])
        return response

    def post(self) -> Response:
        form, files = self.request.form_data, self.request.files
        return Response(repr((list(form.lists()), list(files.lists()))), content_type="text/plain")


class Json(View):
    def post(self) -> Response:
        return JsonResponse(self.request.json_data)


class Sets(View):
    """A response with `text` where `part` says."""

    def get(self) -> Response:
        params = self.request.query_params
        response = Response("sets", content_type="text/plain")
        if params["part"] == "header":
            response.headers["X-Set"] = params["text"]
        else:
            response.set_cookie("set", params["text"])
        return response


urls = [
    path("fields", Fields),
    path("fields/<str:rest>", Fields),
    path("sets", Sets),
    path("json", Json),
]
