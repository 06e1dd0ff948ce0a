"""A part of `protocol/test_lengths.py`, over TLS to a server process."""

from protocol.test_lengths import *  # noqa: F403

pytest_plugins = ["part_of_table"]
