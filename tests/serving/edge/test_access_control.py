"""TLS and tokens on a real port: who comes in, who does not, and what a renewal changes."""

import asyncio
import shutil
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from serving.edge import access_control
from serving.edge.credentials import caller_of
from serving.security.access import Scope
from serving.security.tokens import line_of, new_secret
from serving.settings import Settings, SettingsError
from tests.certificates import DAY, Authority, Files
from tests.serving.edge.conftest import StartEdge
from vaeport.v1 import vae_pb2, vae_pb2_grpc

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.new(tmp_path / "ours")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_control, "RENEW_SECONDS", 0.01)


def with_tls(files: Files, **more: Any) -> Settings:
    return Settings(tls_cert=files.cert, tls_key=files.key, **more)


async def code(address: str, credentials: grpc.ChannelCredentials | None, token: str = "") -> grpc.StatusCode:
    """Of a call over a connection of its own."""
    unshared = [("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
        channel = aio.insecure_channel(address, options=unshared)
    else:
        channel = aio.secure_channel(address, credentials, options=unshared)
    async with channel:
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        call: Any = vae_pb2_grpc.VaeServiceStub(channel).Info(vae_pb2.InfoRequest(), metadata=metadata, timeout=10)
        result: grpc.StatusCode = await call.code()
        return result


def trusting(authority: Authority, client: Files | None = None) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(authority.pem, *(client.pem if client else (None, None)))


async def test_tls_is_spoken_and_plain_text_is_not(start_edge: StartEdge, authority: Authority) -> None:
    address = await start_edge(with_tls(authority.server()))
    assert await code(address, trusting(authority)) is grpc.StatusCode.OK
    assert await code(address, None) is UNAVAILABLE
    stranger = Authority.new(authority.folder.parent / "stranger")
    assert await code(address, trusting(stranger)) is UNAVAILABLE, "the client does not trust it"


async def test_tls_to_a_plain_port_is_refused(start_edge: StartEdge, authority: Authority) -> None:
    address = await start_edge(Settings())
    assert await code(address, trusting(authority)) is UNAVAILABLE
    assert await code(address, None) is grpc.StatusCode.OK


async def test_no_tls_older_than_1_2(start_edge: StartEdge, authority: Authority) -> None:
    port = int((await start_edge(with_tls(authority.server()))).rpartition(":")[2])
    old = ssl.create_default_context(cadata=authority.pem.decode())
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", port, ssl=old)


async def test_mtls_lets_in_whom_the_authority_has_signed(start_edge: StartEdge, authority: Authority) -> None:
    settings = with_tls(authority.server(), tls_client_ca=authority.path)
    address = await start_edge(settings)
    stranger = Authority.new(authority.folder.parent / "stranger")
    assert await code(address, trusting(authority, authority.client("search"))) is grpc.StatusCode.OK
    assert await code(address, trusting(authority)) is UNAVAILABLE, "no certificate"
    assert await code(address, trusting(authority, stranger.client("search"))) is UNAVAILABLE, "a stranger's"
    assert await code(address, trusting(authority, authority.client("late", ends=-DAY))) is UNAVAILABLE, "expired"


async def test_a_client_is_known_by_the_name_in_its_certificate(
    start_edge: StartEdge, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    callers: list[str] = []

    def spy(context: Any) -> str:
        callers.append(caller_of(context))
        return callers[-1]

    monkeypatch.setattr("serving.edge.guard.caller_of", spy)
    address = await start_edge(with_tls(authority.server(), tls_client_ca=authority.path, max_calls_per_peer=9))
    await code(address, trusting(authority, authority.client("search.example")))
    assert callers == ["certificate search.example"]


async def test_a_token_is_asked_for_behind_tls_too(start_edge: StartEdge, authority: Authority, tmp_path: Path) -> None:
    secret = new_secret()
    (tmp_path / "tokens").write_text(line_of("search", [Scope.INFER], secret))
    address = await start_edge(with_tls(authority.server(), tokens=tmp_path / "tokens"))
    assert await code(address, trusting(authority), secret) is grpc.StatusCode.OK
    assert await code(address, trusting(authority)) is grpc.StatusCode.UNAUTHENTICATED


def copy(source: Files, target: Files, *, cert: bool = True, key: bool = True) -> None:
    """Each file replaced at once, as those who renew certificates do."""
    for wanted, old, new in ((cert, source.cert, target.cert), (key, source.key, target.key)):
        if wanted:
            shutil.copy(old, new.with_suffix(".new"))
            new.with_suffix(".new").replace(new)


async def shown(address: str, authority: Authority) -> str:
    """Whose certificate a new connection is shown."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cadata=authority.pem.decode())
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    subject = writer.get_extra_info("peercert")["subject"]
    writer.close()
    return str(dict(pair[0] for pair in subject)["commonName"])


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


async def test_a_renewed_certificate_is_shown_without_a_restart_and_open_connections_stay(
    start_edge: StartEdge, authority: Authority
) -> None:
    files, renewed = authority.server("old"), authority.server("new")
    address = await start_edge(with_tls(files))
    async with aio.secure_channel(address, trusting(authority)) as channel:
        stub = vae_pb2_grpc.VaeServiceStub(channel)
        await stub.Info(vae_pb2.InfoRequest())
        assert await shown(address, authority) == "old"
        copy(renewed, files)

        async def is_new() -> bool:
            await stub.Info(vae_pb2.InfoRequest())  # raises if a single call fails
            return await shown(address, authority) == "new"

        await until(is_new)


async def test_half_a_renewal_keeps_the_old_certificate(
    start_edge: StartEdge, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    files, renewed = authority.server("old"), authority.server("new")
    address = await start_edge(with_tls(files))

    async def is_logged() -> bool:
        return "is not the key of the certificate" in caplog.text

    copy(renewed, files, key=False)
    await until(is_logged)
    assert await shown(address, authority) == "old"
    copy(renewed, files, cert=False)

    async def is_new() -> bool:
        return await shown(address, authority) == "new"

    await until(is_new)


async def test_another_client_authority_counts_for_new_connections(
    start_edge: StartEdge, authority: Authority, tmp_path: Path
) -> None:
    next_ = Authority.new(tmp_path / "next")
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(authority.pem)
    address = await start_edge(with_tls(authority.server(), tls_client_ca=trusted))
    old, new = (trusting(authority, signer.client("search")) for signer in (authority, next_))
    assert [await code(address, each) for each in (old, new)] == [grpc.StatusCode.OK, UNAVAILABLE]
    trusted.write_bytes(next_.pem)

    async def is_taken() -> bool:
        return await code(address, new) is grpc.StatusCode.OK

    await until(is_taken)
    assert await code(address, old) is UNAVAILABLE


async def test_a_revoked_token_is_refused_within_moments(start_edge: StartEdge, tmp_path: Path) -> None:
    old, new = new_secret(), new_secret()
    tokens = tmp_path / "tokens"
    tokens.write_text(line_of("old", [Scope.INFER], old))
    address = await start_edge(Settings(tokens=tokens))
    assert await code(address, None, old) is grpc.StatusCode.OK
    tokens.write_text(line_of("new", [Scope.INFER], new))

    async def is_refused() -> bool:
        return await code(address, None, old) is grpc.StatusCode.UNAUTHENTICATED

    await until(is_refused)
    assert await code(address, None, new) is grpc.StatusCode.OK


async def test_a_certificate_near_its_end_is_warned_of_at_once_and_again_each_day(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    guarded = access_control.AccessControl(with_tls(authority.server(ends=3 * DAY)))
    guarded.renew()
    guarded.renew()
    assert caplog.text.count("ends in 3.0 days") == 1
    guarded._warned = datetime.now(UTC) - 2 * DAY
    guarded.renew()
    assert caplog.text.count("ends in 3.0 days") == 2


async def test_a_renewal_that_fails_in_an_unforeseen_way_is_tried_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = asyncio.Semaphore(0)

    def renew(_: object) -> None:
        tries.release()
        raise ZeroDivisionError

    monkeypatch.setattr(access_control.AccessControl, "renew", renew)
    task = asyncio.create_task(access_control.AccessControl(Settings()).keep_current())
    for _ in range(3):
        await tries.acquire()
    task.cancel()
    assert "could not be renewed; those in use stay" in caplog.text


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_unix_socket_is_a_port_with_permissions(start_edge: StartEdge, tmp_path: Path) -> None:
    path = tmp_path / "vaeport.sock"
    address = await start_edge(Settings(listen=f"unix:{path}", socket_mode="660"), f"unix:{path}")
    assert names_in(tmp_path) == ["vaeport.sock"]
    assert path.stat().st_mode & 0o777 == 0o660
    assert await code(address, None) is grpc.StatusCode.OK


async def test_a_successor_on_a_unix_socket_takes_new_connections_and_leaves_open_ones(
    start_edge: StartEdge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "vaeport.sock"
    address = await start_edge(Settings(), f"unix:{path}")
    async with aio.insecure_channel(address) as channel:
        stub = vae_pb2_grpc.VaeServiceStub(channel)
        await stub.Info(vae_pb2.InfoRequest())
        monkeypatch.setattr("serving.security.unix.os.getpid", lambda: 12345)
        inode = path.stat().st_ino
        await start_edge(Settings(), f"unix:{path}")
        assert path.stat().st_ino != inode
        await stub.Info(vae_pb2.InfoRequest())
        assert await code(address, None) is grpc.StatusCode.OK


async def test_an_address_that_cannot_be_bound_is_refused(start_edge: StartEdge) -> None:
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1:1: cannot listen there"):
        await start_edge(Settings(), "192.0.2.1:1")
