"""A blocking HTTP/2 client on `h2`: one connection, many streams, windows under control.

For tests that need a well-behaved client. It stands apart from the others because `h2` checks
what the server sends: a violation raises. `raw.py` has the client that breaks the rules, and
`load_client.py` the one that sees how a connection ends.
"""

import socket
import time
from dataclasses import dataclass, field

import h2.events
from closing import Closing
from h2.connection import H2Connection
from h2.settings import SettingCodes
from harness import WAIT
from serving import Serving


@dataclass
class Answer:
    """What has come of one stream so far."""

    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None  # the code of an RST_STREAM

    @property
    def status(self) -> int:
        return int(dict(self.headers)[":status"])

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Client(Closing):
    """`window` is the initial stream window in bytes; `acknowledge=False` never reopens it."""

    def __init__(
        self, server: Serving, *, window: int | None = None, acknowledge: bool = True
    ) -> None:
        self.sock: socket.socket = server.connect("h2")
        self.h2 = H2Connection()
        self.h2.initiate_connection()
        if window is not None:
            self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.acknowledge = acknowledge
        self.answers: dict[int, Answer] = {}
        self.goaways: list[h2.events.ConnectionTerminated] = []
        self.closed = False
        self.flush()

    def close(self) -> None:
        self.sock.close()

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.sock.sendall(data)

    def send(
        self,
        path: str = "/",
        method: str = "GET",
        headers: tuple[tuple[str, str], ...] = (),
        *,
        end_stream: bool = True,
    ) -> int:
        """Send a request's headers and return its stream identifier."""
        stream_id = self.h2.get_next_available_stream_id()
        pseudo = [
            (":method", method),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", path),
        ]
        self.h2.send_headers(stream_id, [*pseudo, *headers], end_stream=end_stream)
        self.answers[stream_id] = Answer()
        self.flush()
        return stream_id

    def receive(self, timeout: float = WAIT) -> None:
        """Take in what comes next. Raises `TimeoutError`."""
        self.sock.settimeout(timeout)
        data = self.sock.recv(65536)
        if not data:
            self.closed = True
            return
        for event in self.h2.receive_data(data):
            self._handle(event)
        self.flush()

    def _handle(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goaways.append(event)
            return
        answer = self.answers.get(getattr(event, "stream_id", 0) or 0)
        if answer is None:
            return
        if isinstance(event, h2.events.ResponseReceived):
            answer.headers = [(_text(name), _text(value)) for name, value in event.headers or []]
        elif isinstance(event, h2.events.DataReceived):
            answer.body += event.data or b""
            if self.acknowledge:
                size = event.flow_controlled_length or 0
                self.h2.acknowledge_received_data(size, event.stream_id or 0)
        elif isinstance(event, h2.events.StreamEnded):
            answer.ended = True
        elif isinstance(event, h2.events.StreamReset):
            answer.reset = int(event.error_code or 0)

    def until(self, done: "object", what: str, timeout: float = WAIT) -> None:
        """Receive until `done()` is true."""
        assert callable(done)
        deadline = time.monotonic() + timeout
        while not done():
            left = deadline - time.monotonic()
            if left <= 0 or self.closed:
                raise AssertionError(f"no {what}; answers: {self.answers}, closed: {self.closed}")
            try:
                self.receive(left)
            except TimeoutError:
                continue

    def finish(self, *stream_ids: int) -> list[Answer]:
        """Receive until each of these streams has ended or was reset."""
        answers = [self.answers[stream_id] for stream_id in stream_ids]
        self.until(
            lambda: all(a.ended or a.reset is not None for a in answers), "end of the streams"
        )
        return answers

    def get(self, path: str = "/", headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        return self.finish(self.send(path, headers=headers))[0]


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
