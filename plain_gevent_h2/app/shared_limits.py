"""The limits that the clients of one worker share."""

from dataclasses import dataclass, field

from plain_gevent_h2.limits.header_budget import HeaderBudget
from plain_gevent_h2.limits.idle_connections import IdleConnections
from plain_gevent_h2.limits.send_timeout import SendTimeout
from plain_gevent_h2.limits.slots import Slots
from plain_gevent_h2.limits.unread_responses import UnreadResponses
from plain_gevent_h2.limits.unsent import UnsentBytes
from plain_gevent_h2.net.fairness import PenaltyBox

from .unread_websockets import UnreadBudget
from .upload_budget import UploadBudget


@dataclass(slots=True, kw_only=True)
class SharedLimits:
    """Those of one worker, from `limits/` and from files of this room. Each owns its own state."""

    slots: Slots
    idle: IdleConnections
    uploads: UploadBudget
    unread_responses: UnreadResponses
    unsent: UnsentBytes
    send_timeout: SendTimeout
    unread_websockets: UnreadBudget
    penalty_box: PenaltyBox = field(default_factory=PenaltyBox)
    headers: HeaderBudget = field(default_factory=HeaderBudget)
    open_streams: int = 0  # of all HTTP/2 connections, which count them
