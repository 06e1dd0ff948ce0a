"""What the benchmark shares with the tests. It is in tests/, and needs psutil, cryptography."""

import sys

from folders import REPOSITORY

# At the end: nothing in tests/ may hide a module of the same name.
sys.path.append(str(REPOSITORY / "tests"))

from certificate import make_certificate
from harness import ServerProcess

__all__ = ["ServerProcess", "make_certificate"]
