"""Uploads: small ones, and one of 5 MB that is sent as it is made."""

from collections.abc import Iterator
from typing import ClassVar

from common import LoadUser, Row
from locust import between, task

SMALL = b"x" * 100_000
PIECE, PIECES = b"x" * 50_000, 100


def pieces() -> Iterator[bytes]:
    for _ in range(PIECES):
        yield PIECE


class Uploader(LoadUser):
    weight = 1
    wait_time = between(1, 3)
    limits: ClassVar[dict[Row, float]] = {("POST", "100 KB"): 1000, ("POST", "5 MB"): 5000}

    def on_start(self) -> None:
        self.small()
        self.large()

    @task(5)
    def small(self) -> None:
        self.upload("100 KB", SMALL, len(SMALL))

    @task(1)
    def large(self) -> None:
        self.upload("5 MB", pieces(), len(PIECE) * PIECES)

    def upload(self, name: str, data: bytes | Iterator[bytes], size: int) -> None:
        with self.client.post("/upload", name=name, data=data, catch_response=True) as response:
            if response.ok and int(response.text) != size:
                response.failure("not all of it arrived")
