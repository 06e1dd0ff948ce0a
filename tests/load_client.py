"""HTTP/2 and HTTP/1.1 clients that hold the server to its word when it goes away.

`Http2Client` is a well-behaved client that sees how a connection ends: it goes on after a GOAWAY,
which `h2` (and so `h2client.py`) takes for the end. Its frames are `raw.py`'s. `Load` keeps several
connections busy and counts each request that was lost.
"""

import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from closing import Closing
from harness import WAIT, Server
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from raw import RawClient, request_fields
from serving import Serving

MAX_STREAM_ID = 2**31 - 1
NO_ERROR = 0
INTERNAL_ERROR = 2
REFUSED_STREAM = 7


def connect(server: Serving, *alpn: str) -> socket.socket:
    """A connection whose end is seen as it is: `recv` raises if TLS was not closed."""
    if not isinstance(server, Server):  # it has no TLS
        return server.connect(*alpn)
    raw = socket.create_connection(("127.0.0.1", server.port), WAIT)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not server.tls:
        return raw
    return server.tls_context(*alpn).wrap_socket(
        raw, server_hostname="localhost", suppress_ragged_eofs=False
    )


def end_of(exc: OSError) -> str:
    """How a connection ended whose `recv` raised `exc`."""
    if isinstance(exc, ssl.SSLEOFError):
        return "ragged"
    return "reset" if isinstance(exc, ConnectionError) else repr(exc)


@dataclass
class Answer:
    """What came on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def status(self) -> int:
        return int(self.headers.get(":status", "0"))


class Http2Client(Closing):
    """One HTTP/2 connection. Every frame that came is in `frames`, in order.

    `ack_pings` and `give_window` are what it does by itself; `initial_window` is the window
    that each response has at first.
    """

    def __init__(
        self,
        server: Serving,
        *,
        ack_pings: bool = True,
        give_window: bool = True,
        initial_window: int = 65535,
        sock: socket.socket | None = None,
    ) -> None:
        self.ack_pings = ack_pings
        self.goaways: list[GoAwayFrame] = []
        self.answers: dict[int, Answer] = {}
        self._raw = RawClient(
            server,
            {SettingsFrame.INITIAL_WINDOW_SIZE: initial_window},
            sock=sock or connect(server, "h2"),
            acknowledge=False,
            update_windows=give_window,
        )

    def close(self) -> None:
        self._raw.sock.close()

    @property
    def frames(self) -> list[Frame]:
        return self._raw.frames

    @property
    def end(self) -> str:
        """How it ended: "clean" (close_notify or FIN), "ragged" (FIN without close_notify),
        "reset"; empty while it is open.
        """
        return {"closed": "clean"}.get(self._raw.ending, self._raw.ending)

    # -- sending --------------------------------------------------------------

    def send(self, *frames: Frame) -> None:
        self._raw.send(*frames)

    def open(self, path: str, method: str = "GET") -> int:
        """Send a request without a body; return its stream."""
        stream_id = self._raw.open(request_fields(path, method))
        self.answers[stream_id] = Answer()
        return stream_id

    def open_window(self, stream_id: int, size: int) -> None:
        self.send(WindowUpdateFrame(stream_id, window_increment=size))

    def ack_ping(self, ping: PingFrame) -> None:
        self.send(PingFrame(opaque_data=ping.opaque_data, flags=["ACK"]))

    # -- receiving ------------------------------------------------------------

    def read(self, timeout: float = WAIT) -> bool:
        """Receive the next frame; False if none came, or none can any more."""
        try:
            frame = self._raw.receive(time.monotonic() + timeout)
        except TimeoutError:
            return False
        if frame is None:
            return False
        self._received(frame)
        return True

    def _received(self, frame: Frame) -> None:
        if isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.send(SettingsFrame(flags=["ACK"]))
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags and self.ack_pings:
            self.ack_ping(frame)
        elif isinstance(frame, GoAwayFrame):
            self.goaways.append(frame)
        elif isinstance(frame, RstStreamFrame):
            self.answers[frame.stream_id].reset = frame.error_code
        elif isinstance(frame, HeadersFrame | DataFrame):
            self._received_of_answer(self.answers[frame.stream_id], frame)

    def _received_of_answer(self, answer: Answer, frame: HeadersFrame | DataFrame) -> None:
        if isinstance(frame, HeadersFrame):
            answer.headers.update(self._raw.fields(frame))
        else:
            answer.body += frame.data
        answer.ended = "END_STREAM" in frame.flags

    def forget_frames(self) -> None:
        """Let go of the frames so far, of which a busy connection has very many."""
        self._raw.forget_frames()

    # -- looking at it --------------------------------------------------------

    @property
    def pings(self) -> list[PingFrame]:
        pings = [frame for frame in self.frames if isinstance(frame, PingFrame)]
        return [ping for ping in pings if "ACK" not in ping.flags]

    def until(self, condition: Callable[[], object], what: str, timeout: float = WAIT) -> None:
        """Receive until `condition` holds; fail the test if it does not come to that."""
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0 or (not self.read(left) and not condition()):
                raise AssertionError(f"no {what} (connection: {self.end or 'open'}): {self.seen()}")

    def seen(self) -> str:
        return "; ".join(str(frame) for frame in self.frames[-12:])

    def answer(self, stream_id: int, timeout: float = WAIT) -> Answer:
        """The answer on `stream_id`, when it is over."""
        answer = self.answers[stream_id]
        self.until(lambda: answer.over, f"end of stream {stream_id}", timeout)
        return answer

    def get(self, path: str) -> Answer:
        return self.answer(self.open(path))

    def until_closed(self, timeout: float = WAIT) -> None:
        self.until(lambda: self.end, "close of the connection", timeout)

    def round_trip(self) -> None:
        """Return when the server has seen all that was sent so far."""
        before = len(self.frames)
        mark = b"roundtrp"
        self.send(PingFrame(opaque_data=mark))
        self.until(
            lambda: any(
                isinstance(f, PingFrame) and f.opaque_data == mark for f in self.frames[before:]
            ),
            "PING ACK",
        )


class Http1Client(Closing):
    """One HTTP/1.1 connection."""

    def __init__(self, server: Serving) -> None:
        self.sock = connect(server, "http/1.1")
        self.end = ""  # as for Http2Client
        self._file = self.sock.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def send(self, path: str) -> None:
        self.sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def receive(self) -> Answer | None:
        """The next response; None if the connection ended with nothing of it received.

        Raises `EOFError` if it ended within a response.
        """
        answer = Answer()
        try:
            line = self._file.readline()
        except OSError as exc:
            self.end = end_of(exc)
            return None
        if not line:
            self.end = "clean"
            return None
        answer.headers[":status"] = line.decode().split()[1]
        try:
            while (line := self._line()) != b"\r\n":
                name, _, value = line.decode("latin-1").partition(":")
                answer.headers[name.lower()] = value.strip()
            if answer.headers.get("transfer-encoding") == "chunked":
                while size := int(self._line(), 16):
                    answer.body += self._exactly(size)
                    self._exactly(2)
                self._line()
            else:
                answer.body += self._exactly(int(answer.headers["content-length"]))
        except OSError as exc:
            raise EOFError(f"connection ended within a response: {exc}") from exc
        answer.ended = True
        return answer

    def _line(self) -> bytes:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError("connection ended within a response")
        return line

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) != size:
            raise EOFError("connection ended within a response")
        return data

    def get(self, path: str) -> Answer:
        self.send(path)
        answer = self.receive()
        assert answer is not None, "the connection was closed without a response"
        return answer

    def is_closed(self) -> bool:
        """Whether the server has closed the connection, as far as can be seen now."""
        self.sock.setblocking(False)
        try:
            data = self.sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        finally:
            self.sock.settimeout(WAIT)
        assert not data, "bytes that no request asked for"
        return True


class Load:
    """Clients that ask until `stop()`, each on a thread and a connection of its own.

    What counts as lost (`failures`) is what a client could not have known how to save:
    over HTTP/2, a stream that no GOAWAY left out and that was not answered whole, and a
    reset other than REFUSED_STREAM; over HTTP/1.1, a response that broke off. Both: a
    wrong answer, and a refused connection before `server_is_stopping`.

    An HTTP/1.1 request may cross the server's close of an idle connection. If nothing of
    its response came it is sent once more, as RFC 9110 section 9.2.2 has it for GET, and
    counted in `crossed`.
    """

    def __init__(self, server: Server, path: str, expected: bytes | None = None) -> None:
        self._server = server
        self._path = path
        self._expected = expected
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self.server_is_stopping = False
        self.failures: list[str] = []
        self.answered = self.retried = self.crossed = self.connections = 0
        self.bodies: Counter[bytes] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start_http2(self, connections: int, streams: int) -> None:
        for _ in range(connections):
            self._start(lambda: self._http2_connection(streams))

    def start_http1(self, connections: int) -> None:
        for _ in range(connections):
            self._start(self._http1_connection)

    def _start(self, one_connection: Callable[[], None]) -> None:
        def run() -> None:
            while not self._stopped.is_set():
                try:
                    one_connection()
                except Exception as exc:  # a bug of the client must not pass for success
                    self._failed(f"client: {exc!r}")
                    return

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Open nothing more, and wait until everything open is answered."""
        self._stopped.set()
        for thread in self._threads:
            thread.join(WAIT)
            if thread.is_alive():
                self._failed("a request was not answered in time")

    def summary(self) -> str:
        return (
            f"{self.answered} answered on {self.connections} connections, {self.retried} to be"
            f" retried, {self.crossed} crossed, {len(self.failures)} failed {self.failures[:5]}"
        )

    def _failed(self, what: str) -> None:
        with self._lock:
            self.failures.append(what)

    def _check(self, answer: Answer, what: str) -> None:
        body = bytes(answer.body)
        if answer.status != 200 or (self._expected is not None and body != self._expected):
            self._failed(f"{what}: {answer.status} {body[:80]!r}")
        else:
            with self._lock:
                self.answered += 1
                self.bodies[body] += 1

    def _refused(self, exc: OSError) -> None:
        if not self.server_is_stopping:
            self._failed(f"connection refused: {exc!r}")
        self._stopped.wait(0.05)

    # -- HTTP/2 ---------------------------------------------------------------

    def _http2_connection(self, streams: int) -> None:
        try:
            sock = connect(self._server, "h2")
        except OSError as exc:
            self._refused(exc)
            return
        with self._lock:
            self.connections += 1
        with Http2Client(self._server, sock=sock) as client:
            open_streams: set[int] = set()
            while True:
                if not self._stopped.is_set() and not client.goaways:
                    while len(open_streams) < streams:
                        open_streams.add(client.open(self._path))
                if not open_streams:
                    break
                if not client.read() and not client.end:
                    self._failed(f"streams {open_streams} were not answered in time")
                    return
                client.forget_frames()
                for stream_id in list(open_streams):
                    if client.answers[stream_id].over:
                        open_streams.remove(stream_id)
                        self._http2_answer(stream_id, client.answers.pop(stream_id))
                if client.end:
                    self._http2_end(client, open_streams)
                    return
            if client.goaways:
                self._http2_goodbye(client)

    def _http2_answer(self, stream_id: int, answer: Answer) -> None:
        if answer.reset == REFUSED_STREAM:
            with self._lock:
                self.retried += 1
        elif answer.reset is not None:
            self._failed(f"stream {stream_id}: reset with {answer.reset}")
        else:
            self._check(answer, f"stream {stream_id}")

    def _http2_end(self, client: Http2Client, open_streams: set[int]) -> None:
        """The connection ended with these streams unanswered."""
        if not client.goaways:
            self._failed(f"connection ended without GOAWAY ({client.end}): {open_streams}")
            return
        last = client.goaways[-1].last_stream_id
        for stream_id in open_streams:
            if stream_id <= last:
                self._failed(f"stream {stream_id} lost, GOAWAY says {last} ({client.end})")
        with self._lock:
            self.retried += sum(stream_id > last for stream_id in open_streams)

    def _http2_goodbye(self, client: Http2Client) -> None:
        """After GOAWAY, and with all answered, the server has to close."""
        while client.read():
            pass
        if client.end != "clean":
            self._failed(f"after its GOAWAY the connection ended {client.end or 'never'}")

    # -- HTTP/1.1 -------------------------------------------------------------

    def _http1_connection(self) -> None:
        try:
            client = Http1Client(self._server)
        except OSError as exc:
            self._refused(exc)
            return
        with self._lock:
            self.connections += 1
        with client:
            while not self._stopped.is_set() and not client.is_closed():
                try:
                    client.send(self._path)
                    answer = client.receive()
                except OSError:
                    answer = None
                except EOFError as exc:
                    self._failed(str(exc))
                    return
                if answer is None:
                    with self._lock:
                        self.crossed += 1
                    return
                self._check(answer, "HTTP/1.1")
                if answer.headers.get("connection", "").lower() == "close":
                    return
