"""Addresses of servers: what people write, and what gRPC makes of it.

    "host:port"              one connection, to the first address of the name that answers
    "unix:PATH"              a socket file on this machine
    "dns:///name:port"       a connection to every address that the name has, looked up again when one is lost
    ["a:port", "b:port"]     a connection to every address of the list

With several connections, each call goes to the next one that is up (round robin). A list for gRPC holds addresses, not
names, so its names are looked up once, when the client is made; use "dns:///" for a name whose addresses change.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from vaeport.errors import InvalidInputError, UnavailableError

EXPECTED = "host:port, [ipv6]:port, dns:///name:port, unix:PATH, or a list of host:port"

Ip = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Target:
    """A parsed address.

    Attributes:
        label: its name in errors.
        uri: what gRPC connects to.
        authority: "host:port" as the server's certificate should name it; "" leaves it to gRPC; None is unknown,
            because the list has several hosts.
        local: whether it is on this machine: loopback, or a socket file.
        balanced: whether calls go to all of its addresses in turn.
        direct: whether it is reached without the proxy that the environment may name.
    """

    label: str
    uri: str
    authority: str | None
    local: bool
    balanced: bool
    direct: bool


def parse(address: str | Sequence[str]) -> Target:
    """Parse an address.

    Raises:
        InvalidInputError: it has none of the forms above.
        UnavailableError: a name in a list is not known.
    """
    if not isinstance(address, str):
        return _list_of(list(address))
    if address.startswith("unix:"):
        if not address.removeprefix("unix:").removeprefix("//"):
            raise InvalidInputError.of("address", expected=EXPECTED, got=repr(address))
        return Target(address, address, "", local=True, balanced=False, direct=True)
    name = address.removeprefix("dns:///")
    host, _ = _host_and_port(name, address)
    local = _is_loopback(host)
    return Target(address, address, "", local=local, balanced=name != address, direct=local)


def _list_of(addresses: list[str]) -> Target:
    if not addresses:
        raise InvalidInputError.of("address", expected=EXPECTED, got="an empty list")
    pairs = [_host_and_port(address, address) for address in addresses]
    found = dict.fromkeys((ip, port) for host, port in pairs for ip in _look_up(host))
    hosts = {host for host, _ in pairs}
    return Target(
        label=",".join(addresses),
        uri=_uri(list(found)),
        authority=addresses[0] if len(hosts) == 1 else None,
        local=all(ip.is_loopback for ip, _ in found),
        balanced=True,
        direct=True,  # a proxy takes one name
    )


def _uri(found: list[tuple[Ip, int]]) -> str:
    """gRPC's list of addresses. All must be of one kind, so IPv4 among IPv6 is written as IPv6 (::ffff:a.b.c.d)."""
    if all(isinstance(ip, IPv4Address) for ip, _ in found):
        return "ipv4:" + ",".join(f"{ip}:{port}" for ip, port in found)
    mapped = ((f"::ffff:{ip}" if isinstance(ip, IPv4Address) else ip, port) for ip, port in found)
    return "ipv6:" + ",".join(f"[{ip}]:{port}" for ip, port in mapped)


def _look_up(host: str) -> list[Ip]:
    """The IPv4 addresses of a name or, if it has none, its IPv6 addresses; an address gives itself."""
    try:
        return [ip_address(host)]
    except ValueError:
        pass
    try:
        rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UnavailableError(f"{host}: {error.strerror or error}") from None
    found = [ip_address(row[4][0]) for row in rows]
    return [ip for ip in found if isinstance(ip, IPv4Address)] or found


def _host_and_port(text: object, whole: object) -> tuple[str, int]:
    if isinstance(text, str):
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        host = host[1:-1] if bracketed else host
        plain = bool(host) and not set(host) & set("/@[], \t\n") and bracketed == (":" in host)
        if colon and plain and port.isascii() and port.isdigit() and 0 < int(port) < 2**16:
            return host, int(port)
    raise InvalidInputError.of("address", expected=EXPECTED, got=repr(whole))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
