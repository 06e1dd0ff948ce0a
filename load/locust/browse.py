"""People with browsers: a page and what belongs to it at once, a look at it, the next page."""

import random
from typing import ClassVar

from common import LoadUser, Row
from gevent.pool import Group
from locust import between, task

ASSETS = [f"/bytes?n={size}" for size in (2_000, 5_000, 15_000, 30_000, 60_000, 120_000)]


class Visitor(LoadUser):
    weight = 10
    wait_time = between(1, 5)
    limits: ClassVar[dict[Row, float]] = {
        ("GET", "page"): 1000,
        ("GET", "asset"): 1000,
        ("GET", "product"): 1000,
    }

    def on_start(self) -> None:
        self.visit()
        self.look()

    @task(3)
    def visit(self) -> None:
        self.client.get("/site/", name="page")
        # All at once over the one connection, as a browser does it.
        Group().map(lambda url: self.client.get(url, name="asset"), ASSETS)

    @task(10)
    def look(self) -> None:
        number = random.randrange(50)
        with self.client.get(
            f"/site/products/{number}", name="product", catch_response=True
        ) as response:
            if response.ok and response.json()["number"] != number:
                response.failure("another product than asked for")

    @task(1)
    def buy(self) -> None:
        self.client.post("/site/cart", name="cart", data={"product": random.randrange(50)})
