"""How a client identifies itself and checks the server: TLS and tokens. Does not import grpc."""

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vaeport.addresses import Target
from vaeport.errors import InvalidInputError

TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # what may follow "Bearer" (RFC 6750)


@dataclass(frozen=True, slots=True)
class TLS:
    """An encrypted connection to a server whose certificate is checked. The files are PEM.

    Attributes:
        ca: certificates that the server's must descend from; None: the public authorities that gRPC knows.
        cert: this client's certificate, for a server that asks for one (mTLS), with the chain behind it; needs `key`.
        key: the private key of `cert`, not encrypted.
        server_name: the name that must be in the server's certificate, if it is not the host of the address; for a
            list of several hosts, one name that all certificates have.

    Raises:
        InvalidInputError: `cert` is given without `key`, or vice versa.
    """

    ca: str | Path | None = None
    cert: str | Path | None = None
    key: str | Path | None = None
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise InvalidInputError("TLS: cert and key belong together; one of them is missing")


@dataclass(frozen=True, slots=True, repr=False)
class Pem:
    """The contents of the files of a TLS."""

    ca: bytes | None
    cert: bytes | None
    key: bytes | None


def read_pem(tls: TLS) -> Pem:
    """Read the files, so that a bad one is an error here and not a handshake that fails without a reason.

    Raises:
        InvalidInputError: a file is not PEM of its kind, or the key is encrypted or belongs to another certificate.
        OSError: a file cannot be read.
    """
    pem = Pem(*(None if path is None else Path(path).read_bytes() for path in (tls.ca, tls.cert, tls.key)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls.ca is not None:
        ca = tls.ca
        _check("ca", ca, "certificates in PEM", lambda: context.load_verify_locations(ca))
    if tls.cert is not None and tls.key is not None:
        cert, key = tls.cert, tls.key
        expected = "a certificate in PEM, and its key without a password"
        _check("cert and key", f"{cert} and {key}", expected, lambda: context.load_cert_chain(cert, key, password=""))
    return pem


def check_token(token: str, target: Target, tls: TLS | None, *, plain: bool) -> None:
    """Refuse a token that could be read on its way, or that no server can know. Its text is never shown.

    Args:
        token: "" means no token.
        target: where it would go.
        tls: None means plain text.
        plain: whether the caller allows plain text all the same.

    Raises:
        InvalidInputError: the token is refused.
    """
    if not token:
        return
    if not TOKEN.fullmatch(token):
        raise InvalidInputError("token: expected letters, digits and . _ ~ + / = - alone; got something else")
    if tls is None and not target.local and not plain:
        raise InvalidInputError(
            f"token: {target.label} would get it in plain text, for everyone on the way to read; use tls, "
            "or say allow_plaintext_token=True if the network is protected by other means"
        )


def _check(field: str, path: object, expected: str, load: Callable[[], None]) -> None:
    try:
        load()
    except ssl.SSLError as error:  # an OSError, too; the others name their file
        raise InvalidInputError.of(f"TLS {field}", expected=expected, got=f"{path} ({error.reason or error})") from None
