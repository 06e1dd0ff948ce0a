#!/usr/bin/env python
"""How fast the clients are that a load generator could stand on, against a faster server.

    nghttpd -d DIRECTORY 9443 key.pem cert.pem &
    load/benchmark/generators.py https://localhost:9443/hello --ca-file cert.pem

10 connections with 10 requests in flight each, all under gevent in one process, for some
seconds. Needs `httpx[http2]`, `niquests` and `plain-gevent-h2[load]`; h2 comes with the last.
"""

# ruff: noqa: E402
import gevent.monkey

gevent.monkey.patch_all()

import argparse
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import gevent
from gevent.event import Event

CONNECTIONS = 10
STREAMS = 10

#: Does one request, or several, and says how many.
Ask = Callable[[], int]


def tls_context(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=ca_file)
    context.set_alpn_protocols(["h2"])
    return context


def httpx_clients(url: str, ca_file: str) -> Iterator[Ask]:
    import httpx

    for _ in range(CONNECTIONS):
        limits = httpx.Limits(max_connections=1)
        client = httpx.Client(http2=True, verify=tls_context(ca_file), limits=limits, timeout=30)
        client.get(url)

        def ask(client: httpx.Client = client) -> int:
            response = client.get(url)
            assert (response.status_code, response.http_version) == (200, "HTTP/2")
            return 1

        yield from [ask] * STREAMS


def niquests_clients(url: str, ca_file: str) -> Iterator[Ask]:
    """One greenlet for each connection, which sends ten requests and gathers the responses."""
    import niquests

    for _ in range(CONNECTIONS):
        session = niquests.Session(multiplexed=True)

        def ask(session: niquests.Session = session) -> int:
            responses = [session.get(url, verify=ca_file) for _ in range(STREAMS)]
            session.gather()
            assert {(r.status_code, r.http_version) for r in responses} == {(200, 20)}
            return STREAMS

        yield ask


class H2Connection:
    """As little as can be around `h2`: one greenlet that reads, one that writes.

    It is no client to use: it is here to be measured.
    """

    def __init__(self, url: str, ca_file: str) -> None:
        from h2.config import H2Configuration
        from h2.connection import H2Connection as StateMachine

        self._url = urlsplit(url)
        address = (str(self._url.hostname), int(self._url.port or 443))
        raw = socket.create_connection(address)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = tls_context(ca_file).wrap_socket(raw, server_hostname=address[0])
        checks = ("validate_inbound", "normalize_inbound", "validate_outbound")
        off: dict[str, Any] = {f"{check}_headers": False for check in checks}
        self._h2 = StateMachine(H2Configuration(**off, normalize_outbound_headers=False))
        self._h2.initiate_connection()
        self._ended: dict[int, Event] = {}
        self._written = Event()
        self._written.set()
        gevent.spawn(self._read)
        gevent.spawn(self._write)

    def ask(self) -> int:
        stream = self._h2.get_next_available_stream_id()
        ended = self._ended[stream] = Event()
        fields = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", self._url.netloc),
            (":path", self._url.path),
        ]
        self._h2.send_headers(stream, fields, end_stream=True)
        self._written.set()
        ended.wait()
        return 1

    def _read(self) -> None:
        from h2.events import DataReceived, ResponseReceived, StreamEnded

        while data := self._sock.recv(65536):
            for event in self._h2.receive_data(data):
                if isinstance(event, ResponseReceived):
                    assert dict(event.headers)[b":status"] == b"200"
                elif isinstance(event, DataReceived):
                    size = event.flow_controlled_length
                    self._h2.acknowledge_received_data(size, event.stream_id)
                elif isinstance(event, StreamEnded):
                    self._ended.pop(event.stream_id).set()
            self._written.set()

    def _write(self) -> None:
        while True:
            self._written.wait()
            self._written.clear()
            if data := self._h2.data_to_send():
                self._sock.sendall(data)


def h2_clients(url: str, ca_file: str) -> Iterator[Ask]:
    for _ in range(CONNECTIONS):
        yield from [H2Connection(url, ca_file).ask] * STREAMS


def own_clients(url: str, ca_file: str, users: int = CONNECTIONS) -> Iterator[Ask]:
    """`Http2User`, with locust's statistics."""
    from locust.env import Environment

    from plain_gevent_h2.load import Http2User

    address = urlsplit(url)
    attributes = {"host": f"https://{address.netloc}", "ca_file": ca_file}
    user_class = type("User", (Http2User,), attributes)
    environment = Environment(user_classes=[user_class])
    environment.create_local_runner()
    for _ in range(users):
        client = user_class(environment).client

        def ask(client: Any = client) -> int:
            assert client.get(address.path).status_code == 200
            return 1

        yield from [ask] * (CONNECTIONS * STREAMS // users)


def own_clients_apart(url: str, ca_file: str) -> Iterator[Ask]:
    return own_clients(url, ca_file, CONNECTIONS * STREAMS)


CLIENTS = {
    "httpx": httpx_clients,
    "niquests": niquests_clients,
    "h2": h2_clients,
    "Http2User": own_clients,
    "Http2User, 100 connections of one request": own_clients_apart,
}


def measure(name: str, url: str, ca_file: str, seconds: float) -> None:
    done = 0

    def work(ask: Ask) -> None:
        nonlocal done
        while True:
            count = ask()  # others add to it meanwhile
            done += count

    for ask in CLIENTS[name](url, ca_file):
        gevent.spawn(work, ask)
    gevent.sleep(0.5)
    before, started, cpu = done, time.perf_counter(), time.process_time()
    gevent.sleep(seconds)
    count, cpu = done - before, time.process_time() - cpu
    rate = count / (time.perf_counter() - started)
    print(f"{name:<42} {rate:>8,.0f} req/s {cpu / max(count, 1) * 1e6:>6,.0f} us CPU/req")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--ca-file", required=True)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--client", choices=CLIENTS, help="only this one, in this process")
    options = parser.parse_args()
    if options.client:
        measure(options.client, options.url, options.ca_file, options.seconds)
        return
    for name in CLIENTS:  # each in a process of its own
        subprocess.run([sys.executable, *sys.argv, "--client", name], check=False)


if __name__ == "__main__":
    main()
