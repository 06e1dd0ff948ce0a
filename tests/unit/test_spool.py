"""Bodies in memory and on disk, without a connection."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import gevent
import pytest
from gevent.event import Event

from plain_gevent_h2.app import spool as spool_module
from plain_gevent_h2.app.plain_internals import BodyBudgetExceeded, LimitRequestBody
from plain_gevent_h2.app.request_rules import RequestRules
from plain_gevent_h2.app.spool import BACKLOG, LARGE_READ, Spool, SpooledBody
from plain_gevent_h2.app.upload_budget import PATIENCE, UploadBudget
from plain_gevent_h2.net.fairness import yield_to_others

MEMORY = 1000


class Disk:
    """The native thread that writes and reads: what it is given waits while `hold()`."""

    def __init__(self) -> None:
        self.files: list[Any] = []
        self.calls: list[str] = []
        self.goes_on = Event()
        self.goes_on.set()
        self.error: OSError | None = None

    def call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            self.calls.append(function.__name__)
            self.goes_on.wait()
            if self.error is not None and function.__name__ in ("_write", "close"):
                function(*args)
                raise self.error
            return function(*args)

        return called

    def make_file(self, max_size: int) -> Any:
        file = tempfile.SpooledTemporaryFile(max_size=max_size)  # noqa: SIM115
        self.files.append(file)
        return file


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(spool_module, "in_native_thread", disk.call)
    monkeypatch.setattr(spool_module, "tempfile", FakeTempfile(disk))
    with gevent.Timeout(60):
        yield disk
        yield_to_others()  # files are closed


class FakeTempfile:
    def __init__(self, disk: Disk) -> None:
        self.SpooledTemporaryFile = disk.make_file
        self.gettempdir = tempfile.gettempdir


def counted(memory: int = 0) -> tuple[Spool, list[int]]:
    """A spool, and how many bytes it was done with each time."""
    written: list[int] = []
    return Spool(memory, written.append), written


def read_all(spool: Spool) -> bytes:
    spool.seek(0)
    return spool.read()


class TestSpool:
    def test_memory_up_to_its_size(self, disk: Disk) -> None:
        spool, written = counted(MEMORY)
        spool.write(b"a" * 600)
        spool.write(b"b" * 400)
        assert disk.calls == []
        assert written == []
        assert spool.waiting == 0
        assert spool.idle.is_set()
        assert read_all(spool) == b"a" * 600 + b"b" * 400
        assert disk.calls == ["seek"]
        assert disk.files[0].name is None
        spool.close()
        assert disk.files[0].closed

    def test_a_byte_more_goes_to_disk(self, disk: Disk) -> None:
        spool, written = counted(MEMORY)
        spool.write(b"a" * 1000)
        spool.write(b"b")
        spool.write(b"c" * 5)
        assert spool.waiting == 6
        assert not spool.idle.is_set()
        spool.idle.wait()
        assert disk.calls == ["_write"]
        assert written == [6]
        assert spool.waiting == 0
        assert disk.files[0].name is not None  # it has one of the system's
        assert read_all(spool) == b"a" * 1000 + b"b" + b"c" * 5
        spool.close()
        yield_to_others()
        assert disk.files[0].closed

    def test_what_comes_while_it_writes_is_written_after(self, disk: Disk) -> None:
        spool, written = counted()
        disk.goes_on.clear()
        spool.write(b"a" * 10)
        yield_to_others()
        spool.write(b"b" * 20)
        spool.write(b"c" * 30)
        assert spool.waiting == 60
        disk.goes_on.set()
        spool.idle.wait()
        assert written == [10, 50]
        assert read_all(spool) == b"a" * 10 + b"b" * 20 + b"c" * 30
        spool.close()

    def test_a_seek_waits_until_all_is_written(self, disk: Disk) -> None:
        spool, _ = counted()
        disk.goes_on.clear()
        spool.write(b"abc")
        reading = gevent.spawn(read_all, spool)
        yield_to_others()
        assert not reading.ready()
        disk.goes_on.set()
        assert reading.get() == b"abc"
        spool.close()

    def test_a_failure_gives_all_back_and_is_told(self, disk: Disk) -> None:
        """What waits behind it is given up, too: it would leave a gap."""
        spool, written = counted()
        disk.goes_on.clear()
        disk.error = OSError(28, "No space left on device")
        spool.write(b"a" * 10)
        yield_to_others()
        spool.write(b"b" * 20)
        disk.goes_on.set()
        spool.idle.wait()
        assert sum(written) == 30
        assert spool.waiting == 0
        assert disk.calls == ["_write"]
        with pytest.raises(OSError, match="No space"):
            spool.write(b"c")
        with pytest.raises(OSError, match="No space"):
            spool.seek(0)
        assert sum(written) == 30
        spool.close()
        yield_to_others()
        assert disk.files[0].closed

    def test_closed_while_it_writes_all_is_given_back_and_the_file_closed(self, disk: Disk) -> None:
        spool, written = counted()
        disk.goes_on.clear()
        spool.write(b"a" * 10)
        yield_to_others()
        spool.write(b"b" * 20)
        spool.close()
        assert written == [20]  # at once: the client's window should not wait for the disk
        assert not disk.files[0].closed
        disk.goes_on.set()
        spool.idle.wait()
        yield_to_others()
        assert written == [20, 10]
        assert spool.waiting == 0
        assert disk.files[0].closed
        assert disk.calls == ["_write", "close"]
        spool.close()
        yield_to_others()
        assert disk.calls == ["_write", "close"]

    def test_a_file_that_cannot_be_closed_is_nobodys_fault(
        self, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        printed: list[object] = []
        monkeypatch.setattr(gevent.get_hub(), "print_exception", lambda *args: printed.append(args))
        spool = Spool(0, lambda _: None)
        spool.write(b"a")
        spool.idle.wait()
        disk.error = OSError(28, "No space left on device")
        spool.close()
        yield_to_others()
        assert disk.calls == ["_write", "close"]
        assert printed == []

    def test_large_reads_of_a_file_go_to_a_thread(self, disk: Disk) -> None:
        spool, _ = counted()
        spool.write(b"a" * 10)
        spool.seek(0)
        disk.calls.clear()
        assert spool.read(LARGE_READ - 1) == b"a" * 10
        assert spool.readline(1) == b""
        assert disk.calls == []
        for size in (LARGE_READ, -1, None):
            spool.seek(0)
            disk.calls.clear()
            assert spool.read(size) == b"a" * 10
            assert disk.calls == ["read"]
        spool.close()

    @pytest.mark.parametrize("memory", [0, MEMORY])
    def test_parts(self, disk: Disk, memory: int) -> None:
        spool = Spool(memory, lambda _: None)
        spool.write(b"abcdef")
        spool.seek(0)
        assert [spool.read(size) for size in (1, 0, 2, 100, 1, -1)] == [
            *(b"a", b"", b"bc", b"def", b"", b""),
        ]
        spool.seek(4)
        assert [spool.read(), spool.read()] == [b"ef", b""]
        spool.close()

    @pytest.mark.parametrize("memory", [0, MEMORY])
    def test_lines(self, disk: Disk, memory: int) -> None:
        spool, _ = counted(memory)
        spool.write(b"ab\ncd\n")
        spool.seek(0)
        assert [spool.readline(), spool.readline(1), spool.readline(None)] == [
            b"ab\n",
            b"c",
            b"d\n",
        ]
        spool.seek(1)
        assert spool.read(None) == b"b\ncd\n"
        spool.close()

    def test_a_native_thread_does_it(self) -> None:
        threads: list[int] = []

        class File:
            def write(self, data: bytes) -> None:
                threads.append(threading.get_native_id())

            def close(self) -> None:
                threads.append(threading.get_native_id())

        spool, _ = counted()
        spool._file.close()
        spool._file = File()
        spool.write(b"a")
        spool.idle.wait()
        spool.close()
        with gevent.Timeout(60):
            while len(threads) < 2:
                yield_to_others()
        assert threading.get_native_id() not in threads


RULES = RequestRules(
    is_tls=True,
    health_check_path="",
    keepalive_timeout=5,
    max_body_size=10_000,
    body_memory_size=MEMORY,
    min_body_rate=0,
)


class TestSpooledBody:
    def make(
        self, budget: UploadBudget, *, memory: int = MEMORY, evictions: list[int] | None = None
    ) -> SpooledBody:
        evicted = [] if evictions is None else evictions
        rules = replace(RULES, body_memory_size=memory)
        return SpooledBody(rules, budget, lambda: evicted.append(1))

    def test_what_was_fed_is_read_and_given_back(self, disk: Disk) -> None:
        budget = UploadBudget(5000)
        body = self.make(budget)
        body.feed(b"a" * 900)
        body.feed(b"b" * 900)
        assert budget.used == body.received == 1800
        body.end()
        assert body.finish().read() == b"a" * 900 + b"b" * 900
        assert budget.used == 1800
        body.close()
        assert budget.used == 0
        body.close()
        assert budget.used == 0
        yield_to_others()
        assert disk.files[0].closed

    def test_an_empty_body_has_no_file(self, disk: Disk) -> None:
        body = self.make(UploadBudget(5000))
        body.end()
        assert body.finish().read() == b""
        assert not body.writing
        body.wait_for_room()
        assert body.seconds_at_rate() == 0.0
        body.close()
        assert disk.files == []

    def test_more_than_the_limit(self, disk: Disk) -> None:
        budget = UploadBudget(None)
        body = self.make(budget)
        body.feed(b"x" * 10_000)
        with pytest.raises(LimitRequestBody):
            body.feed(b"x")
        body.close()
        assert budget.used == 0

    def test_one_that_holds_much_for_its_rate_is_evicted_for_another(self, disk: Disk) -> None:
        budget, evictions = UploadBudget(5000), list[int]()
        slow = self.make(budget, evictions=evictions)
        slow.feed(b"x" * 3000)
        for now in range(30):
            budget.tick(now)
            slow.feed(b"x")
        assert slow._spool is not None
        slow._spool.idle.wait()
        assert slow.seconds_at_rate() > 100
        other = self.make(budget)
        other.feed(b"y" * 4000)
        assert evictions == [1]
        assert budget.used == 4000
        with pytest.raises(BodyBudgetExceeded, match="5000"):
            slow.feed(b"x")
        with pytest.raises(BodyBudgetExceeded, match="5000"):
            slow.wait_for_room()  # its reader may be between two pieces
        with pytest.raises(BodyBudgetExceeded, match="5000"):
            slow.end()
        slow.close()
        assert budget.used == 4000
        other.close()
        yield_to_others()
        assert all(file.closed for file in disk.files)

    def test_without_room_one_is_refused(self, disk: Disk) -> None:
        budget = UploadBudget(5000)
        first, second = self.make(budget), self.make(budget)
        first.feed(b"x" * 4000)
        with pytest.raises(BodyBudgetExceeded):
            second.feed(b"x" * 2000)
        assert budget.used == 4000
        second.close()
        assert budget.used == 4000
        first.close()

    @pytest.mark.parametrize("end", ["whole", "closed"])
    def test_one_that_is_whole_or_gone_is_not_evicted(self, disk: Disk, end: str) -> None:
        budget, evictions = UploadBudget(5000), list[int]()
        body = self.make(budget, evictions=evictions)
        body.feed(b"x" * 900)
        for now in range(30):
            budget.tick(now)
        assert body.seconds_at_rate() > PATIENCE
        other = self.make(budget)
        if end == "whole":
            body.end()
            with pytest.raises(BodyBudgetExceeded):
                other.feed(b"x" * 4500)
        else:
            body.close()
            other.feed(b"x" * 4500)
        assert evictions == []

    def test_how_slow_it_is_counts_what_just_came(self, disk: Disk) -> None:
        budget = UploadBudget(None)
        body = self.make(budget)
        for now in range(30):
            budget.tick(now)
            body.feed(b"x" * 10)
        assert body.seconds_at_rate() == body.seconds_at_rate(0)
        assert 20 < body.seconds_at_rate() < 31
        assert body.seconds_at_rate(300) < body.seconds_at_rate()  # it came fast
        body.close()

    def test_one_that_waits_for_the_disk_is_not_slow(self, disk: Disk) -> None:
        budget = UploadBudget(5000)
        body = self.make(budget, memory=0)
        disk.goes_on.clear()
        body.feed(b"x" * 10)
        for now in range(30):
            budget.tick(now)
        assert body.writing
        assert body.seconds_at_rate() == 0.0
        disk.goes_on.set()
        body._spool.idle.wait()  # type: ignore[union-attr]
        assert not body.writing
        assert body.seconds_at_rate() > PATIENCE
        body.close()

    def test_its_reader_waits_while_much_waits_for_the_disk(self, disk: Disk) -> None:
        rules = replace(RULES, body_memory_size=0, max_body_size=None)
        body = SpooledBody(rules, UploadBudget(None), lambda: None)
        disk.goes_on.clear()
        body.feed(b"x" * BACKLOG)
        body.wait_for_room()
        body.feed(b"x")
        waiting = gevent.spawn(body.wait_for_room)
        yield_to_others()
        assert not waiting.ready()
        disk.goes_on.set()
        waiting.get()
        body.close()

    def test_what_is_written_is_told(self, disk: Disk) -> None:
        written: list[int] = []
        body = SpooledBody(
            replace(RULES, body_memory_size=0), UploadBudget(None), lambda: None, written.append
        )
        body.feed(b"x" * 10)
        body.finish()
        assert written == [10]
        body.close()
