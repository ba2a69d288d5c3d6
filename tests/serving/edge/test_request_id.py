"""Request ids: whose they are, where they show, and one line per call for who asks for it."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc import aio

from serving.core import Core
from serving.edge import Edge, call_log
from serving.edge.request_id import request_id_of
from serving.edge.server import VAE_SERVICE
from serving.settings import Settings
from tests.serving.test_edge import GOOD, Served, free_address, serving
from tests.serving.toys import toy_model
from tests.serving.waiting import until
from vaeport.v1 import vae_pb2
from vaeport.wire import REQUEST_ID_KEY

VALID = ["7", "a/b:c~!", "x" * 128]
INVALID: list[str | bytes] = ["", "x" * 129, "two words", "caf\xe9", "line\nbreak", b"bytes"]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving(toy_model()) as one:
        yield one


@pytest.mark.parametrize("value", VALID)
def test_a_callers_id_is_taken(value: str) -> None:
    assert request_id_of([("user-agent", "me"), (REQUEST_ID_KEY, value), (REQUEST_ID_KEY, "second")]) == value


@pytest.mark.parametrize("value", INVALID)
def test_an_id_that_is_none_is_ignored_and_a_new_one_made(value: str | bytes) -> None:
    made = [request_id_of([(REQUEST_ID_KEY, value)]) for _ in range(2)]
    assert made[0] != made[1]
    assert all(len(one) == 32 for one in made)


async def failing(served: Served, kind: str, request_id: str | None) -> aio.AioRpcError:
    """The error of a call of each kind of error there is."""
    metadata = [] if request_id is None else [(REQUEST_ID_KEY, request_id)]
    data = b"\xff\xff" if kind == "does not parse" else vae_pb2.EncodeRequest(model="none", images=GOOD)
    serialise = bytes if isinstance(data, bytes) else vae_pb2.EncodeRequest.SerializeToString
    channel: Any = served.channel
    if kind == "in a stream":
        call = channel.stream_stream(f"/{VAE_SERVICE}/EncodeStream", serialise)(iter([data]), metadata=metadata)
        answer = call.read()
    else:
        answer = channel.unary_unary(f"/{VAE_SERVICE}/Encode", serialise)(data, metadata=metadata)
    with pytest.raises(aio.AioRpcError) as failed:
        await answer
    return failed.value


@pytest.mark.parametrize("kind", ["does not parse", "unknown model", "in a stream"])
async def test_every_error_has_the_id_in_its_trailing_metadata(served: Served, kind: str) -> None:
    error = await failing(served, kind, "mine-1")
    assert error.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    assert dict(error.trailing_metadata())[REQUEST_ID_KEY] == "mine-1"
    made = dict((await failing(served, kind, None)).trailing_metadata())[REQUEST_ID_KEY]
    assert len(made) == 32


async def test_our_bug_has_one_id_in_text_metadata_and_log(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(served.core, "encode", broken)
    for sent in ("mine-2", None):
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            error = await failing(served, "unknown model", sent)
        request_id = dict(error.trailing_metadata())[REQUEST_ID_KEY]
        assert sent in (None, request_id)
        assert error.details() == f"internal error {request_id}"
        (record,) = caplog.records
        assert vars(record)["request_id"] == request_id
        assert f"request id {request_id}" in record.getMessage()


async def test_a_call_that_succeeds_makes_no_id(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_: object) -> str:
        raise AssertionError

    monkeypatch.setattr("serving.edge.guard.request_id_of", never)
    monkeypatch.setattr(call_log, "request_id_of", never)
    await served.stub.Encode(vae_pb2.EncodeRequest(images=GOOD))


class Logging:
    """a server that logs its calls."""

    def __init__(self, which: call_log.LogCalls) -> None:
        self.core = Core([toy_model()], max_request_rows=1024)
        self.address = free_address()
        self.edge = Edge(self.core, self.address, Settings(log_calls=which))

    async def __aenter__(self) -> Served:
        await self.edge.start()
        return Served(self.core, self.edge, aio.insecure_channel(self.address))

    async def __aexit__(self, *_: object) -> None:
        await self.edge.stop(0)
        await self.core.close()


def lines_of(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """What has been logged of calls."""
    return [vars(record) for record in caplog.records if record.name == call_log.log.name]


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("none", []),
        ("failed", ["NOT_FOUND", "INVALID_ARGUMENT"]),
        ("all", ["OK", "NOT_FOUND", "OK", "INVALID_ARGUMENT"]),
    ],
)
async def test_calls_leave_the_lines_that_were_asked_for(
    which: call_log.LogCalls, expected: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Logging(which) as served:
        await served.stub.Encode(vae_pb2.EncodeRequest(images=GOOD), metadata=[(REQUEST_ID_KEY, "good")])
        refused = await failing(served, "unknown model", "bad")
        _ = [each async for each in served.stub.SampleStream(vae_pb2.SampleStreamRequest(count=3))]
        malformed = await failing(served, "does not parse", None)
        await served.channel.close()
    lines = lines_of(caplog)
    assert [line["status"] for line in lines] == expected
    if which == "all":
        assert lines[0]["method"] == f"/{VAE_SERVICE}/Encode"
        assert lines[0]["request_id"] == "good"
        assert lines[0]["peer"].startswith("ipv4:127.0.0.1:")
        assert 0 < lines[0]["milliseconds"] < 60_000
        assert f"/{VAE_SERVICE}/Encode OK in " in caplog.text
    if which != "none":
        by_status = {line["status"]: line["request_id"] for line in lines}
        assert by_status["NOT_FOUND"] == dict(refused.trailing_metadata())[REQUEST_ID_KEY] == "bad"
        assert by_status["INVALID_ARGUMENT"] == dict(malformed.trailing_metadata())[REQUEST_ID_KEY]


async def test_who_is_refused_at_the_door_has_an_id_and_a_line_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    metadata = ((REQUEST_ID_KEY, "mine-3"),)
    async with Logging("failed") as served:
        channel: Any = served.channel
        with pytest.raises(aio.AioRpcError) as unknown:
            await channel.unary_unary("/no.such.Service/Method")(b"", metadata=metadata)
        served.edge._guard.refuse()
        with pytest.raises(aio.AioRpcError) as draining:
            await served.stub.Info(vae_pb2.InfoRequest(), metadata=metadata)
        await served.channel.close()
    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert draining.value.code() is grpc.StatusCode.UNAVAILABLE
    for error in (unknown.value, draining.value):
        assert dict(error.trailing_metadata())[REQUEST_ID_KEY] == "mine-3"
    (line,) = lines_of(caplog)  # what is not offered has a stranger's name
    assert (line["method"], line["status"], line["request_id"]) == (f"/{VAE_SERVICE}/Info", "UNAVAILABLE", "mine-3")


@pytest.mark.parametrize(("how", "status"), [("leaves", "CANCELLED"), ("deadline", "DEADLINE_EXCEEDED")])
async def test_a_caller_who_leaves_and_one_who_waits_no_longer_are_told_apart(
    how: str, status: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    began, ended = asyncio.Event(), asyncio.Event()

    async def held(*_: object) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with Logging("failed") as served:
        monkeypatch.setattr(served.core, "encode", held)
        timeout = 0.3 if how == "deadline" else 20
        call = served.stub.Encode(vae_pb2.EncodeRequest(images=GOOD), timeout=timeout)
        await asyncio.wait_for(began.wait(), 10)
        if how == "leaves":
            call.cancel()
        await asyncio.wait_for(ended.wait(), 10)
        await until(lambda: bool(lines_of(caplog)))
        await served.channel.close()
    assert [line["status"] for line in lines_of(caplog)] == [status]
