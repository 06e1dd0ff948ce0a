#!/usr/bin/env python
"""How many small requests a second Plain's and h2's own code allow one process.

    python load/benchmark/limit.py [--seconds 2] [--streams 10] [--requests 2000]

No socket, no TLS, no greenlet, no thread: the bytes of a client's connection are made in
advance, fed to an `h2` server, each request is built as Plain's worker builds it and run
through Plain's whole pipeline (the app's middleware included), and the response goes back
through `h2`. A server made of these parts cannot be faster; one that is has replaced some.

Beside the whole, its two halves alone: `h2` with a fixed response, and Plain's pipeline with
requests whose headers are decoded already. The whole takes about an eighth more than the sum:
each half runs slower for what the other did in between (measured; it is not the garbage
collector).
"""

import argparse
import contextvars
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import hpack
from folders import PROJECT
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived, StreamEnded
from h2.settings import SettingCodes
from hyperframe.frame import Frame, HeadersFrame, SettingsFrame, WindowUpdateFrame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: What h2load sends.
REQUEST = [
    (":path", "/hello"),
    (":scheme", "https"),
    (":authority", "127.0.0.1:8443"),
    (":method", "GET"),
    ("user-agent", "h2load nghttp2/1.52.0"),
]
CLIENT, SERVER = ("127.0.0.1", 50000), ("127.0.0.1", 8443)

Headers = list[tuple[str, str]]
#: Takes a request's stream and fields, gives the response's fields and body.
Answer = Callable[[int, Headers], tuple[Headers, bytes]]


def client_bytes(requests: int, streams: int) -> tuple[bytes, list[bytes]]:
    """What a client sends first, and then `requests` requests, `streams` in each piece."""
    windows = WindowUpdateFrame(0)
    windows.window_increment = 2**30
    encoder = hpack.Encoder()
    frames: list[Frame] = []
    for stream in range(1, 2 * requests, 2):
        frame = HeadersFrame(stream, encoder.encode(REQUEST))
        frame.flags |= {"END_HEADERS", "END_STREAM"}
        frames.append(frame)
    wire = [frame.serialize() for frame in frames]
    pieces = [b"".join(wire[i : i + streams]) for i in range(0, len(wire), streams)]
    return PREFACE + SettingsFrame(0).serialize() + windows.serialize(), pieces


def serve(start: bytes, pieces: list[bytes], answer: Answer) -> int:
    """Serve one connection, a piece at a time as a worker would; say how many bytes it sent."""
    connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
    connection.initiate_connection()
    connection.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 1000})
    connection.receive_data(start)
    sent = len(connection.data_to_send())
    for piece in pieces:
        waiting: dict[int, Any] = {}
        for event in connection.receive_data(piece):
            if isinstance(event, RequestReceived):
                waiting[event.stream_id or 0] = event.headers
            elif isinstance(event, StreamEnded):
                stream = event.stream_id or 0
                headers, body = answer(stream, waiting.pop(stream))
                connection.send_headers(stream, headers)
                connection.send_data(stream, body, end_stream=True)
        sent += len(connection.data_to_send())
    return sent


class Pipeline:
    """Plain, from a request's decoded fields to its response's, as its own worker does it."""

    def __init__(self) -> None:
        from plain.internal.handlers.base import BaseHandler
        from plain.server.http import h2

        self._handler: Any = BaseHandler()
        self._handler.load_middleware()
        self._h2: Any = h2
        # From Plain 0.165 on the response comes with its body, closers and span in one.
        has_lifecycle = hasattr(self._handler, "handle_in_process")
        self._handle = self._handle_with_lifecycle if has_lifecycle else self._handle_164

    def __call__(self, stream_id: int, headers: Headers) -> tuple[Headers, bytes]:
        stream = self._h2.H2Stream(
            stream_id, spool_size=2**20, max_size=10 * 2**20, budget=None, min_rate=0
        )
        stream.headers = headers
        stream.method = next((value for name, value in headers if name == ":method"), None)
        _, request, _ = self._h2._prepare_stream_request(stream, CLIENT, SERVER, "https")
        response, body = self._handle(request)
        if response.status_code != 200:
            raise RuntimeError(f"status {response.status_code} instead of 200")
        stream.sink.close()
        return self._h2._build_h2_response_headers(response), body

    def _handle_with_lifecycle(self, request: Any) -> tuple[Any, bytes]:
        lifecycle = self._handler.handle_in_process(request)
        return lifecycle.response, lifecycle.read()

    def _handle_164(self, request: Any) -> tuple[Any, bytes]:
        """The parts of its `handle()`, which itself needs an event loop and a thread pool."""
        from opentelemetry import context as otel

        with self._handler._start_request_span(request) as span:
            context = contextvars.Context()
            context.run(otel.attach, otel.get_current())
            response = context.run(self._handler._run_sync_pipeline, request)
            response._resource_closers.append(request.close)
            self._handler._finalize_span(span, response)
        body = b"".join(response)
        context.run(response.close)
        return response, body


def rates(run: Callable[[], None], requests: int, seconds: float) -> Iterator[float]:
    """Requests a second, for each time that `run` made them within `seconds`, once at least."""
    deadline = time.perf_counter() + seconds
    while True:
        started = time.perf_counter()
        run()
        ended = time.perf_counter()
        yield requests / (ended - started)
        if ended > deadline:
            return


def set_up_plain() -> Pipeline:
    os.chdir(PROJECT)  # where Plain looks for `app`
    import plain.runtime

    plain.runtime.setup()
    return Pipeline()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="for each line; default: 2")
    parser.add_argument("--streams", type=int, default=10, help="in one read; default: 10")
    parser.add_argument("--requests", type=int, default=2000, help="a connection; default: 2000")
    parser.add_argument("--json", action="store_true", help="only the whole, for bench.py")
    args = parser.parse_args()
    if args.seconds <= 0 or args.streams < 1 or args.requests < 1:
        parser.error("each must be more than 0")
    # h2 would refuse more open streams, and forget closed ones.
    if args.streams > 1000 or args.requests > 50_000:
        parser.error("at most 1,000 streams and 50,000 requests")

    pipeline = set_up_plain()
    start, pieces = client_bytes(args.requests, args.streams)
    decoded: Headers = [*REQUEST]
    fixed = pipeline(1, decoded)

    def whole() -> None:
        serve(start, pieces, pipeline)

    def h2_alone() -> None:
        serve(start, pieces, lambda _, __: fixed)

    def plain_alone() -> None:
        for _ in range(args.requests):
            pipeline(1, decoded)

    if args.json:
        whole()
        measured = list(rates(whole, args.requests, args.seconds))
        print(json.dumps({"rate": statistics.median(measured)}))
        return 0
    print(
        f"Python {platform.python_version()}, Plain {version('plain')}, h2 {version('h2')}; "
        f"{args.streams} streams in one read, {args.requests} requests a connection"
    )
    print(f"{'':<28} {'req/s':>8} {'us/req':>8}   min - max")
    for title, run in (("h2 alone", h2_alone), ("Plain alone", plain_alone), ("both", whole)):
        run()
        measured = list(rates(run, args.requests, args.seconds))
        median = statistics.median(measured)
        print(
            f"{title:<28} {median:>8,.0f} {1e6 / median:>8.1f}   "
            f"{min(measured):,.0f} - {max(measured):,.0f}",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
