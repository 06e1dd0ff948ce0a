"""Many event streams: each user listens to several over one connection, and comes again.

A row of type EVENT has the time from sending an event to its arrival. Both clocks must agree:
those of one machine do.
"""

import random
import time
from typing import ClassVar

from common import LoadUser, Row
from gevent.pool import Group
from locust import constant, task

STREAMS = 10
#: Events, one a second, after which a listener leaves.
EVENTS = range(5, 20)


class Listener(LoadUser):
    weight = 3
    wait_time = constant(1)
    limits: ClassVar[dict[Row, float]] = {("EVENT", "tick"): 500, ("GET TTFB", "ticks"): 1000}

    @task
    def listen(self) -> None:
        Group().map(self.listen_to_one, [random.choice(EVENTS) for _ in range(STREAMS)])

    def listen_to_one(self, count: int) -> None:
        with self.client.stream("GET", "/site/ticks", name="ticks") as response:
            for _, event in zip(range(count), response.events(), strict=False):
                self.environment.events.request.fire(
                    request_type="EVENT",
                    name="tick",
                    response_time=max(0.0, time.time() - float(event.data)) * 1000,
                    response_length=len(event.data),
                    exception=None,
                    context=self.context(),
                )
