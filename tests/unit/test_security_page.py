"""docs/security.md says what is: its tests exist, its limits and defaults are those of the code."""

import re
from collections.abc import Iterator

import pytest
from attacks import ATTACKS
from harness import TESTS
from plain.runtime import global_settings

from plain_gevent_h2 import default_settings
from plain_gevent_h2.app import unread_websockets, websocket
from plain_gevent_h2.app.header_rules import LIMIT_COOKIE_PARTS
from plain_gevent_h2.app.plain_internals import LIMIT_REQUEST_FIELDS
from plain_gevent_h2.app.safe_parsers import MAX_MEDIA_TYPES, MAX_PARAMETERS
from plain_gevent_h2.app.upload_budget import PATIENCE
from plain_gevent_h2.http1.head import MAX_HEAD_LINES, MAX_HEAD_SIZE
from plain_gevent_h2.http2.frame_filter import MAX_CONTINUATIONS
from plain_gevent_h2.http2.frames import FrameType
from plain_gevent_h2.http2.headers import LIMIT_COOKIE_FIELDS, LIMIT_PATH_SIZE
from plain_gevent_h2.http2.hpack import MAX_FIELD_LINES
from plain_gevent_h2.http2.receiver import MANY_STREAMS
from plain_gevent_h2.http2.token_buckets import FRAME_LIMITS, SMALL_DATA, UNKNOWN_FRAME_LIMIT
from plain_gevent_h2.limits import header_budget, unsent
from plain_gevent_h2.limits.idle_connections import LEAST_IDLE
from plain_gevent_h2.net import metrics

PAGE = (TESTS.parent / "docs" / "security.md").read_text()

#: The first words of a row, and the limit that it states.
ROWS = {
    "Rapid reset": FRAME_LIMITS[FrameType.RST_STREAM],
    "MadeYouReset": FRAME_LIMITS[FrameType.RST_STREAM],
    "HEADERS on a stream": FRAME_LIMITS[FrameType.RST_STREAM],
    "PING flood": FRAME_LIMITS[FrameType.PING],
    "SETTINGS flood": FRAME_LIMITS[FrameType.SETTINGS],
    "PRIORITY flood": FRAME_LIMITS[FrameType.PRIORITY],
    "WINDOW_UPDATE flood": FRAME_LIMITS[FrameType.WINDOW_UPDATE],
    "The window opened byte by byte": FRAME_LIMITS[FrameType.WINDOW_UPDATE],
    "Empty DATA": FRAME_LIMITS[FrameType.DATA],
    "DATA of few bytes": FRAME_LIMITS[SMALL_DATA],
    "Unknown frames": UNKNOWN_FRAME_LIMIT,
}


def row(start: str) -> list[str]:
    """The cells of a row."""
    (line,) = (line for line in PAGE.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def named_tests() -> Iterator[tuple[str, str]]:
    """Each test that the page names, with the file that is named before it in its cell or line."""
    for text in re.split(r"[\n|]", PAGE):
        file = ""
        for name in re.findall(r"`((?:test_|Test)\w+(?:\.py)?)`", text):
            if name.endswith(".py"):
                file = name
            else:
                yield file, name


def test_the_tests_are_where_the_page_says() -> None:
    tests = {path.name: path.read_text() for path in TESTS.rglob("test_*.py")}
    assert set(re.findall(r"`(test_\w+\.py)`", PAGE)) <= set(tests)
    names = list(named_tests())
    assert len(names) > 50
    for file, name in names:
        assert file, f"{name}: in which file?"
        assert re.search(rf"\b(def|class) {name}\b", tests[file]), f"{name} is not in {file}"


def test_the_attacks_exist() -> None:
    attacks = PAGE.partition("## Frames")[2].partition("## Time")[0]
    last_cells = [line.strip("| ").split("|")[-1] for line in attacks.splitlines()]
    starts = re.findall(r"`([a-z0-9-]+)(?:\.\.\.)?`", "\n".join(last_cells))
    assert len(starts) > 20
    for start in starts:
        assert any(known.startswith(start) for known in ATTACKS), start


@pytest.mark.parametrize("start", ROWS)
def test_the_token_buckets_are_those_of_the_code(start: str) -> None:
    limit = ROWS[start]
    assert row(start)[2] == f"{limit.burst:,}, {limit.refill_rate:,}"


def test_the_limits_of_header_blocks_are_those_of_the_code() -> None:
    assert row("CONTINUATION flood")[2].split()[0] == str(MAX_CONTINUATIONS)
    assert row("Very many fields")[2].split()[0] == str(MAX_FIELD_LINES)
    fields = f"{LIMIT_REQUEST_FIELDS} fields and {LIMIT_COOKIE_FIELDS} cookies, 64 KiB"
    assert row("Many fields")[2].startswith(fields)
    assert row("A long path")[2].startswith(f"{LIMIT_PATH_SIZE:,} bytes")
    assert row("Cookies of very many")[2].startswith(f"{LIMIT_COOKIE_PARTS:,} semicolons")
    assert row("Parameters of")[2] == str(MAX_PARAMETERS) == str(MAX_MEDIA_TYPES)
    assert row("Very long heads")[2] == f"{MAX_HEAD_SIZE // 1024} KiB, {MAX_HEAD_LINES:,} lines"


def test_the_sizes_are_those_of_the_code() -> None:
    mib = 1024 * 1024
    for start, text in {
        "Short requests that name": f"{header_budget.LIMIT // mib} MiB, a quarter of it",
        "Heads and header blocks": f"{header_budget.UNFINISHED_LIMIT // mib} MiB",
        "Long header blocks": f"{header_budget.LONG_BLOCKS_BURST // mib} MiB of blocks",
    }.items():
        assert row(start)[2].startswith(text), start
    for start, text in {
        "All of these in a worker": f"{unsent.MAX_UNSENT // mib} MiB",
        "Responses made whole": f"{unsent.MAX_UNREAD_RESPONSES // mib} MiB",
        "Streams open in a worker": f"{MANY_STREAMS:,}",
        "Idle connections that": f"{LEAST_IDLE:g} s idle",
        "What comes on an extended": f"{websocket.MAX_EARLY // 1024} KiB",
        "All bytes of a worker's WebS": f"{unread_websockets.MAX_UNREAD // mib} MiB",
        "Uploads that hold": f"{PATIENCE:g} s",
    }.items():
        assert row(start)[1].startswith(text), start


def test_the_defaults_are_those_of_the_settings() -> None:
    units = {"MB": 1024**2, "GB": 1024**3, "KiB": 1024}  # as Plain's own pages say it
    found = re.findall(r"`(SERVER_\w+)`,? \(?([\d,]+)(?: (MB|GB|KiB))?", PAGE)
    assert len(found) > 8
    for name, number, unit in found:
        source = default_settings if hasattr(default_settings, name) else global_settings
        default = getattr(source, name)
        assert default == int(number.strip(",").replace(",", "")) * units.get(unit, 1), name


def test_the_metrics_are_those_of_the_code() -> None:
    source = metrics.__file__
    assert source is not None
    with open(source) as file:
        names = set(re.findall(r'"((?:plain|http)\.server\.[\w.]+)"', file.read()))
    assert set(re.findall(r"^\| `([\w.]+)` \| ", PAGE, re.MULTILINE)) == names
