"""How many file descriptors a process may have, and how many of them are kept for files."""

import resource

#: The limit that is asked for where the system has none.
MOST = 1_048_576

#: The share of the limit that connections do not get. Uploads are spooled to files and views open
#: files: both would fail if idle connections had all descriptors.
RESERVED_SHARE = 1 / 8


def raise_limit() -> int:
    """Raise the process's soft limit to its hard one, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, wanted = (MOST if n == resource.RLIM_INFINITY else n for n in (soft, hard))
    if soft >= wanted:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS has a lower limit that it does not report
        return soft
    return wanted


class Descriptors:
    """The descriptors of this process: how many it may have, and how many stay free for files."""

    def __init__(self) -> None:
        self.limit = raise_limit()
        self.reserved = int(self.limit * RESERVED_SHARE)

    def left_after(self, descriptor: int) -> int:
        """How many more connections there may be after the one that has got `descriptor`.

        A new descriptor has the lowest free number (POSIX), so its number says how many are used.
        """
        return self.limit - self.reserved - descriptor
