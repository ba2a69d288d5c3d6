"""Which addresses may be open in plain text: loopback and unix sockets; others only with --insecure."""

import ipaddress
import socket

from serving.settings import Settings, SettingsError

UNIX = "unix:"


def check_exposure(settings: Settings) -> None:
    """Raise SettingsError for an address that others can reach, without TLS and without --insecure."""
    if settings.tls_cert or settings.insecure or is_local(settings):
        return
    raise SettingsError(
        f"--host {settings.host}: other machines can reach it, and would speak to it in plain text. Either give it a "
        "certificate, --tls-cert and --tls-key, or say --insecure, where the network is trusted or something in front "
        "does TLS"
    )


def is_local(settings: Settings) -> bool:
    """Whether only this machine reaches what the settings listen on.

    Raises:
        SettingsError: the host has no address.
    """
    return bool(settings.listen) or all(address.is_loopback for address in addresses_of(settings.host))


def addresses_of(host: str) -> set[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Every address that a host name stands for.

    Raises:
        SettingsError: there is none.
    """
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
        return {_unmapped(ipaddress.ip_address(text)) for text in found}
    except (OSError, ValueError) as error:  # ValueError: not a host name at all
        raise SettingsError(f"--host {host}: has no address: {error}") from None


def _unmapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that an IPv6 address maps: ::ffff:127.0.0.1 is 127.0.0.1."""
    return getattr(address, "ipv4_mapped", None) or address


def what_is_open(settings: Settings) -> list[str]:
    """Sentences that an operator should read at the start; none if nothing is unusual."""
    if is_local(settings):
        return []
    said = []
    if not settings.tls_cert:
        said.append(f"{settings.host} is open to other machines in plain text (--insecure): what is sent can be read")
        if settings.tokens:
            said.append("tokens travel in plain text, too: anyone who reads one on the way can use it")
    if not (settings.tokens or settings.tls_client_ca):
        said.append(f"anyone who reaches {settings.host} may call all but the admin calls: no --tokens, no mTLS")
    return said
