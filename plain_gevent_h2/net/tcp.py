"""What the kernel does for a connection over TCP, with TLS or without.

The functions leave a Unix socket as it is, where they do not apply to one.
"""

import struct
import sys
from contextlib import suppress

from gevent import socket as gsocket

from .tls_socket import TlsSocket

_BYTES_ACKED = 120  # the offset of tcpi_bytes_acked, of 8 bytes, in <linux/tcp.h>

#: Seconds before the first probe of a quiet connection, and between probes.
_KEEPALIVE = {
    option: 10
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL")
    if (option := getattr(gsocket, name, None)) is not None
}

type Socket = gsocket.socket | TlsSocket


def bytes_acknowledged(sock: Socket) -> int | None:
    """Bytes that the peer has acknowledged so far; None where the kernel does not count them.

    The length of the send queue would not do: when a slow reader takes some, the queue fills again.
    """
    if not sys.platform.startswith("linux"):
        return None
    with suppress(OSError, struct.error):  # a Unix socket; a kernel before 4.1
        info = _tcp(sock).getsockopt(gsocket.IPPROTO_TCP, gsocket.TCP_INFO, _BYTES_ACKED + 8)
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED)[0])
    return None


def enable_keepalive(sock: Socket) -> None:
    """Have the kernel ask the peer's, from now on, whether it still knows the connection."""
    with suppress(OSError):  # a Unix socket
        tcp = _tcp(sock)
        tcp.setsockopt(gsocket.SOL_SOCKET, gsocket.SO_KEEPALIVE, 1)
        for option, seconds in _KEEPALIVE.items():
            tcp.setsockopt(gsocket.IPPROTO_TCP, option, seconds)


def reset(sock: Socket) -> None:
    """Close `sock` with a TCP reset: a response that is cut must not look whole."""
    reset_on_close(sock, on=True)
    sock.close()


def reset_on_close(sock: Socket, *, on: bool) -> None:
    """Set whether the end of `sock` is a TCP reset, also when the kernel closes it."""
    with suppress(OSError):
        _tcp(sock).setsockopt(gsocket.SOL_SOCKET, gsocket.SO_LINGER, struct.pack("ii", on, 0))


def _tcp(sock: Socket) -> gsocket.socket:
    return sock.underlying if isinstance(sock, TlsSocket) else sock


def close_our_side(sock: Socket) -> None:
    """Send the end, in TLS and in TCP, without waiting for the peer. Raises nothing.

    The caller reads what the peer still sends before it closes the socket: a close with bytes
    unread would make the kernel send a reset, which can destroy the last bytes sent.
    """
    if isinstance(sock, TlsSocket):
        sock.close_our_side()
    else:
        with suppress(OSError):
            sock.shutdown(gsocket.SHUT_WR)
