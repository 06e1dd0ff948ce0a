"""What a peer may do wrong: on its connection, or on one stream (RFC 9113 section 5.4)."""

from dataclasses import dataclass

from .frames import ErrorCodes


class ConnectionFault(Exception):
    """The peer broke the protocol in a way that ends the connection (section 5.4.1).

    `code` goes into the GOAWAY, `reason` into its debug data and the log.
    """

    def __init__(self, code: ErrorCodes, reason: str) -> None:
        super().__init__(f"{code.name}: {reason}")
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class StreamFault:
    """The peer broke the protocol on one stream (section 5.4.2)."""

    stream_id: int
    code: ErrorCodes
    unseen: int = 0  # bytes of DATA kept from h2: the connection's window to give back
