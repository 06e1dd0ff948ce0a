"""Views that hash, block, wait too long, and use asyncio from blocking code.

The views that need a large library import it: most servers of the tests start without.
"""

import asyncio
import contextlib
import hashlib
import queue
import select
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import argon2
import bcrypt
import gevent
import gevent.event
from gevent.monkey import get_original
from plain.http import AsyncStreamingResponse, JsonResponse, Response, StreamingResponse
from plain.urls import path
from plain.views import View

from .life_views import pbkdf2_hmac
from .views import Sleep

#: What views left behind when they were stopped.
stopped: list[str] = []

#: Counts up while anything runs in the hub; a hash that blocked it would see it stand still.
ticks = 0
ticking = threading.Event()


def tick() -> None:
    global ticks  # noqa: PLW0603
    while True:
        ticks += 1
        ticking.set()
        time.sleep(0.001)


class Hash(View):
    """Hashes for a while; the answer is by how much the ticks went on meanwhile."""

    def get(self) -> Response:
        if not ticks:
            threading.Thread(target=tick, daemon=True).start()
            ticking.wait(10)
        kind, before = self.request.query_params["kind"], ticks
        started, digests = time.monotonic(), 0
        while time.monotonic() - started < 0.2 or digests < 5:
            result = self.digest(kind)
            digests += 1
        ticked = ticks - before
        return JsonResponse({"ticks": ticked, "digests": digests, "digest": result})

    def digest(self, kind: str) -> str:
        if kind == "pbkdf2":
            return hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 200_000).hex()
        if kind == "scrypt":
            return hashlib.scrypt(b"password", salt=b"salt", n=2**14, r=8, p=1, maxmem=2**26).hex()
        if kind == "bcrypt":
            return str(bcrypt.checkpw(b"password", bcrypt.hashpw(b"password", bcrypt.gensalt(8))))
        hasher = argon2.PasswordHasher()
        hashed = hasher.hash("password")
        return str(hasher.verify(hashed, "password"))


class HashError(View):
    def get(self) -> Response:
        try:
            hashlib.pbkdf2_hmac("no-such-digest", b"", b"", 1000)
        except ValueError as exc:
            return Response(f"ValueError {exc}")
        return Response("no error")


class Block(View):
    """Keeps the hub, and says for how many seconds it did."""

    def get(self) -> Response:
        seconds = float(self.request.query_params["s"])
        where = self.request.query_params.get("in", "python")
        since = time.monotonic()
        if where == "c":
            pbkdf2_hmac("sha256", b"password", b"salt", int(seconds * 3_000_000))
        elif where == "gil":  # C that does not let go of the GIL
            sum(range(int(seconds * 50_000_000)))
        else:
            while time.monotonic() < since + seconds:
                pass
        return Response(str(time.monotonic() - since))


class Wait(View):
    """Longer than its deadline, if it has one."""

    def get(self) -> Response:
        name = self.request.query_params.get("name", "")
        try:
            time.sleep(float(self.request.query_params["s"]))
        finally:
            stopped.append(name)
        return Response("waited")


class WaitBriefly(Wait):
    request_deadline = 0.3


class WaitLong(Wait):
    request_deadline = 0


class AsyncWait(View):
    request_deadline = 0.3

    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        try:
            await asyncio.sleep(float(self.request.query_params["s"]))
        finally:
            stopped.append(self.request.query_params.get("name", ""))
        return Response("waited")


def _from_a_silent_server() -> Any:
    """An HTTP request to a server that takes it and never answers."""
    import requests

    with socket.create_server(("127.0.0.1", 0)) as silent:
        return requests.get(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout=60)


def _from_a_silent_socket() -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return ours.recv(1)


def _for_a_thread() -> Any:
    with ThreadPoolExecutor() as pool:
        return pool.submit(time.sleep, 2).result()


def _for_a_loop() -> Any:
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(asyncio.sleep(60))
    finally:
        loop.close()
        stopped.append("loop closed")


def _with_all_errors_swallowed() -> Any:
    while True:
        with contextlib.suppress(Exception):
            time.sleep(60)


#: Ways to wait for a minute.
WAITS: dict[str, Callable[[], Any]] = {
    "sleep": lambda: time.sleep(60),
    "socket": _from_a_silent_socket,
    "requests": _from_a_silent_server,
    "queue": lambda: queue.Queue[int]().get(timeout=60),
    "lock": lambda: threading.Semaphore(0).acquire(timeout=60),
    "event": lambda: threading.Event().wait(60),
    "thread": _for_a_thread,
    "subprocess": lambda: subprocess.run(["sleep", "60"], check=True),
    "select": lambda: select.select([], [], [], 60),
    "asyncio": lambda: asyncio.run(asyncio.sleep(60)),
    "loop": _for_a_loop,
    "swallowing": _with_all_errors_swallowed,
}


class WaitFor(View):
    """Waits in one of many ways, past its deadline."""

    request_deadline = 0.3

    def get(self) -> Response:
        how = self.request.query_params["how"]
        try:
            WAITS[how]()
        finally:
            stopped.append(how)
        return Response("waited")


async def _deeper() -> None:
    await asyncio.sleep(60)


class AsyncNested(View):
    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        await _deeper()
        return Response("waited")


async def _events() -> AsyncIterator[bytes]:
    yield b"event"
    await _deeper()


class AsyncEvents(View):
    async def get(self) -> AsyncStreamingResponse:  # type: ignore[override]  # Plain awaits it
        return AsyncStreamingResponse(_events())


class LongBody(View):
    """A response in time, with a body that takes longer."""

    def get(self) -> Response:
        def body() -> Iterator[bytes]:
            for _ in range(4):
                time.sleep(0.2)
                yield b"part "

        return StreamingResponse(body())


class CutBody(View):
    """A body that comes after its deadline, at once or in the middle."""

    request_deadline = 1

    def get(self) -> Response:
        parts = int(self.request.query_params["parts"])

        def body() -> Iterator[bytes]:
            try:
                for _ in range(parts):
                    yield b"part "
                time.sleep(60)
            finally:
                stopped.append(f"body {parts}")

        return StreamingResponse(body())


class AsyncCutBody(View):
    request_deadline = 1

    async def get(self) -> AsyncStreamingResponse:  # type: ignore[override]  # Plain awaits it
        return AsyncStreamingResponse(_events())


class Stopped(View):
    def get(self) -> Response:
        return JsonResponse(stopped)


async def _together(n: int) -> int:
    """Counts to n in three tasks at once, with a thread between."""

    async def one() -> int:
        await asyncio.sleep(0.01)
        return await asyncio.to_thread(lambda: n)

    return sum(await asyncio.gather(one(), one(), one()))


def _in_a_new_loop(n: int) -> int:
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        return loop.run_until_complete(_together(n))


class AsyncioRun(View):
    """Blocking code that uses asyncio."""

    def get(self) -> Response:
        n = int(self.request.query_params["n"])
        how = self.request.query_params.get("how", "run")
        if how == "runner":
            with asyncio.Runner() as runner:
                return Response(str(runner.run(_together(n)) + runner.run(_together(n))))
        if how == "anyio":
            import anyio

            return Response(str(anyio.run(_together, n)))
        if how == "loop":
            with ThreadPoolExecutor() as pool:
                return Response(str(pool.submit(asyncio.run, _together(n)).result()))
        return Response(str(asyncio.run(_together(n))))


class AsyncViewThreads(View):
    """An async view that goes to threads and back."""

    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        import anyio.from_thread
        import anyio.to_thread

        n = int(self.request.query_params["n"])
        loop = asyncio.get_running_loop()

        def in_thread() -> int:
            time.sleep(0.05)
            return n

        def back_again() -> int:
            time.sleep(0.05)
            return anyio.from_thread.run(_together, n)

        with ThreadPoolExecutor(2) as pool:
            values = [
                await asyncio.to_thread(in_thread),
                await loop.run_in_executor(None, in_thread),
                await loop.run_in_executor(pool, in_thread),
                await anyio.to_thread.run_sync(back_again),
                await asyncio.to_thread(lambda: asyncio.run(_together(n))),
                await asyncio.to_thread(lambda: _in_a_new_loop(n)),
            ]
        return JsonResponse(values)


class AsyncClient(View):
    """A view that asks this server, with an async client."""

    def get(self) -> Response:
        return Response(asyncio.run(self.ask()))

    async def ask(self) -> str:
        import httpx

        url = f"https://127.0.0.1:{self.request.server_port}/sleep?s=0.05"
        async with httpx.AsyncClient(verify=False, timeout=30) as client:
            answers = await asyncio.gather(client.get(url), client.get(url))
        return " ".join(answer.text for answer in answers)


class AsyncClientInAsyncView(AsyncClient):
    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        return Response(await self.ask())


class Unseen:
    """As the proxies of some frameworks are outside of a request."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("nobody may look")


#: What goes on without a request.
beside: list[Any] = [Unseen()]


def in_a_greenlet() -> None:
    gevent.event.Event().wait()


def in_a_native_thread() -> None:
    lock = get_original("_thread", "allocate_lock")()
    lock.acquire()
    lock.acquire()


async def in_a_task() -> None:
    await asyncio.Event().wait()


class Beside(View):
    def get(self) -> Response:
        beside.append(gevent.spawn(in_a_greenlet))
        get_original("_thread", "start_new_thread")(in_a_native_thread, ())
        return Response("started")


class BesideAsync(View):
    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        beside.append(asyncio.create_task(in_a_task()))
        return Response("started")


urls: tuple[Any, ...] = (
    path("hub/hash", Hash),
    path("hub/hash-error", HashError),
    path("hub/block", Block),
    path("hub/wait", Wait),
    path("hub/wait-briefly", WaitBriefly),
    path("hub/wait-long", WaitLong),
    path("hub/wait-for", WaitFor),
    path("hub/async-wait", AsyncWait),
    path("hub/async-nested", AsyncNested),
    path("hub/async-events", AsyncEvents),
    path("hub/long-body", LongBody),
    path("hub/cut-body", CutBody),
    path("hub/async-cut-body", AsyncCutBody),
    path("hub/stopped", Stopped),
    path("hub/beside", Beside),
    path("hub/beside-async", BesideAsync),
    path("hub/sleep/<int:n>", Sleep),
    path("hub/asyncio-run", AsyncioRun),
    path("hub/async-threads", AsyncViewThreads),
    path("hub/async-client", AsyncClient),
    path("hub/async-client-in-async", AsyncClientInAsyncView),
)
