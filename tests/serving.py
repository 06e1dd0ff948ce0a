"""What tests of a connection need of a server, be it a process or in this one."""

import socket
from typing import Protocol


class Serving(Protocol):
    """`harness.Server` in the server tier, `memory_server.MemoryServer` in the protocol tier."""

    port: int

    @property
    def tls(self) -> object:
        """False without TLS."""

    def connect(self, *alpn: str) -> socket.socket:
        """A new connection, with TLS (offering `alpn`) if the server has it."""

    def log(self) -> str: ...

    def wait_log(self, text: str) -> None: ...
