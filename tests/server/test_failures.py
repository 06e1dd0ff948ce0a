"""Views, bodies and middleware that fail: what the client sees, and that nothing is left behind.

More of it: a full disk in `test_bodies.py`, a worker that is blocked or killed in `test_life.py`.
"""

from collections.abc import Iterator

import pytest
import ws
from app.failure_views import FAILURES, JUNK
from h2.errors import ErrorCodes
from harness import Server
from inside import Inside
from load_client import Answer, Http1Client, Http2Client
from raw import RawClient
from websockets.exceptions import ConnectionClosed

#: Where it fails, as a path, and what an HTTP/2 client sees: a status, a body, a reset. Over
#: HTTP/1.1 the response breaks off in place of the reset.
PLACES: dict[str, tuple[int, bytes | None, int | None]] = {
    "view?": (500, None, None),
    "async-view?": (500, None, None),
    "middleware?part=before&": (500, None, None),
    "middleware?part=after&": (500, None, None),
    "body?after=0&": (500, None, None),
    "body?after=2&": (200, b"chunkchunk", ErrorCodes.INTERNAL_ERROR),
    "async-body?after=0&": (200, b"", ErrorCodes.INTERNAL_ERROR),
    "async-body?after=2&": (200, b"chunkchunk", ErrorCodes.INTERNAL_ERROR),
    "closer?": (200, b"whole", None),
}

#: What is no failure: Plain makes text of it, in its own worker too.
TAKEN = ("header-of-int", "header-of-none", "chunk-of-none", "chunk-of-object")

#: What Plain says nothing of if a closer raises it: each `Exception`. The others reach the worker.
SAID_BY_NOBODY = ("no_memory", "recursion", "error")


@pytest.fixture(scope="module")
def inside(server: Server) -> Iterator[Inside]:
    with Http2Client(server) as client:
        # What starts with the first async view stays.
        client.get("/failures/async-view?how=error")
    with Inside(server) as look:
        yield look


def ask_http1(server: Server, path: str) -> Answer | None:
    """The answer, or None for one that broke off."""
    with Http1Client(server) as client:
        client.send(path)
        try:
            answer = client.receive()
        except EOFError:
            return None
        assert answer is not None, "closed without an answer"
        return answer


def logged_tracebacks(server: Server) -> int:
    return server.log().count("Traceback (most recent call last)")


@pytest.mark.parametrize("how", FAILURES)
@pytest.mark.parametrize("place", PLACES)
def test_failure(server: Server, inside: Inside, place: str, how: str) -> None:
    status, body, reset = PLACES[place]
    path = f"/failures/{place}how={how}"
    tracebacks = [logged_tracebacks(server)]
    with Http2Client(server) as client:
        beside = client.open("/sleep?s=0.05")
        answer = client.get(path)
        assert (answer.status, answer.reset) == (status, reset)
        assert body is None or answer.body == body
        assert client.answer(beside).body == b"slept"
        assert client.get("/").body == b"hello"
        assert not client.goaways
    tracebacks.append(logged_tracebacks(server))
    old = ask_http1(server, path)
    if reset is None:
        assert old is not None
        assert old.status == status
        assert body is None or old.body == body
    else:
        assert old is None
    assert inside.left() == {}
    tracebacks.append(logged_tracebacks(server))
    before, over_http2, over_http1 = tracebacks
    if place == "closer?" and how in SAID_BY_NOBODY:
        assert before == over_http2 == over_http1
    else:
        assert before < over_http2 < over_http1


@pytest.mark.parametrize("how", FAILURES)
def test_failure_in_a_websocket(server: Server, inside: Inside, how: str) -> None:
    path = f"/failures/websocket?how={how}"
    with RawClient(server) as client, ws.Http2Socket(client, "/ws/echo") as beside:
        with ws.Http2Socket(client, path) as sock:
            sock.send("hello")
            assert sock.recv() == "hello"
            assert sock.until_closed() in (1006, 1011)  # 1006: without a close
        beside.send("still here")
        assert beside.recv() == "still here"
    with ws.http1(server, path) as old:
        old.send("hello")
        assert old.recv() == "hello"
        with pytest.raises(ConnectionClosed):
            old.recv()
    assert inside.left() == {}


@pytest.mark.parametrize("what", JUNK)
def test_junk(server: Server, inside: Inside, what: str) -> None:
    path = f"/failures/junk?what={what}"
    expected = 200 if what in TAKEN else 500
    with Http2Client(server) as client:
        assert client.get(path).status == expected
        assert client.get("/").body == b"hello"
    old = ask_http1(server, path)
    assert old is not None
    assert old.status == expected
    assert inside.left() == {}
