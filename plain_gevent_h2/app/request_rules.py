"""What both protocols decide alike about a request, before any view."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from .plain_internals import BodyRateFloor, LimitRequestBody, Worker


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRules:
    """The limits of a request, from Plain's own settings. One value for a worker."""

    is_tls: bool
    health_check_path: str  # "" turns the health check off
    keepalive_timeout: float  # seconds
    max_body_size: int | None  # bytes; None is no limit
    body_memory_size: int  # bytes of a body that are kept in memory
    min_body_rate: int  # bytes a second; 0 is no limit

    @classmethod
    def of(cls, worker: Worker) -> Self:
        """Those that Plain's worker has read from the settings."""
        return cls(
            is_tls=worker.app.is_ssl,
            health_check_path=worker.healthcheck_path_bytes.decode("ascii"),
            keepalive_timeout=worker.keepalive_timeout,
            max_body_size=worker.max_request_body,
            body_memory_size=worker.body_max_memory_size,
            min_body_rate=worker.body_min_rate,
        )

    @property
    def scheme(self) -> str:
        return "https" if self.is_tls else "http"

    def check_length(self, content_length: int | None) -> None:
        """Raise `LimitRequestBody`, a 413 (RFC 9110 section 15.5.14), if too much is declared."""
        limit = self.max_body_size
        if limit is not None and content_length is not None and content_length > limit:
            raise LimitRequestBody(content_length, limit)

    def is_health_check(self, target: str) -> bool:
        """Whether the server itself answers `target`, a path with or without a query."""
        path = self.health_check_path
        return bool(path) and target.partition("?")[0] == path

    def rate_floor(self) -> BodyRateFloor:
        """What tells whether the body of one request arrives too slowly."""
        return BodyRateFloor(self.min_body_rate)


def expects_continue(values: Iterable[str]) -> bool:
    """Whether the client waits for a 100 (RFC 9110 section 10.1.1).

    `values` are those of all Expect fields. HTTP/1.0 has no 100: do not ask for its requests.
    """
    return any(
        member.strip(" \t").lower() == "100-continue"
        for value in values
        for member in value.split(",")
    )
