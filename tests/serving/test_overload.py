"""Deadlines, cancels and a full queue on a real port, seen from the server's side: what becomes of the rows."""

import asyncio
import gc
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

from serving.batching.delivery import Request, Rows
from serving.core import Core
from serving.edge import Edge
from serving.edge.deadline import deadline_of
from tests.serving import toys
from tests.serving.test_edge import free_address
from tests.serving.waiting import until
from vaeport.errors import InvalidInputError
from vaeport.v1 import vae_pb2, vae_pb2_grpc
from vaeport.wire import to_tensor

GUILTY = 66  # a pixel that no batch is computed with


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
        if any(GUILTY in piece for piece in pieces):
            raise InvalidInputError("no")
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


async def test_rows_leave_within_20_ms_of_a_deadline_of_10_ms_and_are_not_computed(
    server: HeldServer, encode: Encode
) -> None:
    slow = encode(1)
    await until(lambda: server.seen == [1])
    lateness = []
    for _ in range(20):  # of which the best counts, for the machine may be busy with something else
        deadline = time.monotonic() + 0.010
        late = encode(2, timeout=0.010)
        await until(lambda: server.batcher.queued_rows == 1 or late.done())  # noqa: B023 - it is awaited here
        queued = server.batcher.queued_rows
        await until(lambda: server.batcher.queued_rows == 0)
        if queued:
            lateness.append(time.monotonic() - deadline)
        assert server.batcher.queued_bytes == 0
        assert await late.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert lateness
    assert min(lateness) < 0.020
    await asyncio.sleep(0.05)
    server.may_compute.set()
    await slow
    await encode(3)
    assert server.seen == [1, 3]


async def test_ten_thousand_cancelled_calls_leave_nothing(server: HeldServer, encode: Encode) -> None:
    running = encode(1)
    await until(lambda: server.seen == [1])

    async def storm() -> None:
        calls = [encode(i % 200, rows=i % 3 + 1, timeout=30) for i in range(400)]
        await until(lambda: server.batcher.queued_rows == 799)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: server.batcher.queued_rows == 0)
        assert server.batcher.queued_bytes == 0
        assert len(server.batcher._deadlines) == 0

    await storm()
    before = left_behind()
    for _ in range(24):
        await storm()
    await until(lambda: not left_behind() - before)
    assert server.seen == [1]
    server.may_compute.set()
    await running


def left_behind() -> Counter[str]:
    """Tasks, futures and requests that exist."""
    gc.collect()
    kinds = map(type, gc.get_objects())  # not isinstance, which asks objects of others for what they pretend to be
    return Counter(kind.__name__ for kind in kinds if issubclass(kind, (asyncio.Future, Request)))


async def test_a_thousand_cancelled_streams_leave_nothing(server: HeldServer) -> None:
    """Half of them while a chunk is computed, half of them while the next request is awaited."""
    server.may_compute.set()
    request = vae_pb2.EncodeStreamRequest(images=to_tensor(np.zeros((1, *toys.IMAGE_SHAPE), np.uint8)))
    async with aio.insecure_channel(server.address) as channel:
        stub: Any = vae_pb2_grpc.VaeServiceStub(channel)

        async def storm() -> None:
            samples = [stub.SampleStream(vae_pb2.SampleStreamRequest(count=10**6, chunk_rows=1)) for _ in range(50)]
            encodes = [stub.EncodeStream() for _ in range(50)]
            await asyncio.gather(*(stream.write(request) for stream in encodes))
            await asyncio.gather(*(stream.read() for stream in (*samples, *encodes)))
            for stream in (*samples, *encodes):
                stream.cancel()
            await asyncio.gather(*(stream.code() for stream in (*samples, *encodes)))

        await storm()
        await asyncio.sleep(0.1)
        before = left_behind()
        for _ in range(9):
            await storm()
        await until(lambda: not left_behind() - before)
    decoder = server.core._find("", "").decoder
    assert (server.batcher.queued_rows, decoder.queued_rows, decoder.queued_bytes) == (0, 0, 0)


async def test_a_refusal_during_the_stop_harms_no_other_call(server: HeldServer, encode: Encode) -> None:
    calls = [encode(1)]
    await until(lambda: server.seen == [1])
    calls += [encode(GUILTY), encode(2)]
    await until(lambda: server.batcher.queued_rows == 2)
    stopping = asyncio.create_task(server.edge.stop(30))
    await asyncio.sleep(0.05)
    server.may_compute.set()
    codes = [await call.code() for call in calls]
    assert codes == [grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OK]
    await stopping


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
