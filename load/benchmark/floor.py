#!/usr/bin/env python
"""The memory that the parts of this worker take by themselves: below it no server of them can go.

    PYTHON=3.13 scripts/bench floor

No socket, and no code of ours. An idle HTTP/2 connection is an OpenSSL object (after a handshake
and one small message each way) and an `h2` connection (after one request). A request whose view
waits is a greenlet in Plain's pipeline. Each line is what a thousand of them added to the process.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import contextlib
import gc
import platform
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import gevent
import psutil
from from_tests import make_certificate
from h2.config import H2Configuration
from h2.connection import H2Connection
from limit import REQUEST, Headers, Pipeline, client_bytes, set_up_plain

#: How many are there when the memory is first measured, and how many more when it is measured
#: again.
EARLIER, MEASURED = 300, 1000
#: Seconds for greenlets to get to where they wait.
SETTLE = 0.5


def tls_connections(folder: Path) -> Callable[[], object]:
    """Makes the server's side of a connection; the client's is given up."""
    make_certificate(folder)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE

    def connect() -> object:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = server.wrap_bio(to_server, to_client, server_side=True)
        theirs = client.wrap_bio(to_client, to_server)
        for side in (theirs, ours) * 3:
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
        theirs.write(b"x" * 300)
        ours.write(ours.read(300))
        return ours, to_server, to_client

    return connect


def h2_connection(start: bytes, request: bytes, response: tuple[Headers, bytes]) -> object:
    headers, body = response
    connection = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
    connection.initiate_connection()
    connection.receive_data(start)
    connection.receive_data(request)
    connection.send_headers(1, headers)
    connection.send_data(1, body, end_stream=True)
    connection.data_to_send()
    return connection


def waiting_request(pipeline: Pipeline) -> object:
    """A request whose view sleeps by now."""
    fields = [(":path", "/sleep?ms=600000"), *REQUEST[1:]]
    before = waiting(pipeline)
    greenlet = gevent.spawn(pipeline, 1, fields)
    while waiting(pipeline) == before:
        if greenlet.ready():
            greenlet.get()  # raises what ended it
        gevent.sleep(0)
    return greenlet


def waiting(pipeline: Pipeline) -> int:
    """How many requests sleep in their view."""
    _, body = pipeline(1, [(":path", "/waiting"), *REQUEST[1:]])
    return int(body)


def in_use() -> int:
    gevent.sleep(SETTLE)
    gc.collect()
    return int(psutil.Process().memory_full_info().uss)


def main() -> int:
    pipeline = set_up_plain()
    start, (request,) = client_bytes(1, 1)
    response = pipeline(1, [*REQUEST])
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[], object]] = {
            f"connection of {ssl.OPENSSL_VERSION}": tls_connections(Path(folder)),
            f"connection of h2 {version('h2')}": partial(h2_connection, start, request, response),
            "greenlet that sleeps": partial(gevent.spawn, time.sleep, 600),
            f"request in Plain {version('plain')}": partial(waiting_request, pipeline),
        }
    print(f"Python {platform.python_version()}, gevent {version('gevent')}; KiB for each")
    kept = []  # all of them: what one left free, the next would take
    for title, make in parts.items():
        kept += [make() for _ in range(EARLIER)]
        before = in_use()
        kept += [make() for _ in range(MEASURED)]
        print(f"{title:<44} {(in_use() - before) / MEASURED / 1024:>6.1f}", flush=True)
    gevent.killall([one for one in kept if isinstance(one, gevent.Greenlet)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
