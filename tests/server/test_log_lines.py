"""What clients send is text in the log, whatever they send."""

import signal
from collections.abc import Callable

import pytest
from harness import Server, wait_for
from raw import RawClient, request_fields


@pytest.mark.parametrize("log_format", ["keyvalue", "json"])
def test_no_client_writes_a_line_of_its_own(serve: Callable[..., Server], log_format: str) -> None:
    server = serve(env={"PLAIN_LOG_FORMAT": log_format})
    forged = "%0a[WARNING] forged%1b[31m%c2%9b%e2%80%a8".replace(" ", "%20")
    with RawClient(server) as client:
        agent = ("user-agent", b"a\xff\xc2\x9bb")
        paths = (f"/{forged}", f"/middleware-error{forged}", f"/../{forged}")
        for path in paths:
            client.expect_response(client.open(request_fields(path, "GET", agent)))
        client.request("/?last")
    with server.connect("http/1.1") as sock:
        for path in paths:
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: \x9b\xff\r\n"
            sock.sendall(f"{head}\r\n".encode("latin-1"))
        sock.sendall(b"GET /?last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while sock.recv(65536):
            pass
    raw_path = "%0a[WARNING]%20forged%1b[31m"
    wait_for(lambda: server.log().count(raw_path) >= 6, "lines of the access log")
    log = server.log().partition("Server worker started")[2]  # before, Plain may use colours
    assert all(line.isprintable() for line in log.split("\n"))
    assert not any(line.startswith("[WARNING] forged") for line in log.split("\n"))
    assert "Logging error" not in log
    # Plain's own lines have the path decoded.
    escaped = r"\u000a" if log_format == "keyvalue" else r"\n"
    assert f"{escaped}[WARNING] forged" in log


def test_a_greenlets_request_is_named_as_it_came(serve: Callable[..., Server]) -> None:
    server = serve()
    with RawClient(server) as client:
        stream_id = client.open(request_fields("/sl%65ep?s=2"))
        client.request("/")
        server.worker().send_signal(signal.SIGUSR2)
        server.wait_log("native thread(s) (pid:")
        assert "GET /sl%65ep (" in server.log()
        assert client.expect_response(stream_id).status == 200
