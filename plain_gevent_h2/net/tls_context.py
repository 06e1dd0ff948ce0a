"""The server's TLS context, and the words for a handshake that failed."""

import ssl
from collections.abc import Sequence

from plain.exceptions import ImproperlyConfigured

from .certificate import load_certificate

#: The ALPN name of HTTP/1.0, in IANA's registry (RFC 7301 section 6).
HTTP10 = "http/1.0"

#: TLS 1.2 suites that RFC 9113 section 9.2.2 lets HTTP/2 use: ephemeral key exchange and
#: an AEAD cipher. (All suites of TLS 1.3 are like that, and are set elsewhere in OpenSSL.)
TLS12_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def alpn_names(protocols: Sequence[str]) -> list[str]:
    """The ALPN names to offer for `protocols`: HTTP/1.1 brings HTTP/1.0.

    Some clients offer nothing but the name of HTTP/1.0 (`curl -0`).
    """
    return [*protocols, *([HTTP10] if "http/1.1" in protocols else [])]


def server_context(
    certfile: str | None, keyfile: str | None, protocols: Sequence[str]
) -> ssl.SSLContext:
    """A context for TLS 1.2 and 1.3 that offers `protocols` (ALPN names) in their order.

    Raises `ImproperlyConfigured`, in one line, if the certificate or key does not load.
    """
    if certfile is None:
        raise ImproperlyConfigured("--keyfile needs --certfile.")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(TLS12_CIPHERS)
    # RFC 9113 section 9.2.1: no compression, no renegotiation.
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(alpn_names(protocols))
    load_certificate(context, certfile, keyfile)
    return context


class NoCommonProtocol(ssl.SSLError):
    """The client offers protocols by ALPN, and none of ours (RFC 7301 section 3.2)."""


class ProxyHeader(ssl.SSLError):
    """The connection begins with the PROXY protocol's header in place of TLS."""


#: Plainer words for some of OpenSSL's reasons.
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
    """A few words for what ended a handshake, the same for all failures of a kind."""
    if isinstance(exc, ProxyHeader):
        return "the PROXY protocol is not supported"
    if isinstance(exc, NoCommonProtocol):
        return "no protocol in common (ALPN)"
    reason = exc.reason or "unknown"
    return _REASONS.get(reason, reason.replace("_", " ").lower())
