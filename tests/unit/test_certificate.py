"""What is said of certificates and keys that do not load, and of handshakes that fail."""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import gevent.socket
import pytest
from certificate import make_certificate
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from plain.exceptions import ImproperlyConfigured

from plain_gevent_h2.http2.frames import PREFACE
from plain_gevent_h2.net.fairness import HandshakeTurns
from plain_gevent_h2.net.log_throttle import Failures, OnceAMinute
from plain_gevent_h2.net.tls_context import server_context, why_handshake_failed
from plain_gevent_h2.net.tls_socket import TlsSocket

CERTIFICATE, KEY = "CERTIFICATE", "KEY"


def damaged(text: str) -> str:
    return text[:100] + "A" * 40 + text[140:]


#: The text of the certificate's file and of the key's (None: no such option), made from those that
#: are right, and what is said, without the name of the option's file.
FILES: dict[str, tuple[Callable[[str, str], tuple[str | None, str | None]], str]] = {
    "swapped": (lambda c, k: (k, c), "--certfile {} has no certificate but a private key (PEM)."),
    "empty certificate": (lambda _, k: ("", k), "--certfile {} is empty."),
    "empty key": (lambda c, _: (c, " \n"), "--keyfile {} is empty."),
    "garbage": (lambda _, k: ("0 garbage", k), "--certfile {} has no certificate (PEM)."),
    "garbage for a key": (lambda c, _: (c, "x"), "--keyfile {} has no private key (PEM)."),
    "no key": (
        lambda c, _: (c, None),
        "--certfile {} has no private key: give its file with --keyfile.",
    ),
    "certificate twice": (
        lambda c, _: (c, c),
        "--keyfile {} has no private key but a certificate (PEM).",
    ),
    "damaged certificate": (
        lambda c, k: (damaged(c), k),
        "--certfile {}: the certificate is damaged.",
    ),
    "half a certificate": (
        lambda c, k: (c[:300], k),
        "--certfile {}: the certificate is damaged.",
    ),
    "half a key": (lambda c, k: (c, k[:100]), "--keyfile {}: the private key is damaged."),
    "damaged key in one file": (
        lambda c, k: (c + k[:100], None),
        "--certfile {}: the certificate or the private key in it is damaged.",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_do_not_load(tls: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    make, said = FILES[name]
    texts = make(tls[0].read_text(), tls[1].read_text())
    files = []
    for file, text in zip(("cert.pem", "key.pem"), texts, strict=True):
        if text is not None:
            (tmp_path / file).write_text(text)
        files.append(str(tmp_path / file) if text is not None else None)
    at_fault = files["--keyfile {}" in said]
    assert refusal(*files) == said.format(at_fault)


def refusal(certfile: str | None, keyfile: str | None) -> str:
    with pytest.raises(ImproperlyConfigured) as caught:
        server_context(certfile, keyfile, ("h2",))
    return str(caught.value)


def test_files_of_another_kind(tls: tuple[Path, Path], tmp_path: Path) -> None:
    certificate, key = map(str, tls)
    (tmp_path / "other").mkdir()
    other = str(make_certificate(tmp_path / "other")[1])
    assert "does not belong to the first certificate of" in refusal(certificate, other)
    assert refusal(certificate, "/nowhere") == "--keyfile /nowhere: No such file or directory."
    assert refusal(str(tmp_path), key) == f"--certfile {tmp_path}: Is a directory."
    whole = ssl.PEM_cert_to_DER_cert(tls[0].read_text())
    for content in (whole, b"\x30\x81\x80" + bytes(128)):  # of less than 256 bytes, too
        der = tmp_path / "cert.der"
        der.write_bytes(content)
        assert refusal(str(der), key) == f"--certfile {der} is in DER format; PEM is needed."


def test_a_key_that_openssl_does_not_accept(tmp_path: Path) -> None:
    certfile, keyfile = make_certificate(tmp_path, rsa=1024)
    said = f"--certfile {certfile}: OpenSSL does not accept it (ee key too small)."
    assert refusal(str(certfile), str(keyfile)) == said


@pytest.mark.parametrize("form", [PrivateFormat.TraditionalOpenSSL, PrivateFormat.PKCS8])
def test_encrypted_keys(tls: tuple[Path, Path], tmp_path: Path, form: PrivateFormat) -> None:
    """Of either format, in a file of its own or behind the certificate."""
    encrypted, both = tmp_path / "encrypted.pem", tmp_path / "both.pem"
    key = load_pem_private_key(tls[1].read_bytes(), None)
    cipher = BestAvailableEncryption(b"secret")
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, form, cipher))
    both.write_text(tls[0].read_text() + encrypted.read_text())
    said = (
        "the private key is encrypted, which is not supported. "
        "Decrypt it with: openssl pkey -in KEY -out NEW_KEY"
    )
    assert refusal(str(tls[0]), str(encrypted)) == f"--keyfile {encrypted}: {said}"
    assert refusal(str(both), None) == f"--certfile {both}: {said}"


def test_files_that_load(tls: tuple[Path, Path], tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_text("A comment\n" + tls[1].read_text() + tls[0].read_text())
    assert server_context(str(both), None, ("h2",))


def handshake(tls: tuple[Path, Path], client: Callable[[socket.socket], None]) -> str:
    """Why a handshake with `client`, which has a thread of its own, fails."""
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=client, args=(theirs,))
    thread.start()
    try:
        with gevent.socket.socket(fileno=ours.detach()) as sock:
            context = server_context(str(tls[0]), str(tls[1]), ("h2",))
            with pytest.raises(ssl.SSLError) as caught:
                TlsSocket(sock, context, ("h2",), HandshakeTurns()).handshake()
    finally:
        thread.join()
        theirs.close()
    return why_handshake_failed(caught.value)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "HTTP without TLS"),
        (PREFACE, "what came was not TLS"),
        (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "the PROXY protocol is not supported"),
        (b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c", "the PROXY protocol is not supported"),
    ],
)
def test_why_a_handshake_without_tls_fails(tls: tuple[Path, Path], said: bytes, why: str) -> None:
    assert handshake(tls, lambda sock: sock.sendall(said)) == why


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("NO_SHARED_CIPHER", "no shared cipher"),
        ("UNSUPPORTED_PROTOCOL", "the client's TLS is older than 1.2"),
        (None, "unknown"),
    ],
)
def test_what_openssl_says_in_words(reason: str | None, words: str) -> None:
    failure = ssl.SSLError(1, "x")
    failure.reason = reason  # type: ignore[assignment]
    assert why_handshake_failed(failure) == words


def test_why_a_handshake_with_tls_fails(tls: tuple[Path, Path]) -> None:
    def strict(sock: socket.socket) -> None:
        with suppress(ssl.SSLError):
            ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")

    def of_ftp(sock: socket.socket) -> None:
        context = ssl.create_default_context(cafile=str(tls[0]))
        context.set_alpn_protocols(["ftp"])
        with suppress(ssl.SSLError):
            context.wrap_socket(sock, server_hostname="localhost")

    assert handshake(tls, strict) == "the client does not know who issued the certificate"
    assert handshake(tls, of_ftp) == "no protocol in common (ALPN)"


class TestOnceAMinute:
    def test_one_line(self) -> None:
        line = OnceAMinute()
        assert [line.is_due() for _ in range(3)] == [True, False, False]

    def test_failures_are_counted(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("plain_gevent_h2.net.log_throttle.log.propagate", True)
        failures = Failures("Things failed")
        for reason in ("rare", "common", "common"):
            failures.add(reason)
        failures.report()
        failures.add("rare")
        failures.report()  # not yet
        (record,) = caplog.records
        assert (record.message, vars(record)["count"]) == ("Things failed", 3)
        assert vars(record)["commonest"] == "common"
