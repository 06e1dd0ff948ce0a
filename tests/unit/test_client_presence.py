"""Whether the client of an HTTP/1.1 request is there, by what the kernel tells of a socket pair."""

import select
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import socket as gsocket

from plain_gevent_h2.http1.client_presence import ASK_AFTER, HALF_CLOSED_SILENCE, ClientPresence
from plain_gevent_h2.http1.output import Output
from plain_gevent_h2.limits.unsent import UnsentBytes
from plain_gevent_h2.net.fairness import yield_to_others

#: When the client is first seen to have closed its side.
SEEN = 1000.0

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

type Socket = gsocket.socket


def a_stream(**changes: Any) -> Any:
    """One that waits for its view, as far as its client is watched."""
    began: dict[str, Any] = {"was_asked": False, "headers_sent": False, "in_body": False}
    return SimpleNamespace(**(began | {"version": (1, 1), "began_at": 0.0} | changes))


@pytest.fixture
def sockets() -> Iterator[tuple[Socket, Socket]]:
    ours, theirs = gsocket.socketpair()
    theirs.setblocking(False)
    with ours, theirs, gevent.Timeout(10):
        yield ours, theirs


@pytest.fixture
def ours(sockets: tuple[Socket, Socket]) -> Socket:
    return sockets[0]


@pytest.fixture
def theirs(sockets: tuple[Socket, Socket]) -> Socket:
    return sockets[1]


@pytest.fixture
def output(ours: Socket) -> Output:
    return Output(ours, 5.0, UnsentBytes())


@pytest.fixture
def presence(ours: Socket, output: Output) -> ClientPresence:
    return ClientPresence(ours, output)


def sent_to(sock: Socket) -> bytes:
    """What has come so far."""
    received = b""
    try:
        while more := sock.recv(2**20):
            received += more
    except BlockingIOError:
        pass
    return received


class TestWhatTheKernelTells:
    def test_a_client_that_is_there(self, presence: ClientPresence, theirs: Socket) -> None:
        for sent in (b"", b"bytes that nobody has read"):
            theirs.sendall(sent)
            assert not presence.has_hung_up()
            assert not presence.is_half_closed()
            assert not presence.has_left(a_stream(in_body=True), SEEN)

    def test_one_that_has_closed_its_side(self, presence: ClientPresence, theirs: Socket) -> None:
        theirs.shutdown(gsocket.SHUT_WR)
        assert not presence.has_hung_up()
        assert presence.is_half_closed()

    @pytest.mark.parametrize("who", ["the client", "another greenlet of ours"])
    def test_a_socket_that_is_closed(
        self, presence: ClientPresence, sockets: tuple[Socket, Socket], who: str
    ) -> None:
        """A client that only closes its side may still read."""
        sockets[who == "the client"].close()
        assert presence.has_hung_up()
        assert presence.is_half_closed()
        assert presence.has_left(a_stream(), SEEN)


class TestClientThatHasClosedItsSide:
    @pytest.fixture(autouse=True)
    def _half_closed(self, theirs: Socket) -> None:
        theirs.shutdown(gsocket.SHUT_WR)

    @pytest.mark.parametrize("sent_after", [-100.0, 0.0, 7.0])
    def test_it_has_left_a_body_that_is_silent(
        self, presence: ClientPresence, output: Output, sent_after: float
    ) -> None:
        """From when that was seen, or the last bytes, whichever is later."""
        stream = a_stream(in_body=True, headers_sent=True)
        output.sent_at = SEEN + sent_after
        assert not presence.has_left(stream, SEEN)
        silent = SEEN + max(0.0, sent_after) + HALF_CLOSED_SILENCE
        assert not presence.has_left(stream, silent)
        assert presence.has_left(stream, silent + 0.5)
        output.sent_at = silent
        assert not presence.has_left(stream, silent + 0.5)

    def test_its_kernel_is_probed(self, presence: ClientPresence, ours: Socket) -> None:
        keepalive = gsocket.SOL_SOCKET, gsocket.SO_KEEPALIVE
        assert not ours.getsockopt(*keepalive)
        presence.has_left(a_stream(), SEEN)
        assert ours.getsockopt(*keepalive)

    @pytest.mark.parametrize("began_after", [-100.0, 0.0, 3.0])
    def test_it_is_asked_once(
        self, presence: ClientPresence, theirs: Socket, began_after: float
    ) -> None:
        """RFC 9110 section 15.2: who did not expect an interim response skips it."""
        stream = a_stream(began_at=SEEN + began_after)
        ask_at = SEEN + max(0.0, began_after) + ASK_AFTER
        for now in (SEEN, ask_at):
            assert not presence.has_left(stream, now)
            assert sent_to(theirs) == b""
        for expected in (CONTINUE, b"", b""):
            ask_at += 1.0
            assert not presence.has_left(stream, ask_at)
            assert sent_to(theirs) == expected
        # The next request of a pipeline is another one.
        assert not presence.has_left(a_stream(began_at=ask_at), ask_at + ASK_AFTER + 1)
        assert sent_to(theirs) == CONTINUE

    @pytest.mark.parametrize(
        "stream",
        [a_stream(headers_sent=True), a_stream(version=(1, 0)), a_stream(was_asked=True)],
        ids=["answered", "http-1.0", "asked"],
    )
    def test_it_is_not_asked(self, presence: ClientPresence, theirs: Socket, stream: Any) -> None:
        """Within a response, nor over HTTP/1.0, which has no interim responses."""
        for now in (SEEN, SEEN + 100):
            assert not presence.has_left(stream, now)
        assert sent_to(theirs) == b""

    def test_nor_while_it_takes_nothing(
        self, presence: ClientPresence, ours: Socket, theirs: Socket
    ) -> None:
        """The sweep must not wait for it."""
        ours.setblocking(False)
        filled = 0
        try:
            while True:
                filled += ours.send(bytes(2**16))
        except BlockingIOError:
            pass
        stream = a_stream()
        presence.has_left(stream, SEEN)
        presence.has_left(stream, SEEN + 100)
        assert not stream.was_asked
        assert sent_to(theirs) == bytes(filled)
        presence.has_left(stream, SEEN + 101)
        assert sent_to(theirs) == CONTINUE

    def test_nor_in_the_middle_of_what_is_sent(
        self, presence: ClientPresence, output: Output, theirs: Socket
    ) -> None:
        """There is room, but who sends has not had its turn yet."""
        stream = a_stream()
        presence.has_left(stream, SEEN)
        output.write(bytes(2**20))
        sending = gevent.spawn(output.flush)
        yield_to_others()
        received = sent_to(theirs)
        assert output.is_sending
        assert presence._has_event(select.POLLOUT)
        presence.has_left(stream, SEEN + 100)
        while not sending.ready():
            yield_to_others()
            received += sent_to(theirs)
        assert received == bytes(2**20)
        assert not stream.was_asked

    def test_one_that_leaves_as_it_is_asked(self, ours: Socket) -> None:
        """The next sweep sees it."""
        gone, _ = gsocket.socketpair()
        gone.close()
        presence = ClientPresence(ours, Output(gone, 5.0, UnsentBytes()))
        stream = a_stream()
        for now in (SEEN, SEEN + 100):
            assert not presence.has_left(stream, now)
        assert stream.was_asked
