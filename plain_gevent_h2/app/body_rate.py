"""Whether a request's body arrives fast enough, as the worker's sweep sees it over HTTP/2.

Both protocols have Plain's rate floor (`SERVER_BODY_MIN_BYTES_PER_SECOND`). They differ in who
waits. Over HTTP/1.1 the connection's greenlet waits for one body: `BodyReader` in `http1/body.py`
counts each of its waits, and none may take longer than `BODY_RECV_TIMEOUT`. Over HTTP/2 nobody
waits for one stream, so each sweep counts what came since the last one, and silence is found by the
floor. If the floor is off, a silent body has as long as an idle connection: a stream without an end
would keep that from being idle. (Plain's own HTTP/2 has no timeout then.)
"""

from plain_gevent_h2.net.fairness import SWEEP_INTERVAL

from .plain_internals import BODY_RECV_TIMEOUT
from .request_rules import RequestRules


class BodyRate:
    """The rate of one stream's body. Made at its first sweep. Times are monotonic seconds."""

    __slots__ = ("_changed_at", "_checked_at", "_floor", "_received", "_rules")

    def __init__(self, rules: RequestRules, opened_at: float) -> None:
        self._rules = rules
        self._floor = rules.rate_floor()
        self._received = 0  # bytes at the last sweep
        self._checked_at = self._changed_at = opened_at

    def is_too_slow(self, now: float, received: int, content_length: int | None) -> bool:
        """Whether to give up the body, of which so many bytes have come. Asked at each sweep."""
        came = received - self._received
        # More than the interval was not the client's time: a view kept the hub busy.
        waited = min(now - self._checked_at, SWEEP_INTERVAL)
        self._checked_at, self._received = now, received
        if came:
            self._changed_at = now
        if not self._rules.min_body_rate:
            return now - self._changed_at > self._rules.keepalive_timeout
        if content_length is not None and received >= content_length:
            # Only END_STREAM or trailers are missing.
            return now - self._changed_at > BODY_RECV_TIMEOUT
        self._floor.record(waited=waited, received=came)
        return self._floor.violated()
