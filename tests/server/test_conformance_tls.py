"""A part of `protocol/test_conformance.py`, over TLS to a server process."""

from protocol.test_conformance import *  # noqa: F403

pytest_plugins = ["part_of_table"]
