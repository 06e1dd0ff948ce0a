"""Why a worker does not start, in one line."""

import re

import pytest
from plain.exceptions import ImproperlyConfigured

from plain_gevent_h2.process.boot_report import describe


def test_an_error_in_one_line() -> None:
    with pytest.raises(ValueError, match="of") as caught:
        raise ValueError("of\n two  lines")
    line = describe(caught.value)
    assert re.fullmatch(r"ValueError: of two lines \(.*test_boot_report\.py, line \d+\)", line)
    assert describe(ImproperlyConfigured("SETTING must be 1")) == "SETTING must be 1"
