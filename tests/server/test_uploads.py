"""Uploads that compete for the worker's budget: who holds much and sends little gives way."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from harness import Server, wait_for
from raw import RawClient, data, request_fields
from server.test_bodies import PROTOCOLS, echo, http_client

Serve = Callable[..., Server]

NO_ROOM = "No room for a request's body"


@contextmanager
def dripping(*drips: Callable[[], object]) -> Iterator[None]:
    """Call each of `drips` ten times a second meanwhile."""
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.1):
            for send in drips:
                send()

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def bytes_on_their_way(sock: socket.socket) -> int:
    """Of those that `sock` has sent over loopback, what the server has not read yet."""
    port = sock.getsockname()[1]
    waiting = 0
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = row.split()
        to_send, to_read = (int(size, 16) for size in queues.split(":"))
        if int(local.split(":")[1], 16) == port:
            waiting += to_send
        elif int(remote.split(":")[1], 16) == port:
            waiting += to_read
    return waiting


class TestHeldBudget:
    """Three uploads stop at a third of the budget each, and go on with 300 bytes a second."""

    BUDGET = 3_000_000
    PART = BUDGET // 3 - 60_000  # what is left is for their drips

    def _hold_over_http2(self, stack: ExitStack, server: Server) -> Callable[[], object]:
        client = stack.enter_context(RawClient(server))
        stream = client.open(request_fields("/echo", "POST"), end_stream=False)
        sent = 0
        while sent < self.PART:
            client.send(data(stream, b"x" * 16_000, end=False))
            sent += 16_000
            if sent % 48_000 == 0:
                client.expect_alive()  # takes in the WINDOW_UPDATEs
        client.expect_alive()
        return lambda: client.send(data(stream, b"x" * 30, end=False))

    def _hold_over_http1(self, stack: ExitStack, server: Server) -> Callable[[], object]:
        sock = stack.enter_context(server.connect("http/1.1"))
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2900000\r\n\r\n")
        sock.sendall(b"x" * self.PART)
        wait_for(lambda: not bytes_on_their_way(sock), "body taken in")

        def drip() -> None:
            with suppress(OSError):  # its answer has come
                sock.sendall(b"x" * 30)

        return drip

    @pytest.mark.parametrize("held", PROTOCOLS)
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_others_get_their_room(self, shared: Serve, held: str, protocol: str) -> None:
        server = shared(env={"PLAIN_SERVER_MAX_INFLIGHT_BODY_SIZE": str(self.BUDGET)})
        hold = self._hold_over_http2 if held == "h2" else self._hold_over_http1
        body = b"y" * 200_000
        with ExitStack() as stack, http_client(server, protocol) as client:
            drips = [hold(stack, server) for _ in range(3)]
            with dripping(*drips):

                def status() -> int:
                    try:
                        return client.post("/echo", content=body).status_code
                    except httpx.TransportError:  # refused while it still sent
                        return 0

                def used_up() -> bool:
                    status()
                    return server.log().count(NO_ROOM) > before  # for this one, or a slow one

                before = server.log().count(NO_ROOM)
                wait_for(used_up, "budget used up")
                wait_for(lambda: status() == 200, "room for an upload")
                for _ in range(20):
                    assert client.post("/echo", content=body).json() == echo(body)
        assert "Traceback" not in server.log()
