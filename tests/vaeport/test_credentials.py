"""TLS and tokens, with real certificates and servers."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest

import vaeport
from tests.vaeport.certificates import Authority, Signed
from tests.vaeport.scripted_server import Scripted, fail, scripted
from vaeport.addresses import parse
from vaeport.credentials import check_token

IMAGE = np.full((1, 2, 2), 255, np.uint8)
SECRET = "correct-horse.battery~staple+/=="  # noqa: S105


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def local(authority: Authority) -> Signed:
    return authority.sign("localhost", "127.0.0.1")


@contextmanager
def secured(
    signed: Signed, clients: Authority | None = None, address: str = "127.0.0.1:0"
) -> Iterator[tuple[str, Scripted]]:
    """A server with a certificate, which demands one of `clients`."""
    pair = (signed.key.read_bytes(), signed.cert.read_bytes())
    ca = clients.ca.read_bytes() if clients else None
    credentials = grpc.ssl_server_credentials([pair], ca, clients is not None)
    with scripted(address=address, credentials=credentials) as served:
        yield served


def test_tls_reaches_a_server_of_the_authority(authority: Authority, local: Signed) -> None:
    with secured(local) as (address, _), vaeport.Client(address, tls=vaeport.TLS(ca=authority.ca)) as client:
        assert client.encode(IMAGE).mean[0, 0] == 255


async def test_the_asynchronous_client_encrypts_as_well(authority: Authority, local: Signed) -> None:
    tls = vaeport.TLS(ca=authority.ca)
    with secured(local) as (one, first), secured(local) as (two, second):
        async with vaeport.AsyncClient([one, two], tls=tls, token=SECRET) as client:
            while not (first.requests and second.requests):
                assert (await client.encode(IMAGE)).mean == 255
        async with vaeport.AsyncClient(one, tls=True, connect_timeout=0.5) as client:
            with pytest.raises(vaeport.UnavailableError):
                await client.info()
    assert first.metadata[0]["authorization"] == f"Bearer {SECRET}"


def test_a_list_of_addresses_of_one_host_is_checked_against_that_host(authority: Authority, local: Signed) -> None:
    tls = vaeport.TLS(ca=authority.ca)
    with secured(local) as (one, first), secured(local) as (two, second), vaeport.Client([one, two], tls=tls) as client:
        while not (first.requests and second.requests):
            client.encode(IMAGE)


def test_several_hosts_need_the_name_that_their_certificates_have(authority: Authority) -> None:
    signed = authority.sign("vae.example.org")
    with secured(signed) as (one, first), secured(signed, address="127.0.0.2:0") as (two, second):
        with pytest.raises(vaeport.InvalidInputError, match="has several hosts; server_name says"):
            vaeport.Client([one, two], tls=vaeport.TLS(ca=authority.ca))
        with vaeport.Client([one, two], tls=vaeport.TLS(ca=authority.ca, server_name="vae.example.org")) as client:
            while not (first.requests and second.requests):
                client.encode(IMAGE)


@pytest.mark.parametrize("case", ["another authority", "the public ones", "another name", "a server in plain text"])
def test_a_server_that_is_not_the_one_is_unavailable(
    case: str, authority: Authority, local: Signed, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path, "stranger")
    with secured(local) as (encrypted, _), scripted() as (plain, _):
        address = plain if case == "a server in plain text" else encrypted
        choices: dict[str, bool | vaeport.TLS] = {
            "another authority": vaeport.TLS(ca=stranger.ca),
            "another name": vaeport.TLS(ca=authority.ca, server_name="other.example.org"),
            "the public ones": True,
        }
        tls = choices.get(case, vaeport.TLS(ca=authority.ca))
        with (
            vaeport.Client(address, tls=tls, connect_timeout=0.5) as client,
            pytest.raises(vaeport.UnavailableError, match=address),
        ):
            client.info()


def test_plain_text_to_a_server_with_tls_is_unavailable(local: Signed) -> None:
    with (
        secured(local) as (address, _),
        vaeport.Client(address, connect_timeout=0.5) as client,
        pytest.raises(vaeport.UnavailableError, match=address),
    ):
        client.info()


def test_a_client_shows_its_certificate(authority: Authority, local: Signed, tmp_path: Path) -> None:
    clients = Authority(tmp_path, "clients")
    mine = clients.sign("me")
    with secured(local, clients) as (address, _):
        with vaeport.Client(address, tls=vaeport.TLS(authority.ca, mine.cert, mine.key)) as client:
            assert client.info().models
        with (
            vaeport.Client(address, tls=vaeport.TLS(authority.ca), connect_timeout=0.5) as client,
            pytest.raises(vaeport.UnavailableError),
        ):
            client.info()


@pytest.mark.parametrize("arguments", [{"cert": "a"}, {"key": "a"}])
def test_certificate_and_key_belong_together(arguments: dict[str, str]) -> None:
    with pytest.raises(vaeport.InvalidInputError, match="cert and key belong together"):
        vaeport.TLS(**arguments)


def test_a_file_that_is_not_what_it_should_be_is_named(authority: Authority, local: Signed, tmp_path: Path) -> None:
    junk, other = tmp_path / "junk.pem", authority.sign("other")
    junk.write_text("no certificate")
    for tls, message in (
        (vaeport.TLS(ca=junk), f"TLS ca: expected certificates in PEM, got {junk}"),
        (vaeport.TLS(cert=junk, key=local.key), f"TLS cert and key: .*, got {junk} and {local.key}"),
        (vaeport.TLS(cert=local.cert, key=other.key), "TLS cert and key: .*KEY_VALUES_MISMATCH"),
    ):
        with pytest.raises(vaeport.InvalidInputError, match=message):
            vaeport.Client("127.0.0.1:1", tls=tls)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pem"):
        vaeport.Client("127.0.0.1:1", tls=vaeport.TLS(ca=tmp_path / "nowhere.pem"))


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_token_goes_with_every_call(encrypted: bool, authority: Authority, local: Signed) -> None:
    with secured(local) if encrypted else scripted() as (address, server):
        tls = vaeport.TLS(authority.ca) if encrypted else False
        with vaeport.Client(address, tls=tls, token=SECRET) as client:
            client.encode(IMAGE)
        assert [metadata["authorization"] for metadata in server.metadata] == [f"Bearer {SECRET}"]


def test_a_client_without_a_token_sends_none() -> None:
    with scripted() as (address, server), vaeport.Client(address) as client:
        client.encode(IMAGE)
        assert "authorization" not in server.metadata[0]


@pytest.mark.parametrize("address", ["10.0.0.1:1", "vae.example.org:1", "127.a.org:1", ["127.0.0.1:1", "10.0.0.1:1"]])
def test_a_token_does_not_leave_this_machine_in_plain_text(address: str | list[str]) -> None:
    with pytest.raises(vaeport.InvalidInputError, match="would get it in plain text") as refused:
        vaeport.Client(address, token=SECRET)
    assert SECRET not in str(refused.value)
    vaeport.Client(address, token=SECRET, allow_plaintext_token=True).close()
    vaeport.Client(address, token=SECRET, tls=vaeport.TLS(server_name="a")).close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "unix:/a", ["127.0.0.1:1", "[::1]:1"]])
def test_a_token_may_stay_on_this_machine(address: str | list[str]) -> None:
    check_token(SECRET, parse(address), None, plain=False)


@pytest.mark.parametrize("token", ["with space", "line\n", "\r\nx-evil: 1", "na\u00efve"])
def test_what_is_no_token_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(vaeport.InvalidInputError, match="token: expected letters") as refused:
        vaeport.Client("127.0.0.1:1", token=token)
    assert token not in str(refused.value)


def test_a_token_is_in_no_error_and_no_repr() -> None:
    with (
        scripted(fail(grpc.StatusCode.UNAUTHENTICATED, "not known")) as (address, _),
        vaeport.Client(address, token=SECRET) as client,
    ):
        with pytest.raises(vaeport.UnauthenticatedError) as refused:
            client.encode(IMAGE)
        assert SECRET not in "".join(traceback.format_exception(refused.value))
        assert SECRET not in repr(client) + str(client) + repr(refused.value)
