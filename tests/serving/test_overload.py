"""Deadlines, cancels and a full queue on a real port, seen from the server's side: what becomes of the rows."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from serving.batching.delivery import Rows
from serving.core import Core
from serving.edge import Edge
from serving.edge.deadline import deadline_of
from tests.serving import toys
from tests.serving.test_edge import free_address
from vaeport.v1 import vae_pb2, vae_pb2_grpc
from vaeport.wire import to_tensor


class HeldServer:
    """A server whose encoder computes only while it may."""

    def __init__(self) -> None:
        self.may_compute = asyncio.Event()
        self.seen: list[float] = []
        model = toys.toy_model(max_queue_rows=1024, encode=self.encode)
        self.batcher = model.encoder
        self.core = Core([model], max_request_rows=1024)
        self.address = free_address()
        self.edge = Edge(self.core, self.address)

    async def encode(self, pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        self.seen += np.concatenate(pieces)[:, 0, 0, 0].tolist()
        await self.may_compute.wait()
        return await toys.encode(pieces)


@pytest.fixture
async def server() -> AsyncIterator[HeldServer]:
    held = HeldServer()
    await held.edge.start()
    yield held
    held.may_compute.set()
    await held.edge.stop(1)
    await held.core.close()


@pytest.fixture
async def encode(server: HeldServer) -> AsyncIterator[Callable[..., "Awaitable[vae_pb2.EncodeResponse]"]]:
    async with aio.insecure_channel(server.address) as channel:
        stub = vae_pb2_grpc.VaeServiceStub(channel)

        def call(value: int, rows: int = 1, timeout: float | None = None) -> "Awaitable[vae_pb2.EncodeResponse]":
            images = to_tensor(np.full((rows, *toys.IMAGE_SHAPE), value, np.uint8))
            return stub.Encode(vae_pb2.EncodeRequest(images=images), timeout=timeout)

        yield call


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that other tasks and sockets bring about."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody could set an event
            await asyncio.sleep(0.001)


Encode = Callable[..., "aio.UnaryUnaryCall[vae_pb2.EncodeRequest, vae_pb2.EncodeResponse]"]


async def test_a_deadline_behind_a_slow_batch_frees_the_queue_and_costs_no_compute(
    server: HeldServer, encode: Encode
) -> None:
    slow = encode(1)
    await until(lambda: server.seen == [1])
    late = encode(2, timeout=0.2)
    await until(lambda: server.batcher.queued_rows == 1)
    with pytest.raises(aio.AioRpcError) as failed:
        await late
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: server.batcher.queued_rows == 0)
    assert server.batcher.queued_bytes == 0
    server.may_compute.set()
    await slow
    await encode(3)
    assert server.seen == [1, 3]


async def test_a_deadline_that_cannot_be_met_is_refused_long_before_it(server: HeldServer, encode: Encode) -> None:
    slow = encode(1)
    await until(lambda: server.seen == [1])
    await asyncio.sleep(0.3)  # which the server measures
    server.may_compute.set()
    await slow
    server.may_compute.clear()
    running = encode(2)
    await until(lambda: server.seen == [1, 2])
    with pytest.raises(aio.AioRpcError) as refused:
        await encode(3, timeout=0.25)
    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "after 0 that wait, would take 0." in (refused.value.details() or "")  # the server's words, not the client's
    server.may_compute.set()
    await running
    assert server.seen == [1, 2]


async def test_a_storm_of_cancelled_calls_leaves_nothing(server: HeldServer, encode: Encode) -> None:
    running = encode(1)
    await until(lambda: server.seen == [1])
    tasks = len(asyncio.all_tasks())
    calls = [encode(i % 200, rows=i % 3 + 1, timeout=30) for i in range(400)]
    await until(lambda: server.batcher.queued_rows == 799)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await until(lambda: server.batcher.queued_rows == 0)
    assert server.batcher.queued_bytes == 0
    assert len(server.batcher._deadlines) == 0
    del calls, call
    await until(lambda: len(asyncio.all_tasks()) <= tasks)
    assert server.seen == [1]
    server.may_compute.set()
    await running


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(server: HeldServer, encode: Encode) -> None:
    calls = [encode(1)]
    await until(lambda: server.seen == [1])
    calls.append(encode(2, rows=1024))
    await until(lambda: server.batcher.queued_rows == 1024)
    began = time.monotonic()
    with pytest.raises(aio.AioRpcError) as refused:
        await encode(3)
    assert time.monotonic() - began < 1.0  # milliseconds, while the batch runs as long as we like
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    metadata = dict(refused.value.trailing_metadata())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == int(metadata["grpc-retry-pushback-ms"]) >= 1
    server.may_compute.set()
    await asyncio.gather(*calls)


class Remaining:
    """A call with so many seconds left."""

    def __init__(self, seconds: float | None) -> None:
        self.time_remaining = lambda: seconds


async def test_a_deadline_is_put_on_the_loops_clock_and_centuries_are_none() -> None:
    now = asyncio.get_running_loop().time()
    deadline = deadline_of(Remaining(2.5))
    assert deadline is not None
    assert 2.5 <= deadline - now < 3.5
    assert deadline_of(Remaining(None)) is None
    assert deadline_of(Remaining(2.0**62)) is None
    assert deadline_of(Remaining(float("inf"))) is None


@pytest.mark.parametrize("seconds", [None, 1e9])
async def test_a_call_without_a_deadline_or_with_an_absurd_one_is_served(
    server: HeldServer, encode: Encode, seconds: float | None
) -> None:
    server.may_compute.set()
    assert (await encode(1, timeout=seconds)).version == "3"
