"""Who a caller is."""

from collections.abc import Iterable

import pytest

from serving.edge.credentials import caller_of, host_of


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:192.0.2.7:50123", "192.0.2.7"),
        ("ipv6:%5B::1%5D:50123", "::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:50123", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:ffff::1%5D:50124", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:50124", "fe80::/64"),
        ("unix:", "unix"),
        ("unix:/run/client.sock", "unix"),
    ],
)
def test_a_host_is_its_address_without_the_port(peer: str, host: str) -> None:
    assert host_of(peer) == host


class Context:
    def __init__(self, names: Iterable[bytes] | None) -> None:
        self.names = names

    def peer(self) -> str:
        return "ipv4:192.0.2.7:50123"

    def peer_identities(self) -> Iterable[bytes] | None:
        return self.names


def test_a_client_certificate_names_its_caller() -> None:
    assert caller_of(Context([b"search.example", b"other"])) == "certificate search.example"
    assert caller_of(Context([b"\xff"])) == "certificate \N{REPLACEMENT CHARACTER}"
    assert caller_of(Context(None)) == "192.0.2.7"
