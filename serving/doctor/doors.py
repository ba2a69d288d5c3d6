"""The ways into a server: is the port free, the certificate valid, who may read the tokens. Shows nothing secret."""

import contextlib
import datetime
import ipaddress
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from vaeport.findings import Finding, fail, ok, warn

if TYPE_CHECKING:
    from cryptography import x509

EXPIRES_SOON = datetime.timedelta(days=14)
MAX_SOCKET_PATH = 107  # bytes, unix(7)
LISTENING = "0A"  # of /proc/net/tcp, state TCP_LISTEN
UNIX = "unix:"


def port(name: str, host: str, number: int) -> Finding:
    """Whether a server could listen there, and if not, who does."""
    where = f"{host}:{number}"
    try:
        family, _, _, _, target = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target)
    except (OSError, UnicodeError) as error:
        holder = f", held by {who}" if (who := port_holder(number)) else ""
        return fail(name, f"cannot listen on {where}: {error}{holder}", "take another port, or end who has this one")
    return ok(name, f"{where} is free" if number else f"a free port of {host}")


def port_holder(number: int, proc: Path = Path("/proc")) -> str:
    """Who listens on a TCP port, "process 7 (python)", as far as this user may see; "" if that is not known."""
    sockets = {f"socket:[{inode}]" for inode in _listening(number, proc)}
    for link in proc.glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if str(link.readlink()) in sockets:
                process = link.parents[1]
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
    return ""


def _listening(number: int, proc: Path) -> set[str]:
    inodes = set()
    for table in (proc / "net/tcp", proc / "net/tcp6"):
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                _, local, _, state, *_, inode = line.split()[:10]
                if state == LISTENING and int(local.rpartition(":")[2], 16) == number:
                    inodes.add(inode)
    return inodes - {"0"}


def unix_socket(listen: str) -> Finding:
    """Whether a server could listen on `unix:PATH`."""
    path = Path(listen.removeprefix(UNIX))
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        return fail("socket", f"{path}: longer than {MAX_SOCKET_PATH} bytes", "a shorter path")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        return fail("socket", f"{path.parent}: no folder that this user may write", "make it, or take another")
    if path.exists():
        return _existing_socket(path)
    return ok("socket", f"{path} can be made")


def _existing_socket(path: Path) -> Finding:
    if not path.is_socket():
        return fail("socket", f"{path}: is there, and no socket", "take another path, or remove it")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return warn("socket", f"{path}: left behind, nobody listens", "remove it, unless the server does")
    return fail("socket", f"{path}: somebody listens there", "take another path, or end who does")


def certificate(cert: Path, key: Path, host: str, now: datetime.datetime) -> Finding:
    """A certificate and its key: readable, a pair, valid today, with names that clients can check.

    Args:
        cert: PEM, the server's own certificate first.
        key: PEM, without a password.
        host: where the server listens.
        now: with a time zone.
    """
    name = "certificate"
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization

        ours = x509.load_pem_x509_certificates(cert.read_bytes())[0]
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except ImportError:
        return warn(name, f"{cert}: not looked at", "pip install cryptography")
    except (OSError, ValueError, TypeError) as error:  # TypeError: the key has a password
        return fail(name, f"{cert}, {key}: {error}", "both in PEM, the key without a password, readable by this user")
    if private.public_key() != ours.public_key():
        return fail(name, f"{key} is not the key of {cert}", "take those that were made together")
    if wrong := _dates(name, cert, ours, now):
        return wrong
    if key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        return warn(name, f"{key}: everybody on this machine may read it", f"chmod 600 {key}")
    return _names(name, cert, ours, host)


def authority(path: Path, now: datetime.datetime) -> Finding:
    """The certificates that sign those of clients: readable, valid today."""
    name = "client CA"
    try:
        from cryptography import x509

        found = x509.load_pem_x509_certificates(path.read_bytes())
    except ImportError:
        return warn(name, f"{path}: not looked at", "pip install cryptography")
    except (OSError, ValueError) as error:
        return fail(name, f"{path}: {error}", "certificates in PEM, readable by this user")
    wrong = next((each for cert in found if (each := _dates(name, path, cert, now))), None)
    return wrong or ok(name, f"{path}: {', '.join(cert.subject.rfc4514_string() for cert in found)}")


def _dates(name: str, path: Path, cert: "x509.Certificate", now: datetime.datetime) -> Finding | None:
    begins, ends = cert.not_valid_before_utc, cert.not_valid_after_utc
    if now < begins:
        return fail(name, f"{path}: not valid before {begins:%Y-%m-%d %H:%M} UTC", "look at the clock of this machine")
    if now > ends:
        return fail(name, f"{path}: expired on {ends:%Y-%m-%d %H:%M} UTC", "renew it")
    if now > ends - EXPIRES_SOON:
        return warn(name, f"{path}: expires on {ends:%Y-%m-%d %H:%M} UTC", "renew it")
    return None


def _names(name: str, path: Path, cert: "x509.Certificate", host: str) -> Finding:
    from cryptography import x509

    try:
        names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        cure = "make it with a subjectAltName: clients look at nothing else"
        return warn(name, f"{path}: has no names", cure)
    said = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    text = f"{path}: for {', '.join(said)}, until {cert.not_valid_after_utc:%Y-%m-%d}"
    if _is_one_address(host) and host not in said:
        return warn(name, f"{text}; not for {host}", "fine if clients come by one of those names")
    return ok(name, text)


def _is_one_address(host: str) -> bool:
    """Whether clients could name the server so: not a wildcard."""
    try:
        return not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return True


def tokens(path: Path) -> Finding:
    """The file of tokens: there, readable by this user and by no other."""
    try:
        mode, size = path.stat().st_mode, len(path.read_bytes())
    except OSError as error:
        return fail("tokens", f"{path}: {error.strerror}", "make one: python -m serving token --help")
    if not size:
        return fail("tokens", f"{path}: empty, so nobody may call", "make one: python -m serving token --help")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return fail("tokens", f"{path}: others may write it, and let themselves in", f"chmod 600 {path}")
    if mode & stat.S_IROTH:
        return warn("tokens", f"{path}: everybody on this machine may read the hashes", f"chmod 600 {path}")
    return ok("tokens", f"{path}: {size} bytes")
