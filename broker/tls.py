"""TLS as a client: the context that a broker URL asks for, and why a handshake failed, in words.

The server's certificate and its name are always checked; there is no option to leave that out.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from broker.errors import BrokerError
from broker.files import read_file
from broker.url import UrlOptions

_WRONG_NAME = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
_UNKNOWN_CA = frozenset({2, 18, 19, 20, 21})  # of an issuer that is not there, or not trusted
_EXPIRED = 10

_WANTS_OURS = "wants a certificate of ours: add ?cert=FILE&key=FILE to the URL"
_REFUSES_OURS = "does not accept our certificate: is cert=FILE signed by an authority that it trusts?"


def client_context(options: UrlOptions) -> ssl.SSLContext:
    """Raises BrokerError where a file is missing, cannot be read, or is not what it should be."""
    context = ssl.create_default_context() if options.ca is None else _trusting(options.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if options.cert is not None:
        _present(context, options.cert, options.key)
    return context


MOST_CUT_OFF = 5
"""So many connections in a row that a server ends right after the TLS handshake are no accident."""


def cut_off(options: UrlOptions) -> str:
    """Why a server most likely ends each connection right after the handshake: in TLS 1.3 only then it looks at our
    certificate, and what it says of it may be lost, since we have begun to write."""
    found = _WANTS_OURS if options.cert is None else _REFUSES_OURS
    return f"the server ends each connection after the TLS handshake; most likely it {found}"


def handshake_failure(error: BaseException) -> str | None:
    """Why no TLS connection was made, and what to do; None where it is not about TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _verification_failure(error)
    if not isinstance(error, ssl.SSLError):
        return None
    reason = (error.reason or str(error)).upper().replace(" ", "_")
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return f"the server {_WANTS_OURS}"
    if "UNKNOWN_CA" in reason or "BAD_CERTIFICATE" in reason or "CERTIFICATE_UNKNOWN" in reason:
        return f"the server {_REFUSES_OURS}"
    if "WRONG_VERSION_NUMBER" in reason or "RECORD_LAYER_FAILURE" in reason:
        return "what answers there does not speak TLS: use the scheme without TLS, or another port"
    return f"TLS failed: {error.reason or error}"


def _verification_failure(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _WRONG_NAME:
        return f"the server's certificate is not for this host name: {error.verify_message.rstrip('.')}"
    if error.verify_code in _UNKNOWN_CA:
        return "the server's certificate is signed by an authority that is not trusted here: add ?ca=FILE to the URL"
    if error.verify_code == _EXPIRED:
        return "the server's certificate has expired"
    return f"the server's certificate is not valid: {error.verify_message}"


def _trusting(path: Path) -> ssl.SSLContext:
    """Trust these authorities and no others."""
    data = read_file(path, "ca")
    try:
        return ssl.create_default_context(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise BrokerError(f"{path}, given as ca=, holds no certificate in PEM form") from error


def _present(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    read_file(cert, "cert")
    if key is not None:
        read_file(key, "key")
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        where = f"{cert} and {key}" if key is not None else str(cert)
        raise BrokerError(f"{where} hold no certificate in PEM form and the key that belongs to it") from error


def _no_password() -> str:
    # Without this OpenSSL would ask for it on the terminal.
    raise ValueError("the key is encrypted")
