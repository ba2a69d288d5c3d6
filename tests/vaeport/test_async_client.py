"""The asynchronous client: callers who leave, a client that is closed, and failures, met as `Client` does."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

import vaeport
from tests.vaeport.async_server import Holding, holding
from tests.vaeport.scripted_server import Step, answer, fail, scripted
from tests.vaeport.toy_server import ToyProcess, described, toy_process

IMAGE = np.full((1, 2, 2), 255, np.uint8)
FULL = fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", grpc_retry_pushback_ms="20")
GONE = fail(grpc.StatusCode.UNAVAILABLE, "draining")


def numbered(count: int) -> np.ndarray:
    """Images of 1, 2, 3, ..."""
    return np.arange(1, count + 1, dtype=np.uint8)[:, None, None] * np.ones((2, 2), np.uint8)


@pytest.mark.parametrize("images", [numbered(1), numbered(9)], ids=["one request", "nine requests"])
async def test_a_call_that_is_cancelled_leaves_nothing_on_the_server(images: np.ndarray) -> None:
    async with holding() as (address, server), vaeport.AsyncClient(address) as client:
        server.info = described("1", max_rows=1)
        call = asyncio.create_task(client.encode(images))
        await server.until(lambda: len(server.inside) == min(4, len(images)))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.until(lambda: not server.inside)
        assert sorted(server.left) == list(range(1, min(4, len(images)) + 1))
        server.go_on.set()
        assert (await client.encode(IMAGE)).mean == 255  # the client is none the worse


async def test_a_stream_that_is_left_leaves_nothing_on_the_server() -> None:
    async with holding() as (address, server), vaeport.AsyncClient(address) as client:
        stream = client.encode_stream(iter(numbered(99)), chunk_rows=1)
        first = asyncio.ensure_future(anext(stream))
        await server.until(lambda: len(server.inside) == 4)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await server.until(lambda: not server.inside)
        assert len(server.left) == 4


async def test_a_timeout_of_the_caller_is_one_and_ends_the_call() -> None:
    async with holding() as (address, server), vaeport.AsyncClient(address) as client:
        await client.info()
        with pytest.raises(TimeoutError) as late:
            async with asyncio.timeout(0.2):
                await client.encode(IMAGE)
        assert not isinstance(late.value, vaeport.VaeportError)
        await server.until(lambda: not server.inside)


async def test_many_calls_go_on_at_a_time_each_with_four_requests_under_way() -> None:
    async with holding() as (address, server), vaeport.AsyncClient(address) as client:
        server.info = described("1", max_rows=1)
        calls = [asyncio.create_task(client.encode(numbered(20))) for _ in range(3)]
        await server.until(lambda: len(server.inside) == 12)
        server.go_on.set()
        for encoding in await asyncio.gather(*calls):
            assert encoding.mean[:, 0].tolist() == list(range(1, 21))
        assert server.most == 12


async def closed_during(client: vaeport.AsyncClient, server: Holding) -> None:
    call = asyncio.create_task(client.encode(IMAGE))
    await server.until(lambda: server.inside)
    await client.close()
    with pytest.raises(vaeport.UnavailableError, match="the client is closed"):
        await call


async def test_closing_ends_a_call_that_is_being_answered() -> None:
    async with holding() as (address, server):
        await closed_during(vaeport.AsyncClient(address, timeout=600), server)


async def test_closing_ends_a_call_that_waits_for_its_next_attempt() -> None:
    later = fail(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc_retry_pushback_ms="100000")
    with scripted(later) as (address, server):
        client = vaeport.AsyncClient(address, timeout=600)
        call = asyncio.create_task(client.encode(IMAGE))
        while not server.requests:  # noqa: ASYNC110 - another thread fills them
            await asyncio.sleep(0.005)
        began = time.monotonic()
        await client.close()
        with pytest.raises(vaeport.UnavailableError, match="the client is closed"):
            await call
        assert time.monotonic() - began < 30


async def test_a_closed_client_says_so() -> None:
    client = vaeport.AsyncClient("127.0.0.1:1")
    await client.close()
    await client.close()
    with pytest.raises(vaeport.UnavailableError, match="the client is closed"):
        await client.info()


@pytest.mark.parametrize(
    "failure", [GONE, FULL, fail(grpc.StatusCode.CANCELLED)], ids=["unavailable", "full", "cancelled by the server"]
)
async def test_what_passes_is_tried_again_until_it_has(failure: Step) -> None:
    with scripted(failure, failure, answer) as (address, server):
        async with vaeport.AsyncClient(address, token="t") as client:  # noqa: S106
            assert (await client.encode(IMAGE)).mean == 255
        assert len(server.requests) == 3
        assert {each["authorization"] for each in server.metadata} == {"Bearer t"}
        assert len({each["x-request-id"] for each in server.metadata}) == 1


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (GONE, vaeport.UnavailableError),
        (fail(grpc.StatusCode.RESOURCE_EXHAUSTED), vaeport.OverloadedError),
        (fail(grpc.StatusCode.INTERNAL), vaeport.InternalError),
        (fail(grpc.StatusCode.INVALID_ARGUMENT), vaeport.InvalidInputError),
        (fail(grpc.StatusCode.UNKNOWN), vaeport.ServerError),
    ],
)
async def test_what_stays_is_raised_as_the_client_does(failure: Step, error: type[Exception]) -> None:
    with scripted(failure) as (address, _):
        async with vaeport.AsyncClient(address, retries=0) as client:
            with pytest.raises(error, match=r"why|draining") as raised:
                await client.encode(IMAGE)
    assert isinstance(raised.value, vaeport.InvalidInputError) or raised.value.request_id  # type: ignore[attr-defined]


async def test_no_answer_in_time_is_a_timeout() -> None:
    async with holding() as (address, server), vaeport.AsyncClient(address, timeout=0.3) as client:
        with pytest.raises(TimeoutError, match=address) as late:
            await client.encode(IMAGE)
        assert isinstance(late.value, vaeport.DeadlineExceededError)
        await server.until(lambda: not server.inside)


async def test_nobody_there_is_unavailable() -> None:
    async with vaeport.AsyncClient("127.0.0.1:1", timeout=5, connect_timeout=0.3) as client:
        with pytest.raises(vaeport.UnavailableError, match=r"127\.0\.0\.1:1"):
            await client.sample(1)


async def test_a_server_that_is_killed_and_replaced_fails_no_call() -> None:
    with toy_process(seconds=0.001) as toy:
        async with vaeport.AsyncClient(toy.address) as client:
            calls = [asyncio.create_task(call_often(client)) for _ in range(8)]
            await client.encode(IMAGE)
            toy.kill()
            replacement = await asyncio.to_thread(ToyProcess, toy.address, "1", 0.001)
            try:
                await asyncio.gather(*calls)
            finally:
                replacement.kill()


async def call_often(client: vaeport.AsyncClient) -> None:
    for _ in range(200):
        assert (await client.encode(IMAGE)).mean == 255


async def test_images_may_have_to_be_awaited() -> None:
    async def camera() -> AsyncIterator[Any]:
        for image in numbered(5):
            await asyncio.sleep(0)
            yield image

    with scripted() as (address, _):
        async with vaeport.AsyncClient(address) as client:
            assert (await client.encode(camera())).mean[:, 0].tolist() == [1, 2, 3, 4, 5]
            rows = [len(each.mean) async for each in client.encode_stream(camera(), chunk_rows=2)]
            assert rows == [2, 2, 1]


def test_a_client_belongs_to_one_loop() -> None:
    with scripted() as (address, _):
        client = vaeport.AsyncClient(address)

        async def ask_and_close() -> None:
            await client.info()

        loop = asyncio.new_event_loop()
        loop.run_until_complete(ask_and_close())
        with pytest.raises(RuntimeError, match="belongs to the event loop"):
            asyncio.run(ask_and_close())
        loop.run_until_complete(client.close())
        loop.close()


def test_wrong_arguments_are_refused_when_it_is_made() -> None:
    with pytest.raises(vaeport.InvalidInputError, match="timeout"):
        vaeport.AsyncClient("127.0.0.1:1", timeout=0)
    with pytest.raises(vaeport.InvalidInputError, match="token"):
        vaeport.AsyncClient("example.org:1", token="t")  # noqa: S106
