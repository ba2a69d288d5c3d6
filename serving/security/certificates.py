"""Certificate, key and authorities of a TLS port: read from PEM files and checked before they are used."""

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from serving.security.watched import Watched, read_file, warn_if_others_read
from serving.settings import SettingsError

if TYPE_CHECKING:
    from cryptography import x509

MAX_FILE_BYTES = 2**20
WARN_BEFORE = timedelta(days=14)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Identity:
    """The certificate that a TLS port shows, and the authorities that it trusts.

    Attributes:
        chain: PEM of the server's certificate, and of those between it and its authority.
        key: PEM of its private key.
        client_ca: PEM of the authorities of clients' certificates; None asks clients for no certificate.
        subject: the certificate's subject, for the log.
        not_after: the moment it expires, in UTC.
    """

    chain: bytes
    key: bytes
    client_ca: bytes | None
    subject: str
    not_after: datetime

    def __repr__(self) -> str:
        return f"Identity({self.subject}, until {self.not_after:%Y-%m-%d %H:%M} UTC)"  # never the key


def watch_identity(cert: Path, key: Path, client_ca: Path | None) -> Watched[Identity]:
    """The identity in some files, kept up to date by `refresh`.

    Raises:
        SettingsError: as in `read_identity`.
    """
    paths = [cert, key, *([client_ca] if client_ca else [])]
    watched = Watched("certificate", paths, partial(read_identity, cert, key, client_ca))
    warn_if_others_read("--tls-key", key)
    return watched


def read_identity(cert: Path, key: Path, client_ca: Path | None = None) -> Identity:
    """The identity in some files.

    Raises:
        SettingsError: a file is missing or is not PEM, the key is not the certificate's, or the certificate is not
            valid now, so that no client would accept it.
    """
    chain, secret = (read_file(flag, path, MAX_FILE_BYTES) for flag, path in (("--tls-cert", cert), ("--tls-key", key)))
    authorities = None
    if client_ca:
        authorities = read_file("--tls-client-ca", client_ca, MAX_FILE_BYTES)
        _certificates("--tls-client-ca", client_ca, authorities)
    leaf = _certificates("--tls-cert", cert, chain)[0]
    _check_pair(leaf, key, secret)
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if not begins <= datetime.now(UTC) < ends:
        raise SettingsError(f"--tls-cert {cert}: valid from {begins:%Y-%m-%d %H:%M} to {ends:%Y-%m-%d %H:%M} UTC alone")
    return Identity(chain, secret, authorities, leaf.subject.rfc4514_string(), ends)


def _certificates(flag: str, path: Path, pem: bytes) -> "list[x509.Certificate]":
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise SettingsError(f"{flag} {path}: expected certificates in PEM: {error}") from None


def _check_pair(leaf: "x509.Certificate", path: Path, secret: bytes) -> None:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        ours = load_pem_private_key(secret, password=None).public_key()
    except TypeError:
        raise SettingsError(f"--tls-key {path}: has a passphrase, which nobody could type here") from None
    except (ValueError, UnsupportedAlgorithm):  # whose text might quote the key
        raise SettingsError(f"--tls-key {path}: expected a private key in PEM") from None
    if not isinstance(ours, RSAPublicKey | EllipticCurvePublicKey):
        raise SettingsError(f"--tls-key {path}: expected an RSA or elliptic-curve key, which all gRPC clients accept")
    if ours != leaf.public_key():
        raise SettingsError(f"--tls-key {path}: is not the key of the certificate")


def warn_of_end(identity: Identity) -> None:
    """Log it if the certificate expires soon, or has expired."""
    left = identity.not_after - datetime.now(UTC)
    if left <= timedelta(0):
        log.error("the certificate of %s ended at %s UTC: clients refuse it", identity.subject, identity.not_after)
    elif left < WARN_BEFORE:
        log.warning("the certificate of %s ends in %.1f days", identity.subject, left / timedelta(days=1))
