"""What the worker counts, for OpenTelemetry. Costs nearly nothing while nobody collects.

Names are those of the semantic conventions where they have one, else `plain.server.*`.
"""

from collections.abc import Callable
from functools import cache

from opentelemetry import metrics

_meter = metrics.get_meter("plain_gevent_h2")

_open_connections = _meter.create_up_down_counter(
    "plain.server.open_connections", "{connection}", "Connections that are served now."
)
_active_requests = _meter.create_up_down_counter(
    "http.server.active_requests", "{request}", "Requests whose view or response is under way."
)
_resets = _meter.create_counter(
    "plain.server.http2.stream_resets", "{stream}", "Streams reset, by whom and why."
)
_refused = _meter.create_counter(
    "plain.server.http2.refused_streams", "{stream}", "Streams past the limit of a connection."
)
_abusive = _meter.create_counter(
    "plain.server.abusive_connections", "{connection}", "Connections closed for abuse."
)
_evicted = _meter.create_counter(
    "plain.server.evicted_connections", "{connection}", "Idle connections closed for new ones."
)
_blocked = _meter.create_histogram(
    "plain.server.http2.flow_control.blocked",
    "s",
    "Time that a response waited for its client to take what was sent.",
)

_hub_blocked = _meter.create_histogram(
    "plain.server.hub.blocked", "s", "Time that a view kept the whole worker to itself."
)

#: RFC 9110 section 9 and RFC 5789: a client may send any other.
_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
)


def observe_active_streams(count: Callable[[], int]) -> None:
    """Ask `count` for the number of open HTTP/2 streams whenever metrics are collected."""
    _meter.create_observable_up_down_counter(
        "plain.server.http2.active_streams",
        [lambda _options: [metrics.Observation(count())]],
        "{stream}",
        "Streams that are open, those included that wait or whose request still arrives.",
    )


def connections_changed(by: int, version: str) -> None:
    """`version` of the protocol: "1.1" or "2"."""
    _open_connections.add(by, {"network.protocol.version": version})


def active_requests_changed(by: int, method: str, scheme: str) -> None:
    _active_requests.add(by, _request_attributes(method if method in _METHODS else "", scheme))


@cache
def _request_attributes(method: str, scheme: str) -> dict[str, str]:
    return {"http.request.method": method or "_OTHER", "url.scheme": scheme}


def stream_reset(error: str, *, by_client: bool) -> None:
    """`error` is the name of the code in the RST_STREAM, "unknown" for one without."""
    _resets.add(1, {"plain.reset.by": "client" if by_client else "server", "error.type": error})


def stream_refused() -> None:
    _refused.add(1)


def connection_abusive(reason: str) -> None:
    _abusive.add(1, {"error.type": reason})


def connection_evicted() -> None:
    _evicted.add(1)


def flow_control_blocked(seconds: float) -> None:
    _blocked.record(seconds)


def hub_blocked(seconds: float) -> None:
    _hub_blocked.record(seconds)
