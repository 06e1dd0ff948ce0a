"""Async streams: each chunk arrives once, in order, at once, and no faster than it is taken."""

import json
from functools import partial
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2client import Client
from harness import Server, wait_for
from hyperframe.frame import DataFrame, SettingsFrame
from load_client import Http1Client
from raw import RawClient, request_fields, rst_stream, settings, window_update


def numbers(n: int, size: int) -> bytes:
    return b"".join(b"%0*d" % (size, i) for i in range(n))


def progress(server: Server, name: str) -> dict[str, Any]:
    with Client(server) as client:
        found: dict[str, Any] = json.loads(client.get(f"/streams/progress?name={name}").body)
    return found


def settled(server: Server, name: str) -> int:
    """How many chunks were taken from the stream once it waits."""
    counts = [0]

    def is_settled() -> bool:
        counts.append(progress(server, name)["taken"])
        return counts[-1] > 0 and counts[-5:] == [counts[-1]] * 5

    wait_for(is_settled, "a stream that waits")
    return counts[-1]


@pytest.mark.parametrize(("n", "size"), [(5000, 8), (2000, 1000), (50, 100_000)])
class TestOrder:
    def test_over_http2(self, server: Server, n: int, size: int) -> None:
        with Client(server) as client:
            answer = client.get(f"/streams/numbers?name=order&n={n}&size={size}")
        assert answer.ended
        assert bytes(answer.body) == numbers(n, size)

    def test_over_http1(self, server: Server, n: int, size: int) -> None:
        with Http1Client(server) as client:
            client.send(f"/streams/numbers?name=order1&n={n}&size={size}")
            answer = client.receive()
        assert answer is not None
        assert bytes(answer.body) == numbers(n, size)

    def test_all_of_them_before_a_failure(self, server: Server, n: int, size: int) -> None:
        with Client(server) as client:
            answer = client.get(f"/streams/numbers?name=fails&n={n}&size={size}&fails=1")
        assert answer.reset == ErrorCodes.INTERNAL_ERROR
        whole = numbers(n, size)
        assert whole.startswith(bytes(answer.body))
        assert len(answer.body) > len(whole) - 1_000_000  # what is not sent yet goes with the reset


def test_100_at_once(server: Server) -> None:
    with Client(server) as client:
        paths = [f"/streams/numbers?name=many-{i}&n=200&size={8 + i}" for i in range(100)]
        answers = client.finish(*[client.send(path) for path in paths])
    for i, answer in enumerate(answers):
        assert bytes(answer.body) == numbers(200, 8 + i)


def test_no_chunk_is_kept_back(server: Server) -> None:
    """Each is with the client before the stream is asked for the next."""
    with Client(server) as client, Client(server) as other:
        stream = client.send("/streams/steps?name=steps")
        answer = client.answers[stream]
        expected = b"ready"
        for i in range(100):
            client.until(lambda e=expected: bytes(answer.body) == e, "chunk")
            expected += b"%d;" % i
            assert other.get(f"/streams/step?name=steps&text={i};").body == b"taken"
        client.until(lambda: bytes(answer.body) == expected, "last chunk")
        other.get("/streams/step?name=steps&text=end")
        assert client.finish(stream)[0].ended


class TestClientThatDoesNotRead:
    """The window of 64 KiB, as much in the stream's buffer, and the backlog: then it waits."""

    @pytest.mark.parametrize(("size", "most"), [(1000, 300), (16_384, 24), (100_000, 8)])
    def test_the_stream_waits_and_goes_on(self, server: Server, size: int, most: int) -> None:
        name = f"waits-{size}"
        with Client(server, acknowledge=False) as client:
            stream = client.send(f"/streams/numbers?name={name}&n={most + 10}&size={size}")
            answer = client.answers[stream]
            client.until(lambda: len(answer.body) == 65535, "a full window")
            assert settled(server, name) <= most
            assert progress(server, name)["ending"] == []
            for owner in (0, stream):
                client.h2.increment_flow_control_window(2**24, owner or None)
            client.flush()
            client.finish(stream)
        assert bytes(answer.body) == numbers(most + 10, size)
        assert progress(server, name)["ending"] == ["whole", "same task"]

    @pytest.mark.parametrize("size", [8, 1000, 100_000])
    def test_it_resets_the_stream(self, server: Server, size: int) -> None:
        """Cancelled in its own task, however many chunks wait; other streams go on."""
        name = f"reset-{size}"
        with RawClient(server) as client:
            stream = client.open(request_fields(f"/streams/numbers?name={name}&size={size}"))
            settled(server, name)
            client.send(rst_stream(stream))
            wait_for(lambda: progress(server, name)["ending"], "end of the stream")
            client.expect_alive()
        assert progress(server, name)["ending"][-1] == "same task"

    def test_100_that_leave(self, server: Server) -> None:
        with Client(server) as client:
            for i in range(100):
                client.send(f"/streams/numbers?name=leaves-{i}&size=100")
            assert settled(server, "leaves-99")

        def has_ended(name: str) -> bool:
            return bool(progress(server, name)["ending"][-1:] == ["same task"])

        for i in range(100):
            wait_for(partial(has_ended, f"leaves-{i}"), "end of the stream")


def test_small_chunks_that_wait_share_a_frame(server: Server) -> None:
    """Those of a blocking view that never waits: all of them are there before the first frame."""
    with RawClient(server) as client:
        body = client.request("/chunks?n=1000&size=20").body
        assert body == b"".join(bytes([97 + i % 26]) * 20 for i in range(1000))
        assert len(client.received(DataFrame)) <= 4  # of 16 KiB each, and END_STREAM
        # An empty window cuts them wherever it wants, and nothing is lost.
        client.send(settings({SettingsFrame.INITIAL_WINDOW_SIZE: 7}), window_update(0, 100_000))
        stream = client.open(request_fields("/chunks?n=10&size=3"))
        found = b""
        while len(found) < 30:
            found += client.expect(DataFrame, stream).data
            client.send(window_update(stream, 4))
        assert found == b"".join(bytes([97 + i]) * 3 for i in range(10))
