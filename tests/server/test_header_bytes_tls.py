"""A part of `protocol/test_header_bytes.py`, over TLS to a server process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Server
from protocol.test_header_bytes import *  # noqa: F403
from protocol.test_header_bytes import ENV

pytest_plugins = ["part_of_table"]


@pytest.fixture(scope="module")
def bytes_server(
    tls: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    tmp = tmp_path_factory.mktemp("bytes")
    with Server(tls, env={**ENV, "TEST_SPANS": str(tmp / "spans")}, tmp=tmp) as running:
        yield running
