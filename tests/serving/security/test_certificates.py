"""Certificates: what is refused at the start, and what is taken when the files change."""

import logging
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from serving.security.certificates import read_identity, warn_of_end, watch_identity
from serving.settings import SettingsError
from tests.certificates import DAY, Authority, Files, write_key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.new(tmp_path)


def test_an_identity_says_until_when_it_is_good_and_never_its_key(authority: Authority) -> None:
    files = authority.server(ends=20 * DAY)
    identity = read_identity(files.cert, files.key, authority.path)
    assert identity.subject == "CN=server"
    assert abs(identity.not_after - datetime.now(UTC) - 20 * DAY) < timedelta(minutes=1)
    assert identity.client_ca == authority.pem
    assert "PRIVATE" not in repr(identity)


def no_pem(files: Files) -> None:
    files.cert.write_text("not a certificate")


def half(files: Files) -> None:
    files.cert.write_bytes(files.cert.read_bytes()[:200])


def no_cert(files: Files) -> None:
    files.cert.unlink()


def no_key(files: Files) -> None:
    files.key.unlink()


def key_is_no_pem(files: Files) -> None:
    files.key.write_text("secret words")


def another_key(files: Files) -> None:
    write_key(files.key, ec.generate_private_key(ec.SECP256R1()))


def locked_key(files: Files) -> None:
    write_key(files.key, ec.generate_private_key(ec.SECP256R1()), b"passphrase")


def a_key_that_clients_do_not_take(files: Files) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    kind = serialization.PrivateFormat.PKCS8
    files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()))


BREAKS: list[tuple[Callable[[Files], None], str]] = [
    (no_pem, r"--tls-cert .*server\.pem: expected certificates in PEM"),
    (half, r"--tls-cert .*server\.pem: expected certificates in PEM"),
    (no_cert, r"--tls-cert .*server\.pem: No such file or directory"),
    (no_key, r"--tls-key .*server\.key: No such file or directory"),
    (key_is_no_pem, r"--tls-key .*server\.key: expected a private key in PEM$"),
    (another_key, r"--tls-key .*server\.key: is not the key of the certificate"),
    (locked_key, r"--tls-key .*server\.key: has a passphrase"),
    (a_key_that_clients_do_not_take, r"--tls-key .*: expected an RSA or elliptic-curve key"),
]


@pytest.mark.parametrize(("break_", "message"), BREAKS)
def test_what_no_client_would_accept_is_refused_by_name(
    authority: Authority, break_: Callable[[Files], None], message: str
) -> None:
    files = authority.server()
    break_(files)
    with pytest.raises(SettingsError, match=message) as refused:
        read_identity(files.cert, files.key)
    assert "secret words" not in str(refused.value)


@pytest.mark.parametrize(("begins", "ends"), [(-2 * DAY, -DAY), (DAY, 2 * DAY)])
def test_a_certificate_out_of_its_time_is_refused(authority: Authority, begins: timedelta, ends: timedelta) -> None:
    files = authority.server(begins=begins, ends=ends)
    with pytest.raises(SettingsError, match=r"--tls-cert .*: valid from \d{4}-.* to \d{4}-.* UTC alone"):
        read_identity(files.cert, files.key)


def test_authorities_that_are_none_are_refused(authority: Authority, tmp_path: Path) -> None:
    files = authority.server()
    (tmp_path / "none.pem").write_text("x")
    with pytest.raises(SettingsError, match=r"--tls-client-ca .*none\.pem: expected certificates in PEM"):
        read_identity(files.cert, files.key, tmp_path / "none.pem")


@pytest.mark.parametrize(("break_", "message"), BREAKS)
def test_a_broken_renewal_keeps_the_old_and_says_why_once(
    authority: Authority, break_: Callable[[Files], None], message: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = authority.server()
    watched = watch_identity(files.cert, files.key, None)
    before = watched.value
    break_(files)
    assert not watched.refresh()
    assert not watched.refresh()
    assert watched.value is before
    assert len(caplog.records) == 1
    assert "certificate: changed, but the old one stays in use" in caplog.text


def test_certificate_and_key_that_come_one_after_the_other_are_taken_together(authority: Authority) -> None:
    files, next_ = authority.server(), authority.server("next")
    watched = watch_identity(files.cert, files.key, None)
    shutil.copy(next_.cert, files.cert)
    assert not watched.refresh()
    shutil.copy(next_.key, files.key)
    assert watched.refresh()
    assert watched.value.subject == "CN=next"


def test_the_end_is_warned_of_in_its_last_two_weeks(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for name, ends in (("far", 15 * DAY), ("near", 13 * DAY)):
        files = authority.server(name, ends=ends)
        warn_of_end(read_identity(files.cert, files.key))
    assert [record.message for record in caplog.records] == ["the certificate of CN=near ends in 13.0 days"]


def test_a_key_that_everybody_reads_is_said_in_the_log(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    files = authority.server()
    files.key.chmod(0o644)
    watch_identity(files.cert, files.key, None)
    assert f"--tls-key {files.key}: everybody on this machine can read it" in caplog.text
