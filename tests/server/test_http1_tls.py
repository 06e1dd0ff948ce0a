"""A part of `protocol/test_http1.py`, to server processes with TLS and without."""

from protocol.test_http1 import *  # noqa: F403

pytest_plugins = ["part_of_table"]
