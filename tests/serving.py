"""What tests of a connection need of a server, be it a process or in this one."""

import socket
from pathlib import Path
from typing import Protocol


class Serving(Protocol):
    """`harness.Server` in the server tier, `memory.MemoryServer` in the protocol tier."""

    port: int
    tls: tuple[Path, Path] | None

    def connect(self, *alpn: str) -> socket.socket:
        """A new connection, with TLS (offering `alpn`) if the server has it."""

    def log(self) -> str: ...

    def wait_log(self, text: str) -> None: ...
