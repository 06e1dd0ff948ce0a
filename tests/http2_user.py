"""What test_load.py has a locust user do, in a process of its own: locust patches it.

    python http2_user.py SCENARIO HOST '{"ca_file": ...}'

prints, as JSON, what the scenario returned and what locust was told. The client is the public one,
`plain_gevent_h2.load.Http2User`: it is what is tested.
"""

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import gevent
import psutil
from gevent.pool import Group
from locust.env import Environment

from plain_gevent_h2.load import Http2User, Response

Scenario = Callable[[Http2User], Any]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


def about(response: Response) -> dict[str, Any]:
    return {
        "status": response.status_code,
        "text": response.text[:100],
        "size": len(response.content),
        "error": str(response.error or ""),
        "ttfb": response.ttfb,
        "elapsed": response.elapsed,
    }


@scenario
def get(user: Http2User) -> Any:
    first = user.client.get("/", name="home")
    second = user.client.get("/bytes?n=3000000", name="large")
    return [about(first), about(second), first.headers["content-type"]]


@scenario
def meta(user: Http2User) -> Any:
    user.client.get("/statuses?kind=cookies")
    return user.client.get("/meta?a=1", headers={"X-Test": "yes", "Connection": "close"}).json()


@scenario
def statuses(user: Http2User) -> Any:
    head = user.client.head("/bytes?n=100")
    return [about(head), *(about(user.client.get(f"/statuses?kind={k}")) for k in ("204", "304"))]


@scenario
def bodies(user: Http2User) -> Any:
    def pieces() -> Iterator[bytes]:
        for _ in range(30):
            yield b"x" * 100_000
            gevent.sleep(0)

    client = user.client
    return [
        client.post("/echo", data=b"x" * 5_000_000).json(),
        client.put("/echo", data=pieces()).json(),
        client.post("/echo", json={"a": 1}).json(),
        client.post("/echo", data=b"").json(),
        client.post("/bodies/form", data={"a": "1", "b": "ü&"}).json(),
        client.post(
            "/bodies/form", data={"a": "1"}, files={"f": ("a.txt", b"content", "text/plain")}
        ).json(),
    ]


@scenario
def stream(user: Http2User) -> Any:
    """Chunks arrive one by one, and a body larger than all windows does whole."""
    with user.client.stream("GET", "/chunks?n=3&size=5&wait=2", name="chunks") as response:
        chunks = [chunk.decode() for chunk in response.iter_bytes()]
    with user.client.stream("GET", "/chunks?n=500&size=100000", name="large") as response:
        size = sum(len(chunk) for chunk in response.iter_bytes())
    ttfb = user.environment.stats.get("chunks", "GET TTFB").avg_response_time
    whole = user.environment.stats.get("chunks", "GET").avg_response_time
    return {"chunks": chunks, "size": size, "ttfb": ttfb, "whole": whole}


@scenario
def events(user: Http2User) -> Any:
    """Left before its end; the connection goes on."""
    heard = []
    with user.client.stream("GET", "/ws/clock?every=0.01", name="clock") as response:
        for event in response.events():
            heard.append(event.data)
            if len(heard) == 3:
                break
    return {"heard": heard, "after": about(user.client.get("/"))}


@scenario
def failures(user: Http2User) -> Any:
    client = user.client
    client.get("/nowhere", name="missing")
    client.get("/statuses?kind=raise", name="raises")
    client.get("/failing-body?after=2", name="breaks off")
    client.get("/sleep?s=30", name="late", timeout=0.2)
    with client.stream("GET", "/failing-body?after=2", name="stream breaks off") as response:
        sum(len(chunk) for chunk in response.iter_bytes())
    with client.get("/", name="called a failure", catch_response=True) as answer:
        answer.failure("not what I wanted")
    with client.get("/nowhere", name="called a success", catch_response=True) as answer:
        answer.success()
    return about(client.get("/", name="fine"))


@scenario
def one_get(user: Http2User) -> Any:
    return about(user.client.get("/"))


@scenario
def at_once(user: Http2User) -> Any:
    """100 requests at once, of four users; how many connections there are then."""
    clients = [user.client, *(type(user)(user.environment).client for _ in range(3))]
    Group().map(lambda i: clients[i % 4].get("/sleep?s=0.05", name="sleep"), range(100))
    port = urlsplit(user.host).port
    return sum(c.raddr.port == port for c in psutil.Process().net_connections("tcp") if c.raddr)


@scenario
def busy(user: Http2User) -> Any:
    """20 greenlets ask for 100 pages each, on connections that the server renews."""

    def ask(_: int) -> None:
        for _ in range(100):
            user.client.get("/life/pid?s=0.001", name="pid")

    Group().map(ask, range(20))


@scenario
def until_recycled(user: Http2User) -> Any:
    """The same until a second worker has answered."""
    pids: set[str] = set()

    def ask(_: int) -> None:
        while len(pids) < 2:
            response = user.client.get("/life/pid?s=0.001", name="pid")
            if response.ok:
                pids.add(response.text)

    Group().map(ask, range(20))
    return len(pids)


@scenario
def twice(user: Http2User) -> Any:
    return [about(user.client.get("/first")), about(user.client.get("/second"))]


@scenario
def upload(user: Http2User) -> Any:
    return [about(user.client.post("/", data=b"x" * 1_000_000)), about(user.client.get("/after"))]


@scenario
def clocks(user: Http2User) -> Any:
    return user.client.get("/ws/clocks").text


@scenario
def gated(user: Http2User) -> Any:
    return about(user.client.get(f"/life/gate?gate={user.default_headers['x-gate']}&n=5"))


def main(name: str, host: str, attributes: dict[str, Any]) -> None:
    user_class = type("User", (Http2User,), {"host": host, **attributes})
    environment = Environment(user_classes=[user_class])
    stats = environment.create_local_runner().stats
    result = SCENARIOS[name](user_class(environment))
    rows = {
        f"{entry.method} {entry.name}": {
            "requests": entry.num_requests,
            "failures": entry.num_failures,
            "bytes": entry.total_content_length,
        }
        for entry in stats.entries.values()
    }
    errors = {error.name: str(error.error) for error in stats.errors.values()}
    total = {"requests": stats.total.num_requests, "failures": stats.total.num_failures}
    print(json.dumps({"result": result, "rows": rows, "errors": errors, "total": total}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
