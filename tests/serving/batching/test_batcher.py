"""The batcher with a toy engine and no network: each caller gets its own rows, whatever happens to its neighbours."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from serving.batching import Turn
from serving.batching.batcher import QUIET_TURNS
from serving.batching.delivery import Rows
from tests.serving.batching.toys import (
    Clock,
    ToyEngine,
    assert_own_rows,
    batching,
    measure,
    rows,
    settle,
    start,
)
from vaeport.errors import OverloadedError, UnavailableError


async def test_waiting_rows_are_computed_together_and_each_caller_gets_its_own(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        sent = [rows(0), rows(1), rows(10), rows(11), rows(20), rows(30)]
        calls = [await start(batcher, one) for one in sent]
        await engine.release()
        for one, call in zip(sent, calls, strict=True):
            assert_own_rows(one, await call)
    assert engine.sizes == [1, 4, 1]  # the first one alone, all that waited then, then the rest


async def test_an_idle_engine_starts_at_once() -> None:
    engine = ToyEngine(Clock())
    async with batching(engine) as batcher:
        assert_own_rows(rows(1), await batcher.submit(rows(1)))
        assert_own_rows(rows(2), await batcher.submit(rows(2)))
    assert engine.sizes == [1, 1]
    assert engine.clock.made == 0


async def test_rows_are_counted_not_requests(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        calls = [await start(batcher, one) for one in (rows(0), *(rows(i, i, i) for i in (1, 2, 3)))]
        await engine.release()
        await asyncio.gather(*calls)
    assert engine.sizes == [1, 4, 4, 1]


async def test_a_request_larger_than_a_batch_is_split_and_joined_in_order() -> None:
    engine = ToyEngine(Clock(), cost=lambda rows: rows)
    async with batching(engine) as batcher:
        sent = rows(*range(11))
        got = await batcher.submit(sent)
    assert_own_rows(sent, got)
    assert engine.sizes == [4, 4, 3]
    assert (got.queue_seconds, got.compute_seconds, got.batch_rows) == (0.0, 11.0, 4)


async def test_timings_say_how_long_rows_waited_and_computed(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        first, second = await start(batcher, rows(1)), await start(batcher, rows(2, 3))
        await engine.finish(2.0)
        await engine.finish(0.5)
        one, two = await first, await second
    assert (one.queue_seconds, one.compute_seconds, one.batch_rows) == (0.0, 2.0, 1)
    assert (two.queue_seconds, two.compute_seconds, two.batch_rows) == (2.0, 0.5, 2)


# Admission


async def test_a_queue_full_of_rows_refuses_at_once_and_says_when_to_come_back(engine: ToyEngine) -> None:
    async with batching(engine, max_batch_rows=2, max_queue_rows=5) as batcher:
        await measure(batcher, engine, 2, 3.0)
        running, waiting = await start(batcher, rows(1, 2)), await start(batcher, rows(3, 4, 5, 6))
        engine.clock.advance(1.0)
        assert batcher.queued_rows == 4
        with pytest.raises(OverloadedError, match="4 rows wait, and 2 more would exceed 5") as refused:
            await batcher.submit(rows(7, 8))
        assert refused.value.retry_after == pytest.approx(8.0)  # 2 of what runs, 6 of what waits
        await engine.release()
        await asyncio.gather(running, waiting)


async def test_a_queue_full_of_bytes_refuses_but_a_larger_request_alone_may_wait(engine: ToyEngine) -> None:
    async with batching(engine, max_queue_bytes=24) as batcher:
        running, waiting = await start(batcher, rows(0)), await start(batcher, rows(1, 2, 3, 4))
        assert batcher.queued_bytes == 32
        with pytest.raises(OverloadedError, match="32 bytes wait, and 8 more would exceed 24"):
            await batcher.submit(rows(5))
        await engine.release()
        await asyncio.gather(running, waiting)


async def test_the_bytes_of_a_split_request_count_until_its_last_row_is_taken(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        call = await start(batcher, rows(1, 2, 3, 4, 5))
        assert (batcher.queued_rows, batcher.queued_bytes) == (1, 40)
        await engine.finish()
        assert (batcher.queued_rows, batcher.queued_bytes) == (0, 0)
        await engine.release()
        await call


# Fairness


async def test_a_single_row_waits_for_one_batch_of_a_large_request_not_for_all(engine: ToyEngine) -> None:
    async with batching(engine, max_batch_rows=8, max_queue_rows=2000) as batcher:
        large = await start(batcher, rows(*range(1024)))
        single = await start(batcher, rows(-1))
        await engine.finish()
        assert engine.batches[1] == [-1, *range(8, 15)]  # and the batch is full
        await engine.finish()
        assert_own_rows(rows(-1), await single)
        assert not large.done()
        await engine.release()
        assert_own_rows(rows(*range(1024)), await large)
    assert len(engine.batches) == 129  # 1,025 rows in batches of 8


async def test_half_of_each_batch_is_for_large_requests_however_many_small_ones_wait(engine: ToyEngine) -> None:
    async with batching(engine, max_batch_rows=8) as batcher:
        calls = [await start(batcher, rows(0)), *[await start(batcher, rows(-i)) for i in range(1, 20)]]
        calls.append(await start(batcher, rows(*range(1, 13))))
        await engine.finish()
        assert engine.batches[1] == [-1, -2, -3, -4, 1, 2, 3, 4]
        await engine.release()
        await asyncio.gather(*calls)
    assert engine.sizes == [1, 8, 8, 8, 7]


async def test_batches_of_one_row_serve_large_and_small_requests_in_turn(engine: ToyEngine) -> None:
    async with batching(engine, max_batch_rows=1) as batcher:
        calls = [await start(batcher, one) for one in (rows(0), rows(-1), rows(-2), rows(-3), rows(1, 2, 3))]
        await engine.release()
        await asyncio.gather(*calls)
    assert engine.batches[0] == [0]
    assert engine.seen[1:7] in ([-1, 1, -2, 2, -3, 3], [1, -1, 2, -2, 3, -3])


async def test_large_requests_finish_one_after_the_other(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        first, second = await start(batcher, rows(*range(8))), await start(batcher, rows(*range(10, 18)))
        await engine.finish()
        await engine.finish()
        assert_own_rows(rows(*range(8)), await first)
        assert not second.done()
        await engine.release()
        await second


# Engines that fail (test_halves.py has the rest)


async def test_only_the_guilty_caller_of_a_batch_gets_the_error(engine: ToyEngine) -> None:
    engine.guilty = {13.0}
    async with batching(engine, max_batch_rows=8) as batcher:
        sent = [rows(0), *[rows(i) for i in range(10, 18)]]
        calls = [await start(batcher, one, deadline=200.0) for one in sent]
        await engine.release()
        for one, call in zip(sent, calls, strict=True):
            if 13.0 in one:
                with pytest.raises(RuntimeError, match=r"the engine broke on \[13.0\]"):
                    await call
            else:
                assert_own_rows(one, await call)
    assert engine.sizes == [1, 8, 4, 2, 2, 1, 1, 4]


async def test_the_rest_of_a_guilty_request_is_not_computed(engine: ToyEngine) -> None:
    engine.guilty = {13.0}
    async with batching(engine, max_batch_rows=2) as batcher:
        calls = [await start(batcher, one) for one in (rows(1), rows(13, 14, 15), rows(4))]
        await engine.release()
        with pytest.raises(RuntimeError, match="the engine broke"):
            await calls[1]
        assert_own_rows(rows(4), await calls[2])
    assert 15.0 not in engine.seen


async def test_callers_that_leave_during_the_retries_are_not_computed_again(engine: ToyEngine) -> None:
    engine.guilty = {10.0}
    async with batching(engine) as batcher:
        calls = [await start(batcher, rows(i)) for i in (0, 10, 11, 12, 13)]
        await engine.finish()
        await engine.finish()
        assert engine.batches[-1] == [10, 11]
        for call in calls[3:]:
            call.cancel()
        await engine.finish()
        await engine.release()
        assert_own_rows(rows(11), await calls[2])
        with pytest.raises(RuntimeError):
            await calls[1]
    assert engine.sizes == [1, 4, 2, 1, 1]


@pytest.mark.parametrize(
    "answer", [None, (np.zeros((1, 2)),), (np.zeros((3, 2)), np.zeros((9, 2)))], ids=["none", "few", "many"]
)
async def test_an_engine_that_answers_nonsense_fails_its_callers_and_the_next_ones_are_served(answer: Any) -> None:
    engine = ToyEngine(Clock())

    async def wrong(pieces: Sequence[Rows]) -> Any:
        return answer

    async with batching(engine) as batcher:
        batcher._compute = wrong
        with pytest.raises((RuntimeError, TypeError)):
            await batcher.submit(rows(1, 2, 3))
        batcher._compute = engine
        assert_own_rows(rows(4), await batcher.submit(rows(4)))


# Several graphs on one engine


async def test_busy_graphs_take_turns_and_decide_on_their_rows_when_it_is_theirs(engine: ToyEngine) -> None:
    turn, other = Turn(), ToyEngine(engine.clock, held=True)
    async with batching(engine, turn=turn) as encoder, batching(other, turn=turn) as decoder:
        encoding = [await start(encoder, rows(*range(8)))]
        decoding = [await start(decoder, rows(1)), await start(decoder, rows(2))]
        assert decoder.queued_rows == 2  # the engine is the encoder's, so they may still leave
        assert other.batches == []
        await engine.finish()
        assert (engine.batches, other.batches) == ([[0, 1, 2, 3]], [[1, 2]])
        await other.finish()
        assert len(engine.batches) == 2
        await engine.finish()
        await asyncio.gather(*encoding, *decoding)


# A delay, for those who want one


async def test_with_a_delay_a_free_engine_waits_for_a_full_batch_or_until_the_delay_is_over() -> None:
    engine = ToyEngine(Clock())
    async with batching(engine, max_delay=0.010) as batcher:
        first = await start(batcher, rows(1))
        engine.clock.advance(0.009)
        second = await start(batcher, rows(2))
        assert engine.batches == []
        engine.clock.advance(0.0011)
        await settle()
        assert engine.batches == [[1, 2]]
        calls = [await start(batcher, rows(1, 2)), await start(batcher, rows(3, 4))]
        assert engine.batches[1:] == [[1, 2, 3, 4]]
        await asyncio.gather(first, second, *calls)


async def test_a_delay_costs_nobodys_deadline() -> None:
    engine = ToyEngine(Clock())
    async with batching(engine, max_delay=1.0) as batcher:
        await measure(batcher, engine, 4, 0.1)
        hurried = await start(batcher, rows(5), deadline=engine.clock.now + 0.5)
        engine.clock.advance(0.3)
        await settle()
        assert not hurried.done()
        engine.clock.advance(0.1)
        await settle()
        assert_own_rows(rows(5), await hurried)


async def test_closing_and_cancelling_end_a_delay(caplog: pytest.LogCaptureFixture) -> None:
    engine = ToyEngine(Clock())
    async with batching(engine, max_delay=1.0) as batcher:
        leaving = await start(batcher, rows(1))
        leaving.cancel()
        await settle()
        waiting = await start(batcher, rows(2))
        await batcher.close()
        with pytest.raises(UnavailableError):
            await waiting
    assert engine.batches == []
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_batches_shrink_when_told_to_and_never_grow(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        first = await start(batcher, rows(0))
        waiting = [await start(batcher, rows(number, number + 1)) for number in (10, 20, 30)]
        batcher.limit_batches(3)
        batcher.limit_batches(4)
        await engine.release()
        assert_own_rows(rows(0), await first)
        for number, call in zip((10, 20, 30), waiting, strict=True):
            assert_own_rows(rows(number, number + 1), await call)
    assert engine.sizes == [1, 3, 3]


@pytest.mark.parametrize("turns", [1, QUIET_TURNS])
async def test_what_arrives_turn_by_turn_is_one_batch(turns: int) -> None:
    assert await sizes_of_arrivals(turns) == [5]


async def test_a_caller_is_waited_for_no_longer_than_some_quiet_turns() -> None:
    assert await sizes_of_arrivals(QUIET_TURNS + 1) == [1] * 5


async def test_gathering_costs_nobodys_deadline() -> None:
    engine = ToyEngine(Clock(), cost=lambda rows: 1e-3 * rows)
    async with batching(engine, max_batch_rows=8) as batcher:
        await measure(batcher, engine, 4, 4e-3)
        hurried = asyncio.ensure_future(batcher.submit(rows(0), engine.clock.now + 5.5e-3))
        others = []
        for i in range(1, 5):
            await asyncio.sleep(0)
            engine.clock.advance(0.3e-3)
            others.append(asyncio.ensure_future(batcher.submit(rows(i))))
        assert_own_rows(rows(0), await hurried)
        await asyncio.gather(*others)
    assert engine.sizes[1] < 5


async def sizes_of_arrivals(turns: int) -> list[int]:
    """The batches that five single rows make, which arrive so many turns of the loop after each other."""
    engine = ToyEngine(Clock())
    async with batching(engine, max_batch_rows=8) as batcher:
        calls = []
        for i in range(5):
            calls.append(asyncio.ensure_future(batcher.submit(rows(i))))
            for _ in range(turns):
                await asyncio.sleep(0)
        await asyncio.gather(*calls)
    return engine.sizes
