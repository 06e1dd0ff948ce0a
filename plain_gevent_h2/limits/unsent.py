"""The bytes of response bodies that a worker holds unsent."""

#: Bytes of all HTTP/2 bodies of a worker that may wait to be sent. Past them a view waits until the
#: last piece that it gave is framed: 10,000 streams whose clients do not read would take 640 MiB.
MAX_UNSENT = 64 * 1024 * 1024

#: Bytes past which a connection that takes little of what it has asked for starts no more streams.
MAX_UNREAD_RESPONSES = 8 * 1024 * 1024


class UnsentBytes:
    """Counts them. One for a worker; each buffer adds and subtracts its own."""

    __slots__ = ("http1", "http2")

    def __init__(self) -> None:
        self.http1 = 0
        self.http2 = 0

    @property
    def total(self) -> int:
        return self.http1 + self.http2
