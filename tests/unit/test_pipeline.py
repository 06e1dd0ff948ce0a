"""A response that the pipeline has made, chunk by chunk, with an owner of the test's own."""

import contextvars
import io
import tempfile
import threading
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plain.http import (
    AsyncStreamingResponse,
    FileResponse,
    Request,
    Response,
    StreamingResponse,
)
from plain.views import View

from plain_gevent_h2.app.asyncio_bridge import AsyncioThread
from plain_gevent_h2.app.deadline import with_deadline
from plain_gevent_h2.app.extended_connect import NotAWebSocket, is_extended_connect
from plain_gevent_h2.app.pipeline import (
    FILE_BLOCK_SIZE,
    BodyTooShort,
    Handled,
    Pipeline,
    ResponseBodyFailed,
)
from plain_gevent_h2.app.plain_internals import ResponseOwner

pytestmark = pytest.mark.usefixtures("hub_has_a_timer")

IN_CONTEXT = contextvars.ContextVar("in_context", default=False)


class Owner(ResponseOwner):
    """One that writes down what it is told."""

    def __init__(self, response: Response) -> None:
        super().__init__(response, "/x")
        self.sent = 0
        self.failures: list[Exception] = []
        self.finished: list[tuple[int | None, contextvars.Context]] = []
        self.contexts: list[contextvars.Context] = []

    def body_failed(self, exc: Exception, context: contextvars.Context) -> None:
        self.failures.append(exc)
        self.contexts.append(context)

    def body_sent(self, size: int) -> None:
        self.sent += size

    @property
    def for_websocket(self) -> Any:
        return "for the websocket"

    def finish(self, sent_status: int | None, context: contextvars.Context) -> None:
        self.finished.append((sent_status, context))


class Body:
    """A body of these pieces; an exception among them is raised."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = pieces
        self.contexts: list[bool] = []
        self.pulled = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.contexts.append(IN_CONTEXT.get())
            self.pulled += 1
            if isinstance(piece, Exception):
                raise piece
            yield piece


@cache
def bridge() -> AsyncioThread:
    return AsyncioThread()


def handled(response: Response) -> tuple[Handled, Owner]:
    owner = Owner(response)
    context = contextvars.Context()
    context.run(IN_CONTEXT.set, True)
    return Handled(owner, context, bridge()), owner


class TestChunks:
    def test_each_comes_as_it_is_there_and_is_counted(self) -> None:
        body = Body(b"one", b"", b"three")
        response, owner = handled(StreamingResponse(body))
        chunks = response.chunks(None)
        assert (next(chunks), body.pulled, owner.sent) == (b"one", 1, 3)
        assert list(chunks) == [b"", b"three"]
        assert owner.sent == 8
        assert owner.failures == []

    def test_a_body_runs_in_the_context_of_its_request(self) -> None:
        body = Body(b"one", b"two")
        response, _ = handled(StreamingResponse(body))
        assert list(response.chunks(None)) == [b"one", b"two"]
        assert body.contexts == [True, True]
        assert not IN_CONTEXT.get()

    @pytest.mark.parametrize("promised", [None, 100])
    def test_what_a_body_raises_is_told_to_its_owner(self, promised: int | None) -> None:
        failure = ValueError("on purpose")
        response, owner = handled(StreamingResponse(Body(b"one", failure)))
        chunks = response.chunks(promised)
        assert next(chunks) == b"one"
        with pytest.raises(ResponseBodyFailed, match="on purpose") as raised:
            next(chunks)
        assert raised.value.__cause__ is failure
        assert owner.failures == [failure]
        assert owner.contexts == [response._context]
        assert owner.sent == 3

    def test_a_body_that_is_given_up_is_closed(self) -> None:
        ended: list[str] = []

        def body() -> Generator[bytes]:
            try:
                yield b"one"
                yield b"two"
            finally:
                ended.append("ended")

        response, owner = handled(StreamingResponse(body()))
        chunks = response.chunks(None)
        next(chunks)
        chunks.close()
        response.response.close()
        assert ended == ["ended"]
        assert owner.failures == []

    @pytest.mark.parametrize("promised", [None, 8])
    def test_an_async_body(self, promised: int | None) -> None:
        contexts: list[bool] = []

        async def body() -> Any:
            contexts.append(IN_CONTEXT.get())
            yield b"one"
            yield b"three"

        response, owner = handled(AsyncStreamingResponse(body()))
        assert b"".join(response.chunks(promised)) == b"onethree"
        assert contexts == [True]
        assert owner.sent == 8


class TestPromise:
    """A body has as many bytes as its Content-Length says, or looks broken to its client."""

    @pytest.mark.parametrize("pieces", [(b"12345",), (b"12", b"345"), (b"", b"12345", b"")])
    def test_it_is_kept(self, pieces: tuple[bytes, ...], caplog: pytest.LogCaptureFixture) -> None:
        response, owner = handled(StreamingResponse(Body(*pieces)))
        with caplog.at_level("WARNING", "plain.server"):
            assert b"".join(response.chunks(5)) == b"12345"
        assert owner.failures == []
        assert not caplog.records

    @pytest.mark.parametrize("pieces", [(b"123456",), (b"123", b"456"), (b"12345", b"6", b"7")])
    def test_what_is_too_long_is_cut_and_closed(
        self, pieces: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
    ) -> None:
        body = Body(*pieces)
        response, owner = handled(StreamingResponse(body))
        with caplog.at_level("WARNING", "plain.server"):
            assert b"".join(response.chunks(5)) == b"12345"
        assert owner.failures == []
        assert owner.sent == 5
        assert body.pulled <= 2  # no more than tells that it is too long
        (line,) = caplog.records
        assert "longer than its Content-Length" in line.getMessage()
        assert (line.path, line.content_length) == ("/x", 5)  # type: ignore[attr-defined]

    @pytest.mark.parametrize("pieces", [(), (b"123",), (b"1", b"", b"23")])
    def test_what_is_too_short_has_failed(self, pieces: tuple[bytes, ...]) -> None:
        response, owner = handled(StreamingResponse(Body(*pieces)))
        sent: list[bytes] = []
        with pytest.raises(ResponseBodyFailed):
            sent.extend(response.chunks(5))
        (failure,) = owner.failures
        assert isinstance(failure, BodyTooShort)
        size = sum(map(len, pieces))
        assert str(failure) == f"the body ended after {size} of 5 bytes (Content-Length)"


class TestHeadersFirst:
    """Whether the client sees a body open before its first chunk."""

    @pytest.mark.parametrize(
        ("content_type", "first"),
        [
            ("text/event-stream", True),
            ("Text/Event-Stream ; charset=utf-8", True),
            ("text/plain", False),
            ("text/plain; text/event-stream", False),
            ("", False),
        ],
    )
    def test_an_event_stream(self, content_type: str, first: bool) -> None:
        response = StreamingResponse(Body())
        response.headers["Content-Type"] = content_type
        assert handled(response)[0].headers_first is first

    def test_one_without_a_type(self) -> None:
        response = StreamingResponse(Body())
        del response.headers["Content-Type"]
        assert not handled(response)[0].headers_first

    def test_an_async_stream(self) -> None:
        async def body() -> Any:
            yield b"x"

        assert handled(AsyncStreamingResponse(body()))[0].headers_first


class TestClose:
    @pytest.mark.parametrize("status", [200, None])
    def test_the_owner_finishes_with_what_was_sent(self, status: int | None) -> None:
        response, owner = handled(Response("x"))
        response.close(status)
        assert owner.finished == [(status, response._context)]

    def test_a_websocket_closes_its_response_itself(self) -> None:
        response, owner = handled(Response("x"))
        runs: list[object] = []

        class Transport:
            def serve(self, bridge: object, run: Any) -> Generator[bytes]:
                runs.append(bridge)
                yield b"one"
                yield b"two"

        assert list(response.run_websocket(Transport(), lambda: 1.0)) == [b"one", b"two"]  # type: ignore[arg-type]
        assert runs == [bridge()]
        response.close(101)
        assert owner.finished == []


class TestFiles:
    class OnDisk(io.FileIO):
        """A file that knows the native threads which read it."""

        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.threads: set[int] = set()

        def read(self, size: int | None = -1, /) -> Any:
            self.threads.add(threading.get_native_id())
            return super().read(size)

        def readinto(self, buffer: Any, /) -> Any:
            self.threads.add(threading.get_native_id())
            return super().readinto(buffer)

    @pytest.mark.parametrize("kind", ["raw", "buffered", "temporary"])
    @pytest.mark.parametrize("promised", [None, FILE_BLOCK_SIZE + 10])
    def test_one_on_disk_is_read_in_a_native_thread(
        self, tmp_path: Path, kind: str, promised: int | None
    ) -> None:
        content = b"ab" * (FILE_BLOCK_SIZE // 2) + b"c" * 10
        (tmp_path / "file").write_bytes(content)
        raw = self.OnDisk(tmp_path / "file")
        file: Any = raw if kind == "raw" else io.BufferedReader(raw)
        if kind == "temporary":
            file = tempfile._TemporaryFileWrapper(file, "file", delete=False)
        response, owner = handled(FileResponse(file))
        assert b"".join(response.chunks(promised)) == content
        assert owner.sent == len(content)
        assert raw.threads
        assert threading.get_native_id() not in raw.threads
        file.close()

    def test_of_one_that_grows_only_what_was_promised_is_sent(self, tmp_path: Path) -> None:
        (tmp_path / "log").write_bytes(b"x" * 100)
        with open(tmp_path / "log", "rb") as file:
            response, owner = handled(FileResponse(file))
            assert b"".join(response.chunks(40)) == b"x" * 40
            assert owner.failures == []

    @pytest.mark.parametrize("size", [1, FILE_BLOCK_SIZE, FILE_BLOCK_SIZE + 1])
    def test_it_is_read_in_blocks(self, tmp_path: Path, size: int) -> None:
        (tmp_path / "file").write_bytes(b"x" * size)
        with open(tmp_path / "file", "rb") as file:
            sizes = [len(chunk) for chunk in handled(FileResponse(file))[0].chunks(None)]
        assert sum(sizes) == size
        assert max(sizes) == min(size, FILE_BLOCK_SIZE)

    def test_one_in_memory_stays_in_the_hubs_thread(self) -> None:
        threads: list[int] = []

        class Memory(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                threads.append(threading.get_native_id())
                return super().read(size)

            def readline(self, size: int | None = -1) -> bytes:
                threads.append(threading.get_native_id())
                return super().readline(size)

        response, _ = handled(FileResponse(Memory(b"abc")))
        assert b"".join(response.chunks(3)) == b"abc"
        assert set(threads) <= {threading.get_native_id()}


class TestViews:
    """Which view class a request gets, of what Plain's handler has found."""

    class Handler:
        """As much of Plain's as resolves."""

        def __init__(self, view_class: type[View]) -> None:
            self.match = SimpleNamespace(view_class=view_class, route="x")

        def _resolve_request(self, request: object) -> Any:
            return self.match

    @staticmethod
    def make(**attributes: Any) -> type[View]:
        return type("Page", (View,), {"get": lambda _self: Response("page"), **attributes})

    def resolve(
        self, view_class: type[View], deadline: float, *, extended_connect: bool = False
    ) -> Any:
        handler = self.Handler(view_class)
        Pipeline(handler, deadline)
        context = contextvars.Context()
        if extended_connect:
            context.run(is_extended_connect.set, True)
        request = Request(method="GET", path="/", headers={})
        match = context.run(handler._resolve_request, request)
        assert match.route == "x"
        assert handler.match.view_class is view_class  # other requests have it, too
        return match

    def test_without_a_deadline_it_is_its_own(self) -> None:
        view_class = self.make()
        assert self.resolve(view_class, 0).view_class is view_class

    def test_the_setting_is_for_all(self) -> None:
        view_class = self.make()
        assert self.resolve(view_class, 5).view_class is with_deadline(view_class, 5)

    @pytest.mark.parametrize("setting", [0, 5])
    def test_its_own_takes_precedence(self, setting: float) -> None:
        view_class = self.make(request_deadline=2)
        assert self.resolve(view_class, setting).view_class is with_deadline(view_class, 2)
        without = self.make(request_deadline=0)
        assert self.resolve(without, setting).view_class is without

    @pytest.mark.parametrize("deadline", [0, 5])
    def test_one_that_is_no_websocket_answers_no_extended_connect(self, deadline: float) -> None:
        match = self.resolve(self.make(), deadline, extended_connect=True)
        assert match.view_class is NotAWebSocket
