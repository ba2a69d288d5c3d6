"""Checks of the ways into a server: is the port free, is the certificate valid, who may read the tokens. They show
nothing secret.
"""

import contextlib
import datetime
import ipaddress
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from serving.security.certificates import WARN_BEFORE, read_identity
from serving.security.listen import UNIX, check_exposure, is_local, what_is_open
from serving.security.tokens import read_tokens
from serving.security.unix import check_path
from serving.settings import Settings, SettingsError
from vaeport.findings import Finding, fail, ok, warn

if TYPE_CHECKING:
    from cryptography import x509

LISTENING = "0A"  # the state TCP_LISTEN in /proc/net/tcp


def port(name: str, host: str, number: int) -> Finding:
    """Whether a server could listen there, and if not, which process does."""
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
        with contextlib.suppress(OSError):  # it has ended, or belongs to another user
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
    try:
        check_path(path)
    except SettingsError as error:
        return fail("socket", str(error), "take another path, make its folder, or end who listens")
    if not os.access(path.parent, os.W_OK):
        return fail("socket", f"{path.parent}: this user may not write there", "take another folder, or let it")
    return ok("socket", f"{path} can be made")


def exposure(settings: Settings) -> Finding:
    """Who else can reach the server, and what would stop them."""
    try:
        check_exposure(settings)
        said = what_is_open(settings)
    except SettingsError as error:
        return fail("exposure", str(error), "docs/security.md")
    if said:
        return warn("exposure", "; ".join(said), "fine where the network is trusted; else docs/security.md")
    return ok("exposure", "this machine alone" if is_local(settings) else "TLS, and callers are known")


def certificate(cert: Path, key: Path, host: str, now: datetime.datetime) -> Finding:
    """Whether the server would take a certificate and its key, how long it is valid, and which names clients can check.

    Args:
        cert: PEM, the server's own certificate first.
        key: PEM, without a password.
        host: where the server listens.
        now: with a time zone.
    """
    from cryptography import x509

    name = "certificate"
    try:
        identity = read_identity(cert, key)
    except SettingsError as error:
        return fail(name, str(error), "a pair in PEM that is valid today, readable by this user; docs/security.md")
    ours = x509.load_pem_x509_certificates(identity.chain)[0]
    if ends := _dates(name, cert, ours, now):
        return ends
    if key.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        return warn(name, f"{key}: everybody on this machine may read it", f"chmod 600 {key}")
    return _names(name, cert, ours, host)


def authority(path: Path, now: datetime.datetime) -> Finding:
    """Whether the authorities of clients' certificates are readable, and valid today."""
    from cryptography import x509

    name = "client CA"
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
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
    if now > ends - WARN_BEFORE:
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
    """Whether clients could use `host` as the server's name: it is not a wildcard."""
    try:
        return not ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return True


def tokens(path: Path, now: datetime.datetime) -> Finding:
    """Whether the server would take the file of tokens, and nobody else may write it."""
    try:
        found = read_tokens(path)
        mode = path.stat().st_mode
    except (SettingsError, OSError) as error:
        return fail("tokens", str(error), "python -m serving token --help")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return fail("tokens", f"{path}: others may write it, and let themselves in", f"chmod 600 {path}")
    if mode & stat.S_IROTH:
        return warn("tokens", f"{path}: everybody on this machine may read the hashes", f"chmod 600 {path}")
    expired = sorted({each.name for each in found if each.expires is not None and each.expires <= now.timestamp()})
    if expired:
        return warn("tokens", f"{path}: {len(found)}, expired: {', '.join(expired)}", "python -m serving token NAME")
    return ok("tokens", f"{path}: {len(found)}, none expired")
