"""Answers of streams count while they are sent or wait for it, and without room for them no more are made."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from grpc import aio

from serving.edge.large_messages import Written, size_of
from serving.edge.streams import IN_FLIGHT, within_limits
from serving.edge.unread import COUNTED_BYTES, LOOK_SECONDS, TooManyAnswersError, UnreadAnswers
from serving.settings import Settings
from tests.serving.edge.conftest import StartEdge
from tests.serving.waiting import until
from vaeport.v1 import vae_pb2, vae_pb2_grpc

SIZE = COUNTED_BYTES


def answers_for(count: int) -> UnreadAnswers:
    """Room for so many of SIZE bytes, of each caller; the context is his name."""
    return UnreadAnswers(10 * count * SIZE, count * SIZE, str)


def test_an_answer_of_a_stream_counts_until_it_has_been_sent_however_that_ends() -> None:
    answers = answers_for(1)
    with contextlib.suppress(OSError), answers.held("a", SIZE):
        assert answers.total == SIZE
        with pytest.raises(TooManyAnswersError):
            answers.check("a")
        answers.check("b")
        raise OSError("its caller has gone")
    assert answers.total == 0
    answers.check("a")
    with answers.held("a", SIZE - 1):
        assert answers.total == 0


@pytest.mark.parametrize("holders", [["a"], [f"another {number}" for number in range(10)]])
async def test_a_stream_waits_for_room_of_its_caller_and_of_all(holders: list[str]) -> None:
    answers = answers_for(1)
    held = [answers.held(holder, SIZE) for holder in holders]
    for each in held:
        each.__enter__()
    waiting = asyncio.ensure_future(answers.room("a"))
    await asyncio.sleep(3 * LOOK_SECONDS)
    assert not waiting.done()
    held[0].__exit__(None, None, None)
    await asyncio.wait_for(waiting, 5)


async def requests(read: list[int]) -> AsyncIterator[int]:
    for number in range(100):
        read.append(number)
        yield number


async def answer(_: int) -> Written:
    return Written(bytes(SIZE))


async def closed(stream: AsyncGenerator[Any, None], answers: UnreadAnswers) -> None:
    await stream.aclose()
    assert answers.total == 0


async def test_answers_that_wait_for_their_turn_count() -> None:
    answers = answers_for(1000)
    stream = within_limits(requests([]), answer, answers, "a")
    await anext(stream)
    await until(lambda: answers.total == IN_FLIGHT * SIZE)
    await anext(stream)
    await until(lambda: answers.total == IN_FLIGHT * SIZE)
    await closed(stream, answers)


async def test_a_stream_for_whose_answers_there_is_no_room_reads_one_request_and_goes_on_later() -> None:
    answers, read = answers_for(1), list[int]()
    stream = within_limits(requests(read), answer, answers, "a")
    with answers.held("a", SIZE):
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(3 * LOOK_SECONDS)
        assert read == [0]
        assert not first.done()
    assert (await asyncio.wait_for(first, 5)).data == bytes(SIZE)
    await closed(stream, answers)


async def test_a_stream_goes_through_whose_answers_are_each_as_large_as_there_is_room_for() -> None:
    answers = answers_for(1)
    count = 0
    async for one in within_limits(requests([]), answer, answers, "a"):
        with answers.held("a", size_of(one)):
            await asyncio.sleep(0)
        count += 1
    assert (count, answers.total) == (100, 0)


async def test_a_stream_of_samples_that_is_larger_than_there_is_room_for_comes_whole(start_edge: StartEdge) -> None:
    chunk = 4 * 1024 * 6  # bytes, 1,024 rows
    async with aio.insecure_channel(await start_edge(Settings(max_queue_bytes=4 * chunk))) as channel:
        stub: Any = vae_pb2_grpc.VaeServiceStub(channel)
        request = vae_pb2.SampleStreamRequest(count=20 * 1024, chunk_rows=1024, seed=1)
        assert [len(one.images.data) async for one in stub.SampleStream(request)] == [chunk] * 20


def test_an_answer_is_as_large_as_it_is_when_written_out() -> None:
    message = vae_pb2.InfoResponse(server_version="x" * 100)
    assert size_of(message) == len(message.SerializeToString()) == size_of(Written(message.SerializeToString()))
