"""What an observer of calls is told, by a real server with the guard."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import numpy as np
import pytest
from grpc import aio

from serving.core import Core
from serving.edge import Edge
from serving.edge.observed import CallObserver, observed
from serving.telemetry import Telemetry
from tests.serving.batching.toys import settle
from tests.serving.test_edge import free_address
from tests.serving.toys import toy_model
from vaeport.v1 import vae_pb2
from vaeport.wire import to_tensor

SERVICE = "/vaeport.v1.VaeService/"


class Witness(Telemetry):
    """Remembers the calls that began and ended."""

    began: list[str] = []  # noqa: RUF012 - a new one for each test
    ended: list[tuple[str, str, float]] = []  # noqa: RUF012

    def of_method(self, method: str) -> list[CallObserver]:
        witness = self

        class One:
            def began(self, context: Any, /) -> str:
                witness.began.append(method)
                return f"note of {method}"

            def ended(self, note: Any, code: str, seconds: float, /) -> None:
                assert note == f"note of {method}"
                witness.ended.append((method.removeprefix(SERVICE), code, seconds))

        return [One()]

    async def codes(self, count: int) -> list[tuple[str, str]]:
        """The calls that have ended, once there are so many: a caller may know it before the server."""
        await until(lambda: len(self.ended) >= count)
        return [(method, code) for method, code, _ in self.ended]


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 - what is waited for is no event
        await asyncio.sleep(0.001)


@pytest.fixture
def witness() -> Witness:
    Witness.began, Witness.ended = [], []
    return Witness()


@pytest.fixture
async def held() -> asyncio.Event:
    """What the encoder waits for."""
    return asyncio.Event()


@pytest.fixture
async def channel(witness: Witness, held: asyncio.Event) -> AsyncIterator[aio.Channel]:
    async def encode(pieces: Any) -> tuple[np.ndarray[Any, Any], ...]:
        await held.wait()
        mean = np.zeros((sum(map(len, pieces)), 2), np.float32)
        return mean, mean

    address = free_address()
    core = Core([toy_model(encode=encode)], max_request_rows=8)
    edge = Edge(core, address, telemetry=witness)
    await edge.start()
    async with aio.insecure_channel(address) as channel:
        yield channel
    await edge.stop(0.0)
    await core.close()


def encoding(channel: aio.Channel) -> Callable[..., Any]:
    call: Any = channel.unary_unary(f"{SERVICE}Encode", vae_pb2.EncodeRequest.SerializeToString)
    request = vae_pb2.EncodeRequest(images=to_tensor(np.zeros((1, 1, 2, 3), np.float32)))
    return lambda **options: call(options.pop("request", request), **options)


async def fails(call: Any) -> grpc.StatusCode:
    with pytest.raises(aio.AioRpcError) as caught:
        await call
    return caught.value.code()


async def test_answers_and_refusals_are_told_with_their_status(
    channel: aio.Channel, witness: Witness, held: asyncio.Event
) -> None:
    held.set()
    encode = encoding(channel)
    await encode()
    assert await fails(encode(request=vae_pb2.EncodeRequest(model="no"))) is grpc.StatusCode.INVALID_ARGUMENT
    malformed: Any = channel.unary_unary(f"{SERVICE}Encode")
    assert await fails(malformed(b"\xff\xff")) is grpc.StatusCode.INVALID_ARGUMENT
    unknown: Any = channel.unary_unary(f"{SERVICE}NoSuchMethod")
    assert await fails(unknown(b"")) is grpc.StatusCode.UNIMPLEMENTED
    assert await witness.codes(3) == [("Encode", "OK"), *[("Encode", "INVALID_ARGUMENT")] * 2]
    assert all(0 < seconds < 10 for _, _, seconds in witness.ended)
    assert witness.began == [f"{SERVICE}Encode"] * 3


async def test_a_stream_is_one_call(channel: aio.Channel, witness: Witness) -> None:
    stream: Any = channel.unary_stream(f"{SERVICE}SampleStream", vae_pb2.SampleStreamRequest.SerializeToString)
    chunks = [chunk async for chunk in stream(vae_pb2.SampleStreamRequest(count=9, chunk_rows=3))]
    assert len(chunks) == 3
    assert await witness.codes(1) == [("SampleStream", "OK")]


async def test_a_caller_who_leaves_is_told_from_one_whose_time_is_over(channel: aio.Channel, witness: Witness) -> None:
    encode = encoding(channel)
    leaving = encode(timeout=30)
    await until(lambda: bool(witness.began))
    await settle()
    leaving.cancel()
    assert await witness.codes(1) == [("Encode", "CANCELLED")]
    assert await fails(encode(timeout=0.1)) is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await witness.codes(2))[1] == ("Encode", "DEADLINE_EXCEEDED")


def test_without_observers_nothing_is_wrapped() -> None:
    async def answer(request: Any, context: Any) -> None:
        pass

    assert observed(answer, []) is answer
