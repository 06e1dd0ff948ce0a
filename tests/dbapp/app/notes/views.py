"""Views that use the database, briefly and at length."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
from plain.http import JsonResponse, Response, StreamingResponse
from plain.postgres import transaction
from plain.postgres.db import get_connection, return_database_connection
from plain.postgres.expressions import Func, Value
from plain.postgres.fields import TextField
from plain.postgres.sources import runtime_pool_source
from plain.runtime import settings
from plain.urls import path
from plain.views import View

from .models import Note

#: Listeners that are open.
listening = 0


def sleep_in_query(note: Note, seconds: float) -> Note:
    """`note` as the database has it, by a query that takes so long there."""
    sleep = Func(Value(seconds), function="pg_sleep", output_field=TextField())
    return Note.query.filter(id=note.id).annotate(slept=sleep).get()


def ask(sql: str, *params: Any) -> tuple[Any, ...]:
    with get_connection().cursor() as cursor:
        cursor.execute(sql, params)
        row = cursor.fetchone()
    assert row is not None
    return row


def write_and_read(name: str, seconds: float) -> dict[str, Any]:
    """Write a note, read it in a slow query, change it, and find those of its name."""
    note = sleep_in_query(Note.query.create(stream=name), seconds)
    note.text = f"text of {name}"
    note.update()
    return {"stream": note.stream, "texts": [n.text for n in Note.query.filter(stream=name)]}


class Queries(View):
    def get(self) -> Response:
        params = self.request.query_params
        return JsonResponse(write_and_read(params["stream"], float(params.get("s", "0.05"))))


class AsyncQueries(View):
    """From an async view, in a thread as asyncio wants it."""

    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        params = self.request.query_params
        seconds = float(params.get("s", "0.05"))
        return JsonResponse(await asyncio.to_thread(write_and_read, params["stream"], seconds))


class Rollback(Exception):
    pass


class Transaction(View):
    """What a transaction sees of itself before and after it waits, in the database and outside."""

    def get(self) -> Response:
        name = self.request.query_params["stream"]
        seen = []
        try:
            with transaction.atomic():
                ask("SELECT set_config('test.stream', %s, true)", name)
                note = Note.query.create(stream=name)
                for wait in (0.02, 0.02):
                    seen.append(self.look(name))
                    sleep_in_query(note, wait)
                    time.sleep(wait)
                seen.append(self.look(name))
                if self.request.query_params["end"] == "rollback":
                    raise Rollback
        except Rollback:
            pass
        return JsonResponse(seen)

    def look(self, name: str) -> list[Any]:
        state = "SELECT pg_backend_pid(), txid_current()::text, current_setting('test.stream')"
        return [*ask(state), Note.query.filter(stream=name).count()]


class Sleep(View):
    """One slow query, in a transaction or not."""

    def get(self) -> Response:
        params = self.request.query_params
        if params.get("in") == "transaction":
            with transaction.atomic():
                self.sleep(params)
        else:
            self.sleep(params)
        return Response("slept")

    def sleep(self, params: Any) -> None:
        sleep_in_query(Note.query.create(stream="sleep"), float(params["s"]))


class SleepBriefly(Sleep):
    request_deadline = 0.5


class Rows(View):
    """A body that runs a slow query for each chunk, in one transaction, for ever."""

    def get(self) -> Response:
        seconds = float(self.request.query_params["s"])

        def body() -> Iterator[bytes]:
            with transaction.atomic():
                note = Note.query.create(stream="rows")
                while True:
                    sleep_in_query(note, seconds)
                    yield b"row\n"

        return StreamingResponse(body())


class Together(View):
    """Has a connection while `n` views have one each."""

    barriers: dict[int, threading.Barrier] = {}  # noqa: RUF012

    def get(self) -> Response:
        n = int(self.request.query_params["n"])
        barrier = self.barriers.setdefault(n, threading.Barrier(n))
        (pid,) = ask("SELECT pg_backend_pid()")
        barrier.wait(20)
        return JsonResponse(pid)


class Pool(View):
    def get(self) -> Response:
        return JsonResponse(runtime_pool_source.get_stats() or {})


class Listen(View):
    """A blocking event stream: what the database notifies of, on a connection of its own."""

    def get(self) -> Response:
        # What the request looked up is done with: an open stream needs none of the pool.
        ask("SELECT 1")
        return_database_connection()
        return StreamingResponse(self.events(), content_type="text/event-stream")

    def events(self) -> Iterator[bytes]:
        global listening  # noqa: PLW0603
        url = str(settings.POSTGRES_URL)
        with psycopg.connect(url, autocommit=True, application_name="listener") as connection:
            connection.execute("LISTEN news")
            listening += 1
            try:
                yield b": open\n\n"
                for notification in connection.notifies():
                    yield f"data: {notification.payload}\n\n".encode()
            finally:
                listening -= 1


class Listening(View):
    def get(self) -> Response:
        return JsonResponse(listening)


class Notify(View):
    def get(self) -> Response:
        ask("SELECT pg_notify('news', %s)", self.request.query_params["text"])
        return Response("sent")


urls: tuple[Any, ...] = (
    path("queries", Queries),
    path("async-queries", AsyncQueries),
    path("transaction", Transaction),
    path("sleep", Sleep),
    path("sleep-briefly", SleepBriefly),
    path("rows", Rows),
    path("together", Together),
    path("pool", Pool),
    path("listen", Listen),
    path("listening", Listening),
    path("notify", Notify),
)
