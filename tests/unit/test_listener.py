"""Accepting connections, and what is told to those that there is no room for."""

import errno
import os
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import socket as gsocket

from plain_gevent_h2.net.fairness import yield_to_others
from plain_gevent_h2.process.listener import Listener, reject


@pytest.fixture
def listening() -> Iterator[gsocket.socket]:
    with gsocket.socket() as sock, gevent.Timeout(60):
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock


@pytest.fixture
def full() -> list[None]:
    """One for each time that there were no descriptors."""
    return []


@pytest.fixture
def listener(listening: gsocket.socket, full: list[None]) -> Iterator[Listener]:
    made = Listener(
        listening, lambda *_: None, is_tls=False, out_of_descriptors=lambda: full.append(None)
    )
    made.set_handle(lambda *_: None)
    yield made
    if made._spare is not None:
        os.close(made._spare)


@pytest.fixture
def no_descriptors(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """While there is an error in it, `accept()` fails with it."""
    errors: list[int] = []
    accept = gsocket.socket._accept  # type: ignore[attr-defined]

    def failing(self: Any) -> Any:
        if errors:
            raise OSError(errors.pop(), "on purpose")
        return accept(self)

    monkeypatch.setattr(gsocket.socket, "_accept", failing)
    return errors


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(("is_tls", "start"), [(False, b"HTTP/1.1 503 "), (True, b"\x15\x03\x03")])
def test_who_is_turned_away_is_told(is_tls: bool, start: bytes) -> None:
    ours, theirs = gsocket.socketpair()
    descriptor = ours.detach()
    reject(descriptor, is_tls=is_tls)
    assert not is_open(descriptor)
    answer = theirs.recv(1000)
    assert answer.startswith(start)
    assert is_tls or answer.endswith(b"\r\n\r\n")
    assert not is_tls or answer[3:] == b"\x00\x02\x02\x50"  # fatal, internal_error
    assert theirs.recv(1000) == b""
    theirs.close()


def test_one_that_has_left_is_closed_too() -> None:
    ours, theirs = gsocket.socketpair()
    theirs.close()
    descriptor = ours.detach()
    reject(descriptor, is_tls=False)
    assert not is_open(descriptor)


def test_a_connection_is_accepted(
    listening: gsocket.socket, listener: Listener, full: list[None]
) -> None:
    with gsocket.create_connection(listening.getsockname()) as client:
        accepted = listener.do_read()
        assert accepted is not None
        assert accepted[1] == client.getsockname()
        accepted[0].close()
    assert listener.do_read() is None  # nobody is there
    assert full == []


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
def test_out_of_descriptors_one_is_turned_away_with_the_spare(
    listening: gsocket.socket,
    listener: Listener,
    full: list[None],
    no_descriptors: list[int],
    error: int,
) -> None:
    spare = listener._spare
    assert spare is not None
    with gsocket.create_connection(listening.getsockname()) as client:
        no_descriptors.append(error)
        assert listener.do_read() is None
        assert client.recv(1000).startswith(b"HTTP/1.1 503 ")
    assert len(full) == 1
    assert listener._spare is not None
    assert is_open(listener._spare)
    no_descriptors.append(error)
    assert listener.do_read() is None  # that client has left meanwhile
    assert listener._spare is not None
    assert len(full) == 2


def test_other_errors_are_gevents(
    listener: Listener, full: list[None], no_descriptors: list[int]
) -> None:
    no_descriptors.append(errno.EINVAL)
    with pytest.raises(OSError, match="on purpose"):
        listener.do_read()
    assert full == []
    assert listener._spare is not None


def test_a_spare_that_could_not_be_had_is_had_later(
    listening: gsocket.socket, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert listener._spare is not None
    os.close(listener._spare)
    listener._spare = None
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", lambda *_: (_ for _ in ()).throw(OSError(errno.EMFILE, "")))
        listener._keep_spare()
        assert listener._spare is None
        listener._reject_next()  # without one, and without a client
    listener.do_read()
    assert listener._spare is not None


def test_a_connection_is_not_closed_by_the_listener(listener: Listener) -> None:
    first, second = gsocket.socketpair()
    with first, second:
        listener.do_close(first, None)
        yield_to_others()
        assert first.fileno() > 0
