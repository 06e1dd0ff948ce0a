"""Taking in the body of a request, by its length or its chunks, before its view runs."""

import time
from typing import Any

import gevent

from plain_gevent_h2.app.plain_internals import (
    BODY_RECV_TIMEOUT,
    BodyBudgetExceeded,
    BodyRateFloor,
    ParsedRequest,
    drain_expired,
    recv_timeout,
)
from plain_gevent_h2.app.spool import SpooledBody
from plain_gevent_h2.app.worker_interface import WorkerInterface
from plain_gevent_h2.net.fairness import yield_to_others

from .chunked import ChunkedDecoder
from .socket_reader import SocketReader

#: Chunks of a body that are taken in before other greenlets have their turn.
CHUNKS_IN_A_TURN = 20


class IncompleteBody(Exception):
    """The body arrives too slowly, or the client has closed its side before the end: a 408.

    Such a client may still read. One that has left altogether is an `OSError`, with no answer.
    """


class BodyReader:
    """Takes the bodies of requests off what one connection receives, in its greenlet.

    Other greenlets may stop it where it waits for the client: by `evicted()` and `sweep()`.
    """

    __slots__ = ("_socket_reader", "_waiting", "_worker")

    def __init__(self, worker: WorkerInterface, socket_reader: SocketReader) -> None:
        self._worker = worker
        self._socket_reader = socket_reader
        self._waiting: Any = None  # the greenlet, while it waits for the client

    def new_sink(self) -> SpooledBody:
        """What the body of the next request goes to."""
        return SpooledBody(self._worker.rules, self._worker.limits.uploads, self.evicted)

    def read(self, sink: SpooledBody, parsed: ParsedRequest) -> None:
        """Take in the whole body of `parsed`.

        Raises `IncompleteBody`; `BodyNotWritten`; the `ParseException`s `LimitRequestBody`,
        `BodyBudgetExceeded` and, for bad chunks or trailers, others; `OSError` if the client has
        left.
        """
        if parsed.content_length is None:  # chunked: without both, Plain's parser says 0
            self._read_chunks(sink, parsed)
        elif parsed.content_length:
            self._read_length(sink, parsed.content_length)
        sink.end()

    def _read_length(self, sink: SpooledBody, remaining: int) -> None:
        rate = self._worker.rules.rate_floor()
        received = self._socket_reader.received
        while True:
            piece = bytes(received[:remaining])
            del received[: len(piece)]
            if piece:
                sink.feed(piece)
                remaining -= len(piece)
            if not remaining:
                return
            sink.wait_for_room()
            self._receive(rate)

    def _read_chunks(self, sink: SpooledBody, parsed: ParsedRequest) -> None:
        rate = self._worker.rules.rate_floor()
        decoder = ChunkedDecoder()
        chunks = 0
        while not decoder.finished:
            if data := decoder.take(self._socket_reader.received):
                sink.feed(data)
                chunks += 1
                if not chunks % CHUNKS_IN_A_TURN:
                    yield_to_others()
            elif not decoder.finished:
                sink.wait_for_room()
                self._receive(rate)
        if decoder.trailers:
            parsed.parse_headers(decoder.trailers)  # to refuse bad ones

    def _receive(self, rate: BodyRateFloor) -> None:
        """Wait for more of the body. Raises `IncompleteBody` and `OSError`.

        For the rate, see `app/body_rate.py`.
        """
        if rate.violated() or drain_expired(self._worker):
            raise IncompleteBody
        reader = self._socket_reader
        started, before = time.monotonic(), len(reader.received)
        reader.sock.settimeout(recv_timeout(self._worker, BODY_RECV_TIMEOUT))
        self._waiting = gevent.getcurrent()
        try:
            more = reader.receive()
        except TimeoutError as exc:
            raise IncompleteBody from exc
        finally:
            self._waiting = None
        if not more:
            raise IncompleteBody
        rate.record(waited=time.monotonic() - started, received=len(reader.received) - before)

    # -- called by other greenlets ----------------------------------------------

    def evicted(self) -> None:
        """The body was given up, since another needs its room."""
        limit = self._worker.limits.uploads.limit
        assert limit is not None
        self._stop_later(BodyBudgetExceeded(limit))

    def sweep(self) -> None:
        """Give up the body when the time to read requests is over, in a drain."""
        if self._waiting is not None and drain_expired(self._worker):
            self._stop_later(IncompleteBody())

    def _stop_later(self, exc: Exception) -> None:
        gevent.get_hub().loop.run_callback(self._stop, exc)

    def _stop(self, exc: Exception) -> None:
        """Stop the reader where it waits for the client. Runs in the hub.

        If it does not wait just now, the sink tells it that the body was given up.
        """
        if self._waiting is not None:
            self._waiting.throw(exc)
