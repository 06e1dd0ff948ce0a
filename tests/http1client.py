"""An HTTP/1.1 client that reads each response by its framing alone, and requests for it."""

import re
import socket
from typing import NamedTuple

from closing import Closing
from harness import WAIT


class Answer(NamedTuple):
    """A response. `raw` is all of it as it came, chunk framing included."""

    status_line: str
    headers: list[tuple[str, str]]  # names in lower case
    body: bytes
    raw: bytes

    @property
    def status(self) -> int:
        return int(self.status_line.split()[1])

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Client(Closing):
    """One HTTP/1.1 connection. Reads each response by its framing alone."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(WAIT)
        self._file = sock.makefile("rb")
        self._raw = bytearray()

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def _line(self) -> bytes:
        line = self._file.readline()
        self._raw += line
        if not line.endswith(b"\r\n"):
            raise EOFError(f"the connection ended after {bytes(self._raw)!r}")
        return line[:-2]

    def _take(self, size: int) -> bytes:
        data = self._file.read(size)
        self._raw += data
        if len(data) < size:
            raise EOFError(f"the connection ended after {bytes(self._raw)!r}")
        return data

    def read_head(self) -> tuple[str, list[tuple[str, str]]]:
        self._raw.clear()
        status_line = self._line().decode("latin-1")
        headers = []
        while line := self._line().decode("latin-1"):
            name, _, value = line.partition(":")
            headers.append((name.lower(), value.strip()))
        return status_line, headers

    def read_chunk(self) -> bytes:
        """One chunk of a chunked body; empty at its end."""
        data = self._take(int(self._line(), 16))
        assert self._line() == b""
        return data

    def read(self, method: str = "GET") -> Answer:
        """The response to a `method` request."""
        status_line, headers = self.read_head()
        fields = dict(headers)
        body = b""
        if method == "HEAD" or re.search(" (1..|204|304) ", status_line):
            pass
        elif fields.get("transfer-encoding") == "chunked":
            while chunk := self.read_chunk():
                body += chunk
        elif "content-length" in fields:
            body = self._take(int(fields["content-length"]))
        else:
            body = self._file.read()
            self._raw += body
        return Answer(status_line, headers, body, bytes(self._raw))

    def get(self, path: str = "/", *fields: str, method: str = "GET") -> Answer:
        self.send(request(path, *fields, method=method))
        return self.read(method)

    def closed(self) -> bool:
        """Wait for what comes next: True if it is the end of the connection, and no reset."""
        return self._file.read(1) == b""


def request(
    path: str = "/", *fields: str, method: str = "GET", version: str = "1.1", body: bytes = b""
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *fields]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1") + body


def chunked(*chunks: bytes, trailers: bytes = b"") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return body + b"0\r\n" + trailers + b"\r\n"


def post_chunked(body: bytes, path: str = "/echo") -> bytes:
    return request(path, "Transfer-Encoding: chunked", method="POST") + body


def lines(*of: str) -> bytes:
    return "\r\n".join([*of, "\r\n"]).encode("latin-1")
