"""For tests of all tiers: many run at once, and those marked `alone` by themselves."""

import fcntl
import os
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from certificate import make_certificate
from harness import TESTS
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from scheduling import ChunkScheduling
    from xdist.remote import Producer

# An example of 1 ms may take a second on a busy machine.
settings.register_profile(
    "busy", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")

#: Held by each test as it runs: shared by most, exclusive by one that is `alone`.
_machine = os.open(TESTS, os.O_RDONLY)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    alone = item.get_closest_marker("alone") is not None
    fcntl.flock(_machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    try:
        return (yield)
    finally:
        fcntl.flock(_machine, fcntl.LOCK_UN)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # in a process of pytest-xdist
        from scheduling import in_order

        items[:] = in_order(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Three for each core: most tests wait for something, two thirds of the time.

    Those of `--quick` do not, so it asks for one for each (`logical`).
    """
    cores = os.process_cpu_count() or 1
    return cores if config.option.numprocesses == "logical" else 3 * cores


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> "ChunkScheduling":
    from scheduling import ChunkScheduling

    return ChunkScheduling(config, log)


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A throw-away certificate and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))
