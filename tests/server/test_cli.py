"""The command line and the settings: what chooses the worker, and what is refused."""

import os
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from h2client import Client
from harness import PLAIN, TESTS, WAIT_FOR_START, Server
from raw import RawClient
from tools import need

BAD_SETTINGS = {
    "SERVER_WORKER": "x",
    "SERVER_HTTP_PROTOCOLS": "spdy",
    "SERVER_H2_INITIAL_WINDOW_SIZE": "0",
    "SERVER_H2_MAX_FRAME_SIZE": "16383",
    "SERVER_H2_MAX_HEADER_LIST_SIZE": "1",
    "SERVER_H2_MAX_CONCURRENT_STREAMS": "0",
    "SERVER_MAX_RUNNING_STREAMS": "0",
    "SERVER_KEEPALIVE_TIMEOUT": "0",
    "SERVER_TIMEOUT": "-1",
    "SERVER_MAX_REQUEST_BODY_SIZE": "-1",
    "SERVER_MAX_INFLIGHT_BODY_SIZE": "-1",
    "SERVER_BODY_MAX_MEMORY_SIZE": "0",
    "SERVER_BODY_MIN_BYTES_PER_SECOND": "-1",
}


def run(*args: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [str(PLAIN), *args]
    env = os.environ | env
    return subprocess.run(
        command,
        cwd=TESTS,
        env=env,
        capture_output=True,
        text=True,
        timeout=WAIT_FOR_START,
        check=False,
    )


def test_help() -> None:
    output = run("server", "--help").stdout
    assert "--worker [asyncio|gevent-h2]" in output
    assert "--http-protocols" in output


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_a_bad_setting_is_refused_in_one_line(name: str) -> None:
    env = {"PLAIN_SERVER_WORKER": "gevent-h2", f"PLAIN_{name}": BAD_SETTINGS[name]}
    result = run("server", **env)
    assert result.returncode != 0
    assert [line for line in result.stderr.splitlines() if name in line]
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_bad_setting_is_found_before_a_start() -> None:
    """The first one, in the words that a start has: all of them are in `test_config.py`."""
    env = {f"PLAIN_{name}": value for name, value in BAD_SETTINGS.items()}
    assert "SERVER_WORKER must be" in run("preflight", **env).stdout
    env["PLAIN_SERVER_WORKER"] = "gevent-h2"
    assert "SERVER_TIMEOUT must be" in run("preflight", **env).stdout


def test_bad_options_are_refused(tls: tuple[Path, Path]) -> None:
    ours = ("server", "--worker", "gevent-h2")
    for args, said in [
        (("server", "--worker", "x"), "'x' is not one of"),
        (("server", "--http-protocols", "h2"), "needs --worker gevent-h2"),
        ((*ours, "--http-protocols", "spdy"), "--http-protocols must be"),
        ((*ours, "--keyfile", str(tls[1])), "--keyfile needs --certfile"),
        ((*ours, "--certfile", str(tls[1])), "has no certificate but a private key"),
        ((*ours, "--certfile", str(tls[0]), "--keyfile", str(tls[0])), "has no private key but a"),
        ((*ours, "--http-protocols", "h2"), "HTTP/2 alone was asked for"),
    ]:
        result = run(*args)
        assert result.returncode != 0
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1 or "Usage: " in result.stderr
        assert "Traceback" not in result.stderr


def test_the_setting_chooses_the_worker(serve: Callable[..., Server]) -> None:
    server = serve(worker=None, env={"PLAIN_SERVER_WORKER": "gevent-h2"})
    with Client(server) as client:
        assert b"threading" in client.get("/patched").body


def test_threads_are_said_to_have_no_effect(serve: Callable[..., Server]) -> None:
    said = "SERVER_THREADS (--threads) has no effect"
    assert serve("--threads", "8").log().count(said) == 1
    assert said not in serve().log()
    # `plain dev` passes `--threads 4` whatever the worker is.
    assert said not in serve("--threads", "4", env={"PLAIN_ENV": "dev"}).log()


@pytest.mark.parametrize(
    ("args", "plaintext", "said"),
    [
        ((), False, "worker=gevent-h2 protocols=h2,h1"),
        (("--http-protocols", "h1"), False, "worker=gevent-h2 protocols=h1"),
        ((), True, 'protocols=h1 note="HTTP/2 needs --certfile and --keyfile"'),
        (("--http-protocols", "h1"), True, "worker=gevent-h2 protocols=h1"),
    ],
)
def test_the_start_line_says_what_serves(
    serve: Callable[..., Server], args: tuple[str, ...], plaintext: bool, said: str
) -> None:
    server = serve(*args, plaintext=plaintext)
    (line,) = [line for line in server.log().splitlines() if "Plain server started" in line]
    assert line.rstrip().endswith(said)
    assert "threads=" not in line


def test_an_encrypted_key_is_refused_without_a_prompt(
    tls: tuple[Path, Path], tmp_path: Path
) -> None:
    encrypted = tmp_path / "encrypted.pem"
    command = [need("openssl"), "pkey", "-in", str(tls[1]), "-aes128", "-passout", "pass:secret"]
    subprocess.run([*command, "-out", str(encrypted)], check=True)
    files = ("--certfile", str(tls[0]), "--keyfile", str(encrypted))
    (line,) = run("server", "--worker", "gevent-h2", *files).stderr.splitlines()
    assert f"--keyfile {encrypted}: the private key is encrypted, which is not supported" in line


@pytest.mark.parametrize(
    ("protocols", "offered", "agreed"),
    [
        ("h2,h1", ("h2", "http/1.1"), "h2"),
        ("h1,h2", ("h2", "http/1.1"), "http/1.1"),
        ("h1", ("h2", "http/1.1"), "http/1.1"),
        ("h2", ("h2", "http/1.1"), "h2"),
    ],
)
def test_alpn(
    serve: Callable[..., Server], protocols: str, offered: tuple[str, ...], agreed: str
) -> None:
    server = serve("--http-protocols", protocols)
    with server.connect(*offered) as sock:
        assert isinstance(sock, ssl.SSLSocket)
        assert sock.selected_alpn_protocol() == agreed


def test_the_settings_are_advertised(serve: Callable[..., Server]) -> None:
    names = {
        "PLAIN_SERVER_H2_MAX_CONCURRENT_STREAMS": (3, 7),
        "PLAIN_SERVER_H2_INITIAL_WINDOW_SIZE": (4, 70_000),
        "PLAIN_SERVER_H2_MAX_FRAME_SIZE": (5, 20_000),
        "PLAIN_SERVER_H2_MAX_HEADER_LIST_SIZE": (6, 5_000),
    }
    server = serve(env={name: str(value) for name, (_, value) in names.items()})
    with RawClient(server) as client:
        settings = client.take(lambda f: type(f).__name__ == "SettingsFrame" and f.settings)  # type: ignore[attr-defined]
        assert dict(names.values()).items() <= settings.settings.items()  # type: ignore[attr-defined]
