"""What connections and streams need of the worker that they run in."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from plain_gevent_h2.config import Config
from plain_gevent_h2.limits.header_budget import HeaderBudget
from plain_gevent_h2.limits.idle_connections import IdleConnections
from plain_gevent_h2.limits.send_timeout import SendTimeout
from plain_gevent_h2.limits.slots import Slots
from plain_gevent_h2.limits.unread_responses import UnreadResponses
from plain_gevent_h2.limits.unsent import UnsentBytes
from plain_gevent_h2.net.fairness import PenaltyBox
from plain_gevent_h2.net.log_throttle import Failures

from .pipeline import Pipeline
from .request_rules import RequestRules
from .upload_budget import UploadBudget
from .websocket import Unread


@dataclass(slots=True, kw_only=True)
class SharedLimits:
    """What the clients of one worker share. Each limit owns its own state."""

    slots: Slots
    idle: IdleConnections
    uploads: UploadBudget
    unread_responses: UnreadResponses
    unsent: UnsentBytes
    send_timeout: SendTimeout
    unread_websockets: Unread
    penalty_box: PenaltyBox = field(default_factory=PenaltyBox)
    headers: HeaderBudget = field(default_factory=HeaderBudget)
    open_streams: int = 0  # of all HTTP/2 connections, which count them


class Connection(Protocol):
    """A connection, as far as the worker runs its reader."""

    client: Any
    protocol_version: str

    def run(self) -> bool: ...


class Host(Protocol):
    """The worker, for the connections and streams that it hosts."""

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
