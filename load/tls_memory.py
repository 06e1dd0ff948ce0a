#!/usr/bin/env python
"""What OpenSSL alone keeps for a TLS connection: the floor of an idle connection's memory.

    python load/tls_memory.py [CONNECTIONS]

Both sides in one process, with no socket: a handshake, and one small message each way.
"""

import contextlib
import gc
import ssl
import sys
import tempfile
from pathlib import Path

import psutil
from servers import make_certificate

#: Connections before the first look at the memory, and those that are then measured.
EARLIER, MEASURED = 200, 1000


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    make_certificate(folder)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    return server, client


def connect(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[object, ...]:
    """The server's side of a connection that has shaken hands; the client's is given up."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server)
    for side in (theirs, ours) * 3:
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    theirs.write(b"x" * 300)
    ours.write(ours.read(300))
    return ours, to_server, to_client


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else MEASURED
    with tempfile.TemporaryDirectory() as folder:
        server, client = contexts(Path(folder))
    kept = [connect(server, client) for _ in range(EARLIER)]
    gc.collect()
    before = psutil.Process().memory_full_info().uss
    kept += [connect(server, client) for _ in range(count)]
    gc.collect()
    grown = psutil.Process().memory_full_info().uss - before
    print(f"{ssl.OPENSSL_VERSION}: {grown / count / 1024:.1f} KiB a connection")
    return 0


if __name__ == "__main__":
    sys.exit(main())
