"""TLS: the server's context, and the socket of one connection."""

import fcntl
import ssl
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import gevent
from gevent import socket as gsocket
from gevent.lock import BoundedSemaphore
from plain.exceptions import ImproperlyConfigured

from .certificate import load_certificate
from .client_hello import NO_APPLICATION_PROTOCOL, ClientHello
from .fairness import HTTP1_SEND_TURN, HandshakeTurns, give_way

#: Seconds that a client may keep its TLS handshake waiting. Plain's own worker gives 10 as well.
HANDSHAKE_TIMEOUT = 10.0

#: Seconds of them that each wait takes at least. The time in between, for a turn, is not counted:
#: what comes in a thousand pieces would have no limit.
HANDSHAKE_WAIT = 0.01

#: Bytes taken from the socket at once: of an upload, a quarter of them would cost 10 % more.
RECV_SIZE = 256 * 1024

#: Bytes that OpenSSL's buffers get at once: a TLS record has 16 KiB at most. They keep the size
#: that they once had: an idle connection that had sent 64 KiB at once took 62 KiB more (measured).
RECORD_SIZE = 16 * 1024

#: Bytes before the content of a record: its type, its version, its length.
_RECORD_HEADER = 5

#: Records given to OpenSSL at once, and taken from it: it takes 10 us for a KeyUpdate, and works
#: through all that it has. 256 KiB of these kept the hub for 200 ms, of records of one byte for 20.
MAX_RECORDS = 64

#: Records without data, at once and a second, past which a connection is given up: what goes on
#: without data is a flood of KeyUpdates. Honest clients send one in many thousand records.
RECORDS_WITHOUT_DATA = 1000
RECORDS_WITHOUT_DATA_PER_SECOND = 100

_SIOCOUTQ = 0x5411  # from <linux/sockios.h>
_BYTES_ACKED = 120  # the offset of tcpi_bytes_acked, of 8 bytes, in <linux/tcp.h>

#: Seconds before the first probe of a quiet connection, and between probes.
_KEEPALIVE = {
    option: 10
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL")
    if (option := getattr(gsocket, name, None)) is not None
}

#: The ALPN name of HTTP/1.0, in IANA's registry (RFC 7301 section 6).
HTTP10 = "http/1.0"

#: TLS 1.2 suites that RFC 9113 section 9.2.2 lets HTTP/2 use: ephemeral key exchange and
#: an AEAD cipher. (TLS 1.3 has no others, and is set up apart from this.)
TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def _alpn_names(protocols: Sequence[str]) -> list[str]:
    """With HTTP/1.1, HTTP/1.0 is served: its name is all that some clients offer (`curl -0`)."""
    return [*protocols, *([HTTP10] if "http/1.1" in protocols else [])]


def server_context(
    certfile: str | None, keyfile: str | None, protocols: Sequence[str]
) -> ssl.SSLContext:
    """A context for TLS 1.2 and up that offers `protocols` (ALPN names) in their order.

    Raises `ImproperlyConfigured`, in one line, if the certificate or key does not load.
    """
    if certfile is None:
        raise ImproperlyConfigured("--keyfile needs --certfile.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS12_CIPHERS)
    # RFC 9113 section 9.2.1: no compression, no renegotiation.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(_alpn_names(protocols))
    load_certificate(context, certfile, keyfile)
    return context


class NoCommonProtocol(ssl.SSLError):
    """The client offers protocols by ALPN, and none of ours (RFC 7301 section 3.2)."""


class ProxyHeader(ssl.SSLError):
    """What comes is the PROXY protocol's header in place of TLS."""


class RecordFlood(ConnectionAbortedError):
    """The peer sends TLS records and no data."""


#: Reasons of OpenSSL's for which there are plainer words.
_REASONS = {
    "HTTP_REQUEST": "HTTP without TLS",
    "HTTPS_PROXY_REQUEST": "HTTP without TLS",
    "WRONG_VERSION_NUMBER": "what came was not TLS",
    "TLSV1_ALERT_UNKNOWN_CA": "the client does not know who issued the certificate",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the client does not trust the certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the client does not trust the certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the certificate has expired",
    "UNSUPPORTED_PROTOCOL": "the client's TLS is older than 1.2",
}


def why_handshake_failed(exc: ssl.SSLError) -> str:
    """A few words for what ended a handshake, the same for all of a kind."""
    if isinstance(exc, ProxyHeader):
        return "the PROXY protocol is not supported"
    if isinstance(exc, NoCommonProtocol):
        return "no protocol in common (ALPN)"
    reason = exc.reason or "unknown"
    return _REASONS.get(reason, reason.replace("_", " ").lower())


class TlsSocket:
    """The server's side of TLS on an accepted socket, with as much of a socket as is used.

    OpenSSL works on memory here and makes no system call, for two reasons. CPython leaves a
    system error of one `SSLSocket` (EPIPE, ECONNRESET) in OpenSSL's error queue, which is the
    thread's: the next call for *another* connection finds it and fails. (Shown by
    `tests/server/test_http2.py`: 1 of 5 runs of h2load lost an innocent connection.) And an
    `SSLSocket` makes one system call for each record of 16 KiB, this one for each batch.

    One greenlet may read and another write. Raises `OSError`, of which `ssl.SSLError` is one.
    """

    def __init__(
        self,
        sock: gsocket.socket,
        context: ssl.SSLContext,
        protocols: Sequence[str],
        turns: HandshakeTurns,
    ) -> None:
        self._sock = sock
        self._turns = turns
        self._protocols = protocols
        self._hello: ClientHello | None = ClientHello()  # until it has been looked at
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._our_side_closed = False
        self._received: bytes | memoryview = b""  # not yet given to OpenSSL
        self._record_left = 0  # bytes of the record under way that it has not been given
        self._without_data = 0.0  # records without data, less those forgiven
        self._forgiven_at = time.monotonic()
        self._unsent: list[bytes | memoryview] = []  # encrypted, not yet given to the kernel
        self._sending = BoundedSemaphore(1)  # held by the greenlet whose bytes are under way

    def handshake(self) -> None:
        """Do the handshake. Raises `TimeoutError` if the client is late by its own fault.

        Only what it keeps us waiting counts. While 100 threads of `asyncio.run()` fought for the
        GIL, honest clients waited for their turn for longer than `HANDSHAKE_TIMEOUT`.
        """
        patience = HANDSHAKE_TIMEOUT
        while True:
            patience = self._wait_for_client(self._fill_more, patience)
            try:
                self._check_alpn()
                self._turns.step(self._tls)
                break
            except ssl.SSLWantReadError:
                patience = self._wait_for_client(self.flush, patience)
            except ssl.SSLError:
                self._wait_for_client(self.flush, patience)  # the alert
                raise
        self._wait_for_client(self.flush, patience)

    def _check_alpn(self) -> None:
        """Refuse a client with no protocol of ours before OpenSSL, which would go on without one.

        Raises `NoCommonProtocol`, with the alert to be sent, and `ProxyHeader`.
        """
        hello = self._hello
        if hello is None or not hello.complete:
            return
        self._hello = None
        if hello.is_proxy_header:
            raise ProxyHeader("PROXY protocol")
        ours = {name.encode() for name in _alpn_names(self._protocols)}
        if hello.alpn is not None and not ours.intersection(hello.alpn):
            self._unsent.append(NO_APPLICATION_PROTOCOL)
            raise NoCommonProtocol(f"ALPN offers {hello.alpn!r}")

    def _fill_more(self) -> None:
        if not self._fill(RECORD_SIZE):
            raise ConnectionResetError("closed in the TLS handshake")

    def _wait_for_client(self, wait: Callable[[], None], patience: float) -> float:
        """Call `wait`, for at most `patience` seconds, and return how many are left."""
        ends_at = time.monotonic() + patience
        late = TimeoutError("TLS handshake")
        with gevent.Timeout(patience, late):
            wait()
        # gevent looks at sockets before timers: what comes when the time is up came to a hub that
        # was late, or at the last moment. Half is left, so nobody gets more than twice the time.
        left = max(ends_at - time.monotonic(), patience / 2) - HANDSHAKE_WAIT
        if left <= 0:
            raise late
        return left

    @property
    def protocol(self) -> str | None:
        """The ALPN name that the handshake agreed on; that of HTTP/1.1 for HTTP/1.0."""
        name = self._tls.selected_alpn_protocol()
        return "http/1.1" if name == HTTP10 else name

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end. Once our side is closed, the bytes still come
        (to be thrown away), but as they are on the wire."""
        while not self._our_side_closed:
            try:
                return self._read(size)
            except ssl.SSLWantReadError:
                if self._outgoing.pending:  # an alert, or the answer to a KeyUpdate
                    self.flush()
                if self._without_data >= MAX_RECORDS:
                    give_way()
                if not self._fill(size):
                    return b""
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
        return self._sock.recv(size)

    def _read(self, size: int) -> bytes:
        """What is here of the records received, up to `size` bytes or `MAX_RECORDS`."""
        data = self._read_record(size)
        if not (self._incoming.pending or self._received):
            return data
        pieces = [data]
        size -= len(data)
        with suppress(ssl.SSLError):  # the end or an error comes again with the next read
            while size > 0 and data and max(len(pieces), self._without_data) < MAX_RECORDS:
                try:
                    data = self._read_record(size)
                except ssl.SSLWantReadError:
                    if len(self._received) < _RECORD_HEADER:
                        raise  # to go on would be to wait, with data in hand
                    self._fill(size)
                    continue
                pieces.append(data)
                size -= len(data)
        return b"".join(pieces)

    def _read_record(self, size: int) -> bytes:
        data = self._tls.read(size)
        if self._without_data > 0:
            self._without_data -= 1
        return data

    def _fill(self, size: int) -> int:
        """Give OpenSSL some of what is here, or wait for it; return its size, 0 at the end.

        Takes little more than `size` bytes from the kernel: what is left here nobody counts.
        """
        while len(self._received) < (1 if self._record_left else _RECORD_HEADER):
            # Where an idle connection's reader is stopped.
            more = self._sock.recv(max(size, RECORD_SIZE))
            if not more:
                return 0
            self._received = bytes(self._received) + more if self._received else more
        received = self._received
        end = self._end_of_piece(received)
        piece, self._received = received, b""
        if end < len(received):
            # Only of what has a rest: even an empty view keeps all that it was cut from.
            view = memoryview(received)
            piece, self._received = view[:end], view[end:]
        if self._hello is not None:
            self._hello.feed(piece)
        self._incoming.write(piece)
        return len(piece)

    def _end_of_piece(self, received: bytes | memoryview) -> int:
        """How much of it OpenSSL may have at once: `RECORD_SIZE` bytes or `MAX_RECORDS`.

        Raises `RecordFlood`.
        """
        size, end, records = min(len(received), RECORD_SIZE), self._record_left, 0
        while end + _RECORD_HEADER <= size and records < MAX_RECORDS:
            end += _RECORD_HEADER + (received[end + 3] << 8 | received[end + 4])
            records += 1
        self._without_data += records
        if self._without_data > RECORDS_WITHOUT_DATA:
            now = time.monotonic()
            forgiven = (now - self._forgiven_at) * RECORDS_WITHOUT_DATA_PER_SECOND
            self._without_data = max(0, self._without_data - forgiven)
            self._forgiven_at = now
            if self._without_data > RECORDS_WITHOUT_DATA:
                raise RecordFlood("TLS records without data")
        self._record_left = max(0, end - size)
        return min(end, size)

    def sendall(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            self.encrypt(rest[:HTTP1_SEND_TURN])
            rest = rest[HTTP1_SEND_TURN:]
            self.flush()

    def encrypt(self, data: bytes | memoryview) -> None:
        """Put `data` after what `send_now()` or `flush()` is to send.

        A record at a time: see RECORD_SIZE.
        """
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
            self._unsent.append(self._outgoing.read())

    def send_now(self) -> bool:
        """Send without waiting; False if `flush()` is to send the rest."""
        if self._sending.locked():
            return False
        self._sock.settimeout(0.0)
        try:
            self._send()
        except BlockingIOError:
            pass
        finally:
            self._sock.settimeout(None)
        return not self._unsent

    def flush(self) -> None:
        """Wait until the kernel has taken all that was encrypted."""
        with self._sending:
            self._send()

    def _send(self) -> None:
        """Send what is encrypted. Only what the kernel has taken is no longer there if it fails."""
        if self._outgoing.pending:  # of OpenSSL's own: a handshake, an alert
            self._unsent.append(self._outgoing.read())
        unsent = self._unsent
        while unsent:
            sent = self._sock.send(unsent[0]) if len(unsent) == 1 else self._sock.sendmsg(unsent)
            while unsent and sent >= len(unsent[0]):
                sent -= len(unsent.pop(0))
            if sent:
                unsent[0] = unsent[0][sent:]

    def close_our_side(self) -> None:
        """Send close_notify, if the kernel takes it now."""
        self._our_side_closed = True
        with suppress(ssl.SSLError, ValueError):
            self._tls.unwrap()  # wants the peer's close_notify next
        timeout = self._sock.gettimeout()
        self._sock.settimeout(0.0)
        with suppress(OSError):
            self._send()
        self._sock.settimeout(timeout)
        with suppress(OSError):
            self._sock.shutdown(gsocket.SHUT_WR)

    def unsent(self) -> int:
        """Bytes that the kernel holds and the peer has not acknowledged, where it tells."""
        if not sys.platform.startswith("linux"):
            return 0
        with suppress(OSError):
            return int.from_bytes(fcntl.ioctl(self.fileno(), _SIOCOUTQ, bytes(4)), sys.byteorder)
        return 0

    def settimeout(self, timeout: float | None) -> None:
        self._sock.settimeout(timeout)

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def close(self) -> None:
        self._sock.close()


def acknowledged(sock: gsocket.socket | TlsSocket) -> int | None:
    """Bytes that the peer's system has taken in all; None where ours does not count them.

    Not what is in the send queue: that is as full as before when a slow reader took some.
    """
    if not sys.platform.startswith("linux"):
        return None
    with suppress(OSError, struct.error):  # a Unix socket; a kernel before 4.1
        info = _tcp(sock).getsockopt(gsocket.IPPROTO_TCP, gsocket.TCP_INFO, _BYTES_ACKED + 8)
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED)[0])
    return None


def probe(sock: gsocket.socket | TlsSocket) -> None:
    """Have the system ask the peer's, from now on, whether it still knows the connection."""
    with suppress(OSError):  # a Unix socket
        tcp = _tcp(sock)
        tcp.setsockopt(gsocket.SOL_SOCKET, gsocket.SO_KEEPALIVE, 1)
        for option, seconds in _KEEPALIVE.items():
            tcp.setsockopt(gsocket.IPPROTO_TCP, option, seconds)


def reset(sock: gsocket.socket | TlsSocket) -> None:
    """Close `sock` by a TCP reset: a response that is cut must not look whole."""
    reset_on_close(sock, on=True)
    sock.close()


def reset_on_close(sock: gsocket.socket | TlsSocket, *, on: bool) -> None:
    """Whether the end of `sock` is a TCP reset, whoever closes it: the kernel as well."""
    with suppress(OSError):
        _tcp(sock).setsockopt(gsocket.SOL_SOCKET, gsocket.SO_LINGER, struct.pack("ii", on, 0))


def _tcp(sock: gsocket.socket | TlsSocket) -> gsocket.socket:
    return sock._sock if isinstance(sock, TlsSocket) else sock


def close_our_side(sock: gsocket.socket | TlsSocket) -> None:
    """Say that nothing more comes, in TLS and in TCP, without waiting for the peer.

    What the peer still sends is to be read before the socket is closed: closing it with
    bytes unread would make the kernel send a reset, which can destroy our last bytes.
    """
    if isinstance(sock, TlsSocket):
        sock.close_our_side()
    else:
        with suppress(OSError):
            sock.shutdown(gsocket.SHUT_WR)
