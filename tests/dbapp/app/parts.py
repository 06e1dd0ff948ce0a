"""What else views of an app do: forms, jobs, the cache, and libraries that wait.

Where waits have to overlap, a view waits for `n` views to be at the same point. One that kept the
others from running would wait in vain.
"""

import contextvars
import hashlib
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache as once
from typing import Any

import httpx
import redis
import requests
import urllib3
from plain.cache import cache
from plain.forms import FileField, Form, TextField
from plain.http import JsonResponse, Response
from plain.urls import path
from plain.views import View

from .notes.jobs import WriteNote

#: Seconds for which a view waits for the others.
WAIT = 25


_barriers: dict[tuple[str, int], threading.Barrier] = {}


def meet(name: str, n: int) -> None:
    """Wait until `n` views are here, at the point `name`."""
    _barriers.setdefault((name, n), threading.Barrier(n)).wait(WAIT)


class Meet(View):
    def get(self) -> Response:
        params = self.request.query_params
        meet(params["name"], int(params["n"]))
        return Response(params["id"])


class UploadForm(Form):
    title = TextField(max_length=50)
    file = FileField()


class Upload(View):
    def post(self) -> Response:
        form = UploadForm(request=self.request)
        if not form.is_valid():
            return JsonResponse(form.errors, status_code=400)
        file = form.cleaned_data["file"]
        digest = hashlib.sha256()
        for chunk in file.chunks():
            digest.update(chunk)
        return JsonResponse([form.cleaned_data["title"], file.name, file.size, digest.hexdigest()])


class Enqueue(View):
    def get(self) -> Response:
        WriteNote(self.request.query_params["name"]).run_in_worker()
        return Response("enqueued")


class Cache(View):
    def get(self) -> Response:
        name = self.request.query_params["name"]
        cache.set(f"own-{name}", {"name": name}, expiration=60)
        total = cache.increment("total")
        common = cache.get_or_set("common", lambda: "made once")
        return JsonResponse([cache.get(f"own-{name}"), total, common])


@once
def ask_with(kind: str) -> Callable[[str], str]:
    """A function that asks a URL with the client `kind`, which all views share."""
    certificate = os.environ["TEST_CERTIFICATE"]
    if kind == "requests":
        session = requests.Session()
        return lambda url: session.get(url, verify=certificate, timeout=WAIT).text
    if kind == "urllib3":
        manager = urllib3.PoolManager(ca_certs=certificate)
        return lambda url: manager.request("GET", url, timeout=WAIT).data.decode()
    context = httpx.create_ssl_context(verify=certificate)
    client = httpx.Client(verify=context, http2=kind == "httpx-h2", timeout=WAIT)
    return lambda url: client.get(url).text


class Ask(View):
    """Asks another view of this server, which waits for `n` of these."""

    def get(self) -> Response:
        params = self.request.query_params
        ask, port = ask_with(params["client"]), self.request.server_port
        query = f"name={params['client']}&n={params['n']}&id={params['id']}"
        return Response(ask(f"https://127.0.0.1:{port}/meet?{query}"))


class Subprocess(View):
    """Talks to a process of its own while `n` views have one each."""

    def get(self) -> Response:
        params = self.request.query_params
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            meet("subprocess", int(params["n"]))
            out, _ = child.communicate(params["id"].encode(), timeout=WAIT)
        command = ["sh", "-c", "sleep 0.05; echo done; exit 3"]
        done = subprocess.run(command, capture_output=True, check=False, text=True)
        try:
            subprocess.run(["sleep", "60"], check=False, timeout=0.1)
        except subprocess.TimeoutExpired as exc:
            late = type(exc).__name__
        return JsonResponse([out.decode(), done.stdout, done.returncode, late])


current = contextvars.ContextVar[str]("current")
local = threading.local()
lock = threading.Lock()
counter = 0


class Threads(View):
    """Uses the tools of `threading`, while `n` views do."""

    def get(self) -> Response:
        name, n = self.request.query_params["id"], int(self.request.query_params["n"])
        current.set(name)
        local.name = name
        doubled = self.double_in_thread(list(range(10)))
        meet("threads", n)
        answer = [self.count(), sum(doubled), self.pool(), self.in_context(), local.name]
        return JsonResponse([*answer, current.get()])

    def double_in_thread(self, numbers: list[int]) -> list[int]:
        todo: queue.Queue[int | None] = queue.Queue(2)
        done: queue.Queue[int] = queue.Queue()

        def work() -> None:
            while (number := todo.get()) is not None:
                time.sleep(0.001)
                done.put(2 * number)

        thread = threading.Thread(target=work)
        thread.start()
        for number in [*numbers, None]:
            todo.put(number)
        thread.join()
        return [done.get_nowait() for _ in numbers]

    def count(self) -> int:
        """One more than the last view that did, which a race would lose."""
        global counter  # noqa: PLW0603
        with lock:
            before = counter
            time.sleep(0.001)
            counter = before + 1
            return counter

    def pool(self) -> list[int]:
        """Threads that wait for each other."""
        barrier = threading.Barrier(4)

        def square(number: int) -> int:
            barrier.wait(WAIT)
            return number * number

        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(square, range(4)))

    def in_context(self) -> str:
        with ThreadPoolExecutor() as pool:
            return pool.submit(contextvars.copy_context().run, current.get).result()


@once
def redis_client() -> redis.Redis:
    return redis.Redis.from_url(os.environ["TEST_REDIS"], decode_responses=True)


def pop(client: redis.Redis, queue: str) -> str:
    """Wait for a value."""
    popped = client.blpop([queue], timeout=WAIT)
    assert popped is not None
    return str(popped[1])


class Redis(View):
    """View `id` waits for what the one before it pushes, the first for the last of `n`."""

    def get(self) -> Response:
        me, n = int(self.request.query_params["id"]), int(self.request.query_params["n"])
        client = redis_client()
        client.set(f"own-{me}", me)
        if me == n - 1:  # the others wait already, or will
            client.lpush("queue-0", n - 1)
            value = pop(client, f"queue-{me}")
        else:
            value = pop(client, f"queue-{me}")
            client.lpush(f"queue-{me + 1}", me)
        with client.pipeline() as pipeline:
            pipeline.get(f"own-{me}")
            pipeline.incr("total")
            own, total = pipeline.execute()
        return JsonResponse([int(value), int(own), total])


urls: tuple[Any, ...] = (
    path("meet", Meet),
    path("upload", Upload),
    path("enqueue", Enqueue),
    path("cache", Cache),
    path("ask", Ask),
    path("subprocess", Subprocess),
    path("threads", Threads),
    path("redis", Redis),
)
