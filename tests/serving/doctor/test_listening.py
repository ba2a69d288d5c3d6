"""Ports, sockets, certificates and tokens: real ones, good and bad."""

import datetime
import ipaddress
import os
import socket
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from serving.doctor import listening
from serving.security.access import Scope
from serving.security.tokens import line_of
from serving.settings import Settings

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)
HIDDEN = "a text that nobody may see"


def write_pair(folder: Path, *, names: bool = True, begins: int = -10, ends: int = 100) -> tuple[Path, Path]:
    """A certificate for example.org and 10.0.0.7, valid between days from NOW, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vaeport")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(NOW + begins * DAY).not_valid_after(NOW + ends * DAY)
    if names:
        said = [x509.DNSName("example.org"), x509.IPAddress(ipaddress.ip_address("10.0.0.7"))]
        builder = builder.add_extension(x509.SubjectAlternativeName(said), critical=False)
    folder.mkdir(parents=True, exist_ok=True)
    cert, private = folder / "tls.crt", folder / "tls.key"
    cert.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private.write_bytes(pem(key, serialization.NoEncryption()))
    private.chmod(0o600)
    return cert, private


def pem(key: ec.EllipticCurvePrivateKey, encryption: serialization.KeySerializationEncryption) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def test_a_port_that_nobody_has_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
    assert listening.port("port", "127.0.0.1", number).text == f"127.0.0.1:{number} is free"
    assert listening.port("port", "127.0.0.1", 0).level == "ok"


def test_a_port_that_is_taken_names_who_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        finding = listening.port("port", "127.0.0.1", server.getsockname()[1])
    assert finding.level == "fail"
    assert f"held by process {os.getpid()} (" in finding.text


def test_a_host_that_is_not_this_machines_is_a_failure() -> None:
    assert listening.port("port", "192.0.2.1", 50051).level == "fail"


def test_a_socket_can_be_made_in_a_folder_that_is_there(tmp_path: Path) -> None:
    assert listening.unix_socket(f"unix:{tmp_path}/s").level == "ok"
    assert "no such folder" in listening.unix_socket(f"unix:{tmp_path}/none/s").text


def test_who_listens_on_the_socket_already_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        assert "somebody listens" in listening.unix_socket(f"unix:{path}").text
    assert listening.unix_socket(f"unix:{path}").level == "ok"  # left behind: the server replaces it


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        (Settings(), "ok"),
        (Settings(host="0.0.0.0"), "fail"),
        (Settings(host="0.0.0.0", insecure=True), "warn"),
        (Settings(host="0.0.0.0", tls_cert=Path("c"), tls_key=Path("k"), tokens=Path("t")), "ok"),
    ],
)
def test_an_open_door_is_told(settings: Settings, level: str) -> None:
    assert listening.exposure(settings).level == level


def test_a_certificate_that_is_in_order_shows_names_and_end(tmp_path: Path) -> None:
    finding = listening.certificate(*write_pair(tmp_path), "0.0.0.0", NOW)
    assert finding.level == "ok"
    assert f"for example.org, 10.0.0.7, until {NOW + 100 * DAY:%Y-%m-%d}" in finding.text


@pytest.mark.parametrize(
    ("options", "host", "level", "text"),
    [
        ({"begins": 1}, "::", "fail", "valid from "),
        ({"ends": -1}, "::", "fail", "UTC alone"),
        ({"ends": 13}, "::", "warn", "expires on "),
        ({"names": False}, "::", "warn", "has no names"),
        ({}, "10.0.0.8", "warn", "not for 10.0.0.8"),
        ({}, "example.org", "ok", "for example.org"),
        ({}, "10.0.0.7", "ok", "10.0.0.7"),
    ],
)
def test_dates_and_names_of_a_certificate(
    options: dict[str, int], host: str, level: str, text: str, tmp_path: Path
) -> None:
    finding = listening.certificate(*write_pair(tmp_path, **options), host, NOW)  # type: ignore[arg-type]
    assert finding.level == level
    assert text in finding.text


def test_a_key_of_another_certificate_is_told(tmp_path: Path) -> None:
    cert, _ = write_pair(tmp_path / "one")
    _, key = write_pair(tmp_path / "two")
    assert f"{key}: is not the key of the certificate" in listening.certificate(cert, key, "::", NOW).text


def test_a_key_with_a_password_and_files_that_are_none_are_failures(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path)
    locked = serialization.BestAvailableEncryption(HIDDEN.encode())
    key.write_bytes(pem(ec.generate_private_key(ec.SECP256R1()), locked))
    assert listening.certificate(cert, key, "::", NOW).level == "fail"
    key.write_text(HIDDEN)
    finding = listening.certificate(cert, key, "::", NOW)
    assert finding.level == "fail"
    assert HIDDEN not in str(finding)
    assert listening.certificate(tmp_path / "none", key, "::", NOW).level == "fail"


def test_a_key_that_everybody_may_read_is_worth_a_warning(tmp_path: Path) -> None:
    cert, key = write_pair(tmp_path)
    key.chmod(0o644)
    assert listening.certificate(cert, key, "::", NOW).advice == f"chmod 600 {key}"


def test_an_authority_is_read_and_dated(tmp_path: Path) -> None:
    assert listening.authority(write_pair(tmp_path)[0], NOW).text.endswith("CN=vaeport")
    assert "expired" in listening.authority(write_pair(tmp_path, ends=-1)[0], NOW).text
    (tmp_path / "tls.crt").write_text("nothing")
    assert listening.authority(tmp_path / "tls.crt", NOW).level == "fail"


@pytest.mark.parametrize(
    ("mode", "level"), [(0o600, "ok"), (0o640, "ok"), (0o644, "warn"), (0o660, "fail"), (0o602, "fail")]
)
def test_who_may_read_and_write_the_tokens(mode: int, level: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(line_of("search", [Scope.INFER], HIDDEN))
    path.chmod(mode)
    finding = listening.tokens(path, NOW)
    assert finding.level == level
    assert HIDDEN not in str(finding)


def test_tokens_that_the_server_would_not_take_are_a_failure_and_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    assert listening.tokens(path, NOW).level == "fail"
    for text in ("", HIDDEN):
        path.write_text(text)
        finding = listening.tokens(path, NOW)
        assert finding.level == "fail"
        assert HIDDEN not in str(finding)


def test_tokens_that_have_expired_are_named(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(line_of("search", [Scope.INFER], HIDDEN, f"{NOW - DAY:%Y-%m-%d}"))
    path.chmod(0o600)
    finding = listening.tokens(path, NOW)
    assert (finding.level, finding.text) == ("warn", f"{path}: 1, expired: search")
