"""Programs that ask an API whose views wait, each for several things at a time."""

import random
from typing import ClassVar

from common import LoadUser, Row
from gevent.pool import Group
from locust import constant_pacing, task

AT_ONCE = 4


class Program(LoadUser):
    weight = 5
    wait_time = constant_pacing(3)
    limits: ClassVar[dict[Row, float]] = {("GET", "quick"): 500, ("GET", "slow"): 1500}

    def on_start(self) -> None:
        self.quick()
        self.slow()

    @task(9)
    def quick(self) -> None:
        Group().map(lambda _: self.client.get("/sleep?ms=50", name="quick"), range(AT_ONCE))

    @task(1)
    def slow(self) -> None:
        milliseconds = random.randrange(200, 500)
        self.client.get(f"/sleep?ms={milliseconds}", name="slow", timeout=10)
