"""A part of `protocol/test_wire.py`, over TLS to a server process."""

from protocol.test_wire import *  # noqa: F403

pytest_plugins = ["part_of_table"]
