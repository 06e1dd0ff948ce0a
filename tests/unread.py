"""Where output goes that nobody reads."""

import os
import socket
import tty
from contextlib import suppress


class Unread:
    """A pipe (or a socket, or a terminal) that nobody reads until `read()` does."""

    def __init__(self, kind: str) -> None:
        if kind == "pipe":
            self.reads, self.writes = os.pipe()
        elif kind == "terminal":
            self.reads, self.writes = os.openpty()
            tty.setraw(self.writes)
        else:
            self.reads, self.writes = (sock.detach() for sock in socket.socketpair())

    def read(self) -> bytes:
        return os.read(self.reads, 1 << 16)

    def read_until(self, end: bytes) -> bytes:
        found = b""
        while end not in found:
            found += self.read()
        return found

    def close(self) -> None:
        for fd in (self.reads, self.writes):
            with suppress(OSError):
                os.close(fd)
