"""What the locust files ask for: a small shop, and a stream of events."""

import time
from collections.abc import Iterator

from plain.http import JsonResponse, Response, StreamingResponse
from plain.urls import path
from plain.views import View

#: Seconds that the shop waits for its database.
DATABASE = 0.01
PRODUCTS = 50

ROW = '<li><a href="/site/products/{0}">Product {0}</a> <p>{1}</p></li>'
PAGE = "<!doctype html><title>Shop</title><ul>{}</ul>".format(
    "".join(ROW.format(number, "What it is good for. " * 8) for number in range(PRODUCTS))
)


class Products(View):
    """A page of 10 KB."""

    def get(self) -> Response:
        time.sleep(DATABASE)
        return Response(PAGE)


class Product(View):
    def get(self) -> JsonResponse:
        time.sleep(DATABASE)
        return JsonResponse({"number": self.url_kwargs["number"], "price": 1299})


class Cart(View):
    """Takes a form, as a browser sends it."""

    def post(self) -> JsonResponse:
        time.sleep(DATABASE)
        return JsonResponse({"added": self.request.form_data["product"]}, status_code=201)


class Ticks(View):
    """An event a second, which says when it was sent."""

    def get(self) -> StreamingResponse:
        return StreamingResponse(self.ticks(), content_type="text/event-stream")

    def ticks(self) -> Iterator[str]:
        while True:
            yield f"data: {time.time()}\n\n"
            time.sleep(1.0)


urls = (
    path("site/", Products),
    path("site/products/<int:number>", Product),
    path("site/cart", Cart),
    path("site/ticks", Ticks),
)
