from plain.http import JsonResponse, Response
from plain.views import View

from .models import Item


class Shelf(View):
    """Ten rows by an index, through the ORM."""

    def get(self) -> Response:
        items = Item.query.filter(shelf=int(self.request.query_params["shelf"]))
        return JsonResponse([{"name": item.name, "price": item.price} for item in items])
