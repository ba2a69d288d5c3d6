"""The batcher with a toy engine and no network: each caller gets its own rows, whatever happens to its neighbours."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.batching import Batched, Batcher
from serving.batching.batcher import Rows
from vaeport.errors import OverloadedError, UnavailableError


class ToyEngine:
    """Adds one to every value, and its negative as a second output. Runs only while the gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.seen: list[float] = []
        self.fail_on: float | None = None

    async def run(self, pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        batch = np.concatenate(pieces)
        self.batches.append(len(batch))
        self.seen += batch[:, 0].tolist()
        await self.gate.wait()
        if self.fail_on is not None and self.fail_on in batch:
            raise RuntimeError("the engine broke")
        return batch + 1, -batch


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def batching(
    engine: ToyEngine, max_batch_rows: int = 4, max_queue_rows: int = 100, clock: Clock | None = None
) -> AsyncIterator[Batcher]:
    batcher = Batcher(engine.run, max_batch_rows=max_batch_rows, max_queue_rows=max_queue_rows, clock=clock or Clock())
    batcher.start()
    yield batcher
    engine.gate.set()
    await batcher.close()
    assert batcher.queued_rows == 0


def rows(*values: float) -> Rows:
    """One row of two equal columns per value."""
    return np.array(values, np.float32)[:, np.newaxis].repeat(2, 1)


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


def assert_own_rows(sent: Rows, got: Batched) -> None:
    assert np.array_equal(got.outputs[0], sent + 1)
    assert np.array_equal(got.outputs[1], -sent)


async def test_waiting_rows_are_computed_together_and_each_caller_gets_its_own() -> None:
    engine = ToyEngine()
    engine.gate.clear()
    async with batching(engine) as batcher:
        sent = [rows(1), rows(10, 11), rows(20), rows(30)]
        calls = [asyncio.create_task(batcher.submit(r)) for r in sent]
        await settle()
        engine.gate.set()
        for one, call in zip(sent, calls, strict=True):
            assert_own_rows(one, await call)
    assert engine.batches == [4, 1]  # all that waited when the engine was free, then the rest


async def test_an_idle_engine_starts_at_once() -> None:
    engine = ToyEngine()
    async with batching(engine) as batcher:
        assert_own_rows(rows(1), await batcher.submit(rows(1)))
        assert_own_rows(rows(2), await batcher.submit(rows(2)))
    assert engine.batches == [1, 1]


async def test_rows_are_counted_not_requests() -> None:
    engine = ToyEngine()
    engine.gate.clear()
    async with batching(engine, max_batch_rows=4) as batcher:
        first = asyncio.create_task(batcher.submit(rows(0)))
        await settle()
        calls = [asyncio.create_task(batcher.submit(rows(i, i, i))) for i in (1, 2, 3)]
        await settle()
        engine.gate.set()
        await asyncio.gather(first, *calls)
    assert engine.batches == [1, 4, 4, 1]


async def test_a_request_larger_than_a_batch_is_split_and_joined_in_order() -> None:
    engine = ToyEngine()
    async with batching(engine, max_batch_rows=4) as batcher:
        sent = rows(*range(11))
        got = await batcher.submit(sent)
    assert_own_rows(sent, got)
    assert engine.batches == [4, 4, 3]
    assert got.batch_rows == 4


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    engine, clock = ToyEngine(), Clock()
    engine.gate.clear()
    async with batching(engine, max_batch_rows=2, max_queue_rows=5, clock=clock) as batcher:
        running = asyncio.create_task(batcher.submit(rows(1, 2)))
        await settle()
        clock.now += 3.0  # the batch takes 3 s: 1.5 s a row
        engine.gate.set()
        await running
        engine.gate.clear()
        running = asyncio.create_task(batcher.submit(rows(1, 2)))
        await settle()
        waiting = asyncio.create_task(batcher.submit(rows(3, 4, 5, 6)))
        await settle()
        assert batcher.queued_rows == 4
        with pytest.raises(OverloadedError, match="4 rows wait, 2 more would exceed 5") as refused:
            await batcher.submit(rows(7, 8))
        assert refused.value.retry_after == pytest.approx(6.0)
        engine.gate.set()
        await asyncio.gather(running, waiting)


async def test_timings_say_how_long_rows_waited_and_computed() -> None:
    engine, clock = ToyEngine(), Clock()
    engine.gate.clear()
    async with batching(engine, clock=clock) as batcher:
        first = asyncio.create_task(batcher.submit(rows(1)))
        await settle()
        second = asyncio.create_task(batcher.submit(rows(2, 3)))
        await settle()
        clock.now += 2.0
        engine.gate.set()
        one, two = await first, await second
    assert (one.queue_seconds, one.compute_seconds, one.batch_rows) == (0.0, 2.0, 1)
    assert (two.queue_seconds, two.compute_seconds, two.batch_rows) == (2.0, 0.0, 2)


async def test_a_cancelled_caller_leaves_the_queue_at_once_and_its_rows_are_never_computed() -> None:
    engine = ToyEngine()
    engine.gate.clear()
    async with batching(engine) as batcher:
        running = asyncio.create_task(batcher.submit(rows(1)))
        await settle()
        leaving = asyncio.create_task(batcher.submit(rows(2, 3)))
        staying = asyncio.create_task(batcher.submit(rows(4)))
        await settle()
        leaving.cancel()
        await settle()
        assert batcher.queued_rows == 1
        engine.gate.set()
        assert_own_rows(rows(1), await running)
        assert_own_rows(rows(4), await staying)
    assert 2.0 not in engine.seen


async def test_a_caller_cancelled_while_its_batch_runs_harms_no_neighbour() -> None:
    engine = ToyEngine()
    engine.gate.clear()
    async with batching(engine) as batcher:
        first = asyncio.create_task(batcher.submit(rows(1)))
        await settle()
        leaving = asyncio.create_task(batcher.submit(rows(2)))
        staying = asyncio.create_task(batcher.submit(rows(3)))
        engine.gate.set()
        await first
        engine.gate.clear()
        await settle()
        leaving.cancel()
        await settle()
        engine.gate.set()
        assert_own_rows(rows(3), await staying)
        assert_own_rows(rows(5), await batcher.submit(rows(5)))


async def test_a_split_caller_cancelled_between_its_batches_takes_its_rest_along() -> None:
    engine = ToyEngine()
    engine.gate.clear()
    async with batching(engine, max_batch_rows=2) as batcher:
        leaving = asyncio.create_task(batcher.submit(rows(1, 2, 3, 4, 5)))
        await settle()
        assert batcher.queued_rows == 3
        leaving.cancel()
        await settle()
        assert batcher.queued_rows == 0
        engine.gate.set()
        assert_own_rows(rows(9), await batcher.submit(rows(9)))
    assert engine.seen == [1.0, 2.0, 9.0]


async def test_an_engine_error_reaches_the_callers_of_that_batch_and_no_others() -> None:
    engine = ToyEngine()
    engine.gate.clear()
    engine.fail_on = 13.0
    async with batching(engine, max_batch_rows=2) as batcher:
        first = asyncio.create_task(batcher.submit(rows(1)))
        await settle()
        failing = asyncio.create_task(batcher.submit(rows(13, 14, 15)))  # its rest must not be computed either
        later = asyncio.create_task(batcher.submit(rows(4)))
        await settle()
        engine.gate.set()
        assert_own_rows(rows(1), await first)
        with pytest.raises(RuntimeError, match="the engine broke"):
            await failing
        assert_own_rows(rows(4), await later)
    assert 15.0 not in engine.seen


async def test_closing_answers_everyone_who_waits() -> None:
    engine = ToyEngine()
    engine.gate.clear()
    batcher = Batcher(engine.run, max_batch_rows=2, max_queue_rows=10)
    batcher.start()
    calls = [asyncio.create_task(batcher.submit(rows(i))) for i in range(5)]
    await settle()
    await batcher.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [UnavailableError] * 5
    assert batcher.queued_rows == 0


@pytest.mark.parametrize(
    "answer",
    [None, (np.zeros((1, 2)),), (np.zeros((3, 2)), np.zeros((9, 2)))],
    ids=["none", "few", "many"],
)
async def test_an_engine_that_answers_nonsense_fails_its_callers_and_the_next_ones_are_served(answer: Any) -> None:
    engine = ToyEngine()
    right = engine.run

    async def wrong(pieces: Sequence[Rows]) -> Any:
        return answer

    async with batching(engine) as batcher:
        batcher._run = wrong
        with pytest.raises((RuntimeError, TypeError)):
            await batcher.submit(rows(1, 2, 3))
        batcher._run = right
        assert_own_rows(rows(4), await batcher.submit(rows(4)))


async def test_a_closed_batcher_answers_at_once() -> None:
    batcher = Batcher(ToyEngine().run, max_batch_rows=2, max_queue_rows=10)
    batcher.start()
    await batcher.close()
    with pytest.raises(UnavailableError):
        await batcher.submit(rows(1))


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    max_batch_rows=st.integers(1, 8),
    cancelled=st.sets(st.integers(0, 19)),
    order=st.randoms(use_true_random=False),
)
def test_whatever_arrives_and_leaves_everyone_gets_exactly_their_own_rows(
    sizes: list[int], max_batch_rows: int, cancelled: set[int], order: random.Random
) -> None:
    async def scenario() -> None:
        engine = ToyEngine()
        async with batching(engine, max_batch_rows, max_queue_rows=1000) as batcher:
            sent = [rows(*(100.0 * i + np.arange(size))) for i, size in enumerate(sizes)]
            calls = []
            for one in sent:
                calls.append(asyncio.create_task(batcher.submit(one)))
                for _ in range(order.randrange(4)):
                    await asyncio.sleep(0)
                engine.gate.set() if order.random() < 0.5 else engine.gate.clear()
            for i in cancelled & set(range(len(calls))):
                calls[i].cancel()
            engine.gate.set()
            results = await asyncio.gather(*calls, return_exceptions=True)
            for one, result in zip(sent, results, strict=True):
                if isinstance(result, Batched):
                    assert_own_rows(one, result)
                else:
                    assert isinstance(result, asyncio.CancelledError)
        assert max(engine.batches, default=0) <= max_batch_rows

    asyncio.run(scenario())
