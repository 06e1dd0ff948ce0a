"""Standard input, output and error that are closed when a process starts."""

import os
import sys


def open_standard_streams() -> None:
    """Open /dev/null where standard input, output or error is closed.

    The next socket would get that descriptor, and a client would get what is printed.
    """
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(fd, True)
            setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8", closefd=False))
