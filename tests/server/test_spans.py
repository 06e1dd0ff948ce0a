"""The server span and the duration metric are those of Plain's own worker."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from h2client import Client
from harness import Server, wait_for

PATHS = [
    "/",
    "/nowhere",
    "/statuses?kind=raise",
    "/statuses?kind=308",
    "/chunks",
    "/statuses?kind=204",
]
NOT_COMPARED = {"plain.request.id", "server.port", "network.peer.port"}


def spans_of(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    whole = path.read_text().rpartition("\n")[0]  # without a line that is half written
    return [json.loads(line) for line in whole.splitlines()]


def observed(serve: Callable[..., Server], path: Path, worker: str | None) -> tuple[Any, Any]:
    """What a fixed set of requests leaves behind: spans by route, and the duration metric."""
    server = serve(worker=worker, env={"TEST_SPANS": str(path)})
    with Client(server) as client:
        for request in PATHS:
            client.get(request)
            client.finish(client.send(request, "HEAD"))
        durations = json.loads(client.get("/metric?name=http.server.request.duration").body)
    wait_for(lambda: len(spans_of(path)) == 2 * len(PATHS) + 1, "all spans")
    spans = spans_of(path)
    for span in spans:
        del span["id"]
        span["attributes"] = {
            key: value for key, value in span["attributes"].items() if key not in NOT_COMPARED
        }
    return sorted(spans, key=json.dumps), sorted(durations, key=json.dumps)


def test_spans_and_durations_are_plain_s(serve: Callable[..., Server], tmp_path: Path) -> None:
    ours = observed(serve, tmp_path / "ours", "gevent-h2")
    plain = observed(serve, tmp_path / "plain", None)
    assert ours == plain
    assert {span["kind"] for span in ours[0]} == {"SERVER"}


def test_a_view_s_span_has_its_own_request_as_parent(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    """Under 50 streams that interleave."""
    path = tmp_path / "spans"
    with Client(serve(env={"TEST_SPANS": str(path)})) as client:
        client.finish(*[client.send(f"/spanned?name=child{i}") for i in range(50)])
    wait_for(lambda: len(spans_of(path)) == 100, "all spans")
    spans = {span["id"]: span for span in spans_of(path)}
    children = [span for span in spans.values() if span["name"].startswith("child")]
    assert len(children) == 50
    for child in children:
        server_span = spans[child["parent"]]
        assert server_span["kind"] == "SERVER"
        assert server_span["attributes"]["url.query"] == f"name={child['name']}"
