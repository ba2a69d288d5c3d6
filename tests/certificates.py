"""Real certificates for tests: an authority, and what it signs."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Files:
    """A certificate and its key in PEM files."""

    cert: Path
    key: Path

    @property
    def pem(self) -> tuple[bytes, bytes]:
        """Key and certificate, as gRPC's clients take them."""
        return self.key.read_bytes(), self.cert.read_bytes()

    def flags(self) -> list[str]:
        """The settings of a server that shows it."""
        return ["--tls-cert", str(self.cert), "--tls-key", str(self.key)]


@dataclass(frozen=True)
class Authority:
    """Signs certificates into a folder."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @classmethod
    def new(cls, folder: Path, name: str = "vaeport test authority") -> Self:
        """An authority of its own, which nobody else trusts."""
        folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, name, key, -DAY, 30 * DAY)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        authority = cls(folder, key, builder.sign(key, hashes.SHA256()))
        authority.path.write_bytes(authority.pem)
        return authority

    @property
    def path(self) -> Path:
        """The file of its certificate."""
        return self.folder / "ca.pem"

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def server(
        self, name: str = "server", begins: datetime.timedelta = -DAY, ends: datetime.timedelta = 30 * DAY
    ) -> Files:
        """For localhost and 127.0.0.1, valid between two moments from now."""
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        return self._sign(name, ExtendedKeyUsageOID.SERVER_AUTH, names, begins, ends)

    def client(self, name: str, ends: datetime.timedelta = 30 * DAY) -> Files:
        """For a client of that name, which is its alternative name, too."""
        return self._sign(name, ExtendedKeyUsageOID.CLIENT_AUTH, [x509.DNSName(name)], -2 * DAY, ends)

    def _sign(
        self,
        name: str,
        usage: x509.ObjectIdentifier,
        names: list[x509.GeneralName],
        begins: datetime.timedelta,
        ends: datetime.timedelta,
    ) -> Files:
        key = ec.generate_private_key(ec.SECP256R1())
        issuer = self.certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
        builder = _builder(name, str(issuer), key, begins, ends)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        files = Files(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        write_key(files.key, key)
        files.cert.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return files


def write_key(path: Path, key: ec.EllipticCurvePrivateKey, passphrase: bytes | None = None) -> None:
    """A private key in PEM, for its owner alone."""
    protection = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection))
    path.chmod(0o600)


def _builder(
    name: str, issuer: str, key: ec.EllipticCurvePrivateKey, begins: datetime.timedelta, ends: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return x509.CertificateBuilder(
        subject_name=_name(name),
        issuer_name=_name(issuer),
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now + begins,
        not_valid_after=now + ends,
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
