"""What connections and streams need of the worker that they run in."""

from typing import Any, Protocol

from plain_gevent_h2.config import Config
from plain_gevent_h2.net.log_throttle import Failures

from .pipeline import Pipeline
from .request_rules import RequestRules
from .shared_limits import SharedLimits


class WorkerInterface(Protocol):
    """`GeventWorker`, as far as its connections and streams know it."""

    log: Any
    config: Config
    rules: RequestRules
    limits: SharedLimits
    pipeline: Pipeline
    failed_handshakes: Failures
    http2_without_alpn: Failures

    #: Whether it takes requests: not once it drains.
    alive: bool
    drain_read_deadline: float | None  # monotonic; None unless it drains

    def read(self, connection: Any) -> None:
        """Run the reader of `connection`, in its greenlet, until it is over or parks."""

    def stop_body_later(self, stream: Any) -> None:
        """Have `stream.stop_body()` called each second, since its client has left."""
