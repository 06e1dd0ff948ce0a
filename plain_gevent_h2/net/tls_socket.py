"""The socket of one TLS connection: handshake, records, close_notify."""

import fcntl
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import gevent
from gevent import socket as gsocket
from gevent.lock import BoundedSemaphore

from .client_hello import NO_APPLICATION_PROTOCOL, ClientHello
from .fairness import HTTP1_SEND_TURN, HandshakeTurns, yield_to_others
from .tls_context import HTTP10, NoCommonProtocol, ProxyHeader, alpn_names

#: Seconds that a client may keep its TLS handshake waiting. Plain's own worker gives 10 as well.
HANDSHAKE_TIMEOUT = 10.0

#: Seconds that each wait for the client takes off its `HANDSHAKE_TIMEOUT` at least. Only waits for
#: the client count, so a handshake whose thousand pieces each come at once would have no limit.
HANDSHAKE_WAIT = 0.01

#: Bytes taken from the socket at once: an upload takes 10 % longer with a quarter of them.
RECV_SIZE = 256 * 1024

#: Bytes that OpenSSL's buffers get at once: a TLS record has 16 KiB at most. The buffers never
#: shrink: an idle connection that had sent 64 KiB at once took 62 KiB more (measured).
RECORD_SIZE = 16 * 1024

#: Bytes before the content of a record: its type, its version, its length.
_RECORD_HEADER = 5

#: Records given to OpenSSL at once, and taken from it. OpenSSL works through all that it has, at
#: 10 us for a KeyUpdate: 256 KiB of KeyUpdates kept the hub for 200 ms, 256 KiB of records of one
#: byte for 20 (measured).
MAX_RECORDS = 64

#: A token bucket for records without data: its burst, and its refill rate in records a second. A
#: connection that empties the bucket is closed: it sends a flood of KeyUpdates. Honest clients send
#: one in many thousand records.
RECORDS_WITHOUT_DATA_BURST = 1000
RECORDS_WITHOUT_DATA_REFILL = 100

_SIOCOUTQ = 0x5411  # from <linux/sockios.h>


class RecordFlood(ConnectionAbortedError):
    """The peer sends TLS records without data, and no end of them."""


class TlsSocket:
    """The server's side of TLS on an accepted socket, with the methods of a socket that are used.

    OpenSSL works on memory here and makes no system call, for two reasons. CPython leaves a
    system error of one `SSLSocket` (EPIPE, ECONNRESET) in OpenSSL's error queue, which is the
    thread's: the next call for *another* connection finds it and fails. (Shown by
    `tests/server/test_http2.py`: 1 of 5 runs of h2load lost an innocent connection.) And an
    `SSLSocket` makes one system call for each record of 16 KiB, this one for each batch.

    One greenlet may read and another write. Raises `OSError`, of which `ssl.SSLError` is one.

    The reading greenlet owns what is received and the count of records without data. What is
    encrypted and not sent belongs to the greenlet that holds `_sending`; `encrypt()` adds to it.
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
        self._hello: ClientHello | None = ClientHello()  # until it is checked
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._our_side_closed = False
        self._received: bytes | memoryview = b""  # not yet given to OpenSSL
        self._record_left = 0  # bytes of the record under way that OpenSSL has not been given
        self._without_data = 0.0  # tokens taken from the bucket and not refilled
        self._refilled_at = time.monotonic()
        self._unsent: list[bytes | memoryview] = []  # encrypted, not yet given to the kernel
        self._sending = BoundedSemaphore(1)  # held by the greenlet that sends

    def handshake(self) -> None:
        """Do the handshake. Raises `TimeoutError` if the client takes too long.

        Only the waits for the client count. While 100 threads of `asyncio.run()` fought for the
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
        """Refuse a client that offers none of our protocols. OpenSSL would go on without ALPN.

        Raises `NoCommonProtocol`, with the alert queued, and `ProxyHeader`.
        """
        hello = self._hello
        if hello is None or not hello.complete:
            return
        self._hello = None
        if hello.is_proxy_header:
            raise ProxyHeader("PROXY protocol")
        ours = {name.encode() for name in alpn_names(self._protocols)}
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
        # The time may have passed although the bytes are here: gevent polls sockets before timers,
        # so a hub that is late sees the bytes first. The client keeps half of its time then, which
        # makes twice the timeout at most, in all.
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
        """Up to `size` bytes; none at the end.

        Once our side is closed, the bytes are those on the wire, still encrypted: they are read to
        be thrown away.
        """
        while not self._our_side_closed:
            try:
                return self._read(size)
            except ssl.SSLWantReadError:
                if self._outgoing.pending:  # an alert, or the answer to a KeyUpdate
                    self.flush()
                if self._without_data >= MAX_RECORDS:
                    yield_to_others()
                if not self._fill(size):
                    return b""
            except ssl.SSLEOFError:  # what OpenSSL says after the error that _read() kept back
                return b""
        return self._sock.recv(size)

    def _read(self, size: int) -> bytes:
        """The data of the records that are here, up to `size` bytes or `MAX_RECORDS`."""
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
                        raise  # _fill() would wait, with data in hand
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
        """Give OpenSSL some of what is received, or wait for it. Return its size, 0 at the end.

        It takes little more than `size` bytes from the kernel: no limit counts what stays here.
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
            # Only if there is a rest: even an empty view keeps all that it was cut from.
            view = memoryview(received)
            piece, self._received = view[:end], view[end:]
        if self._hello is not None:
            self._hello.feed(piece)
        self._incoming.write(piece)
        return len(piece)

    def _end_of_piece(self, received: bytes | memoryview) -> int:
        """Where the part of `received` ends that OpenSSL may have at once.

        That is `RECORD_SIZE` bytes or `MAX_RECORDS`. Raises `RecordFlood`.
        """
        size, end, records = min(len(received), RECORD_SIZE), self._record_left, 0
        while end + _RECORD_HEADER <= size and records < MAX_RECORDS:
            end += _RECORD_HEADER + (received[end + 3] << 8 | received[end + 4])
            records += 1
        self._without_data += records  # until _read_record() finds data in them
        if self._without_data > RECORDS_WITHOUT_DATA_BURST:
            self._refill()
        self._record_left = max(0, end - size)
        return min(end, size)

    def _refill(self) -> None:
        """Refill the empty bucket for the time that has passed. Raises `RecordFlood`."""
        now = time.monotonic()
        refill = (now - self._refilled_at) * RECORDS_WITHOUT_DATA_REFILL
        self._without_data = max(0, self._without_data - refill)
        self._refilled_at = now
        if self._without_data > RECORDS_WITHOUT_DATA_BURST:
            raise RecordFlood("TLS records without data")

    def sendall(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            self.encrypt(rest[:HTTP1_SEND_TURN])
            rest = rest[HTTP1_SEND_TURN:]
            self.flush()

    def encrypt(self, data: bytes | memoryview) -> None:
        """Encrypt `data`, for the next `send_now()` or `flush()` to send.

        It goes a record at a time: see `RECORD_SIZE`.
        """
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
            self._unsent.append(self._outgoing.read())

    def send_now(self) -> bool:
        """Send without waiting. Return False if `flush()` has to send the rest."""
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
        """Send what is encrypted. If it fails, what the kernel has not taken stays queued."""
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
        """Send close_notify, if the kernel takes it now, and then TCP's FIN. Raises nothing."""
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
        """Bytes that the kernel holds and the peer has not acknowledged; 0 if it does not tell."""
        if not sys.platform.startswith("linux"):
            return 0
        with suppress(OSError):
            return int.from_bytes(fcntl.ioctl(self.fileno(), _SIOCOUTQ, bytes(4)), sys.byteorder)
        return 0

    @property
    def underlying(self) -> gsocket.socket:
        """The socket below TLS, for its TCP options. Nobody else sends or receives on it."""
        return self._sock

    def settimeout(self, timeout: float | None) -> None:
        self._sock.settimeout(timeout)

    def fileno(self) -> int:
        return int(self._sock.fileno())

    def close(self) -> None:
        self._sock.close()
