"""The programs other than Python that tests drive."""

import os
import shutil
import subprocess

import pytest


def need(name: str) -> str:
    """The path of program `name`. Without it the test is skipped, or fails where CI=true."""
    path = shutil.which(name)
    if path is None:
        _missing(f"{name} is not installed")
    return str(path)


def need_curl() -> str:
    """The path of a curl that can speak HTTP/2."""
    curl = need("curl")
    about = subprocess.run([curl, "--version"], capture_output=True, text=True, check=True)
    if "HTTP2" not in about.stdout:
        _missing("curl is built without HTTP/2")
    return curl


def _missing(what: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}, and with CI=true no test may be skipped")
    pytest.skip(what)
