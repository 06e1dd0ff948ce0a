"""TLS: the server's context, and the socket of one connection."""

import fcntl
import ssl
import sys
from collections.abc import Sequence
from contextlib import suppress

import gevent
from gevent import socket as gsocket
from gevent.lock import BoundedSemaphore
from plain.exceptions import ImproperlyConfigured

from .turns import give_way

#: Seconds a client has for its TLS handshake. Plain's own worker gives 10 as well.
HANDSHAKE_TIMEOUT = 10.0

#: Bytes taken from the socket at once (of an upload, a quarter of them would cost 10 % more), and
#: bytes encrypted before they are sent.
RECV_SIZE = 256 * 1024
BATCH_SIZE = 64 * 1024

#: Bytes that OpenSSL's buffers get at once: a TLS record has 16 KiB at most. They keep the size
#: that they once had: an idle connection that had sent 64 KiB at once took 62 KiB more (measured).
RECORD_SIZE = 16 * 1024

#: Bytes of TLS records without any data after which a connection is given up. One record
#: has 16 KiB at most; what goes on without data is a flood of KeyUpdates.
MAX_WITHOUT_DATA = 64 * 1024

_SIOCOUTQ = 0x5411  # from <linux/sockios.h>

#: TLS 1.2 suites that RFC 9113 section 9.2.2 lets HTTP/2 use: ephemeral key exchange and
#: an AEAD cipher. (TLS 1.3 has no others, and is set up apart from this.)
TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


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
    context.set_alpn_protocols(list(protocols))
    try:
        context.load_cert_chain(certfile, keyfile)
    except (OSError, ssl.SSLError) as exc:
        raise ImproperlyConfigured(
            f"--certfile {certfile} (--keyfile {keyfile}) does not load: {exc}"
        ) from exc
    return context


#: Held by the handshake whose turn it is.
_HANDSHAKES = BoundedSemaphore(1)


class RecordFlood(ConnectionAbortedError):
    """The peer sends TLS records and no data."""


class TlsSocket:
    """The server's side of TLS on an accepted socket, with as much of a socket as is used.

    OpenSSL works on memory here and makes no system call, for two reasons. CPython leaves a
    system error of one `SSLSocket` (EPIPE, ECONNRESET) in OpenSSL's error queue, which is the
    thread's: the next call for *another* connection finds it and fails. (Shown by
    `tests/test_http2.py`: 1 of 5 runs of h2load lost an innocent connection.) And an
    `SSLSocket` makes one system call for each record of 16 KiB, this one for each batch.

    One greenlet may read and another write. Raises `OSError`, of which `ssl.SSLError` is one.
    """

    def __init__(self, sock: gsocket.socket, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._our_side_closed = False
        self._received: bytes | memoryview = b""  # not yet given to OpenSSL
        self._unsent: list[bytes | memoryview] = []  # encrypted, not yet given to the kernel
        self._sending = BoundedSemaphore(1)  # held by the greenlet whose bytes are under way

    def handshake(self) -> None:
        """Do the handshake, within `HANDSHAKE_TIMEOUT` seconds."""
        with gevent.Timeout(HANDSHAKE_TIMEOUT, TimeoutError("TLS handshake")):
            done = False
            while not done:
                if not self._fill():
                    raise ConnectionResetError("closed in the TLS handshake")
                try:
                    done = self._handshake_step()
                finally:
                    self.flush()  # an alert, if it failed

    def _handshake_step(self) -> bool:
        """Go on with what is here of the handshake; whether it is complete.

        One takes a millisecond for its signature. In a burst of them (20 attackers that connect
        again and again) others have their turn after each.
        """
        with _HANDSHAKES:
            give_way()
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            return True

    @property
    def protocol(self) -> str | None:
        """The ALPN name that the handshake agreed on."""
        return self._tls.selected_alpn_protocol()

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; none at the end. Once our side is closed, the bytes still come
        (to be thrown away), but as they are on the wire."""
        received = 0  # bytes of records since the last data
        while not self._our_side_closed:
            try:
                return self._read(size)
            except ssl.SSLWantReadError:
                if self._outgoing.pending:  # an alert, or the answer to a KeyUpdate
                    self.flush()
                if received > MAX_WITHOUT_DATA:
                    raise RecordFlood("TLS records without data") from None
                count = self._fill()
                received += count
                if not count:
                    return b""
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
        return self._sock.recv(size)

    def _read(self, size: int) -> bytes:
        """What is here of the records received, up to `size` bytes."""
        data = self._tls.read(size)
        if not (self._incoming.pending or self._received):
            return data
        pieces = [data]
        size -= len(data)
        with suppress(ssl.SSLError):  # the end or an error comes again with the next read
            while size > 0 and data:
                try:
                    data = self._tls.read(size)
                except ssl.SSLWantReadError:
                    if not self._received:
                        raise
                    self._fill()
                    continue
                pieces.append(data)
                size -= len(data)
        return b"".join(pieces)

    def _fill(self) -> int:
        """Give OpenSSL some of what is here, or wait for it; return its size, 0 at the end."""
        piece, self._received = self._received or self._sock.recv(RECV_SIZE), b""
        if len(piece) > RECORD_SIZE:
            # Only of what has a rest: even an empty view keeps all that it was cut from.
            view = memoryview(piece)
            piece, self._received = view[:RECORD_SIZE], view[RECORD_SIZE:]
        self._incoming.write(piece)
        return len(piece)

    def sendall(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            self.encrypt(rest[:BATCH_SIZE])
            rest = rest[BATCH_SIZE:]
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
