"""The standard library's blocking primitives, in each kind of thread that runs an app's code.

`docs/native-threads.md` has a row for each primitive and a column for each kind of thread, each
cell of which is a test here.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from h2client import Client
from harness import TESTS, WAIT, Server

Serve = Callable[..., Server]

IN_VIEW = ("view", "thread", "pool", "pool-thread", "run", "run-to-thread")
IN_ASYNC_VIEW = ("async", "to-thread")
KINDS = (*IN_VIEW, *IN_ASYNC_VIEW)

#: What waits, and what ends the wait: in a request each.
PAIRS = {
    "event": True,
    "condition": "told",
    "condition-lock": "told",
    "lock": True,
    "lock-for-ever": True,
    "semaphore": True,
    "bounded-semaphore": True,
    "barrier": True,
    "thread": "ended",
    "queue": "news",
    "lifo-queue": "news",
    "priority-queue": "news",
    "simple-queue": "news",
    "queue-for-ever": "news",
    "lifo-queue-for-ever": "news",
    "priority-queue-for-ever": "news",
    "simple-queue-for-ever": "news",
    "full-queue": "second",
    "join-queue": "done",
    "future": "result",
    "futures-wait": 1,
    "recv": 1,
    "select": 1,
    "poll": 1,
    "poll-selector": 1,
    "select-selector": 1,
    "default-selector": 1,
    "pipe-read": "line\n",
    "pipe-readline": "line\n",
    "pipe-write": 200_000,
    "flock": True,
    "process-pipe": "sent",
    "process-pipe-wait": 1,
    "process-queue": "sent",
    "process-lock": True,
    "process-event": True,
}


def path(primitive: str, kind: str, side: str = "", room: str = "") -> str:
    view = "view" if kind in IN_VIEW else "async"
    return f"/native/{view}?primitive={primitive}&kind={kind}&side={side}&room={room}"


def may_end(kind: str, primitive: str, waiting: str) -> bool:
    """Whether code in this kind of thread can run while `waiting` waits.

    What blocks the loop of the async views keeps every other of them waiting, as anywhere.
    """
    if waiting == "async":
        return kind not in IN_ASYNC_VIEW
    return not (kind == "async" and primitive == "barrier")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("primitive", PAIRS)
def test_a_wait_ends_from_every_kind_of_thread(server: Server, primitive: str, kind: str) -> None:
    ends = [other for other in KINDS if may_end(other, primitive, kind)]
    with Client(server) as client:
        rooms = [f"{primitive}/{kind}/{other}" for other in ends]
        waits = [client.send(path(primitive, kind, "wait", room)) for room in rooms]
        for other, room in zip(ends, rooms, strict=True):
            client.send(path(primitive, other, "end", room))
        answers = client.finish(*waits)
    assert [json.loads(answer.body)["result"] for answer in answers] == [PAIRS[primitive]] * len(
        ends
    )


#: Calls that are complete in themselves.
CALLS = {
    "sleep": "slept",
    "raw-thread-exits": True,
    "pthread-kill": "there",
    "rlock": "[False]",
    "timer": True,
    "left-alone": True,
    "executor": "0,1,2,3",
    "shared-executor": 3,
    "as-completed": 4,
    "run": "said",
    "check-output": "said\n",
    "getoutput": "said",
    "call": 3,
    "large-input": 500_000,
    "lines": "1,2,3:4",
    "past-timeout": "TimeoutExpired",
    "no-such-program": "FileNotFoundError",
    "system": 2,
    "popen": "said\n",
    "posix-spawn": 2,
    "wait4": 2,
    "waitid": 2,
    "process": "300000:0",
    "slow-process": 300_000,
    "end-of-process": "1:-15",
    "exit-codes": [3],
    "exit-codes-with-handler": [3],
    "pipe-to-spawned": 300_005,
    "pipe-to-forkserver": 300_005,
    "text-of-pipe": "a\r\nb\r\n",
    "two-writers": 400_000,
    "stopped-write": True,
    "closed-while-read": "secret:True",
    "fork-while-another-warns": 0,
    "fork-beside-executor": 0,
    "spawn-with-much": True,
    "process-pool": [0, 1, 4, 9],
    "process-pool-spawn": [0, 1, 4, 9],
    "process-executor": [0, 1, 4, 9],
    "background-loop": "slept,said,hello",
    "log": "logged",
    "queue-listener": 3,
    "sigtimedwait": "None",
    "pause": "signal.pause()",
    "epoll": "False",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("primitive", CALLS)
def test_a_call_in_every_kind_of_thread(server: Server, primitive: str, kind: str) -> None:
    with Client(server) as client:
        answer = client.get(path(primitive, kind))
        assert json.loads(answer.body)["result"] == CALLS[primitive]


COROUTINES = {
    "create-subprocess-exec": "said:3",
    "create-subprocess-shell": "3",
    "to-thread": "said,slept",
    "run-in-executor": "said",
    "run-coroutine-threadsafe": "answered",
}


def test_the_page_has_each_test_in_a_row() -> None:
    page = (TESTS.parent / "docs" / "native-threads.md").read_text()
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("|")]
    named = [name.strip() for *_, tests in rows for name in tests.split(",")]
    for name in (*PAIRS, *CALLS, *COROUTINES):
        assert named.count(name) == 1, name


def test_a_thread_that_nobody_joined_runs(server: Server) -> None:
    with Client(server) as client:
        client.get(path("left-alone", "pool"))
        assert json.loads(client.get("/native/alone").body)["result"] is True


def test_a_loop_in_the_background(server: Server) -> None:
    """Of many views at once each has its own, and none sees that of another."""
    with Client(server) as client:
        paths = [path("background-loop", kind) for kind in KINDS if kind != "async"]
        loops = [client.send(path) for path in paths * 3]
        views = [client.send("/native/loop") for _ in range(20)]
        results = [json.loads(answer.body)["result"] for answer in client.finish(*loops, *views)]
    assert results == ["slept,said,hello"] * len(loops) + ["slept"] * len(views)


def test_all_log_at_once(serve: Serve) -> None:
    """A lock that several native threads want: a third of these requests hung for ever."""
    server = serve()
    with Client(server) as client:
        paths = ["/native/log?pool=1", "/native/log", "/native/log-async"] * 20
        answers = client.finish(*[client.send(path) for path in paths])
        assert [answer.body for answer in answers] == [b"logged"] * 60
    server.signal(signal.SIGTERM)
    assert server.wait() == 0
    assert server.log().count("line 299") == 60


def test_a_native_thread_leaves_no_hub(server: Server) -> None:
    """It was 12 KB for each thread that had waited, for ever."""
    with Client(server) as client:
        before = json.loads(client.get("/native/hubs").body)["hubs"]
        paths = [path("sleep", kind) for kind in ("run", "run-to-thread", "pool-thread")]
        client.finish(*[client.send(path) for path in paths * 30])
        assert json.loads(client.get("/native/hubs").body)["hubs"] < before + 30


def test_a_forked_child_is_no_worker(serve: Serve) -> None:
    """It waits in a hub of its own. In the worker's it would take connections and answer them."""
    server = serve()
    with Client(server) as client:
        child = json.loads(client.get("/native/fork").body)["pid"]
        assert child != server.worker().pid
    for _ in range(20):
        with Client(server) as client:
            assert json.loads(client.get("/native/pid").body)["pid"] != child
    with Client(server) as client:
        assert json.loads(client.get("/native/fork").body)["exitcode"] == -signal.SIGTERM


FORK = """
import os, signal, time
from plain_gevent_h2.patching.forks import patch_forks

patch_forks()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
pid = os.fork()
if not pid:
    time.sleep(60)
    os._exit(0)
os.kill(pid, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_child_of_a_thread_that_had_signals_blocked_can_be_terminated() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, timeout=WAIT, check=True
    )
    assert done.stdout.strip() == str(-signal.SIGTERM)


@pytest.mark.parametrize("view", ["coroutine", "coroutine-in-view"])
@pytest.mark.parametrize("primitive", COROUTINES)
def test_asyncio(server: Server, primitive: str, view: str) -> None:
    with Client(server) as client:
        answer = client.get(f"/native/{view}?primitive={primitive}")
        assert json.loads(answer.body)["result"] == COROUTINES[primitive]
