"""The connections of one user, or of all users of a class."""

import functools
import itertools
import ssl
import time
from collections.abc import Callable

from gevent.lock import BoundedSemaphore

from .connection import Connection, RequestError


class _Slot:
    """A place for one connection. The lock is held while it is made."""

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.lock = BoundedSemaphore()


class Pool:
    """`size` connections, taken in turn. Each is made when it is needed, and replaced when it
    is closed or going away."""

    def __init__(self, connect: Callable[[float], Connection], size: int = 1) -> None:
        self._connect = connect
        self._slots = [_Slot() for _ in range(size)]
        self._turn = itertools.cycle(self._slots)
        self._users = 0

    def connection(self, deadline: float) -> Connection:
        """One that takes a request. Raises `RequestError` if none can be made in time."""
        slot = next(self._turn)
        if slot.connection is None or not slot.connection.usable:
            with slot.lock:
                if slot.connection is None or not slot.connection.usable:
                    if (left := deadline - time.monotonic()) <= 0:
                        raise RequestError("timed out")
                    slot.connection = self._connect(left)
        return slot.connection

    def join(self) -> None:
        self._users += 1

    def leave(self) -> None:
        """The last to leave closes the connections."""
        self._users -= 1
        for slot in self._slots:
            if slot.connection is not None and not self._users:
                slot.connection.close()


@functools.cache
def tls_context(verify: bool, ca_file: str | None) -> ssl.SSLContext:
    """One for all connections of a kind: to read the system's certificates takes 10 ms or more."""
    context = ssl.create_default_context(cafile=ca_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context
