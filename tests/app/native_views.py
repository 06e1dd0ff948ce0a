"""Blocking primitives of the standard library, in each kind of thread that runs an app's code.

A request runs one side of a primitive in a kind of thread: `?primitive=queue&side=wait&kind=pool`.
The other side is another request's, in the same kind or another. Both share the objects of `room`.
"""

import _thread
import asyncio
import concurrent.futures
import errno
import fcntl
import gc
import logging
import logging.handlers
import multiprocessing
import os
import queue
import select
import selectors
import signal
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any

import gevent
import gevent.hub
from gevent.monkey import get_original
from plain.http import JsonResponse, Response
from plain.urls import path
from plain.views import View

#: Seconds after which a wait has failed. Far more than any takes.
PATIENCE = 20

PROCESSES = multiprocessing.get_context("fork")
OF_SOCKETS = ("recv", "select", "poll", "poll-selector", "select-selector", "default-selector")
QUEUES: dict[str, Callable[[], Any]] = {
    "queue": queue.Queue,
    "lifo-queue": queue.LifoQueue,
    "priority-queue": queue.PriorityQueue,
    "simple-queue": queue.SimpleQueue,
}

type Side = Callable[["Room"], Any]


class Room:
    """What the two sides of a primitive share."""

    def __init__(self, name: str) -> None:
        primitive, *_ = name.split("/")
        self.event = threading.Event()
        self.condition = threading.Condition()
        self.plain_condition = threading.Condition(threading.Lock())
        self.lock = threading.Lock()
        self.lock.acquire()
        self.semaphore = threading.Semaphore(0)
        self.bounded = threading.BoundedSemaphore(1)
        self.bounded.acquire()
        self.barrier = threading.Barrier(2, timeout=PATIENCE)
        self.queues: dict[str, Any] = {name: new() for name, new in QUEUES.items()}
        self.full: queue.Queue[str] = queue.Queue(1)
        self.full.put("first")
        self.joined: queue.Queue[str] = queue.Queue()
        self.joined.put("task")
        self.future: concurrent.futures.Future[str] = concurrent.futures.Future()
        self.thread = threading.Thread(target=self.event.wait, args=(PATIENCE,))
        self.notified = False
        self.is_waited_for = False  # the other side may begin
        self._to_close: list[Any] = []
        if primitive in OF_SOCKETS:
            self.sockets = socket.socketpair()
            self.sockets[0].settimeout(PATIENCE)
            self._to_close += self.sockets
        elif primitive in ("process-pipe", "process-pipe-wait"):
            self.pipe = PROCESSES.Pipe()
            self._to_close += self.pipe
        elif primitive.startswith("pipe-"):
            ends = os.pipe()
            self.pipe_reader, self.pipe_writer = os.fdopen(ends[0], "rb"), os.fdopen(ends[1], "wb")
            self._to_close += self.pipe_reader, self.pipe_writer
        elif primitive == "flock":
            self.locked = tempfile.NamedTemporaryFile()  # noqa: SIM115
            fcntl.flock(self.locked, fcntl.LOCK_EX)
            self._to_close.append(self.locked)
        elif primitive == "process-queue":
            self.process_queue = PROCESSES.Queue()
            self._to_close.append(self.process_queue)
        elif primitive == "process-lock":
            self.process_lock = PROCESSES.Lock()
            self.process_lock.acquire()
        elif primitive == "process-event":
            self.process_event = PROCESSES.Event()

    def close(self) -> None:
        for thing in self._to_close:
            thing.close()


room = cache(Room)
_making = threading.Lock()


def _wait_for_condition(name: str) -> Side:
    def wait(room: Room) -> str:
        condition = getattr(room, name)
        with condition:
            return "told" if condition.wait_for(lambda: room.notified, PATIENCE) else "nothing"

    return wait


def _notify(name: str) -> Side:
    def notify(room: Room) -> None:
        condition = getattr(room, name)
        with condition:
            room.notified = True
            condition.notify_all()

    return notify


def _poll(room: Room) -> int:
    poll = select.poll()
    poll.register(room.sockets[0], select.POLLIN)
    return len(poll.poll(PATIENCE * 1000))


def _select_by(selector_class: Any) -> Side:
    def wait(room: Room) -> int:
        with selector_class() as selector:
            selector.register(room.sockets[0], selectors.EVENT_READ)
            return len(selector.select(PATIENCE))

    return wait


def _send(room: Room) -> None:
    room.sockets[1].sendall(b"x")


def _join(room: Room) -> str:
    room.thread.start()
    room.thread.join(PATIENCE)
    return "alive" if room.thread.is_alive() else "ended"


def _get(name: str) -> Side:
    return lambda room: room.queues[name].get(timeout=PATIENCE)


def _get_without_timeout(name: str) -> Side:
    return lambda room: room.queues[name].get()


def _put(name: str) -> Side:
    return lambda room: room.queues[name].put("news")


def _put_into_full(room: Room) -> str:
    room.full.put("second", timeout=PATIENCE)
    return room.full.get(timeout=PATIENCE)


def _join_queue(room: Room) -> str:
    room.joined.join()
    return "done"


def _finish_task(room: Room) -> None:
    room.joined.get(timeout=PATIENCE)
    room.joined.task_done()


def _first_of_futures(room: Room) -> int:
    done, _ = concurrent.futures.wait(
        [room.future, concurrent.futures.Future()], PATIENCE, concurrent.futures.FIRST_COMPLETED
    )
    return len(done)


def _settle(room: Room) -> None:
    room.future.set_result("result")


def _fill_pipe(room: Room) -> int:
    return os.write(room.pipe_writer.fileno(), bytes(200_000))


def _make_room_in_pipe(room: Room) -> None:
    """Read as many pages as the writer lacks, which closes the pipe as it ends."""
    page = 4096
    left = 33 * page  # 200,000 bytes take 49, of which a pipe has 16
    while left:
        left -= len(os.read(room.pipe_reader.fileno(), left))


def _write_to_pipe(room: Room) -> None:
    os.write(room.pipe_writer.fileno(), b"line\n")


def _lock_file(room: Room) -> bool:
    with open(room.locked.name) as again:
        fcntl.flock(again, fcntl.LOCK_EX)
        return True


#: Two sides each: what waits, and what ends the wait.
PAIRS: dict[str, tuple[Side, Side]] = {
    "event": (lambda room: room.event.wait(PATIENCE), lambda room: room.event.set()),
    "condition": (_wait_for_condition("condition"), _notify("condition")),
    "condition-lock": (_wait_for_condition("plain_condition"), _notify("plain_condition")),
    "lock": (lambda room: room.lock.acquire(timeout=PATIENCE), lambda room: room.lock.release()),
    "lock-for-ever": (lambda room: room.lock.acquire(), lambda room: room.lock.release()),
    "semaphore": (
        lambda room: room.semaphore.acquire(timeout=PATIENCE),
        lambda room: room.semaphore.release(),
    ),
    "bounded-semaphore": (lambda room: room.bounded.acquire(), lambda room: room.bounded.release()),
    "barrier": (
        lambda room: room.barrier.wait() in {0, 1},
        lambda room: room.barrier.wait() in {0, 1},
    ),
    "thread": (_join, lambda room: room.event.set()),
    **{name: (_get(name), _put(name)) for name in QUEUES},
    **{f"{name}-for-ever": (_get_without_timeout(name), _put(name)) for name in QUEUES},
    "full-queue": (_put_into_full, lambda room: room.full.get(timeout=PATIENCE)),
    "join-queue": (_join_queue, _finish_task),
    "future": (lambda room: room.future.result(PATIENCE), _settle),
    "futures-wait": (_first_of_futures, _settle),
    "recv": (lambda room: len(room.sockets[0].recv(1)), _send),
    "select": (lambda room: len(select.select([room.sockets[0]], [], [], PATIENCE)[0]), _send),
    "poll": (_poll, _send),
    "poll-selector": (_select_by(selectors.PollSelector), _send),
    "select-selector": (_select_by(selectors.SelectSelector), _send),
    "default-selector": (_select_by(selectors.DefaultSelector), _send),
    "pipe-read": (
        lambda room: os.read(room.pipe_reader.fileno(), 100).decode(),
        _write_to_pipe,
    ),
    "pipe-readline": (lambda room: room.pipe_reader.readline().decode(), _write_to_pipe),
    "pipe-write": (_fill_pipe, _make_room_in_pipe),
    "flock": (_lock_file, lambda room: fcntl.flock(room.locked, fcntl.LOCK_UN)),
    "process-pipe": (lambda room: room.pipe[0].recv(), lambda room: room.pipe[1].send("sent")),
    "process-pipe-wait": (
        lambda room: len(multiprocessing.connection.wait([room.pipe[0]], PATIENCE)),
        lambda room: room.pipe[1].send("sent"),
    ),
    "process-queue": (
        lambda room: room.process_queue.get(),
        lambda room: room.process_queue.put("sent"),
    ),
    "process-lock": (
        lambda room: room.process_lock.acquire(),
        lambda room: room.process_lock.release(),
    ),
    "process-event": (
        lambda room: room.process_event.wait(PATIENCE),
        lambda room: room.process_event.set(),
    ),
}


def _call_in_executor() -> str:
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        return ",".join(executor.map(str, range(4), timeout=PATIENCE))


#: One for all kinds of thread, made by the first that asks.
_executor = concurrent.futures.ThreadPoolExecutor(2)


def _call_in_shared_executor() -> int:
    return _executor.submit(sum, [1, 2]).result(PATIENCE)


def _as_completed() -> int:
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        futures = [executor.submit(time.sleep, 0.01) for _ in range(4)]
        return len(list(concurrent.futures.as_completed(futures, PATIENCE)))


def _timer() -> bool:
    event = threading.Event()
    threading.Timer(0.01, event.set).start()
    return event.wait(PATIENCE)


def _left_alone() -> bool:
    """A thread that nobody joins, whose work is waited for later."""
    threading.Thread(target=_alone.set).start()
    return True


_alone = threading.Event()


def _raw_thread_that_exits() -> bool:
    """SystemExit ends that thread alone, and silently."""
    ending = threading.Event()

    def end() -> None:
        ending.set()
        raise SystemExit

    _thread.start_new_thread(end, ())
    return ending.wait(PATIENCE)


def _signal_oneself() -> str:
    """Signal 0 asks whether the thread is there."""
    signal.pthread_kill(threading.get_ident(), 0)
    signal.pthread_kill(threading.main_thread().ident or 0, 0)
    try:
        signal.pthread_kill(1, 0)
    except ProcessLookupError:
        return "there"
    return "no error"


def _reentrant() -> str:
    lock = threading.RLock()
    with lock, lock:
        thread = threading.Thread(target=lambda: tries.append(lock.acquire(timeout=0.01)))
        tries: list[bool] = []
        thread.start()
        thread.join(PATIENCE)
    return str(tries)


def _run() -> str:
    return subprocess.run(
        ["sh", "-c", "cat; exit 3"], input="said", capture_output=True, text=True, check=False
    ).stdout


def _large_input() -> int:
    done = subprocess.run(["cat"], input=b"x" * 500_000, stdout=subprocess.PIPE, check=True)
    return len(done.stdout)


def _lines() -> str:
    program = "for n in 1 2 3; do echo $n; sleep 0.01; done; exit 4"
    process = subprocess.Popen(["sh", "-c", program], stdout=subprocess.PIPE, text=True, bufsize=1)
    assert process.stdout is not None
    with process:
        lines = [line.strip() for line in process.stdout]
    return f"{','.join(lines)}:{process.returncode}"


def _past_timeout() -> str:
    try:
        subprocess.run(["sleep", "60"], timeout=0.05, check=True)
    except subprocess.TimeoutExpired:
        return "TimeoutExpired"
    return "no timeout"


def _no_such_program() -> str:
    try:
        subprocess.call(["no-such-program"])
    except FileNotFoundError:
        return "FileNotFoundError"
    return "no error"


def _spawn() -> int:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "sleep 0.02; exit 2"], dict(os.environ))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _wait4() -> int:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "sleep 0.02; exit 2"], dict(os.environ))
    return os.waitstatus_to_exitcode(os.wait4(pid, 0)[1])


def _waitid() -> int:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "sleep 0.02; exit 2"], dict(os.environ))
    result = os.waitid(os.P_PID, pid, os.WEXITED)
    return 0 if result is None else result.si_status


def square(number: int) -> int:
    return number * number


def _in_process_pool(kind: str) -> Callable[[], Any]:
    def call() -> list[int]:
        with multiprocessing.get_context(kind).Pool(2) as pool:
            return pool.map(square, range(4))

    return call


def _in_process_executor() -> list[int]:
    with concurrent.futures.ProcessPoolExecutor(2) as executor:
        return list(executor.map(square, range(4), timeout=PATIENCE))


def _in_process() -> str:
    """What a process that takes its time sends, and more than a pipe holds."""
    results = PROCESSES.Queue()
    process = PROCESSES.Process(target=_send_much, args=(results,))
    process.start()
    size = len(results.get())
    process.join()
    return f"{size}:{process.exitcode}"


def _send_much(results: Any) -> None:
    results.put("x" * 300_000)


def _to_slow_process() -> int:
    """More than a pipe holds, to a process that reads late."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_read_late, args=(theirs,))
    process.start()
    ours.send("x" * 300_000)
    size = ours.recv()
    process.join()
    return int(size)


def _end_of_process() -> str:
    """Seen at once by who waits for it alone, in a thread where nothing else happens."""
    process = PROCESSES.Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    ended = multiprocessing.connection.wait([process.sentinel], PATIENCE / 2)
    process.join()
    return f"{len(ended)}:{process.exitcode}"


def _exit_codes() -> list[int]:
    """Each start of a process looks after all the others, whichever thread joins them."""

    def run(_: int) -> int | None:
        process = PROCESSES.Process(target=os._exit, args=(3,))
        process.start()
        process.join(PATIENCE)
        return process.exitcode

    with concurrent.futures.ThreadPoolExecutor(6) as executor:
        return sorted({-1 if code is None else code for code in executor.map(run, range(12))})


def _exit_codes_with_handler() -> list[int]:
    """The handler of SIGCHLD asks for the children of all, wherever the main thread is."""
    try:
        before = signal.signal(signal.SIGCHLD, lambda *_: multiprocessing.active_children())
    except ValueError:  # not in the main thread
        return _exit_codes()
    try:
        return _exit_codes()
    finally:
        signal.signal(signal.SIGCHLD, before)


def _receive_in_process(connection: Any) -> None:
    connection.send(connection.recv() + ":" + "x" * 300_000)


def _pipe_of_process(method: str) -> Callable[[], int]:
    """A process that nobody patches waits for an end of `Pipe()`."""

    def call() -> int:
        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        process = context.Process(target=_receive_in_process, args=(theirs,))
        process.start()
        theirs.close()
        ours.send("said")
        answer = ours.recv()
        process.join()
        return len(answer)

    return call


def _text_of_pipe() -> str:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", newline="\r\n") as file:
        file.write("a\nb\n")
    with os.fdopen(reader, newline="") as file:
        return file.read()


def _two_writers() -> int:
    """They take turns: what the second wrote was lost."""
    with subprocess.Popen(["wc", "-c"], stdin=-1, stdout=-1) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin
        assert stdout
        threads = [threading.Thread(target=stdin.write, args=(bytes(200_000),)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stdin.close()
        return int(stdout.read())


def _stopped_write() -> bool:
    """What went out before is not sent again."""
    reader, writer = os.pipe()
    file = os.fdopen(writer, "wb")
    with gevent.Timeout(0.05, False):  # type: ignore[arg-type]  # the stubs lack False
        file.write(bytes(100_000))
        file.flush()
    received: list[bytes] = []

    def read() -> None:
        with os.fdopen(reader, "rb") as other:
            received.append(other.read())

    thread = threading.Thread(target=read)
    thread.start()
    file.close()
    thread.join()
    return 0 < len(received[0]) <= 100_000


def _start_reading(fd: int, outcome: list[Any]) -> threading.Thread:
    def read() -> None:
        try:
            outcome.append(os.read(fd, 100))
        except OSError as exc:
            outcome.append(errno.errorcode[exc.errno])  # type: ignore[index]  # it has a number

    thread = threading.Thread(target=read)
    thread.start()
    time.sleep(0.02)  # it waits in C, which nothing tells
    return thread


def _closed_while_read() -> str:
    """The next pipe has the same number. Its bytes are not for who read the one before."""
    before: list[Any] = []
    after: list[Any] = []
    reader, writer = os.pipe()
    first = _start_reading(reader, before)
    os.close(reader)
    others = os.pipe()
    second = _start_reading(others[0], after)
    os.write(others[1], b"secret")
    second.join(PATIENCE)
    os.close(writer)  # ends the read of a thread that is not a greenlet
    first.join(PATIENCE)
    for fd in others:
        os.close(fd)
    return f"{after[0].decode()}:{before[0] in ('EBADF', b'')}"


#: What to call at the next fork, right before it.
_before_fork: list[Callable[[], None]] = []
os.register_at_fork(before=lambda: _before_fork.pop()() if _before_fork else None)


def _fork_while_another_warns() -> int | None:
    """The lock of `warnings`, which Python 3.14 has, is another native thread's."""
    locked = threading.Event()

    def warn() -> None:
        with getattr(warnings, "_lock", nullcontext()):
            locked.set()
            get_original("time", "sleep")(0.1)

    def begin() -> None:
        get_original("_thread", "start_new_thread")(warn, ())
        locked.wait(PATIENCE)

    _before_fork.append(begin)
    process = PROCESSES.Process(target=warnings.warn, args=("in the child",))
    process.start()
    process.join(PATIENCE / 2)
    code = process.exitcode
    process.kill()
    return code


def _fork_beside_executor() -> int | None:
    """Its manager has the lock by which the executor wakes it, which Python 3.14 has."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=PROCESSES) as executor:
        executor.submit(square, 1).result(PATIENCE)
        wakeup = vars(executor)["_executor_manager_thread_wakeup"]
        with getattr(wakeup, "_lock", nullcontext()):
            process = PROCESSES.Process(target=square, args=(1,))
            process.start()
            process.join(PATIENCE / 2)
            code = process.exitcode
            process.kill()
    return code


def _spawn_with_much() -> bool:
    """A new process that is given more than a pipe holds reads it late. Others run meanwhile."""
    ended, ticks = threading.Event(), 0

    def tick() -> None:
        nonlocal ticks
        while not ended.wait(0.001):
            ticks += 1

    ticker = threading.Thread(target=tick)
    ticker.start()
    process = multiprocessing.get_context("spawn").Process(target=len, args=(bytes(300_000),))
    process.start()
    ended.set()
    ticker.join()
    process.join()
    return ticks > 3


def _read_late(connection: Any) -> None:
    time.sleep(0.02)
    connection.send(len(connection.recv()))


def _log() -> str:
    for n in range(50):
        logging.getLogger("app.native").warning("line %d", n)
    return "logged"


def _log_by_queue() -> int:
    lines: queue.Queue[logging.LogRecord] = queue.Queue()
    seen = threading.Semaphore(0)

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.release()

    listener = logging.handlers.QueueListener(lines, Seen())
    listener.start()
    logger = logging.Logger("queued")
    logger.addHandler(logging.handlers.QueueHandler(lines))
    for _ in range(3):
        logger.warning("a line")
    count = sum(seen.acquire(timeout=PATIENCE) for _ in range(3))
    listener.stop()
    return count


def _loop_in_background() -> str:
    """A loop in a thread, asked from here: how blocking code often reaches asyncio."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        answers = []
        for coroutine in (_said(), asyncio.to_thread(_run), _open_connection()):
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
            answers.append(future.result(PATIENCE))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
    loop.close()
    return ",".join(answers)


async def _said() -> str:
    await asyncio.sleep(0.01)
    return "slept"


async def _open_connection() -> str:
    """A server and its client in one loop."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        said = await reader.read()
        writer.close()
    return said.decode()


def _in_a_loop() -> str:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_said())
    finally:
        loop.close()


def _sigtimedwait() -> str:
    return str(signal.sigtimedwait([signal.SIGRTMIN], 0.01))


def _pause() -> str:
    try:
        signal.pause()
    except RuntimeError as exc:
        return str(exc)[:14]
    return "no error"


def _epoll() -> str:
    return str(hasattr(select, "epoll"))


def _sleep() -> str:
    time.sleep(0.01)
    return "slept"


#: Complete in themselves.
CALLS: dict[str, Callable[[], Any]] = {
    "sleep": _sleep,
    "raw-thread-exits": _raw_thread_that_exits,
    "pthread-kill": _signal_oneself,
    "rlock": _reentrant,
    "timer": _timer,
    "left-alone": _left_alone,
    "executor": _call_in_executor,
    "shared-executor": _call_in_shared_executor,
    "as-completed": _as_completed,
    "run": _run,
    "check-output": lambda: subprocess.check_output(["echo", "said"], text=True),
    "getoutput": lambda: subprocess.getoutput("echo said"),
    "call": lambda: subprocess.call("exit 3", shell=True),
    "large-input": _large_input,
    "lines": _lines,
    "past-timeout": _past_timeout,
    "no-such-program": _no_such_program,
    "system": lambda: os.waitstatus_to_exitcode(os.system("sleep 0.02; exit 2")),
    "popen": lambda: os.popen("echo said").read(),
    "posix-spawn": _spawn,
    "wait4": _wait4,
    "waitid": _waitid,
    "process": _in_process,
    "slow-process": _to_slow_process,
    "end-of-process": _end_of_process,
    "exit-codes": _exit_codes,
    "exit-codes-with-handler": _exit_codes_with_handler,
    "pipe-to-spawned": _pipe_of_process("spawn"),
    "pipe-to-forkserver": _pipe_of_process("forkserver"),
    "text-of-pipe": _text_of_pipe,
    "two-writers": _two_writers,
    "stopped-write": _stopped_write,
    "closed-while-read": _closed_while_read,
    "fork-while-another-warns": _fork_while_another_warns,
    "fork-beside-executor": _fork_beside_executor,
    "spawn-with-much": _spawn_with_much,
    "process-pool": _in_process_pool("fork"),
    "process-pool-spawn": _in_process_pool("spawn"),
    "process-executor": _in_process_executor,
    "background-loop": _loop_in_background,
    "log": _log,
    "queue-listener": _log_by_queue,
    "sigtimedwait": _sigtimedwait,
    "pause": _pause,
    "epoll": _epoll,
}


async def _create_subprocess() -> str:
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", "cat; exit 3", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate(b"said")
    return f"{said.decode()}:{process.returncode}"


async def _create_subprocess_shell() -> str:
    process = await asyncio.create_subprocess_shell("sleep 0.01; exit 3")
    return str(await process.wait())


async def _to_thread() -> str:
    parts = (asyncio.to_thread(_run), asyncio.to_thread(_sleep))
    return ",".join(await asyncio.gather(*parts))


async def _run_in_executor() -> str:
    loop = asyncio.get_running_loop()
    with concurrent.futures.ThreadPoolExecutor(2) as executor:
        return str(await loop.run_in_executor(executor, _run))


async def _threadsafe() -> str:
    loop = asyncio.get_running_loop()

    async def answer() -> str:
        return "answered"

    def ask() -> str:
        return asyncio.run_coroutine_threadsafe(answer(), loop).result(PATIENCE)

    return await asyncio.to_thread(ask)


#: As `CALLS`, of asyncio: in the loop of async views, and in that of `asyncio.run()` in a view.
COROUTINES: dict[str, Callable[[], Any]] = {
    "create-subprocess-exec": _create_subprocess,
    "create-subprocess-shell": _create_subprocess_shell,
    "to-thread": _to_thread,
    "run-in-executor": _run_in_executor,
    "run-coroutine-threadsafe": _threadsafe,
}


async def _called(function: Callable[[], Any]) -> Any:
    return function()


def _in_thread(function: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


#: Kinds of thread that a blocking view reaches.
IN_VIEW: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "view": lambda function: function(),
    "thread": _in_thread,
    "pool": lambda function: gevent.get_hub().threadpool.apply(function, ()),
    "pool-thread": lambda function: gevent.get_hub().threadpool.apply(_in_thread, (function,)),
    "run": lambda function: asyncio.run(_called(function)),
    "run-to-thread": lambda function: asyncio.run(asyncio.to_thread(function)),
}
IN_ASYNC_VIEW: dict[str, Callable[[Callable[[], Any]], Any]] = {
    "async": _called,
    "to-thread": asyncio.to_thread,
}


def _what(view: View) -> tuple[str, Callable[[], Any]]:
    """The kind of thread, and what is to be called in it."""
    query = view.request.query_params
    primitive, kind = query["primitive"], query["kind"]
    if primitive in CALLS:
        return kind, CALLS[primitive]
    with _making:
        shared = room(query["room"])
    wait, end = PAIRS[primitive]

    def waiting() -> Any:
        shared.is_waited_for = True
        try:
            return wait(shared)
        finally:
            shared.close()

    return kind, waiting if query["side"] == "wait" else lambda: end(shared)


def _may_begin(view: View) -> bool:
    query = view.request.query_params
    if query.get("side") != "end":
        return True
    with _making:
        return room(query["room"]).is_waited_for


class InView(View):
    def get(self) -> Response:
        while not _may_begin(self):
            gevent.sleep(0.001)
        kind, function = _what(self)
        return JsonResponse({"result": IN_VIEW[kind](function)})


class InAsyncView(View):
    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        while not _may_begin(self):
            await asyncio.sleep(0.001)
        kind, function = _what(self)
        return JsonResponse({"result": await IN_ASYNC_VIEW[kind](function)})


class Coroutine(View):
    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        return JsonResponse({"result": await COROUTINES[self.request.query_params["primitive"]]()})


class CoroutineInView(View):
    def get(self) -> Response:
        coroutine = COROUTINES[self.request.query_params["primitive"]]
        return JsonResponse({"result": asyncio.run(coroutine())})


class LoopInView(View):
    """A loop that a blocking view runs itself, and whether it sees another as its own."""

    def get(self) -> Response:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return JsonResponse({"result": _in_a_loop()})
        return JsonResponse({"result": "a loop runs here"})


class Alone(View):
    """Whether the threads that "left-alone" started have run."""

    def get(self) -> Response:
        return JsonResponse({"result": _alone.wait(PATIENCE)})


class Pid(View):
    def get(self) -> Response:
        return JsonResponse({"pid": os.getpid()})


class Hubs(View):
    def get(self) -> Response:
        gc.collect()
        hubs = sum(isinstance(found, gevent.hub.Hub) for found in gc.get_objects())
        return JsonResponse({"hubs": hubs})


class Fork(View):
    """A child that waits; asked for again, it is ended."""

    child: Any = None

    def get(self) -> Response:
        if Fork.child is None:
            Fork.child = PROCESSES.Process(target=time.sleep, args=(60,))
            Fork.child.start()
            return JsonResponse({"pid": Fork.child.pid})
        child, Fork.child = Fork.child, None
        child.terminate()
        child.join(PATIENCE)
        return JsonResponse({"exitcode": child.exitcode})


class LogMuch(View):
    def get(self) -> Response:
        def lines() -> str:
            for n in range(300):
                logging.getLogger("app.native").warning("line %d", n)
            return "logged"

        in_pool = "pool" in self.request.query_params
        return Response(gevent.get_hub().threadpool.apply(lines) if in_pool else lines())


class AsyncLogMuch(View):
    async def get(self) -> Response:  # type: ignore[override]  # Plain awaits it
        for n in range(300):
            logging.getLogger("app.native").warning("line %d", n)
        return Response("logged")


urls = (
    path("native/pid", Pid),
    path("native/fork", Fork),
    path("native/hubs", Hubs),
    path("native/log", LogMuch),
    path("native/log-async", AsyncLogMuch),
    path("native/view", InView),
    path("native/async", InAsyncView),
    path("native/coroutine", Coroutine),
    path("native/coroutine-in-view", CoroutineInView),
    path("native/alone", Alone),
    path("native/loop", LoopInView),
)
