"""The locust user."""

from typing import Any, ClassVar
from urllib.parse import urlsplit

from gevent import Greenlet
from gevent.pool import Group
from locust import User
from locust.env import Environment
from locust.exception import StopTest

from .client import Http2Client
from .connection import Connection
from .pool import Pool, tls_context

_shared_pools: dict[tuple[type[User], str, int], Pool] = {}


class Http2User(User):
    """A user whose `client` speaks HTTP/2, over one connection of its own.

    Beside its requests, locust's statistics get a row with the time to the first byte of
    the responses: "GET TTFB" for "GET". It is in no total.
    """

    abstract = True

    #: Whether the server's certificate is checked, and a file of the certificates that are
    #: trusted in place of the system's.
    verify: bool = True
    ca_file: str | None = None
    #: Seconds for a request and its whole response; for each piece of a stream.
    timeout: float = 30.0
    #: Header fields of every request.
    default_headers: ClassVar[dict[str, str]] = {}
    #: Connections that all users of the class share, in each process. None: each has its own.
    shared_connections: int | None = None

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        address = urlsplit(self.host or "")
        if address.scheme != "https" or not address.hostname:
            raise StopTest("Http2User needs a host like https://localhost:8443 (--host)")
        self.client = Http2Client(
            f"https://{address.netloc}",
            self._pool(address.hostname, address.port or 443),
            self._report,
            self._report_ttfb,
        )
        self.client.timeout = self.timeout
        self.client.headers.update({k.lower(): v for k, v in self.default_headers.items()})

    def _pool(self, host: str, port: int) -> Pool:
        def connect(timeout: float) -> Connection:
            return Connection(host, port, tls_context(self.verify, self.ca_file), timeout)

        if self.shared_connections is None:
            return Pool(connect)
        key = (type(self), host, port)
        if key not in _shared_pools:
            _shared_pools[key] = Pool(connect, self.shared_connections)
        return _shared_pools[key]

    def start(self, group: Group) -> "Greenlet[..., Any]":
        greenlet: Greenlet[..., Any] = super().start(group)
        greenlet.rawlink(lambda _: self.client.close())
        return greenlet

    def _report(self, **about: Any) -> None:
        self.environment.events.request.fire(**about, context=self.context())

    def _report_ttfb(self, method: str, name: str, milliseconds: float) -> None:
        # The row alone, not log_request(): this is no request more.
        self.environment.stats.get(name, f"{method} TTFB").log(milliseconds, 0)
