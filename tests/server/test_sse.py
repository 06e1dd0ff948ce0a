"""Event streams by the hundred, and ordinary requests beside them."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from urllib.parse import quote

import pytest
from h2client import Client
from harness import Server, wait_for
from load_client import Http1Client

CONNECTIONS = 10
STREAMS = 100


def events(body: bytes | bytearray) -> list[int]:
    return [int(number) for number in re.findall(rb"data: (\d+)\n\n", bytes(body))]


@pytest.mark.parametrize("path", ["/ws/clock", "/ws/blocking-clock"])
def test_1000_event_streams_on_10_connections(shared: Callable[..., Server], path: str) -> None:
    """Each gets an event a second; requests on the same connections are answered meanwhile."""
    server = shared(env={"PLAIN_SERVER_H2_MAX_CONCURRENT_STREAMS": "200"})
    with Client(server) as other:
        with ExitStack() as stack:
            clients = [stack.enter_context(Client(server)) for _ in range(CONNECTIONS)]
            opened = [[c.send(f"{path}?every=1") for _ in range(STREAMS)] for c in clients]
            wait_for(lambda: other.get("/ws/clocks").body == b"1000", "all streams")
            for client, streams in zip(clients, opened, strict=True):
                answers = [client.answers[stream] for stream in streams]
                client.until(
                    lambda answers=answers: all(len(events(a.body)) >= 3 for a in answers),
                    "three events of each",
                )
                assert client.get("/").body == b"hello"
                for answer in answers:
                    numbers = events(answer.body)
                    assert numbers == list(range(len(numbers)))
            for client in clients:
                assert client.get("/").body == b"hello"
        # Their clients are gone: the views end, the blocking ones where they wait.
        wait_for(lambda: other.get("/ws/clocks").body == b"0", "end of the streams")


class TestItsOpening:
    @pytest.mark.parametrize(
        "content_type", ["text/event-stream", "Text/Event-Stream; charset=utf-8"]
    )
    def test_the_headers_wait_for_no_event(self, server: Server, content_type: str) -> None:
        """A browser tells the page that the stream is open when it has them."""
        path = f"/lengths/silent-stream?type={quote(content_type)}"
        with Client(server) as client, Http1Client(server) as old:
            stream = client.send(path)
            client.until(lambda: client.answers[stream].headers, "headers")
            assert client.answers[stream].status == 200
            old.send(path)
            assert old.sock.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
