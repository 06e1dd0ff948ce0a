"""A short soak; `scripts/soak` runs a long one."""

from collections.abc import Callable

from harness import Server
from soak import ENV, soak


def test_nothing_is_left_behind(serve: Callable[..., Server]) -> None:
    server = serve("--no-access-log", env=ENV)
    assert soak(server, 20, seed=1) == []
