"""Output to a pipe, a socket or a terminal that nobody reads."""

import os
import select
import threading
from collections.abc import Iterator

import pytest
from harness import wait_for
from unread import Unread

from plain_gevent_h2.process import standard_output as output
from plain_gevent_h2.process.standard_output import MAX_WAITING, Output

LINE = b"x" * 99 + b"\n"


@pytest.fixture(params=["pipe", "socket", "terminal"])
def unread(request: pytest.FixtureRequest) -> Iterator[Unread]:
    pair = Unread(request.param)
    yield pair
    pair.close()


class TestOutput:
    def test_nothing_is_lost_before_the_limit(self, unread: Unread) -> None:
        out = Output(unread.writes)
        lines = [b"%d %s" % (i, LINE) for i in range(3000)]
        for line in lines:
            out.write(line)
        assert unread.read_until(lines[-1]) == b"".join(lines)
        assert out.take_lost() == 0

    def test_lines_past_the_limit_are_counted_and_told_once_somebody_reads(
        self, unread: Unread
    ) -> None:
        out = Output(unread.writes)
        written = 2 * MAX_WAITING // len(LINE)
        for _ in range(written):
            out.write(LINE)
        assert out.take_lost() == 0
        read = 0
        while not (lost := out.take_lost()):
            if select.select([unread.reads], [], [], 0.01)[0]:
                read += unread.read().count(b"\n")
        while select.select([unread.reads], [], [], 0)[0]:
            read += unread.read().count(b"\n")
        assert read + lost == written
        assert MAX_WAITING <= read * len(LINE) < 1.5 * MAX_WAITING
        out.write(b"another\n")
        assert unread.read_until(b"\n") == b"another\n"

    def test_who_reads_has_gone(self, unread: Unread) -> None:
        out = Output(unread.writes)
        os.close(unread.reads)
        for _ in range(3):
            assert out.write(LINE) == len(LINE)
        wait_for(lambda: not out._waiting, "end of what waits")
        assert out.take_lost() == 0

    def test_flags_that_other_processes_share_stay(self, unread: Unread) -> None:
        out = Output(unread.writes)
        out.write(LINE)
        assert os.get_blocking(unread.writes)

    def test_without_a_description_of_its_own(
        self, unread: Unread, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As with a pipe of another user's: the thread writes all."""
        monkeypatch.setattr(output, "_non_blocking_write", lambda _fd: None)
        out = Output(unread.writes)
        lines = [b"%d %s" % (i, LINE) for i in range(3000)]
        for line in lines:
            out.write(line)
        assert unread.read_until(lines[-1]) == b"".join(lines)

    def test_threads_write_whole_lines(self, unread: Unread) -> None:
        out = Output(unread.writes)

        def write(name: int) -> None:
            for _ in range(500):
                out.write(b"%d" % name * 99 + b"\n")

        threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        lines: list[bytes] = []
        rest = b""
        while len(lines) < 2000:
            *whole, rest = (rest + unread.read()).split(b"\n")
            lines += whole
        assert set(lines) == {b"%d" % name * 99 for name in range(4)}

    def test_a_forked_process_leaves_to_its_parent_what_waits(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pair = Unread("pipe")
        out = Output(pair.writes)
        # A forked process has no other thread, so none takes what waits meanwhile.
        monkeypatch.setattr(output, "_start_new_thread", lambda *_: None)
        for _ in range(2000):
            out.write(LINE)
        assert out._waiting
        out._forget()
        assert not out._waiting
        pair.close()
