"""A worker in the test's own process, with connections that no network carries.

For the protocol tier: `MemoryServer` has what tests use of `harness.Server`, and serves the app
in `app/` by the package's own `GeventWorker`, with its limits, its sweeps and its drain. What is
not as in `plain server`:

* A connection is a pair of the system's sockets (`socketpair()`), without TLS. Not an object in
  memory: readiness, half-closing, full buffers and descriptors are then the system's, as the
  worker finds them, and the pair costs 60 us of a test. Not TCP on the loopback interface: the
  kernel delivers that when it has time, and `virtual_time` has to know that nothing is under way.
  What only TCP has (resets, bytes that the peer has acknowledged) and TLS are tested on a real
  server.
* Timers and `time.monotonic()` are those of `virtual_time`. So are those of the asyncio loop, which
  runs in a greenlet in place of a native thread.
* gevent patches nothing, since the unit tier runs in the process as well, and pytest has imported
  most of what would be patched. The views that are used here get gevent's `sleep()`, events and
  queues for those of the standard library, so that they wait as in a worker. What the worker
  patches in Plain's parsers, logs and WebSockets is patched while a module of this tier runs.
"""

import asyncio
import io
import itertools
import logging
import os
import queue
import ssl
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from types import ModuleType, SimpleNamespace, TracebackType
from typing import Any, ClassVar, Self

import gevent
import gevent.event
import gevent.queue
import gevent.socket
import plain.runtime
from gevent.lock import BoundedSemaphore
from harness import TESTS, WAIT
from plain.logs.configure import create_log_formatter
from plain.runtime import settings
from plain.server.app import ServerApplication
from virtual_time import advance

from plain_gevent_h2 import patches
from plain_gevent_h2.app import asyncio_bridge
from plain_gevent_h2.app.asyncio_bridge import _Selector as GeventLoopSelector
from plain_gevent_h2.http1.connection import Http1Connection
from plain_gevent_h2.http2.connection import Http2Connection
from plain_gevent_h2.net.tls_socket import TlsSocket
from plain_gevent_h2.process.connections import Connection, Connections
from plain_gevent_h2.worker import GeventWorker

#: Seconds of the worker's time in which all that a client left behind is over.
LEFT_FOR_GOOD = 120

#: The loggers that Plain gives handlers to.
_LOGGERS = ("plain", "app", "plain.server.access")

#: Modules of the app whose views wait, and are used here.
_WAITING_VIEWS = ("app.views", "app.body_views", "app.length_views", "app.ws_views")

#: Whose time a test sets: the worker's, Plain's server's, the views', the clients'.
_OWN_TIME = (
    "plain_gevent_h2",
    "plain.server",
    "app",
    "asyncio",
    "harness",
    "raw",
    "h2client",
    "load_client",
    "ws",
)


def has_own_time(module: ModuleType) -> bool:
    name = module.__name__
    return any(name == root or name.startswith(f"{root}.") for root in _OWN_TIME)


@cache
def set_up_plain() -> None:
    """Load the app, as a worker does before it makes its `Worker`; once in a process."""
    vars(plain.runtime)["APP_PATH"] = TESTS / "app"  # Plain takes that of the current folder
    plain.runtime.setup()
    settings.URLS_ROUTER = "app.memory_urls.MemoryRouter"
    for name in _LOGGERS:
        logging.getLogger(name).handlers.clear()
    logging.getLogger("plain.server.access").setLevel(logging.INFO)
    logging.getLogger("plain.server.access").propagate = False
    _let_views_wait()


def _let_views_wait() -> None:
    import app.memory_urls  # noqa: F401
    from app.body_views import Gates

    cooperative = SimpleNamespace(Event=gevent.event.Event)
    for name in _WAITING_VIEWS:
        names = vars(sys.modules[name])
        names.update({"queue": gevent.queue} if names.get("queue") is queue else {})
        names.update({"threading": cooperative} if names.get("threading") is threading else {})
    gates: Any = Gates.gates  # of events of the standard library
    gates.default_factory = gevent.event.Event


@contextmanager
def as_in_a_worker() -> Iterator[None]:
    """In this block, what the package patches in Plain is patched, and native calls take no time.

    The unit tier's tests, in the same process, see both as they were.
    """
    before = {owner: dict(vars(owner)) for owner in _modules_and_classes_of_plain()}
    for workaround in (patches.patch_parsers, patches.patch_logs, patches.patch_websockets):
        workaround()
    patched = [
        (owner, name, value)
        for owner, names in before.items()
        for name, value in names.items()
        if vars(owner)[name] is not value
    ]
    # The asyncio loop is in a greenlet, or its timers would take real time.
    names = vars(asyncio_bridge)
    own = {"_start_new_thread": _start_greenlet, "_Selector": _LoopSelector}
    theirs = {name: names[name] for name in own}
    names.update(own)
    try:
        yield
    finally:
        names.update(theirs)
        for owner, name, value in patched:
            setattr(owner, name, value)


class _LoopSelector(GeventLoopSelector):
    """Waits for an asyncio loop in a greenlet. Meanwhile no other greenlet sees that loop."""

    def select(self, timeout: float | None = None) -> Any:
        loop = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            return super().select(timeout)
        finally:
            asyncio._set_running_loop(loop)


def _start_greenlet(function: Callable[..., object], args: tuple[Any, ...]) -> None:
    gevent.spawn(function, *args)


def _modules_and_classes_of_plain() -> set[Any]:
    modules = [module for name, module in sys.modules.items() if name.startswith("plain.")]
    classes = {v for m in modules for v in vars(m).values() if isinstance(v, type)}
    return {*modules, *(cls for cls in classes if cls.__module__.startswith("plain."))}


class Cleartext(TlsSocket):
    """The server's end of a connection that was agreed on by TLS, without the encryption."""

    def __init__(self, sock: gevent.socket.socket) -> None:
        self._sock = sock
        self._outgoing = ssl.MemoryBIO()  # nothing: OpenSSL has no messages of its own to send
        self._unsent = []
        self._sending = BoundedSemaphore(1)

    def recv(self, size: int) -> bytes:
        return self._sock.recv(size)

    def encrypt(self, data: bytes | memoryview) -> None:
        self._unsent.append(data)

    def close_our_side(self) -> None:
        with suppress(OSError):
            self.send_now()
            self._sock.shutdown(gevent.socket.SHUT_WR)


class MemoryConnections(Connections):
    """The worker's connections, which are given to it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._alpn: dict[int, str] = {}  # by the client's port

    def accept(self, sock: gevent.socket.socket, client: tuple[str, int], protocol: str) -> None:
        self._alpn[client[1]] = protocol
        gevent.spawn(self._accepted, sock, client)

    def _make(self, sock: gevent.socket.socket, client: tuple[str, int]) -> Connection:
        is_tls = self._worker.rules.is_tls
        server = ("127.0.0.1", 443 if is_tls else 80)
        if self._alpn.pop(client[1]) == "h2":
            return Http2Connection(self._worker, Cleartext(sock), client, server)
        return Http1Connection(self._worker, Cleartext(sock) if is_tls else sock, client, server)


class MemoryWorker(GeventWorker):
    """The package's worker, without a process of its own."""

    _connections: MemoryConnections

    def __init__(self, *, tls: bool) -> None:
        app: Any = ServerApplication(
            bind=[],
            workers=1,
            threads=1,
            timeout=30,
            reload=False,
            certfile="none.pem" if tls else None,
            keyfile=None,
            accesslog=True,
        )
        app.http_protocols = None
        heartbeat = SimpleNamespace(
            notify=lambda: None, kill_deadline=lambda: 0.0, is_retiring=lambda: True
        )
        super().__init__(0, os.getppid(), [], app, 15.0, heartbeat, app.load())

    def _make_connections(self) -> MemoryConnections:
        return MemoryConnections(
            self, most=self.max_connections, descriptors=self._descriptors, tls=None, alone=True
        )

    def accept(self, sock: gevent.socket.socket, client: tuple[str, int], protocol: str) -> None:
        self._connections.accept(sock, client, protocol)

    def serve(self) -> None:
        """What a worker does from its boot to its end, in a greenlet."""
        self._live()
        self._drain()

    def readers(self) -> int:
        """Greenlets that read for an HTTP/2 connection: a parked one has none."""
        return sum(c._reader is not None for c in self._connections.http2())

    def is_closing(self) -> bool:
        """Whether an HTTP/2 connection is about to be closed."""
        return any(not c._shutdown.is_open for c in self._connections.http2())

    def left(self) -> dict[str, int]:
        """What the worker holds for its clients."""
        limits = self.limits
        counts = {
            "connections": len(self._connections),
            "handshakes": self._connections.handshakes,
            "running streams": limits.slots.running,
            "streams without a client": limits.slots.clientless,
            "open streams": limits.open_streams,
            "bytes unsent": limits.unsent.total,
            "bytes of bodies": limits.uploads.used,
            "bytes of headers": limits.headers.used,
            "holders of headers": len(limits.headers._held | limits.headers._unfinished),
            "bytes of unfinished headers": limits.headers._unfinished_size,
        }
        return {name: count for name, count in counts.items() if count}

    def remembered(self) -> list[object]:
        """The connections that the limits know of."""
        headers, idle, box = self.limits.headers, self.limits.idle, self.limits.penalty_box
        return [
            *headers._held,
            *headers._unfinished,
            *idle._idle,
            *idle._handshakes,
            *idle._closing,
            *idle._faulty,
            *box._queue,
        ]


@contextmanager
def _settings(env: dict[str, str]) -> Iterator[None]:
    """Plain's settings with those of `env` among them, for the life of the block."""
    values = {key.removeprefix("PLAIN_"): value for key, value in env.items()}
    before = {name: getattr(settings, name) for name in values}
    try:
        for name, value in values.items():
            kind = type(before[name])
            setattr(settings, name, value == "true" if kind is bool else kind(value))
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


class MemoryServer:
    """A worker and its log, for the life of a `with` block; to tests, a `harness.Server`.

    `env` has settings as a server's environment has them. With `tls` the worker believes that its
    clients came by TLS.
    """

    #: Those in their `with` block.
    started: ClassVar["list[MemoryServer]"] = []

    def __init__(self, *, tls: bool, env: dict[str, str] | None = None) -> None:
        set_up_plain()
        self.tls = tls
        self.port = 443 if tls else 80
        self._env = env or {}
        self._stack = ExitStack()
        self._ports = itertools.count(50_000)
        self._log = io.StringIO()
        self._expected = 0  # characters of it that `expect_nothing_left()` has read
        self._handler = logging.StreamHandler(self._log)
        self._handler.setFormatter(create_log_formatter("keyvalue"))
        self._sockets: weakref.WeakSet[gevent.socket.socket] = weakref.WeakSet()

    def __enter__(self) -> Self:
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self._handler)
        self._stack.enter_context(_settings(self._env))  # views read some of them
        self.worker = MemoryWorker(tls=self.tls)
        self.greenlet = gevent.spawn(self.worker.serve)
        MemoryServer.started.append(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        MemoryServer.started.remove(self)
        self._stack.close()
        self.greenlet.kill()
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self._handler)

    def connect(self, *alpn: str, timeout: float = WAIT) -> gevent.socket.socket:
        """The client's end of a new connection."""
        ours, theirs = gevent.socket.socketpair()
        self._sockets.add(theirs)
        protocol = alpn[0] if alpn and self.tls else "http/1.1"
        self.worker.accept(ours, ("127.0.0.1", next(self._ports)), protocol)
        theirs.settimeout(timeout)
        return theirs

    def log(self) -> str:
        return self._log.getvalue()

    def wait_log(self, text: str, timeout: float = WAIT) -> None:
        for _ in range(int(timeout)):
            if text in self.log():
                return
            advance(1.0)
        raise AssertionError(f"no log line with {text!r}:\n{self.log()[-8000:]}")

    def drain(self) -> None:
        """As a SIGTERM does."""
        self.worker._signal_exit()

    def has_ended(self) -> bool:
        """Whether the worker would have exited by now."""
        return bool(self.greenlet.dead)

    def expect_nothing_left(self) -> None:
        """The worker holds nothing for its clients, once these are gone and were given time.

        Whatever they did was none of what should not happen.
        """
        for sock in self._sockets:
            sock.close()
        for _ in range(LEFT_FOR_GOOD):
            if not self.worker.left():
                assert not self.worker.remembered()
                break
            advance(1.0)
        else:
            raise AssertionError(f"left behind: {self.worker.left()}\n{self.log()[-8000:]}")
        log = self.log()[self._expected :]
        self._expected = len(self.log())
        assert "Unexpected connection error" not in log, log[-8000:]
