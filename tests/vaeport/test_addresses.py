"""What people may write as an address, and what gRPC is given."""

import socket
from typing import Any

import pytest

from vaeport import addresses, errors


@pytest.mark.parametrize(
    ("address", "local", "balanced"),
    [
        ("vae.example.org:50051", False, False),
        ("localhost:50051", True, False),
        ("127.0.0.1:50051", True, False),
        ("127.8.9.1:1", True, False),
        ("[::1]:50051", True, False),
        ("[2001:db8::1]:50051", False, False),
        ("10.0.0.1:50051", False, False),
        ("127.example.org:50051", False, False),
        ("localhost.example.org:50051", False, False),
        ("unix:/run/vaeport.sock", True, False),
        ("unix:///run/vaeport.sock", True, False),
        ("unix:here.sock", True, False),
        ("dns:///vae.example.org:50051", False, True),
        ("dns:///localhost:50051", True, True),
    ],
)
def test_one_address_is_given_as_it_is(address: str, local: bool, balanced: bool) -> None:
    target = addresses.parse(address)
    assert (target.uri, target.label) == (address, address)
    assert (target.local, target.direct, target.balanced) == (local, local, balanced)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "localhost",
        "localhost:",
        ":50051",
        "localhost:0",
        "localhost:65536",
        "localhost:-1",
        "localhost:http",
        "localhost:\u0665",
        "::1:50051",
        "[localhost]:1",
        "http://localhost:50051",
        "a:1,b:2",
        "a b:1",
        "me@host:1",
        "unix:",
        "unix://",
        "dns:///",
        "dns:///name",
        "dns://8.8.8.8/name:1",
        "xds:///name:1",
        "ipv4:127.0.0.1:1",
        [],
        ["localhost"],
        ["unix:/a", "unix:/b"],
        ["127.0.0.1:1", ""],
        [b"127.0.0.1:1"],
    ],
)
def test_what_is_no_address_is_refused_with_what_is(address: Any) -> None:
    with pytest.raises(errors.InvalidInputError, match=r"address: expected host:port, .* a list of host:port, got"):
        addresses.parse(address)


@pytest.mark.parametrize(
    ("several", "uri", "local"),
    [
        (["127.0.0.1:1"], "ipv4:127.0.0.1:1", True),
        (("10.0.0.1:1", "10.0.0.2:2"), "ipv4:10.0.0.1:1,10.0.0.2:2", False),
        (["127.0.0.1:1", "10.0.0.2:2"], "ipv4:127.0.0.1:1,10.0.0.2:2", False),
        (["[::1]:1", "[::1]:2"], "ipv6:[::1]:1,[::1]:2", True),
        (["[::1]:1", "127.0.0.1:2"], "ipv6:[::1]:1,[::ffff:127.0.0.1]:2", True),
        (["127.0.0.1:1", "127.0.0.1:1"], "ipv4:127.0.0.1:1", True),
    ],
)
def test_a_list_is_one_target_of_all_its_addresses(several: list[str], uri: str, local: bool) -> None:
    target = addresses.parse(several)
    assert (target.uri, target.local) == (uri, local)
    assert target.balanced
    assert target.direct
    assert target.label == ",".join(several)


def test_names_in_a_list_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"a": ["10.0.0.1", "10.0.0.2", "2001:db8::1"], "b": ["2001:db8::2"]}

    def look_up(host: str, port: None, **_: Any) -> list[Any]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", (address, 0)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert addresses.parse(["a:1"]).uri == "ipv4:10.0.0.1:1,10.0.0.2:1"
    assert addresses.parse(["a:1", "b:2"]).uri == "ipv6:[::ffff:10.0.0.1]:1,[::ffff:10.0.0.2]:1,[2001:db8::2]:2"
    with pytest.raises(errors.UnavailableError, match="c: Name or service not known"):
        addresses.parse(["a:1", "c:1"])


def test_localhost_in_a_list_is_this_machine() -> None:
    assert addresses.parse(["localhost:1", "localhost:2"]).uri == "ipv4:127.0.0.1:1,127.0.0.1:2"


@pytest.mark.parametrize(
    ("several", "authority"),
    [
        (["a.localhost:1"], "a.localhost:1"),
        (["10.0.0.1:1", "10.0.0.1:2"], "10.0.0.1:1"),
        (["10.0.0.1:1", "10.0.0.2:1"], None),
    ],
)
def test_one_host_is_what_certificates_should_name(
    several: list[str], authority: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("127.0.0.1", 0))])
    assert addresses.parse(several).authority == authority
