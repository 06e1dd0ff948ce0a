"""The file descriptors that a process may have, and those of them that are for files."""

import os
import resource
import sys

#: The limit that is asked for where the system has none.
MOST = 1_048_576

#: The part of the limit that no connection gets: uploads are spooled to files, and views open
#: some too, which would fail while idle connections have all descriptors.
RESERVED_SHARE = 1 / 8


def raise_limit() -> int:
    """Raise the process's soft limit to its hard one, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, wanted = (MOST if n == resource.RLIM_INFINITY else n for n in (soft, hard))
    if soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS has a lower one that it does not tell
        return soft
    return wanted


def open_standard_streams() -> None:
    """Open /dev/null where standard input, output or error is closed.

    Their descriptor would be the next socket's: what is printed would go to a client.
    """
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
            os.set_inheritable(fd, True)
            setattr(sys, name, os.fdopen(fd, mode, encoding="utf-8", closefd=False))
