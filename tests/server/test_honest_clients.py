"""Clients that ask for a lot, or change their minds a lot, and that no defence may hit."""

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
import pytest
import raw
from browser import Browser
from h2client import Client
from harness import Server, wait_for
from load_client import Load
from raw import RawClient, request_fields
from tools import need

NO_LIMIT = {"PLAIN_SERVER_MAX_REQUESTS": "0"}


@pytest.fixture
def quiet(serve: Callable[..., Server]) -> Iterator[Server]:
    """A server that must not call any of its clients abusive."""
    server = serve(env=NO_LIMIT)
    yield server
    expect_quiet(server)


def expect_quiet(server: Server) -> None:
    assert "abuse" not in server.log()
    assert "Unexpected" not in server.log()


@pytest.mark.parametrize("path", ["/", "/bytes?n=20000", "/sleep?s=0.05"])
def test_h2load_with_10_000_streams_at_once(shared: Callable[..., Server], path: str) -> None:
    server = shared(env=NO_LIMIT)
    command = [need("h2load"), "-n", "10000", "-c", "100", "-m", "100", server.url + path]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert "10000 succeeded, 0 failed, 0 errored, 0 timeout" in output
    expect_quiet(server)


def test_a_browser_that_cancels_500_images(quiet: Server, browser: Browser) -> None:
    browser.open(f"https://localhost:{quiet.port}/")
    wait_for(lambda: browser.evaluate("document.readyState") == "complete", "page")
    for turn in range(6):
        browser.evaluate("""
            performance.clearResourceTimings();
            window.images = [...Array(90).keys()].map(i => {
                const image = new Image();
                image.src = `/sleep?s=2&image=${i}&${Math.random()}`;
                return image;
            });
        """)
        # Sent after them, and answered while they are not.
        browser.evaluate(
            f"fetch('/?{turn}').then(r => r.text()).then(() => {{ window.turn = {turn}; }})"
        )
        wait_for(partial(browser.evaluate, f"window.turn === {turn}"), "answer beside them")
        browser.evaluate("images.forEach(image => { image.src = ''; })")
    protocol = "performance.getEntriesByName(location.origin + '/?5')[0]?.nextHopProtocol"
    wait_for(lambda: browser.evaluate(protocol) == "h2", "answer over HTTP/2")
    # They did arrive: those that had begun were let finish.
    wait_for(lambda: quiet.log().count("image=") >= 100, "end of the views")


def test_a_grpc_client_that_cancels_calls(quiet: Server, tls: tuple[Path, Path]) -> None:
    """1,000 of them, on one connection, 50 at a time."""
    credentials = grpc.ssl_channel_credentials(tls[0].read_bytes())
    with grpc.secure_channel(f"localhost:{quiet.port}", credentials) as channel:
        call = channel.unary_unary(
            "/sleep?s=5", request_serializer=None, response_deserializer=None
        )

        def cancelled(_: int) -> bool:
            future = call.future(b"")
            future.cancel()
            return bool(future.cancelled())

        def expired(_: int) -> grpc.StatusCode:
            with pytest.raises(grpc.RpcError) as failed:
                call(b"", timeout=0.01)
            return failed.value.code()

        with ThreadPoolExecutor(50) as pool:
            assert all(pool.map(cancelled, range(500)))
            codes = set(pool.map(expired, range(500)))
        assert codes == {grpc.StatusCode.DEADLINE_EXCEEDED}
    with Client(quiet) as client:
        assert client.get("/").body == b"hello"


def test_a_client_that_resets_every_other_stream(quiet: Server) -> None:
    """5,000 resets on one connection: those taken whole pay for them."""
    with Client(quiet) as client:
        for _ in range(100):
            whole = [client.send("/") for _ in range(50)]
            given_up = [client.send("/sleep?s=0.01") for _ in range(50)]
            for stream_id in given_up:
                client.h2.reset_stream(stream_id, 8)
            client.flush()
            assert all(answer.body == b"hello" for answer in client.finish(*whole))


def test_a_client_that_answers_late_frames_with_resets(quiet: Server) -> None:
    """As those built on `h2` do: one for each frame of a download that was given up."""
    with RawClient(quiet) as client:
        for _ in range(40):
            stream_id = client.open(request_fields("/sleep?s=0.01"))
            client.send(raw.rst_stream(stream_id) * 65)
        client.expect_alive()


def test_a_connection_of_many_requests_is_renewed(serve: Callable[..., Server]) -> None:
    """RFC 9113 section 6.8: two GOAWAYs after so many requests, and none of them lost."""
    server = serve(
        "--no-access-log", env=NO_LIMIT | {"PLAIN_SERVER_H2_MAX_REQUESTS_PER_CONNECTION": "100"}
    )
    with Load(server, "/", b"hello") as load:
        load.start_http2(connections=4, streams=8)
        wait_for(lambda: load.failures or load.connections > 20, "new connections")
    assert load.failures == [], load.summary()
    assert load.answered > 16 * 100
    print(load.summary())
