"""The file descriptors that a process may have, and those of them that are for files."""

import resource

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


class Descriptors:
    """The descriptors of this process: how many it may have, and how many stay free for files."""

    def __init__(self) -> None:
        self.limit = raise_limit()
        self.reserved = int(self.limit * RESERVED_SHARE)

    def left_after(self, descriptor: int) -> int:
        """How many more connections may have one, once one of them has got `descriptor`.

        A new one has the lowest number that is free (POSIX), and so it tells how many are taken.
        """
        return self.limit - self.reserved - descriptor
