"""The worker is patched before anything else is imported, and the arbiter is not."""

import json

from h2client import Client
from harness import Server


def test_the_worker_is_patched(server: Server) -> None:
    with Client(server) as client:
        answer = json.loads(client.get("/patched").body)
    wanted = {"ssl", "socket", "threading", "select", "subprocess", "queue", "signal"}
    assert wanted <= set(answer["patched"])
    assert all(module.startswith("gevent") for module in answer["classes"].values()), answer
    assert "MonkeyPatchWarning" not in server.log()


def test_plain_s_own_worker_is_not(serve) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    with Client(serve(worker=None)) as client:
        assert json.loads(client.get("/patched").body)["patched"] == []


def test_the_arbiter_is_not_patched(server: Server) -> None:
    """gevent's hub would show as an epoll of the process; the arbiter waits in a lock."""
    worker = server.worker().pid

    def polls(pid: int) -> bool:
        from pathlib import Path

        links = [link.readlink().name for link in Path(f"/proc/{pid}/fd").iterdir()]
        return any("eventpoll" in link for link in links)

    assert polls(worker)
    assert not polls(server.pid)
