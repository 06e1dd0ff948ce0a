"""Server-sent events, as the HTML standard has them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    data: str
    event: str = "message"
    id: str = ""


def lines_of(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines without their ends (LF or CR LF), each as soon as it is whole."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")


def events_of(lines: Iterable[str]) -> Iterator[Event]:
    data: list[str] = []
    kind = last_id = ""
    for line in lines:
        if not line:
            if data:
                yield Event("\n".join(data), kind or "message", last_id)
            data, kind = [], ""
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            kind = value
        elif name == "id":
            last_id = value
