"""What psycopg 3 and its pool clean up after: the exceptions that stop a thread or a task."""

import sys


def clean_up_after(exceptions: tuple[type[BaseException], ...]) -> None:
    """Have psycopg, if it is imported, clean up after these exceptions, too."""
    for module, name in (
        ("psycopg.connection", "_INTERRUPTED"),
        ("psycopg_pool.pool", "CLIENT_EXCEPTIONS"),
    ):
        names = vars(sys.modules[module]) if module in sys.modules else {}
        if (known := names.get(name)) is not None:
            names[name] = (*(known if isinstance(known, tuple) else (known,)), *exceptions)
