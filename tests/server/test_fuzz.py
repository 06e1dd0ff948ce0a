"""Random schedules on a real worker, and random bytes for what parses them.

Each round has a seed; the sequence of seeds is the same in every run, so a failure comes again.
For longer, and for other seeds: `scripts/fuzz`. What found something is kept here, as the failure
printed it.
"""

import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import raw
from fuzz_honest import honest, play_honest
from fuzz_hostile import CloseSide, Control, Leave, Request, Send, Step, hostile, play
from fuzz_parsers import TARGETS
from h2client import Client
from harness import Server
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from inside import Inside
from raw import RawClient
from ws import Http2Socket

SECONDS = float(os.environ.get("FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))

#: Schedules of one seed.
ROUND = 25


#: Limits that schedules of a few dozen steps reach.
TIGHT = {
    "PLAIN_SERVER_BODY_MAX_MEMORY_SIZE": "1000",
    "PLAIN_SERVER_MAX_REQUEST_BODY_SIZE": "20000",
    "PLAIN_SERVER_MAX_INFLIGHT_BODY_SIZE": "30000",
    "PLAIN_SERVER_MAX_RUNNING_STREAMS": "4",
    "PLAIN_SERVER_H2_MAX_CONCURRENT_STREAMS": "5",
}


class Rig:
    """A server with one worker and a look inside; another one after a failure.

    What a schedule left behind would otherwise fail those that are tried to make it shorter.
    """

    def __init__(self, start: Callable[[], Server]) -> None:
        self._start = start
        self._server: Server | None = None
        self._inside: Inside | None = None

    def run(self, play: Callable[[Server, Inside, Any], None], schedule: list[Any]) -> None:
        if self._server is None:
            self._server = self._start().__enter__()
            warm_up(self._server)
            self._inside = Inside(self._server)
        assert self._inside is not None
        try:
            play(self._server, self._inside, schedule)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._server is not None:
            if self._inside is not None:
                self._inside.__exit__(None, None, None)
            self._server.kill()
            self._server = self._inside = None


def warm_up(server: Server) -> None:
    """Start what starts once: the asyncio loop, the native threads that read files."""
    with Client(server) as client:
        client.finish(*[client.send("/file?n=100000") for _ in range(5)])
    with RawClient(server) as ws_client, Http2Socket(ws_client, "/ws/echo") as sock:
        sock.send("hello")
        assert sock.recv() == "hello"
        sock.close()
        sock.until_closed()


@pytest.fixture(scope="module", params=[{}, TIGHT], ids=["defaults", "tight-limits"])
def rig(
    request: pytest.FixtureRequest,
    tls: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rig]:
    tmp = tmp_path_factory.mktemp("server")
    rig = Rig(lambda: Server(tls, "--no-access-log", env=request.param, tmp=tmp))
    yield rig
    rig.close()


def fuzz(test: Callable[[Any], None], schedules: st.SearchStrategy[Any], seconds: float) -> None:
    """Try schedules for so long, round after round, each with the seed after the last one's."""
    end = time.monotonic() + seconds
    number = SEED
    while True:

        @seed(number)
        @settings(
            max_examples=ROUND,
            database=None,
            report_multiple_bugs=False,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(schedules)
        def one_round(schedule: Any) -> None:
            test(schedule)

        try:
            one_round()
        except BaseException as exc:
            exc.add_note(f"Again: scripts/fuzz --minutes 0 --seed {number}")
            raise
        number += 1
        if time.monotonic() > end:
            return


def _downloads_then(*last: Step) -> list[Step]:
    """Several downloads with all the window there is, and nobody who reads them."""
    wide = struct.pack(">L", 2**30)
    requests = [Request(0, None, "/bytes?n=10000000", "GET", (), True, (), None)] * 4
    windows = [Control(0, None, 4, 0, None, b"\0\4" + wide), Control(0, None, 8, 0, None, wide)]
    return [*windows, *requests, Send(0, 0, 0), *last]


#: What found something, each by the end of a connection in the middle of several downloads. The
#: writer failed, and what the reader did next did too: it ended streams that were in no queue any
#: more. And the sweep asked the closed socket what was unsent.
FOUND: dict[str, list[Step]] = {
    "reset": _downloads_then(Send(0, 0, 65536), Leave(0, reset=True)),
    "fault-and-reset": _downloads_then(
        Send(0, 0, 100), Control(0, None, 9, 4, 0, b""), Leave(0, reset=True)
    ),
    "fault-and-close": _downloads_then(
        Send(0, 0, 100), Control(0, None, 9, 4, 0, b""), Leave(0, reset=False)
    ),
    "fault-and-end-of-tls": _downloads_then(
        Control(0, None, 9, 4, 0, b""), CloseSide(0, tls=True), Leave(0, reset=True)
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_found(rig: Rig, name: str) -> None:
    for _ in range(5):  # which greenlet hears of the end first is left to chance
        rig.run(play, FOUND[name])


def test_hostile_schedules_leave_nothing_behind(rig: Rig) -> None:
    fuzz(lambda schedule: rig.run(play, schedule), hostile, SECONDS / 2)


def test_honest_schedules_are_answered(rig: Rig) -> None:
    fuzz(lambda schedule: rig.run(play_honest, schedule), honest, SECONDS / 2)


_bytes = st.one_of(
    st.binary(max_size=200),
    # Frames, and the length that says where the next one begins.
    st.lists(
        st.builds(
            raw.pack,
            st.integers(0, 11),
            st.integers(0, 255),
            st.integers(0, 9),
            st.binary(max_size=20),
        )
    ).map(b"".join),
    # Header blocks.
    st.lists(
        st.sampled_from([b"\x82", b"\xbe", b"\x40", b"\x10", b"\x3f\xe1\x1f", b"\x04", b"\x20"])
        | st.sampled_from(["/", "a", ":path", "host", "x\r", "", "CONNECT", "te", "*", " "]).map(
            lambda text: bytes([len(text)]) + text.encode()
        ),
        max_size=30,
    ).map(b"".join),
    # Chunks.
    st.lists(
        st.sampled_from([b"0", b"3", b"a", b"\r\n", b"\n", b";", b" ", b"abc\r\n", b"a: b\r\n"]),
        max_size=20,
    ).map(b"".join),
)


@pytest.mark.parametrize("target", TARGETS)
def test_any_bytes_for_the_parsers(target: str) -> None:
    fuzz(TARGETS[target], _bytes, SECONDS / 20)
