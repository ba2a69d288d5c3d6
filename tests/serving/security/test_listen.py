"""Plain text beyond this machine is refused, unless it is said aloud."""

import socket
from pathlib import Path

import pytest

from serving.security.listen import check_exposure, what_is_open
from serving.settings import Settings, SettingsError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1", "::ffff:127.0.0.1"])
def test_loopback_needs_nothing(host: str) -> None:
    check_exposure(Settings(host=host))
    assert what_is_open(Settings(host=host)) == []


def test_a_unix_socket_needs_nothing() -> None:
    check_exposure(Settings(host="0.0.0.0", listen="unix:/run/vaeport.sock"))
    assert what_is_open(Settings(listen="unix:/run/vaeport.sock")) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "10.0.0.1", "2001:db8::1", "::ffff:10.0.0.1", "0"])
def test_other_addresses_need_tls_or_insecure(host: str) -> None:
    with pytest.raises(SettingsError, match=f"--host {host}: .* --tls-cert and --tls-key, or say --insecure"):
        check_exposure(Settings(host=host))
    check_exposure(Settings(host=host, insecure=True))
    check_exposure(Settings(host=host, tls_cert=Path("c"), tls_key=Path("k")))


def test_tokens_alone_do_not_open_plain_text() -> None:
    with pytest.raises(SettingsError, match="--insecure"):
        check_exposure(Settings(host="0.0.0.0", tokens=Path("tokens")))


def test_a_name_counts_by_all_that_it_stands_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        found = {"mine": ["127.0.0.1", "::1"], "both": ["127.0.0.1", "192.0.2.1"]}[host]
        return [(0, 0, 0, "", (address, 0)) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    check_exposure(Settings(host="mine"))
    with pytest.raises(SettingsError, match="--host both: other machines can reach it"):
        check_exposure(Settings(host="both"))


@pytest.mark.parametrize("host", ["no.such.host.invalid", "a..b"])
def test_a_name_without_an_address_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match=f"--host {host}: has no address"):
        check_exposure(Settings(host=host))


def test_what_is_open_is_said() -> None:
    plain = what_is_open(Settings(host="0.0.0.0", insecure=True))
    assert [text.split(":")[0] for text in plain] == [
        "0.0.0.0 is open to other machines in plain text (--insecure)",
        "anyone who reaches 0.0.0.0 may call all but the admin calls",
    ]
    tokens = what_is_open(Settings(host="0.0.0.0", insecure=True, tokens=Path("t")))
    assert "tokens travel in plain text" in tokens[1]
    tls = Settings(host="0.0.0.0", tls_cert=Path("c"), tls_key=Path("k"))
    assert len(what_is_open(tls)) == 1
    assert what_is_open(Settings(host="::", tls_cert=Path("c"), tls_key=Path("k"), tls_client_ca=Path("a"))) == []
