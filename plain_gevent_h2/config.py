"""The worker's settings, checked once and then passed around as one value."""

from dataclasses import dataclass
from typing import Any, Self

from plain.exceptions import ImproperlyConfigured

WORKERS = ("asyncio", "gevent-h2")

#: The name of a protocol in `SERVER_HTTP_PROTOCOLS`, and in the TLS handshake (RFC 7301).
ALPN_NAMES = {"h2": "h2", "h1": "http/1.1", "http/1.1": "http/1.1"}

#: Each integer setting with the values it may have (RFC 9113 section 6.5.2 for the
#: SETTINGS among them).
_RANGES = {
    "SERVER_CONNECTIONS": (1, None),
    "SERVER_TIMEOUT": (0, None),
    "SERVER_GRACEFUL_TIMEOUT": (0, None),
    "SERVER_KEEPALIVE_TIMEOUT": (1, None),
    "SERVER_MAX_REQUESTS": (0, None),
    "SERVER_MAX_REQUESTS_JITTER": (0, None),
    "SERVER_MAX_REQUEST_BODY_SIZE": (0, None),
    "SERVER_MAX_INFLIGHT_BODY_SIZE": (0, None),
    "SERVER_BODY_MAX_MEMORY_SIZE": (1, None),
    "SERVER_BODY_MIN_BYTES_PER_SECOND": (0, None),
    "SERVER_H2_MAX_CONCURRENT_STREAMS": (1, 2**31 - 1),
    "SERVER_H2_INITIAL_WINDOW_SIZE": (1, 2**31 - 1),
    "SERVER_H2_MAX_FRAME_SIZE": (2**14, 2**24 - 1),
    "SERVER_H2_MAX_HEADER_LIST_SIZE": (1024, 2**31 - 1),
    "SERVER_H2_MAX_REQUESTS_PER_CONNECTION": (1, None),
    "SERVER_SEND_TIMEOUT": (1, None),
    "SERVER_MAX_RUNNING_STREAMS": (1, None),
    "SERVER_REQUEST_DEADLINE": (0, None),
    "SERVER_HUB_BLOCKED_SECONDS": (0, None),
}


def unknown_worker(value: str) -> str:
    """What is wrong with this value of `SERVER_WORKER`."""
    return f"SERVER_WORKER must be {' or '.join(map(repr, WORKERS))} (got {value!r})."


def parse_protocols(value: str, name: str = "SERVER_HTTP_PROTOCOLS") -> tuple[str, ...]:
    """The ALPN names in `value` (such as "h2,h1"), in its order.

    Raises `ImproperlyConfigured`, naming `name`, if one is unknown or there is none.
    """
    words = [word.strip().lower() for word in value.split(",") if word.strip()]
    unknown = [word for word in words if word not in ALPN_NAMES]
    if unknown or not words:
        raise ImproperlyConfigured(
            f"{name} must be a comma-separated list of h2 and h1 (got {value!r})."
        )
    return tuple(dict.fromkeys(ALPN_NAMES[word] for word in words))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What HTTP/2 connections and the worker need to know of the settings."""

    protocols: tuple[str, ...]
    max_concurrent_streams: int
    initial_window_size: int  # bytes
    max_frame_size: int  # bytes
    max_header_list_size: int  # bytes
    max_requests_per_connection: int
    send_timeout: float  # seconds
    max_running_streams: int
    request_deadline: float  # seconds; 0 is none
    hub_blocked_after: float  # seconds; 0 does not look

    @classmethod
    def load(cls, settings: Any, http_protocols: str | None = None) -> Self:
        """Check the settings and take those that this package reads.

        `http_protocols` is the command line's value, which goes before the setting's.
        Raises `ImproperlyConfigured` with one line that names the setting.
        """
        for name, (lowest, highest) in _RANGES.items():
            value = getattr(settings, name)
            if value is None:
                continue  # no limit, for the two that may be that
            if value < lowest or (highest is not None and value > highest):
                bound = f"at least {lowest}" if highest is None else f"{lowest} to {highest}"
                raise ImproperlyConfigured(f"{name} must be {bound} (got {value}).")
        if http_protocols is None:
            protocols = parse_protocols(settings.SERVER_HTTP_PROTOCOLS)
        else:
            protocols = parse_protocols(http_protocols, "--http-protocols")
        return cls(
            protocols=protocols,
            max_concurrent_streams=settings.SERVER_H2_MAX_CONCURRENT_STREAMS,
            initial_window_size=settings.SERVER_H2_INITIAL_WINDOW_SIZE,
            max_frame_size=settings.SERVER_H2_MAX_FRAME_SIZE,
            max_header_list_size=settings.SERVER_H2_MAX_HEADER_LIST_SIZE,
            max_requests_per_connection=settings.SERVER_H2_MAX_REQUESTS_PER_CONNECTION,
            send_timeout=settings.SERVER_SEND_TIMEOUT,
            max_running_streams=settings.SERVER_MAX_RUNNING_STREAMS,
            request_deadline=settings.SERVER_REQUEST_DEADLINE,
            hub_blocked_after=settings.SERVER_HUB_BLOCKED_SECONDS,
        )
