"""Loads the certificate and its key, and says what is wrong with them if they do not load."""

import re
import ssl
from typing import NoReturn

from plain.exceptions import ImproperlyConfigured

_CERTIFICATE_RE = re.compile(rb"^-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----", re.MULTILINE)
_KEY_RE = re.compile(rb"^-----BEGIN (?:\w+ )*PRIVATE KEY-----", re.MULTILINE)

#: How OpenSSL's reasons end for a file that is sound, but not accepted (EE_KEY_TOO_SMALL).
_NOT_ACCEPTED = ("_TOO_SMALL", "_TOO_WEAK", "_TYPE")

#: Bytes of a file that are read to find what is wrong with it.
_MAX_SIZE = 1024 * 1024


def load_certificate(context: ssl.SSLContext, certfile: str, keyfile: str | None) -> None:
    """Load both files. Raises `ImproperlyConfigured`, in one line that names the file at fault."""
    key = f"--keyfile {keyfile}" if keyfile else f"--certfile {certfile}"

    def ask_password() -> NoReturn:  # in place of a prompt in each process
        raise ImproperlyConfigured(
            f"{key}: the private key is encrypted, which is not supported. "
            "Decrypt it with: openssl pkey -in KEY -out NEW_KEY"
        )

    try:
        context.load_cert_chain(certfile, keyfile, ask_password)
    except (OSError, ssl.SSLError) as exc:
        certificate = _read("--certfile", certfile)
        private_key = _read("--keyfile", keyfile) if keyfile else certificate
        if not _CERTIFICATE_RE.search(certificate):
            problem = f"--certfile {certfile} has no certificate{_instead(certificate)} (PEM)."
        elif not (keyfile or _KEY_RE.search(certificate)):
            problem = f"--certfile {certfile} has no private key: give its file with --keyfile."
        elif not _KEY_RE.search(private_key):
            problem = f"{key} has no private key{_instead(private_key)} (PEM)."
        else:
            problem = _reason(exc, certfile, key)
        raise ImproperlyConfigured(problem) from exc


def _read(option: str, path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_SIZE)
    except OSError as exc:
        raise ImproperlyConfigured(f"{option} {path}: {exc.strerror}.") from exc
    if not text.strip():
        raise ImproperlyConfigured(f"{option} {path} is empty.")
    if text[:2] in (b"\x30\x81", b"\x30\x82"):  # a sequence of more than 127 bytes
        raise ImproperlyConfigured(f"{option} {path} is in DER format; PEM is needed.")
    return text


def _instead(text: bytes) -> str:
    """What the file has in place of what it should have."""
    if _KEY_RE.search(text):
        return " but a private key"
    return " but a certificate" if _CERTIFICATE_RE.search(text) else ""


def _reason(exc: OSError, certfile: str, key: str) -> str:
    reason = getattr(exc, "reason", None) or ""
    if reason == "KEY_VALUES_MISMATCH":
        return f"{key}: the private key does not belong to the first certificate of {certfile}."
    if reason.endswith(_NOT_ACCEPTED):
        words = reason.replace("_", " ").lower()
        return f"--certfile {certfile}: OpenSSL does not accept it ({words})."
    if key.startswith("--certfile"):
        return f"{key}: the certificate or the private key in it is damaged."
    if _is_damaged(certfile):
        return f"--certfile {certfile}: the certificate is damaged."
    return f"{key}: the private key is damaged."


def _is_damaged(certfile: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(certfile)
    except OSError:
        return True
    return False
