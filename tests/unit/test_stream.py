"""A request from its start to its end, with a protocol and a pipeline of the test's own."""

import time
from collections.abc import Callable, Generator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import Greenlet, GreenletExit
from gevent.event import Event
from plain.http import Response, StreamingResponse, WebSocketResponse
from plain.server.http.errors import InvalidHeader

from plain_gevent_h2 import stream as stream_module
from plain_gevent_h2.app.deadline import DeadlinePassed
from plain_gevent_h2.app.pipeline import ResponseBodyFailed
from plain_gevent_h2.app.plain_internals import WEBSOCKET_CLOSE_TIMEOUT
from plain_gevent_h2.app.spool import BodyNotWritten
from plain_gevent_h2.net import metrics
from plain_gevent_h2.net.fairness import yield_to_others
from plain_gevent_h2.stream import STOP_GRACE, ClientGone, Stream, promised_length


class Handled:
    """What a view made."""

    def __init__(self, response: Response, pieces: Callable[[], Generator[bytes]]) -> None:
        self.response = response
        self.headers_first = False
        self.closed: list[int | None] = []
        self.promised: list[int | None] = []
        self._pieces = pieces

    def chunks(self, promised: int | None) -> Generator[bytes]:
        self.promised.append(promised)
        yield from self._pieces()

    def run_websocket(self, transport: object, timeout: Callable[[], float]) -> Generator[bytes]:
        self.served = (transport, timeout())
        yield from self._pieces()

    def close(self, status: int | None) -> None:
        self.closed.append(status)


class Transport:
    def __init__(self) -> None:
        self.told: list[str] = []

    def lost(self) -> None:
        self.told.append("lost")

    def worker_shuts_down(self) -> None:
        self.told.append("shuts down")


class Worker:
    """As much of a worker as a stream needs."""

    def __init__(self, handle: Callable[[], Handled]) -> None:
        self.alive = True
        self.drain_read_deadline = None
        self.rules = SimpleNamespace(scheme="https")
        self.clients_left = 0
        self.to_stop: list[object] = []
        self.limits = SimpleNamespace(slots=self)
        self.pipeline = self
        self._handle = handle

    def handle(self, request: object, *, extended_connect: bool, stream: object) -> Handled:
        self.handled = (request, extended_connect, stream)
        return self._handle()

    def client_left(self) -> None:
        self.clients_left += 1

    def stop_body_later(self, stream: object) -> None:
        self.to_stop.append(stream)


class Protocol(Stream):
    """One that writes down what is sent."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(worker)  # type: ignore[arg-type]
        self.sent: list[object] = []
        self.on_send: Callable[[], object] = lambda: None
        self.cannot_build: Exception | None = None
        self.method = "GET"

    def build_request(self) -> Any:
        if self.cannot_build is not None:
            raise self.cannot_build
        self.logged_response = SimpleNamespace()
        self.logged_request = SimpleNamespace(method=self.method, path="/x")
        return self.logged_request

    def send_headers(self, response: Response, *, end_stream: bool) -> None:
        self.on_send()
        self.headers_sent = True
        self.sent.append(("headers", response.status_code, end_stream))

    def upgrade(self, response: Response) -> Any:
        self.websocket_transport = Transport()  # type: ignore[assignment]
        self.upgraded = response
        self.sent.append("upgrade")
        return self.websocket_transport

    def send_data(self, data: bytes) -> None:
        self.on_send()
        self.sent.append(data)

    def end(self) -> None:
        self.sent.append("end")

    def send_error(self, status: int) -> None:
        self.sent.append(("error", status))

    def abort(self) -> None:
        self.sent.append("abort")

    def clean_up(self) -> None:
        self.sent.append("cleaned up")


class Request:
    """A stream, and what became of it."""

    def __init__(self, response: Response | BaseException, *pieces: bytes | BaseException) -> None:
        self.handled: Handled | None = None

        def make() -> Generator[bytes]:
            for piece in pieces:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece

        def handle() -> Handled:
            if isinstance(response, BaseException):
                raise response
            handled = self.handled = Handled(response, make)
            return handled

        self.worker = Worker(handle)
        self.stream = Protocol(self.worker)

    def run(self) -> list[object]:
        """Run it; what was sent."""
        self.succeeded = self.stream.run()
        return self.stream.sent

    def start(self) -> "Greenlet[[], None]":
        """Run it in a greenlet of its own."""

        def run() -> None:
            self.run()

        greenlet = self.stream.greenlet = gevent.spawn(run)
        return greenlet

    @property
    def closed(self) -> list[int | None]:
        assert self.handled is not None
        return self.handled.closed


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str, str]]:
    """How the metric of active requests changes."""
    changes: list[tuple[int, str, str]] = []
    monkeypatch.setattr(metrics, "active_requests_changed", lambda *args: changes.append(args))
    return changes


@pytest.fixture(autouse=True)
def accesses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statuses in the access log."""
    statuses: list[str] = []

    def log_access(response: Any, request: Any, elapsed: timedelta) -> None:
        assert request.path == "/x"
        assert timedelta() <= elapsed < timedelta(seconds=60)
        statuses.append(response.status)

    monkeypatch.setattr(stream_module, "log_access", log_access)
    return statuses


UNWRITTEN = "Request body could not be written to a temporary file (see TMPDIR)"

FAILURES = [ValueError("on purpose"), SystemExit(1), GreenletExit(), ClientGone(), gevent.Timeout()]


class TestRun:
    def test_a_whole_response(self, active: list[object], accesses: list[str]) -> None:
        request = Request(Response("hello"))
        assert request.run() == [("headers", 200, False), b"hello", "end", "cleaned up"]
        assert request.succeeded
        assert request.closed == [200]
        assert active == [(1, "GET", "https"), (-1, "GET", "https")]
        assert accesses == ["200"]
        assert request.stream.greenlet_done
        assert request.handled is not None
        assert ("Content-Length", "5") in request.handled.response.headers.items()
        assert request.worker.handled == (request.stream.logged_request, False, request.stream)

    def test_before_its_run(self) -> None:
        stream = Request(Response()).stream
        assert (stream.began_at, stream.gone_at, stream.greenlet) == (0.0, None, None)
        assert stream.stop_body(0)  # there is nothing to stop

    def test_a_request_without_a_method(self, active: list[object]) -> None:
        request = Request(Response())
        request.stream.method = ""
        request.run()
        assert active == [(1, "", "https"), (-1, "", "https")]

    @pytest.mark.parametrize("failure", FAILURES, ids=lambda exc: type(exc).__name__)
    @pytest.mark.parametrize("where", ["view", "build", "headers", "body"])
    def test_whatever_fails_all_is_given_back(
        self, active: list[tuple[int, str, str]], failure: BaseException, where: str
    ) -> None:
        request = Request(failure if where == "view" else Response("hello"))
        if where == "build":
            request.stream.cannot_build = failure  # type: ignore[assignment]
        elif where == "headers":
            request.stream.on_send = lambda: fail(failure)
        elif where == "body":
            request = Request(StreamingResponse(iter([b"x"])), b"a", failure)
        sent = request.run()
        assert sum(change for change, _, _ in active) == 0
        assert sent[-1] == "cleaned up"
        assert sent.count("cleaned up") == 1
        assert request.stream.greenlet_done
        assert request.stream.greenlet is None
        if request.handled is not None:
            assert len(request.closed) == 1
        expected = where == "build" and isinstance(failure, ValueError)  # a 400
        assert request.succeeded == (isinstance(failure, ClientGone) or expected)

    def test_before_the_headers_a_failure_is_a_500(self, accesses: list[str]) -> None:
        request = Request(StreamingResponse(iter([b"x"])), ValueError("on purpose"))
        assert request.run() == [("error", 500), "cleaned up"]
        assert request.closed == [500]
        assert accesses == ["500"]

    def test_after_them_it_is_an_abort(self, accesses: list[str]) -> None:
        request = Request(StreamingResponse(iter([b"x"])), b"a", ValueError("on purpose"))
        assert request.run() == [("headers", 200, False), b"a", "abort", "cleaned up"]
        assert request.closed == [200]
        assert accesses == ["200"]

    @pytest.mark.parametrize(
        ("failure", "lines"), [(ValueError("on purpose"), 1), (ResponseBodyFailed(), 0)]
    )
    def test_what_is_logged_already_is_not_logged_again(
        self, caplog: pytest.LogCaptureFixture, failure: Exception, lines: int
    ) -> None:
        with caplog.at_level("ERROR", "plain.server"):
            Request(StreamingResponse(iter([b"x"])), failure).run()
        assert len(caplog.records) == lines
        for line in caplog.records:
            assert line.getMessage() == "Error handling request"
            assert line.path == "/x"  # type: ignore[attr-defined]
            assert line.exc_info is not None

    @pytest.mark.parametrize(
        ("failure", "status", "line"),
        [
            (ValueError("x"), 400, "Invalid request"),
            (LookupError("x"), 400, "Invalid request"),
            (BodyNotWritten(28, "No space left"), 500, UNWRITTEN),
        ],
    )
    def test_a_request_that_cannot_be_built(
        self,
        active: list[object],
        caplog: pytest.LogCaptureFixture,
        failure: Exception,
        status: int,
        line: str,
    ) -> None:
        request = Request(Response())
        request.stream.cannot_build = failure
        with caplog.at_level("WARNING", "plain.server"):
            assert request.run() == [("error", status), "cleaned up"]
        (record,) = caplog.records
        assert (record.getMessage(), record.error) == (line, str(failure))  # type: ignore[attr-defined]
        assert record.exc_info is None
        assert request.handled is None
        assert active == []
        assert request.succeeded

    def test_one_that_something_is_thrown_into_as_it_begins(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        request = Request(Response())
        request.stream.cannot_build = failure = gevent.Timeout()  # type: ignore[assignment]
        assert request.run() == [("error", 500), "cleaned up"]
        (record,) = caplog.records
        assert record.exc_info is not None
        assert record.exc_info[1] is failure

    def test_a_client_that_left_before_its_turn(self, active: list[object]) -> None:
        request = Request(Response())
        request.stream.client_gone()
        assert request.run() == ["cleaned up"]
        assert request.handled is None
        assert request.succeeded

    @pytest.mark.parametrize("after", [0, 1])
    def test_a_client_that_leaves(self, accesses: list[str], after: int) -> None:
        request = Request(StreamingResponse(iter([b"x"])), b"a", b"b", b"c")
        leaves = iter([None] * after + [ClientGone()])

        def send() -> None:
            if (leave := next(leaves)) is not None:
                raise leave

        request.stream.on_send = send
        sent = request.run()
        assert "abort" not in sent
        assert ("error", 500) not in sent
        assert request.closed == [200 if after else None]
        assert accesses == ["200"]
        assert request.succeeded
        assert not request.stream.in_body

    def test_what_stops_a_body_without_its_client_is_not_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        request = Request(StreamingResponse(iter([b"x"])), b"a", GreenletExit())
        request.stream.on_send = lambda: setattr(request.stream, "gone_at", 1.0)
        with caplog.at_level("INFO", "plain.server"):
            assert request.run() == [("headers", 200, False), b"a", "cleaned up"]
        assert not caplog.records
        assert not request.succeeded  # something was thrown into its greenlet

    def test_a_response_without_a_line_in_the_access_log(self, accesses: list[str]) -> None:
        response = Response("x")
        response.log_access = False
        Request(response).run()
        assert accesses == []


def fail(failure: BaseException) -> None:
    raise failure


class TestSend:
    @pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
    def test_no_body_where_there_may_be_none(self, method: str, status: int) -> None:
        response = Response("hello")
        response._status_code = status  # Plain has no such with content
        request = Request(response)
        request.stream.method = method
        assert request.run() == [("headers", status, True), "cleaned up"]

    def test_an_empty_one(self) -> None:
        assert Request(Response()).run() == [("headers", 200, True), "cleaned up"]

    def test_a_promised_length_is_kept(self) -> None:
        request = Request(Response("hello", headers={"Content-Length": "5"}))
        assert request.run() == [("headers", 200, False), b"hello", "end", "cleaned up"]

    def test_another_length_goes_the_way_that_counts(self) -> None:
        request = Request(Response("hello", headers={"Content-Length": "9"}), b"hello")
        request.run()
        assert request.handled is not None
        assert request.handled.promised == [9]

    def test_so_does_a_stream_that_promises_one(self) -> None:
        response = StreamingResponse(iter([b"x"]), headers={"Content-Length": "3"})
        request = Request(response, b"abc")
        assert request.run() == [("headers", 200, False), b"abc", "end", "cleaned up"]
        assert request.handled is not None
        assert request.handled.promised == [3]

    def test_empty_pieces_are_no_data(self) -> None:
        request = Request(StreamingResponse(iter([b"x"])), b"", b"a", b"", b"b")
        assert request.run() == [("headers", 200, False), b"a", b"b", "end", "cleaned up"]
        assert request.handled is not None
        assert request.handled.promised == [None]
        empty = Request(StreamingResponse(iter([b"x"])))
        assert empty.run() == [("headers", 200, False), "end", "cleaned up"]

    def test_headers_first_go_before_the_first_piece(self) -> None:
        request = Request(StreamingResponse(iter([b"x"])), ValueError("on purpose"))
        handle = request.worker._handle

        def headers_first() -> Handled:
            handled = handle()
            handled.headers_first = True
            return handled

        request.worker._handle = headers_first
        assert request.run() == [("headers", 200, False), "abort", "cleaned up"]

    def test_it_is_in_its_body_while_it_is(self) -> None:
        request = Request(StreamingResponse(iter([b"x"])), b"a")
        inside: list[bool] = []
        request.stream.on_send = lambda: inside.append(request.stream.in_body)
        request.run()
        assert inside == [True, True]
        assert not request.stream.in_body

    @pytest.mark.parametrize("pieces", [(), (b"a",)])
    def test_past_its_deadline(
        self, accesses: list[str], caplog: pytest.LogCaptureFixture, pieces: tuple[bytes, ...]
    ) -> None:
        request = Request(StreamingResponse(iter([b"x"])), *pieces, DeadlinePassed())
        with caplog.at_level("WARNING", "plain.server"):
            sent = request.run()
        assert sent[-2] == ("abort" if pieces else ("error", 503))
        assert accesses == ["200" if pieces else "503"]
        assert request.closed == [200 if pieces else 503]
        assert [line.getMessage() for line in caplog.records] == ["Request deadline passed"]

    def test_the_body_of_a_view_with_a_deadline_has_it(self) -> None:
        response = StreamingResponse(iter([b"x"]))
        response.deadline_ends_at = time.monotonic()  # type: ignore[attr-defined]
        request = Request(response, b"a", b"b")
        request.stream.on_send = Event().wait
        assert request.run() == [("error", 503), "cleaned up"]


class TestPromisedLength:
    @pytest.mark.parametrize(("value", "length"), [("0", 0), (" 12\t", 12), ("9" * 19, 10**19 - 1)])
    def test_numbers(self, value: str, length: int) -> None:
        assert promised_length(Response(headers={"Content-Length": value})) == length

    @pytest.mark.parametrize(
        "value", ["", "-1", "+1", "1.0", "1_0", "9" * 20, "1 1", "\xb2", "1\xa0"]
    )
    def test_what_is_none(self, value: str) -> None:
        response = Response()
        response.headers["Content-Length"] = value
        with pytest.raises(InvalidHeader) as raised:
            promised_length(response)
        assert raised.value.hdr == f"Content-Length: {value!r}"

    def test_there_is_none(self) -> None:
        assert promised_length(Response()) is None
        response = Response(status_code=204)
        response.headers["Content-Length"] = "x"
        assert promised_length(response) is None  # it is not sent


async def view(_: object) -> None:
    """Of a WebSocket: what it sends is said by the test."""


class TestWebSocket:
    @staticmethod
    def make(*pieces: bytes | BaseException) -> Request:
        upgrade: Any = SimpleNamespace(headers={"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="})
        response = WebSocketResponse(
            request=upgrade, handler=view, subprotocol=None, max_message_size=1
        )
        return Request(response, *pieces)

    def test_what_its_view_sends(self) -> None:
        request = self.make(b"a", b"b")
        assert request.run() == ["upgrade", b"a", b"b", "end", "cleaned up"]
        assert request.handled is not None
        assert request.handled.served == (
            request.stream.websocket_transport,
            WEBSOCKET_CLOSE_TIMEOUT,
        )
        assert request.stream.upgraded is request.handled.response
        assert request.stream.websocket_transport.told == ["lost"]  # type: ignore[union-attr]

    @pytest.mark.parametrize("is_connect", [False, True])
    def test_a_connect_is_told_to_the_pipeline(self, is_connect: bool) -> None:
        """Over HTTP/2 alone there is one."""

        class Connect(Protocol):
            is_extended_connect = is_connect

        request = self.make(b"a")
        request.stream = Connect(request.worker)
        request.run()
        assert request.worker.handled == (request.stream.logged_request, is_connect, request.stream)

    def test_it_is_lost_after_a_failure(self) -> None:
        request = self.make(b"a", ValueError("on purpose"))
        request.run()
        assert request.stream.websocket_transport.told == ["lost"]  # type: ignore[union-attr]

    @pytest.mark.parametrize("why", ["shuts down", "bytes follow"])
    def test_one_that_is_refused_is_a_503(self, accesses: list[str], why: str) -> None:
        request = self.make(b"a")
        request.worker.alive = why != "shuts down"
        request.stream.bytes_follow = why == "bytes follow"
        assert request.run() == [("error", 503), "cleaned up"]
        assert request.closed == [503]
        assert accesses == ["503"]

    def test_it_is_told_of_the_end_of_its_worker_and_of_its_client(self) -> None:
        request = self.make(b"a")
        request.stream.worker_shuts_down()  # there is none yet
        request.run()
        assert request.stream.websocket_transport is not None
        request.stream.worker_shuts_down()
        request.stream.client_gone()
        assert request.stream.websocket_transport.told == ["lost", "shuts down", "lost"]  # type: ignore[attr-defined]
        assert request.worker.to_stop == []


class TestClientGone:
    def test_it_is_counted_once(self) -> None:
        request, cancelled = Request(Response()), []
        stream = request.stream
        stream.greenlet = gevent.getcurrent()  # type: ignore[assignment]
        stream.cancel = lambda: cancelled.append(True)
        for _ in range(2):
            stream.client_gone()
        assert request.worker.clients_left == len(cancelled) == 1
        assert request.worker.to_stop == [stream]
        assert stream.is_clientless

    def test_one_without_a_greenlet_holds_no_place(self) -> None:
        request = Request(Response())
        request.stream.client_gone()
        assert request.worker.clients_left == 0
        assert request.worker.to_stop == []
        assert not request.stream.is_clientless

    def test_a_body_that_blocks_is_stopped_after_a_while(self) -> None:
        ended: list[str] = []

        def pieces() -> Generator[bytes]:
            try:
                Event().wait()
                yield b"a"
            finally:
                ended.append("ended")

        request = Request(Response())
        response = StreamingResponse(iter([b"x"]))
        request.worker._handle = lambda: Handled(response, pieces)
        stream = request.stream
        request.start()
        yield_to_others()
        assert stream.in_body
        stream.client_gone()
        assert stream.gone_at is not None
        assert not stream.stop_body(stream.gone_at + STOP_GRACE)
        yield_to_others()
        assert ended == []
        assert stream.stop_body(stream.gone_at + STOP_GRACE + 0.1)
        yield_to_others()
        assert ended == ["ended"]
        assert stream.sent == ["cleaned up"]
        assert stream.stop_body(0)

    def test_a_view_that_computes_is_let_finish(self) -> None:
        goes_on = Event()
        request = Request(Response("x"))
        handle = request.worker._handle

        def wait() -> Handled:
            goes_on.wait()
            return handle()

        request.worker._handle = wait
        stream = request.stream
        greenlet = request.start()
        yield_to_others()
        stream.client_gone()
        assert stream.gone_at is not None
        assert not stream.stop_body(stream.gone_at + 100)
        goes_on.set()
        greenlet.get(timeout=60)
        assert request.succeeded
        assert request.closed == [None]
        assert stream.sent == ["cleaned up"]

    def test_an_exit_that_comes_late_hits_nobody(self) -> None:
        request = Request(Response())
        request.stream.greenlet = gevent.getcurrent()  # type: ignore[assignment]
        request.stream._throw_exit()  # its body is over
        request.stream.greenlet = None
        request.stream.in_body = True
        request.stream._throw_exit()


def test_its_name_for_the_log() -> None:
    request = Request(Response())
    assert request.stream.name() == "a request"
    request.run()
    assert request.stream.name() == "GET /x"
    assert request.stream.describe().startswith("GET /x (0.")
