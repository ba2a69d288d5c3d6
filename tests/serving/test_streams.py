"""Streams and scores on a real port with toy models: order, flow control, errors in the middle, drain."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from grpc import aio
from numpy.typing import NDArray

from serving.batching.delivery import Rows
from serving.core import Core
from serving.edge.streams import in_order
from serving.models import ServedModel
from tests.serving import toys
from tests.serving.test_edge import Served, images, serving
from vaeport.v1 import vae_pb2
from vaeport.wire import from_tensor, to_tensor

if TYPE_CHECKING:
    from serving.results import Sampled

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Counted:
    """A decoder that counts its rows, and fails for a latent over a limit."""

    def __init__(self) -> None:
        self.rows = 0

    async def __call__(self, pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        self.rows += sum(map(len, pieces))
        return await toys.decode(pieces)


@pytest.fixture
def decoder() -> Counted:
    return Counted()


@pytest.fixture
async def model(decoder: Counted) -> ServedModel:
    return toys.toy_model(decode=decoder)


@pytest.fixture
async def served(model: ServedModel) -> AsyncIterator[Served]:
    async with serving(model) as one:
        yield one


@pytest.mark.parametrize("chunk_rows", [0, 1, 7, 1000])
async def test_a_stream_of_samples_is_the_sample_in_pieces(served: Served, chunk_rows: int) -> None:
    whole = await served.stub.Sample(vae_pb2.SampleRequest(count=600, seed=4, first_row=10, return_latents=True))
    request = vae_pb2.SampleStreamRequest(
        count=600, seed=4, first_row=10, chunk_rows=chunk_rows, return_latents=True, temperature=1.0
    )
    chunks = [chunk async for chunk in served.stub.SampleStream(request)]
    assert b"".join(chunk.images.data for chunk in chunks) == whole.images.data
    assert b"".join(chunk.latents.data for chunk in chunks) == whole.latents.data
    sizes = [chunk.images.shape[0] for chunk in chunks]
    assert max(sizes) == min(chunk_rows or 256, 600)
    assert [chunk.first_row for chunk in chunks] == [10 + sum(sizes[:i]) for i in range(len(sizes))]
    assert {(chunk.seed, chunk.version) for chunk in chunks} == {(4, "3")}


async def test_a_seed_that_was_drawn_is_one_for_all_chunks(served: Served) -> None:
    chunks = [chunk async for chunk in served.stub.SampleStream(vae_pb2.SampleStreamRequest(count=5, chunk_rows=2))]
    again = await served.stub.Sample(vae_pb2.SampleRequest(count=5, seed=chunks[0].seed))
    assert b"".join(chunk.images.data for chunk in chunks) == again.images.data


async def test_more_than_a_request_may_have_can_be_streamed(served: Served) -> None:
    rows = 0
    async for chunk in served.stub.SampleStream(vae_pb2.SampleStreamRequest(count=5000, dtype=vae_pb2.DTYPE_UINT8)):
        rows += chunk.images.shape[0]
    assert rows == 5000


async def test_one_chunk_is_computed_ahead_of_the_reader_and_no_more(model: ServedModel, decoder: Counted) -> None:
    core = Core([model], max_request_rows=1024)
    chunks = core.sample_stream("", "", 100, chunk_rows=2, seed=1, first_row=0, temperature=1.0)
    await anext(chunks)
    await settle()
    assert decoder.rows == 4
    await anext(chunks)
    await settle()
    assert decoder.rows == 6
    await chunks.aclose()
    await settle()
    assert decoder.rows == 6
    await core.close()


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_reader_that_stops_stops_the_computing(served: Served, decoder: Counted) -> None:
    count = 10_000_000  # 240 MB of images: far more than any buffer between the two
    call = served.stub.SampleStream(vae_pb2.SampleStreamRequest(count=count, chunk_rows=1024))
    assert isinstance(await call.read(), vae_pb2.SampleStreamResponse)
    computed = -1
    while computed != decoder.rows:  # until the buffers are full
        computed = decoder.rows
        await asyncio.sleep(0.3)
    assert computed < count / 10
    call.cancel()
    await asyncio.sleep(0.1)
    after = decoder.rows
    await asyncio.sleep(0.3)
    assert decoder.rows == after


async def test_a_full_queue_refuses_a_new_stream_and_delays_one_that_is_admitted() -> None:
    gate = asyncio.Event()
    gate.set()

    async def gated(pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        await gate.wait()
        return await toys.decode(pieces)

    model = toys.toy_model(max_queue_rows=4, decode=gated)
    core = Core([model], max_request_rows=1024)
    stream = core.sample_stream("", "", 6, chunk_rows=2, seed=1, first_row=0, temperature=1.0)
    first, done = await anext(stream)
    assert (first, len(done.images)) == (0, 2)
    gate.clear()
    await settle()
    others = [asyncio.ensure_future(model.decoder.submit(np.zeros((2, 2), np.float32))) for _ in range(4)]
    await settle()
    rest: list[tuple[int, Sampled]] = []

    async def read() -> None:
        rest.extend([chunk async for chunk in stream])

    reader = asyncio.ensure_future(read())
    await asyncio.sleep(0.05)
    gate.set()
    await reader
    assert [row for row, _ in rest] == [2, 4]
    await asyncio.gather(*others, return_exceptions=True)
    await core.close()


async def test_a_stream_has_the_deadline_of_the_whole(served: Served) -> None:
    call = served.stub.SampleStream(vae_pb2.SampleStreamRequest(count=2**40), timeout=0.3)
    with pytest.raises(aio.AioRpcError) as late:
        async for _ in call:
            pass
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (vae_pb2.SampleStreamRequest(), "count: expected at least 1 row"),
        (vae_pb2.SampleStreamRequest(count=1, dtype=vae_pb2.DTYPE_FLOAT16), "dtype: expected"),
        (vae_pb2.SampleStreamRequest(count=2**63, first_row=2**63 + 1), "first_row"),
    ],
)
async def test_a_stream_that_cannot_be_is_refused(
    served: Served, request_: vae_pb2.SampleStreamRequest, text: str
) -> None:
    with pytest.raises(aio.AioRpcError, match=text) as refused:
        await anext(aiter(served.stub.SampleStream(request_)))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def encode_request(rows: int, first: int = 0) -> vae_pb2.EncodeStreamRequest:
    return vae_pb2.EncodeStreamRequest(images=to_tensor(images(rows)), seed=1, first_row=first)


async def test_each_request_of_a_stream_has_its_answer_in_order(served: Served) -> None:
    sizes = [1, 40, 2, 3, 17, 1, 1, 5]
    answers = served.stub.EncodeStream(iter([encode_request(size) for size in sizes]))
    for size in sizes:
        found = await answers.read()
        assert isinstance(found, vae_pb2.EncodeStreamResponse)
        expected = await served.stub.Encode(vae_pb2.EncodeRequest(images=to_tensor(images(size)), seed=1))
        assert found.mean == expected.mean
        assert found.latents == expected.latents
    assert await answers.read() is aio.EOF


async def test_a_caller_may_wait_for_an_answer_before_the_next_request(served: Served) -> None:
    call = served.stub.EncodeStream()
    for size in (1, 2, 3):
        await call.write(encode_request(size))
        answer = await asyncio.wait_for(call.read(), 5)
        assert isinstance(answer, vae_pb2.EncodeStreamResponse)
        assert answer.mean.shape[0] == size
    await call.done_writing()
    assert await call.read() is aio.EOF


async def test_a_bad_request_ends_the_stream_after_the_answers_before_it(served: Served) -> None:
    bad = vae_pb2.EncodeStreamRequest(images=to_tensor(np.zeros((1, 9, 9), np.uint8)))
    call = served.stub.EncodeStream(iter([encode_request(1), encode_request(2), bad, encode_request(3)]))
    answers = aiter(call)
    sizes = [(await anext(answers)).mean.shape[0] for _ in range(2)]
    with pytest.raises(aio.AioRpcError, match="images: expected shape") as refused:
        await anext(answers)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sizes == [1, 2]


async def test_an_idle_stream_ends_with_unavailable_when_the_server_drains(served: Served) -> None:
    call = served.stub.EncodeStream()
    await call.write(encode_request(2))
    assert isinstance(await call.read(), vae_pb2.EncodeStreamResponse)
    began = asyncio.get_running_loop().time()
    await served.edge.stop(30)
    assert asyncio.get_running_loop().time() - began < 5
    assert await call.code() is grpc.StatusCode.UNAVAILABLE
    assert "draining" in (await call.details() or "")


async def test_a_stream_that_is_being_answered_ends_after_its_chunk_when_the_server_stops(served: Served) -> None:
    call = served.stub.SampleStream(vae_pb2.SampleStreamRequest(count=10**7, chunk_rows=10, seed=1))
    chunks = aiter(call)
    rows = (await anext(chunks)).images.shape[0]
    stopping = asyncio.ensure_future(served.edge.stop(30))
    with contextlib.suppress(aio.AioRpcError):
        async for chunk in chunks:
            assert chunk.first_row == rows  # nothing is missing: the caller may go on from here
            rows += chunk.images.shape[0]
    assert (await call.code(), await call.details()) == (UNAVAILABLE, "the server is stopping: this stream ends here")
    await stopping


async def test_a_stream_is_finished_by_a_worker_that_leaves(served: Served) -> None:
    call = served.stub.SampleStream(vae_pb2.SampleStreamRequest(count=2000, chunk_rows=10))
    chunks = aiter(call)
    rows = (await anext(chunks)).images.shape[0]
    leaving = asyncio.ensure_future(served.edge.leave(30))
    async for chunk in chunks:
        rows += chunk.images.shape[0]
    assert rows == 2000
    await leaving


async def test_a_stream_that_takes_too_long_for_a_worker_that_leaves_is_unavailable(served: Served) -> None:
    call = served.stub.SampleStream(vae_pb2.SampleStreamRequest(count=10**7, chunk_rows=10))
    chunks = aiter(call)
    await anext(chunks)
    leaving = asyncio.ensure_future(served.edge.leave(0.2))
    with pytest.raises(aio.AioRpcError, match="this stream ends here"):
        _ = [chunk async for chunk in chunks]
    assert await call.code() is UNAVAILABLE
    await leaving


def floats(tensor: vae_pb2.Tensor) -> NDArray[np.float64]:
    return from_tensor("tensor", tensor).astype(np.float64)


async def test_scores_are_those_of_the_toy(served: Served) -> None:
    sent = images(5)
    request = vae_pb2.ScoreRequest(images=to_tensor(sent), importance_samples=3, seed=9, first_row=2)
    found = await served.stub.Score(request)
    elbo, kl = floats(found.elbo), floats(found.kl)
    np.testing.assert_allclose(elbo, -(floats(found.reconstruction) + kl), rtol=1e-5)
    mean = (sent.astype(np.float64) / 255).reshape(5, 6)[:, [0, 5]]
    np.testing.assert_allclose(kl, 0.5 * (mean**2 + np.exp(-mean) - 1 + mean).sum(1), rtol=1e-5)
    assert (found.setting, found.seed, found.version) == ("grey", 9, "3")
    expected = np.interp(elbo, [-9.0, -5.0, -1.0], [0.0, 50.0, 100.0])
    np.testing.assert_allclose(floats(found.percentile), expected, rtol=1e-4)
    alone = await served.stub.Score(
        vae_pb2.ScoreRequest(images=to_tensor(sent[3:4]), importance_samples=3, seed=9, first_row=5)
    )
    assert alone.log_likelihood.data == found.log_likelihood.data[12:16]


async def test_more_draws_than_a_batch_are_scored(served: Served, decoder: Counted) -> None:
    await served.stub.Score(vae_pb2.ScoreRequest(images=to_tensor(images(3)), importance_samples=700))
    assert decoder.rows == 2100


async def test_a_failure_cancels_what_comes_after_it() -> None:
    cancelled = []

    async def answer(number: int) -> int:
        try:
            await asyncio.sleep(0 if number < 2 else 60)
        except asyncio.CancelledError:
            cancelled.append(number)
            raise
        if number == 1:
            raise ValueError("no")
        return number

    async def requests() -> AsyncIterator[int]:
        for number in range(100):
            yield number

    answers = in_order(requests(), answer, 4)
    assert await anext(answers) == 0
    with pytest.raises(ValueError, match="no"):
        await anext(answers)
    assert cancelled
    assert max(cancelled) < 7  # nothing was read that nobody waits for


@pytest.mark.parametrize("in_flight", [1, 4])
async def test_no_more_are_answered_at_a_time_than_is_said(in_flight: int) -> None:
    running = peak = 0

    async def answer(number: int) -> int:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.001)
        running -= 1
        return number

    async def requests() -> AsyncIterator[int]:
        for number in range(20):
            yield number

    assert [number async for number in in_order(requests(), answer, in_flight)] == list(range(20))
    assert peak == in_flight
