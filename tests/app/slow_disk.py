"""For `SERVER_GEVENT_PATCH`: a disk on which each call takes a second, in the calling thread."""

import tempfile
from typing import Any

from gevent.monkey import get_original

SECONDS = 1.0

sleep = get_original("time", "sleep")


class SlowFile:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> Any:
        sleep(SECONDS)
        return self._file.write(data)

    def read(self, *args: Any) -> Any:
        sleep(SECONDS)
        return self._file.read(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def patch() -> None:
    make = tempfile.TemporaryFile
    vars(tempfile)["TemporaryFile"] = lambda **kwargs: SlowFile(make(**kwargs))
