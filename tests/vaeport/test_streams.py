"""Streams of samples that break off and go on, and streams of images, from both clients."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import vaeport
from tests.vaeport.scripted_server import Scripted, answer, fail, scripted
from tests.vaeport.toy_server import described
from vaeport.v1 import vae_pb2
from vaeport.wire import from_tensor, to_tensor

ROWS = 10  # of a stream


def chunk(first_row: int, rows: int, version: str) -> vae_pb2.SampleStreamResponse:
    """Images whose pixels are their row."""
    images = np.arange(first_row, first_row + rows, dtype=np.float32)[:, None, None, None] * np.ones(
        (1, 2, 2), np.float32
    )
    return vae_pb2.SampleStreamResponse(model="toy", version=version, images=to_tensor(images), first_row=first_row)


class Streaming(Scripted):
    """Each call of SampleStream follows the next plan: so many chunks, then a step; the last plan for ever."""

    def __init__(self, *plans: tuple[int, Callable[..., Any] | None]) -> None:
        super().__init__(answer)
        self.plans = list(plans)
        self.cancelled = threading.Event()

    def SampleStream(  # noqa: N802
        self, request: vae_pb2.SampleStreamRequest, context: grpc.ServicerContext
    ) -> Iterator[vae_pb2.SampleStreamResponse]:
        """Chunks, and then what the plan says."""
        self._record(request, context)
        context.add_callback(self.cancelled.set)
        chunks, end = self.plans.pop(0) if len(self.plans) > 1 else self.plans[0]
        first, last = request.first_row, request.first_row + request.count
        for _ in range(chunks):
            if first < last:
                rows = min(request.chunk_rows, last - first)
                yield chunk(first, rows, self.info.models[0].version)
                first += rows
        if first < last and end is not None:
            end(self, request, context)


GONE = fail(grpc.StatusCode.UNAVAILABLE, "draining")
FULL = fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", grpc_retry_pushback_ms="10")
LATE = fail(grpc.StatusCode.DEADLINE_EXCEEDED, "too late")


def HOLD(script: Streaming, *_: object) -> None:  # noqa: N802 - a step like those above
    """Until the caller has left."""
    script.cancelled.wait(60)


def streaming(*plans: tuple[int, Callable[..., Any] | None]) -> Any:
    return scripted(script=Streaming(*plans))  # type: ignore[abstract]


def rows_of(chunks: Iterator[np.ndarray]) -> list[int]:
    return [int(row) for each in chunks for row in each[:, 0, 0, 0]]


def test_chunks_come_in_order_and_the_call_ends_well() -> None:
    with streaming((99, None)) as (address, server), vaeport.Client(address) as client:
        chunks = list(client.sample_stream(ROWS, seed=7, temperature=0.5, first_row=3, chunk_rows=4))
        assert [len(each) for each in chunks] == [4, 4, 2]
        assert rows_of(iter(chunks)) == list(range(3, 13))
        (request,) = server.requests
        assert (request.seed, request.temperature, request.count, request.chunk_rows) == (7, 0.5, 10, 4)


@pytest.mark.parametrize("failure", [GONE, FULL, fail(grpc.StatusCode.CANCELLED)])
def test_a_stream_that_breaks_off_goes_on_at_its_next_row(failure: Any) -> None:
    with streaming((1, failure), (0, failure), (2, failure), (99, None)) as (address, server):
        with vaeport.Client(address) as client:
            assert rows_of(client.sample_stream(ROWS, chunk_rows=3)) == list(range(ROWS))
        assert [(request.first_row, request.count) for request in server.requests] == [(0, 10), (3, 7), (3, 7), (9, 1)]
        assert len({request.seed for request in server.requests}) == 1


async def test_a_stream_that_breaks_off_goes_on_for_the_asynchronous_client_too() -> None:
    with streaming((1, GONE), (2, GONE), (99, None)) as (address, server):
        async with vaeport.AsyncClient(address) as client:
            chunks = [each async for each in client.sample_stream(ROWS, chunk_rows=3)]
        assert rows_of(iter(chunks)) == list(range(ROWS))
        assert [request.first_row for request in server.requests] == [0, 3, 9]


def test_each_chunk_has_its_own_retries() -> None:
    with streaming((1, GONE)) as (address, _), vaeport.Client(address, retries=1) as client:
        assert rows_of(client.sample_stream(ROWS, chunk_rows=1)) == list(range(ROWS))


def test_a_stream_that_never_begins_is_the_error_of_its_last_attempt() -> None:
    with streaming((0, GONE)) as (address, server), vaeport.Client(address, retries=2) as client:
        with pytest.raises(vaeport.UnavailableError, match="draining"):
            next(client.sample_stream(ROWS))
        assert len(server.requests) == 3


def test_a_stream_whose_server_does_not_come_back_is_unavailable_in_time() -> None:
    with streaming((1, HOLD)) as (address, _):
        client = vaeport.Client(address, timeout=2)
        chunks = client.sample_stream(ROWS, chunk_rows=3)
        next(chunks)
    began = time.monotonic()
    with client, pytest.raises(vaeport.UnavailableError, match=address):
        next(chunks)
    assert time.monotonic() - began < 20


def test_another_version_ends_a_stream() -> None:
    def upgrade(script: Streaming, request: Any, context: grpc.ServicerContext) -> None:
        script.info = described("2")
        GONE(script, request, context)

    with streaming((1, upgrade), (99, None)) as (address, _), vaeport.Client(address) as client:
        chunks = client.sample_stream(ROWS, chunk_rows=3)
        next(chunks)
        with pytest.raises(vaeport.UnavailableError, match="the model changed during the stream, from version 1 to 2"):
            next(chunks)


def test_a_reader_slower_than_the_timeout_misses_nothing() -> None:
    with streaming((1, LATE), (1, LATE), (99, None)) as (address, server), vaeport.Client(address) as client:
        assert rows_of(client.sample_stream(ROWS, chunk_rows=4)) == list(range(ROWS))
        assert [request.first_row for request in server.requests] == [0, 4, 8]


def test_a_chunk_that_does_not_come_in_time_is_a_timeout() -> None:
    over = threading.Event()
    with (
        streaming((1, lambda *_: over.wait(60))) as (address, server),
        vaeport.Client(address, timeout=0.5) as client,
    ):
        chunks = client.sample_stream(ROWS, chunk_rows=3)
        assert len(next(chunks)) == 3
        server.plans = [(0, lambda *_: over.wait(60))]
        assert server.cancelled.wait(30)  # the reader is slow, and the call is over
        with pytest.raises(vaeport.DeadlineExceededError, match=address):
            next(chunks)
        over.set()
        assert [request.first_row for request in server.requests] == [0, 3]


def test_a_reader_who_leaves_ends_the_call() -> None:
    with streaming((1, HOLD)) as (address, server), vaeport.Client(address) as client:
        chunks = client.sample_stream(ROWS, chunk_rows=3)
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]  # as the end of a `for` does
        assert server.cancelled.wait(30)


async def test_an_asynchronous_reader_who_leaves_ends_the_call() -> None:
    with streaming((1, HOLD)) as (address, server):
        async with vaeport.AsyncClient(address) as client:
            chunks = client.sample_stream(ROWS, chunk_rows=3)
            await anext(chunks)
            await chunks.aclose()  # type: ignore[attr-defined]
            assert server.cancelled.wait(30)


def test_closing_the_client_ends_a_stream() -> None:
    over = threading.Event()
    with streaming((1, lambda *_: over.wait(60))) as (address, _):
        client = vaeport.Client(address)
        chunks = client.sample_stream(ROWS, chunk_rows=3)
        next(chunks)
        client.close()
        with pytest.raises(vaeport.UnavailableError, match="the client is closed"):
            next(chunks)
        over.set()


# --- images ---


def numbered(first: int, last: int) -> np.ndarray:
    return np.arange(first, last, dtype=np.uint8)[:, None, None] * np.ones((2, 2), np.uint8)


def test_images_are_taken_no_faster_than_they_are_encoded() -> None:
    taken: list[int] = []

    def images() -> Iterator[np.ndarray]:
        for image in numbered(0, 100):
            taken.append(int(image[0, 0]))
            yield image

    with scripted() as (address, _), vaeport.Client(address) as client:
        for done, encoding in enumerate(client.encode_stream(images(), chunk_rows=2), 1):
            assert encoding.mean[:, 0].tolist() == [2 * done - 2, 2 * done - 1]
            assert len(taken) <= 2 * (done + 4)
    assert len(taken) == 100


def test_an_error_of_the_images_comes_after_what_came_before_it() -> None:
    def images() -> Iterator[np.ndarray]:
        yield from numbered(0, 5)
        raise LookupError("no more film")

    with scripted() as (address, _), vaeport.Client(address) as client:
        stream = client.encode_stream(images(), chunk_rows=2)
        assert [len(next(stream).mean) for _ in range(3)] == [2, 2, 1]
        with pytest.raises(LookupError, match="no more film"):
            next(stream)


def test_a_bad_image_comes_after_what_came_before_it() -> None:
    images = [*numbered(0, 4), np.full((2, 2), np.nan), *numbered(5, 9)]
    with scripted() as (address, _), vaeport.Client(address) as client:
        stream = client.encode_stream(images, chunk_rows=2)
        assert [len(next(stream).mean) for _ in range(2)] == [2, 2]
        with pytest.raises(vaeport.InvalidInputError, match="nan"):
            next(stream)


def test_a_result_is_there_when_the_next_image_is() -> None:
    with scripted() as (address, _), vaeport.Client(address) as client:
        taken: list[int] = []

        def camera() -> Iterator[np.ndarray]:
            for number, image in enumerate(numbered(0, 6)):
                taken.append(number)
                yield image
                time.sleep(0.1)

        for done, encoding in enumerate(client.encode_stream(camera(), chunk_rows=1)):
            assert encoding.mean == done
            assert len(taken) <= done + 2


async def test_a_result_does_not_wait_for_an_image_that_has_to_be_awaited() -> None:
    seen = asyncio.Event()

    async def camera() -> AsyncIterator[np.ndarray]:
        for image in numbered(0, 6):
            seen.clear()
            yield image
            await asyncio.wait_for(seen.wait(), 30)

    with scripted() as (address, _):
        async with vaeport.AsyncClient(address) as client:
            numbers = []
            async for encoding in client.encode_stream(camera(), chunk_rows=1):
                numbers.append(float(encoding.mean[0, 0]))
                seen.set()
    assert numbers == [0, 1, 2, 3, 4, 5]


async def test_images_that_have_to_be_awaited_are_taken_by_one_task_and_no_faster_than_they_are_encoded() -> None:
    tasks, taken = set(), 0

    async def images() -> AsyncIterator[np.ndarray]:
        nonlocal taken
        async with asyncio.timeout(60):
            for image in numbered(0, 50):
                tasks.add(asyncio.current_task())
                taken += 1
                yield image

    with scripted() as (address, _):
        async with vaeport.AsyncClient(address) as client:
            done = 0
            async for _ in client.encode_stream(images(), chunk_rows=2):
                done += 1
                await asyncio.sleep(0.01)
                assert taken <= 2 * (done + 4)
    assert (done, taken, len(tasks)) == (25, 50, 1)


def test_another_version_ends_a_stream_of_images_too() -> None:
    with scripted() as (address, server), vaeport.Client(address) as client:
        stream = client.encode_stream(numbered(0, 200), chunk_rows=2)
        assert next(stream).version == "1"
        server.info = described("2")
        with pytest.raises(vaeport.UnavailableError, match="from version 1 to 2"):
            list(stream)


def test_a_reader_slower_than_the_timeout_loses_no_chunk_that_has_to_be_sent_again() -> None:
    asked, away, failed = threading.Event(), threading.Event(), threading.Event()

    def gone_while_the_reader_is_away(script: Scripted, request: Any, context: grpc.ServicerContext) -> Any:
        number = from_tensor("images", request.images).flat[0]
        if number == 0:
            assert asked.wait(60)
        if number == 1 and not failed.is_set():
            asked.set()
            context.add_callback(failed.set)
            assert away.wait(60)
            GONE(script, request, context)
        return answer(script, request, context)

    with scripted(gone_while_the_reader_is_away) as (address, _), vaeport.Client(address, timeout=1) as client:
        stream = client.encode_stream(numbered(0, 6), chunk_rows=1)
        assert next(stream).mean == 0
        away.set()
        assert failed.wait(30)
        time.sleep(1.1)
        assert [float(each.mean[0, 0]) for each in stream] == [1, 2, 3, 4, 5]


def full_once(number: int, failed: threading.Event) -> Callable[..., Any]:
    """Encode; the image with that number has to come back once, half a second later."""
    full = fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", grpc_retry_pushback_ms="500")

    def step(script: Scripted, request: Any, context: grpc.ServicerContext) -> Any:
        found = int(from_tensor("images", request.images).flat[0])
        if found == number and not failed.is_set():
            context.add_callback(failed.set)
            full(script, request, context)
        if found < number:
            assert failed.wait(60)
            time.sleep(0.1)  # for the caller to see it
        return answer(script, request, context)

    return step


def test_a_reader_slower_than_the_timeout_loses_no_chunk_that_waits_to_be_sent_again() -> None:
    step = full_once(1, threading.Event())
    with scripted(step) as (address, _), vaeport.Client(address, timeout=1) as client:
        stream = client.encode_stream(numbered(0, 6), chunk_rows=1)
        assert next(stream).mean == 0
        time.sleep(1.5)
        assert [float(each.mean[0, 0]) for each in stream] == [1, 2, 3, 4, 5]


async def test_images_slower_than_the_timeout_lose_no_chunk_that_waits_to_be_sent_again() -> None:
    failed = threading.Event()

    async def images() -> AsyncIterator[np.ndarray]:
        for number, image in enumerate(numbered(0, 3)):
            yield image
            if number == 0:
                while not failed.is_set():  # noqa: ASYNC110 - another thread sets it
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                time.sleep(1.5)  # noqa: ASYNC251 - who stalls the loop

    with scripted(full_once(0, failed)) as (address, _):
        async with vaeport.AsyncClient(address, timeout=1) as client:
            stream = client.encode_stream(images(), chunk_rows=1)
            assert [float(each.mean[0, 0]) async for each in stream] == [0, 1, 2]
