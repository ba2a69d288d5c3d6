"""The door: who is refused is refused before his message is read, and a defect of a check lets nobody in."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from serving.edge.credentials import caller_of, check_admin_closed, token_check
from serving.edge.door import Check, Details
from serving.edge.guard import GuardedServer
from serving.edge.peers import Peers
from serving.edge.unread import UnreadAnswers
from serving.security.access import Scope
from serving.security.tokens import line_of, new_secret, watch_tokens
from tests.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, Connection, frame, grpc_headers, message
from tests.serving.waiting import until
from vaeport.errors import UnavailableError, VaeportError

INFER, ADMIN, HEALTH = "/vaeport.v1.VaeService/Echo", "/vaeport.v1.AdminService/Reload", "/grpc.health.v1.Health/Check"
OTHER = "/somebody.Else/Call"
OK, UNAUTHENTICATED = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED
DENIED, EXHAUSTED = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED

BIG_ANSWER = b"one of 300,000 bytes, please"
UNWRITABLE = b"no answer can be made of this"


class ToyServer:
    """Echoes on four services; what it has parsed is kept."""

    def __init__(self, checks: list[Check], peers: Peers | None = None, answers: UnreadAnswers | None = None) -> None:
        self.parsed: list[bytes] = []
        self.arrived = asyncio.Semaphore(0)
        self.held = asyncio.Event()
        self.held.set()
        self.server = aio.server()
        self.guard = GuardedServer(self.server, checks, peers, answers=answers)
        for path in (INFER, ADMIN, HEALTH, OTHER):
            _, service, method = path.split("/")
            unary: Any = grpc.unary_unary_rpc_method_handler(self.echo, self.parse, self.write)
            stream: Any = grpc.stream_stream_rpc_method_handler(self.echo_all, self.parse, self.write)
            self.guard.add_registered_method_handlers(service, {method: unary, f"{method}Stream": stream})
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    def parse(self, data: bytes) -> bytes:
        self.parsed.append(data)
        self.arrived.release()
        return data

    def write(self, response: bytes) -> bytes:
        if response == UNWRITABLE:
            raise ValueError("the secret of the house")
        return bytes(300_000) if response == BIG_ANSWER else response

    async def echo(self, request: bytes, _: object) -> bytes:
        await self.held.wait()
        return request

    async def echo_all(self, requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self.echo(request, None)


Toy = Callable[..., Awaitable[tuple[ToyServer, Any]]]  # a channel: its stubs want to know the types of messages


@pytest.fixture
async def toy() -> AsyncIterator[Toy]:
    """Start a toy server with some checks; with a channel to it."""
    started: list[tuple[ToyServer, aio.Channel]] = []

    async def start(
        *checks: Check, peers: Peers | None = None, answers: UnreadAnswers | None = None
    ) -> tuple[ToyServer, aio.Channel]:
        server = ToyServer(list(checks), peers, answers)
        await server.server.start()
        started.append((server, aio.insecure_channel(server.address)))
        return started[-1]

    yield start
    for server, channel in started:
        await channel.close()
        await server.server.stop(0)


async def code(channel: Any, path: str, token: str | None = None, **more: Any) -> grpc.StatusCode:
    metadata = [("authorization", f"Bearer {token}")] if token is not None else []
    call = channel.unary_unary(path)(more.pop("data", b"x"), metadata=more.pop("metadata", metadata), timeout=5)
    result: grpc.StatusCode = await call.code()
    return result


async def test_a_refused_message_is_never_read(toy: Toy) -> None:
    server, channel = await toy(lambda _: UnavailableError("no"))
    big = bytes(3 * 2**20)
    assert await code(channel, INFER, data=big) is grpc.StatusCode.UNAVAILABLE
    stream: Any = channel.stream_stream(f"{INFER}Stream")(iter([big, big]))
    # A client of grpc.aio that is still writing when the call ends sometimes says INTERNAL, whatever the server said.
    assert await stream.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL)
    assert server.parsed == []


async def test_a_caller_who_is_refused_knows_it_before_he_has_sent_his_message(toy: Toy) -> None:
    server, _ = await toy(lambda _: UnavailableError("no"))

    def only_headers() -> bytes:
        with Connection.opened(server.address) as connection:
            connection.send(frame(HEADERS, END_HEADERS, 1, grpc_headers(INFER.encode())))
            received = b""
            while b"grpc-status" not in received:
                data = connection.socket.recv(65536)
                assert data, "closed without a status"
                received += data
            return received

    assert b"grpc-status\x0214" in await asyncio.to_thread(only_headers)
    assert server.parsed == []


async def test_what_is_not_offered_is_unimplemented_and_asks_no_check(toy: Toy) -> None:
    """So that clients find out which of several services a server has."""
    asked: list[str] = []

    def check(details: Details) -> None:
        asked.append(details.method)

    _, channel = await toy(check)
    assert await code(channel, "/vaeport.v1.AdminService/NoSuch") is grpc.StatusCode.UNIMPLEMENTED
    assert asked == []
    assert await code(channel, INFER) is OK
    assert asked == [INFER]


async def test_the_first_objection_counts(toy: Toy) -> None:
    def broken(_: Details) -> VaeportError | None:
        raise ZeroDivisionError

    _, channel = await toy(lambda _: None, lambda _: UnavailableError("first"), broken)
    assert await code(channel, INFER) is grpc.StatusCode.UNAVAILABLE


async def test_a_defect_of_a_check_lets_nobody_in_and_tells_nothing(toy: Toy, caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Details) -> VaeportError | None:
        raise ZeroDivisionError("secret detail")

    server, channel = await toy(broken)
    call: Any = channel.unary_unary(INFER)(b"x")
    assert await call.code() is grpc.StatusCode.INTERNAL
    details = await call.details()
    assert "secret" not in details
    assert details.removeprefix("internal error ") in caplog.text
    assert server.parsed == []


@pytest.mark.parametrize("path", [INFER, f"{INFER}Stream"])
async def test_an_answer_that_cannot_be_written_out_is_our_bug_and_tells_nothing(
    toy: Toy, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    _, channel = await toy()
    call = channel.unary_unary(path)(UNWRITABLE, metadata=[("x-request-id", "call-7")])
    assert (await call.code(), await call.details()) == (grpc.StatusCode.INTERNAL, "internal error call-7")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage() == f"{path} failed, request id call-7"
    assert "the secret of the house" in str(record.exc_info)


async def test_without_tokens_all_but_admin_is_open(toy: Toy) -> None:
    server, channel = await toy(check_admin_closed)
    assert [await code(channel, path) for path in (HEALTH, INFER)] == [OK, OK]
    for path in (ADMIN, OTHER):
        for token in (None, "x"):
            assert await code(channel, path, token) is DENIED
    call: Any = channel.unary_unary(ADMIN)(b"x")
    assert "start the server with --tokens, and with a token for admin" in await call.details()
    assert len(server.parsed) == 2


@pytest.fixture
def secrets(tmp_path: Path) -> dict[str, str]:
    """Tokens by what they are for; the file of their lines is tmp_path / tokens."""
    made = {name: new_secret() for name in ("infer", "admin", "both", "expired", "later", "stranger")}
    lines = [
        line_of("searcher", [Scope.INFER], made["infer"]),
        line_of("deployer", [Scope.ADMIN], made["admin"]),
        line_of("operator", [Scope.INFER, Scope.ADMIN], made["both"]),
        line_of("former", [Scope.INFER, Scope.ADMIN], made["expired"], "2020-01-01"),
        line_of("present", [Scope.INFER], made["later"], "2999-01-01"),
    ]
    (tmp_path / "tokens").write_text("\n".join(lines))
    return made


async def test_each_token_opens_what_it_is_for(toy: Toy, tmp_path: Path, secrets: dict[str, str]) -> None:
    server, channel = await toy(token_check(watch_tokens(tmp_path / "tokens")))
    expected = {
        None: [OK, UNAUTHENTICATED, UNAUTHENTICATED, UNAUTHENTICATED],
        "infer": [OK, OK, DENIED, DENIED],
        "admin": [OK, DENIED, OK, OK],
        "both": [OK, OK, OK, OK],
        "later": [OK, OK, DENIED, DENIED],
        "expired": [OK, UNAUTHENTICATED, UNAUTHENTICATED, UNAUTHENTICATED],
        "stranger": [OK, UNAUTHENTICATED, UNAUTHENTICATED, UNAUTHENTICATED],
    }
    for name, codes in expected.items():
        token = secrets[name] if name else None
        assert [await code(channel, path, token) for path in (HEALTH, INFER, ADMIN, OTHER)] == codes, name
    assert len(server.parsed) == sum(codes.count(OK) for codes in expected.values())


async def test_credentials_that_are_malformed_are_none(toy: Toy, tmp_path: Path, secrets: dict[str, str]) -> None:
    server, channel = await toy(token_check(watch_tokens(tmp_path / "tokens")))
    good = secrets["infer"]
    wrong = [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {good}",
        good,
        f"Bearer{good}",
        f"Bearer {good} {good}",
        "Bearer " + "x" * 6000,
    ]
    for value in wrong:
        assert await code(channel, INFER, metadata=[("authorization", value)]) is UNAUTHENTICATED, value
    twice = [("authorization", f"Bearer {good}")] * 2
    assert await code(channel, INFER, metadata=twice) is UNAUTHENTICATED
    assert await code(channel, INFER, metadata=[("authorization-bin", good.encode())]) is UNAUTHENTICATED
    assert server.parsed == []
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert await code(channel, INFER, metadata=[("authorization", f"{scheme} {good}")]) is OK


async def test_neither_errors_nor_the_log_hold_a_token(
    toy: Toy, tmp_path: Path, secrets: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    _, channel = await toy(token_check(watch_tokens(tmp_path / "tokens")))
    told = []
    for secret in secrets.values():
        for path in (INFER, ADMIN):
            call: Any = channel.unary_unary(path)(b"x", metadata=[("authorization", f"Bearer {secret}")])
            told.append(await call.details())
    assert any("the token of former has expired" in text for text in told)
    assert any("the token of searcher lacks the scope admin" in text for text in told)
    for secret in secrets.values():
        assert not any(secret in text for text in told)
        assert secret not in caplog.text


async def test_a_caller_may_have_so_many_calls_in_hand(toy: Toy, tmp_path: Path, secrets: dict[str, str]) -> None:
    """Counted by the name of the token: the neighbour on the same machine is not the caller."""
    peers = Peers(max_calls=2, max_bytes=0)
    server, channel = await toy(token_check(watch_tokens(tmp_path / "tokens")), peers=peers)
    server.held.clear()
    held = [asyncio.create_task(code(channel, INFER, secrets["infer"])) for _ in range(2)]
    for _ in held:
        await server.arrived.acquire()
    call: Any = channel.unary_unary(INFER)(b"x", metadata=[("authorization", f"Bearer {secrets['infer']}")])
    assert await call.code() is EXHAUSTED
    assert await call.details() == "token searcher has 2 calls in hand, and may have no more"
    assert dict(await call.trailing_metadata())["grpc-retry-pushback-ms"] == "100"
    others = [asyncio.create_task(code(channel, INFER, secrets["both"])) for _ in range(2)]
    probes = [asyncio.create_task(code(channel, HEALTH)) for _ in range(5)]
    for _ in others + probes:
        await server.arrived.acquire()
    server.held.set()
    assert {await each for each in (*held, *others, *probes)} == {OK}
    assert len(peers) == 0, "who has nothing in hand is forgotten"


async def test_a_caller_may_have_so_many_bytes_in_hand_in_streams_too(toy: Toy) -> None:
    peers = Peers(max_calls=0, max_bytes=1000)
    server, channel = await toy(peers=peers)
    server.held.clear()
    held = asyncio.create_task(code(channel, INFER, data=bytes(600)))
    await server.arrived.acquire()
    assert await code(channel, INFER, data=bytes(401)) is EXHAUSTED
    stream: Any = channel.stream_stream(f"{INFER}Stream")(iter([bytes(401)]))
    assert await stream.code() is EXHAUSTED
    server.held.set()
    assert await held is OK
    assert await code(channel, INFER, data=bytes(5000)) is OK, "a larger one may come alone"
    long: Any = channel.stream_stream(f"{INFER}Stream")(iter([bytes(200)] * 50))
    assert len([answer async for answer in long]) == 50, "what a stream has done with is not in hand"
    assert len(peers) == 0


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (UnreadAnswers(10**9, 500_000, caller_of), "127.0.0.1 has not read 600000 bytes of answers, of at most 500000"),
        (UnreadAnswers(500_000, 10**9, caller_of), "600000 bytes of answers are on their way, of at most 500000"),
    ],
)
async def test_who_does_not_read_his_answers_gets_no_more_of_them(toy: Toy, answers: UnreadAnswers, text: str) -> None:
    server, channel = await toy(answers=answers)

    def ask_and_read_nothing() -> Connection:
        connection = Connection.opened(server.address)
        for number in (1, 3):
            asked = frame(DATA, END_STREAM, number, message(BIG_ANSWER))
            connection.send(frame(HEADERS, END_HEADERS, number, grpc_headers(INFER.encode())) + asked)
        return connection

    connection = await asyncio.to_thread(ask_and_read_nothing)
    await until(lambda: answers.total == 600_000)
    call: Any = channel.unary_unary(INFER)(b"x")
    assert (await call.code(), await call.details()) == (EXHAUSTED, text)
    assert dict(await call.trailing_metadata())["grpc-retry-pushback-ms"] == "100"
    assert await code(channel, HEALTH) is OK
    connection.socket.close()
    await until(lambda: answers.total == 0)
    assert await code(channel, INFER, data=BIG_ANSWER) is OK
    await until(lambda: answers.total == 0)
