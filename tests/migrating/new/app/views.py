"""The shop as a Plain app. The code of the views is the old one, blocking calls and all."""

import hashlib
import time

from plain.http import (
    BadRequestError400,
    JsonResponse,
    NotFoundError404,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from plain.views import View


class Index(View):
    def get(self):
        return Response("Welcome to the shop")


class Item(View):
    def get(self):
        number = self.url_kwargs["number"]
        if number > 100:
            raise NotFoundError404
        currency = self.request.query_params.get("currency", "EUR")
        return JsonResponse({"number": number, "currency": currency})


class AddItem(View):
    def post(self):
        if "name" not in self.request.form_data:
            raise BadRequestError400
        name = self.request.form_data["name"]
        response = RedirectResponse(f"/items/{len(name)}", status_code=302)
        response.set_cookie("last", name, httponly=True)
        return response


class Order(View):
    def post(self):
        return JsonResponse({"items": self.request.json_data["items"]}, status_code=201)


class Picture(View):
    def put(self):
        data = self.request.body
        return JsonResponse({"size": len(data), "digest": hashlib.sha256(data).hexdigest()})


class Last(View):
    def get(self):
        return Response(f"last: {self.request.cookies.get('last')}")


class Export(View):
    def get(self):
        def lines():
            for number in range(1000):
                yield f"{number},item {number}\n"

        return StreamingResponse(lines(), content_type="text/csv")


class Wait(View):
    def get(self):
        time.sleep(float(self.request.query_params["s"]))
        return Response("waited")


class Fails(View):
    def get(self):
        raise RuntimeError("out of stock")
