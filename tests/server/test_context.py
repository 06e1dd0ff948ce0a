"""What belongs to one stream stays there, and async views run beside the greenlets."""

from h2client import Client
from harness import Server


def test_context_is_per_stream(server: Server) -> None:
    """contextvars and threading.local, in 100 streams that interleave, twice over."""
    with Client(server) as client:
        for _ in range(2):
            names = {client.send(f"/own?n=100&name=n{i}"): f"n{i}" for i in range(100)}
            client.finish(*names)
            for stream_id, name in names.items():
                assert client.answers[stream_id].body.decode() == f"{name},{name};" * 3


def test_async_views(server: Server) -> None:
    with Client(server) as client:
        streams = [client.send("/asynchronous") for _ in range(20)]
        assert {bytes(a.body) for a in client.finish(*streams)} == {b"async view"}
