"""Deadlines: who cannot be answered in time leaves at once, also while a batch runs, and costs nobody anything."""

import asyncio

import pytest

from serving.batching import Batcher, Limits, Turn
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
from vaeport.errors import DeadlineExceededError, OverloadedError


async def test_rows_behind_a_slow_batch_leave_at_their_deadline_and_are_never_computed(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        running = await start(batcher, rows(1))
        late = await start(batcher, rows(2, 3), deadline=engine.clock.now + 0.010)
        engine.clock.advance(0.009)
        await settle()
        assert (batcher.queued_rows, batcher.queued_bytes) == (2, 16)
        engine.clock.advance(0.001)
        assert (batcher.queued_rows, batcher.queued_bytes) == (0, 0)
        await settle()
        with pytest.raises(DeadlineExceededError, match="while 2 rows waited"):
            await late
        await engine.finish(2.0)
        assert_own_rows(rows(1), await running)
    assert engine.seen == [1.0]


async def test_on_a_real_clock_a_10_ms_deadline_does_not_wait_for_the_batch() -> None:
    engine = ToyEngine(Clock(), held=True)
    batcher = Batcher(engine, Limits(4, 100, 1000))  # on the loop's own clock
    running = await start(batcher, rows(1))
    deadline = asyncio.get_running_loop().time() + 0.010
    with pytest.raises(DeadlineExceededError):
        await asyncio.wait_for(batcher.submit(rows(2), deadline), 10)
    assert asyncio.get_running_loop().time() >= deadline - 0.001
    assert engine.busy
    assert (batcher.queued_rows, batcher.queued_bytes) == (0, 0)
    await engine.release()
    await running
    await batcher.close()


async def test_rows_leave_at_the_last_moment_from_which_their_cost_lets_them_be_in_time(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        await measure(batcher, engine, 4, 0.4)  # so one row takes 0.1 s at least
        running = await start(batcher, rows(1))
        late = await start(batcher, rows(2), deadline=engine.clock.now + 1.0)
        engine.clock.advance(0.89)
        await settle()
        assert not late.done()
        engine.clock.advance(0.02)
        await settle()
        with pytest.raises(DeadlineExceededError):
            await late
        await engine.release()
        await running


async def test_a_deadline_that_has_passed_is_refused_on_arrival(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        with pytest.raises(DeadlineExceededError):
            await batcher.submit(rows(1), deadline=engine.clock.now - 0.001)
    assert engine.batches == []


async def test_what_cannot_be_met_after_what_runs_and_waits_is_refused_on_arrival(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        await measure(batcher, engine, 4, 1.0)
        now = engine.clock.now
        with pytest.raises(DeadlineExceededError, match=r"in 0\.9 s; .*would take 1 s"):
            await batcher.submit(rows(1, 2, 3, 4), deadline=now + 0.9)
        running, waiting = await start(batcher, rows(1, 2, 3, 4)), await start(batcher, rows(5, 6, 7, 8))
        engine.clock.advance(0.5)
        with pytest.raises(DeadlineExceededError, match=r"after 4 that wait, would take 2\.5 s"):
            await batcher.submit(rows(9, 9, 9, 9), deadline=now + 2.9)
        assert batcher.queued_rows == 4
        last = await start(batcher, rows(9, 9, 9, 9), deadline=now + 3.2)
        for seconds in (0.5, 1.0, 1.0):
            await engine.finish(seconds)
        assert_own_rows(rows(9, 9, 9, 9), await last)
        await asyncio.gather(running, waiting)


async def test_who_must_wait_for_others_is_admitted_with_a_tenth_of_that_to_spare(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        await measure(batcher, engine, 4, 1.0)
        now = engine.clock.now
        calls = [await start(batcher, rows(1, 2, 3, 4), deadline=now + 1.01)]  # alone, one may try
        calls += [await start(batcher, rows(1, 2, 3, 4)) for _ in range(3)]
        with pytest.raises(DeadlineExceededError, match="would take 5 s"):
            await batcher.submit(rows(5, 6, 7, 8), deadline=now + 5.39)
        calls.append(await start(batcher, rows(5, 6, 7, 8), deadline=now + 5.41))
        for _ in range(5):
            await engine.finish(1.0)
        assert [call.exception() for call in calls] == [None] * 5


async def test_a_small_request_is_not_refused_for_large_ones_that_it_need_not_wait_for(engine: ToyEngine) -> None:
    async with batching(engine, max_batch_rows=8) as batcher:
        await measure(batcher, engine, 8, 1.0)
        now = engine.clock.now
        calls = [await start(batcher, rows(*range(80)))]
        single = await start(batcher, rows(-1), deadline=now + 2.2)
        with pytest.raises(DeadlineExceededError):
            await batcher.submit(rows(*range(8)), deadline=now + 2.2)
        await engine.finish(1.0)
        await engine.finish(1.0)
        assert_own_rows(rows(-1), await single)
        await engine.release()
        await asyncio.gather(*calls)


async def test_a_small_request_is_admitted_for_the_smallest_batch_that_it_can_be_part_of(engine: ToyEngine) -> None:
    async with batching(engine, max_batch_rows=8) as batcher:
        await measure(batcher, engine, 8, 1.0)
        large = await start(batcher, rows(*range(80)))
        with pytest.raises(DeadlineExceededError, match=r"would take 1\.12 s"):
            await batcher.submit(rows(-1), deadline=engine.clock.now + 1.2)
        single = await start(batcher, rows(-1), deadline=engine.clock.now + 1.3)
        await engine.finish(1.0)
        await engine.finish(0.25)
        assert_own_rows(rows(-1), await single)
        await engine.release()
        await large
    assert engine.batches[2][0] == -1
    assert len(engine.batches[2]) < 8


async def test_nobody_is_refused_before_a_cost_is_measured(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        call = await start(batcher, rows(1), deadline=engine.clock.now + 1e-3)
        await engine.finish()
        assert_own_rows(rows(1), await call)


async def test_a_row_too_late_for_a_full_batch_gets_a_smaller_one(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        await measure(batcher, engine, 4, 1.0)
        running = await start(batcher, rows(1))
        hurried = await start(batcher, rows(2), deadline=engine.clock.now + 0.85)
        others = await start(batcher, rows(3, 4, 5, 6))
        await engine.finish(0.25)
        await engine.finish(0.5)
        assert_own_rows(rows(2), await hurried)
        await engine.release()
        await asyncio.gather(running, others)
    assert engine.batches[2:4] == [[2, 3], [4, 5, 6]]


async def test_a_row_too_late_for_any_batch_leaves_before_it_and_costs_no_compute(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        await measure(batcher, engine, 4, 1.0)
        running = await start(batcher, rows(1))
        late = await start(batcher, rows(2), deadline=engine.clock.now + 2.0)
        others = await start(batcher, rows(3, 4, 5, 6))
        engine.clock.now += 1.8  # the timer of its last moment is late
        await engine.finish()
        with pytest.raises(DeadlineExceededError):
            await late
        await engine.release()
        await asyncio.gather(running, others)
    assert 2.0 not in engine.seen


async def test_a_deadline_that_passes_while_the_rows_are_computed_is_answered_then(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        first = await start(batcher, rows(1))
        late, neighbour = await start(batcher, rows(2), deadline=engine.clock.now + 1.0), await start(batcher, rows(3))
        await engine.finish(0.5)
        assert engine.batches[1] == [2, 3]
        engine.clock.advance(0.5)
        await settle()
        with pytest.raises(DeadlineExceededError, match="while the rows were computed"):
            await late
        await engine.finish()
        assert_own_rows(rows(3), await neighbour)
        await first


async def test_the_rest_of_a_split_request_leaves_when_it_cannot_be_finished_in_time(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        await measure(batcher, engine, 4, 1.0)
        late = await start(batcher, rows(*range(12)), deadline=engine.clock.now + 3.5)
        await engine.finish(1.8)  # slower than measured: two more batches are too many
        with pytest.raises(DeadlineExceededError):
            await late
        assert batcher.queued_rows == 0
        assert not engine.busy


async def test_an_idle_engine_is_not_held_for_ever_to_a_slow_batch(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        await measure(batcher, engine, 1, 2.0)  # the first batch of a process, say
        engine.clock.advance(19.0)
        with pytest.raises(DeadlineExceededError):
            await batcher.submit(rows(1), deadline=engine.clock.now + 1.0)
        engine.clock.advance(1.1)  # ten times its cost ago
        call = await start(batcher, rows(1), deadline=engine.clock.now + 1.0)
        await engine.finish(0.1)
        assert_own_rows(rows(1), await call)
        call = await start(batcher, rows(2), deadline=engine.clock.now + 1.0)
        await engine.finish(0.1)
        assert_own_rows(rows(2), await call)


async def test_a_large_request_is_tried_again_just_as_well(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        await measure(batcher, engine, 4, 2.0)
        engine.clock.advance(60.1)
        call = await start(batcher, rows(*range(12)), deadline=engine.clock.now + 1.0)
        for _ in range(3):
            await engine.finish(0.1)
        assert_own_rows(rows(*range(12)), await call)


async def test_deadlines_count_while_another_graph_has_the_engine(engine: ToyEngine) -> None:
    turn, other = Turn(), ToyEngine(engine.clock, held=True)
    async with batching(engine, turn=turn) as encoder, batching(other, turn=turn) as decoder:
        await measure(encoder, engine, 4, 2.0)
        encoding = await start(encoder, rows(1, 2, 3, 4))
        with pytest.raises(DeadlineExceededError):
            await decoder.submit(rows(1), deadline=engine.clock.now + 1.9)
        late = await start(decoder, rows(1), deadline=engine.clock.now + 2.1)
        engine.clock.advance(2.2)
        await settle()
        assert decoder.queued_rows == 0
        with pytest.raises(DeadlineExceededError):
            await late
        await engine.finish()
        await encoding
    assert other.batches == []


async def test_one_timer_serves_many_deadlines(engine: ToyEngine) -> None:
    async with batching(engine, max_queue_rows=2000) as batcher:
        calls = [await start(batcher, rows(0))]
        calls += [asyncio.create_task(batcher.submit(rows(i), engine.clock.now + 30 + i)) for i in range(1000)]
        await settle()
        assert engine.clock.made == 1
        assert len(engine.clock.timers) == 1
        await engine.release()
        await asyncio.gather(*calls)
        assert engine.clock.timers == []
    assert engine.clock.made == 1


async def test_answered_requests_do_not_pile_up_behind_one_that_waits(engine: ToyEngine) -> None:
    async with batching(engine, max_batch_rows=8) as batcher:
        running = await start(batcher, rows(0), deadline=1e9)
        for i in range(1000):
            call = await start_cancelled(batcher, i)
            assert call.cancelled()
        assert len(batcher._deadlines._heap) < 100
        await engine.release()
        await running


async def start_cancelled(batcher: Batcher, value: float) -> "asyncio.Task[object]":
    call = asyncio.create_task(batcher.submit(rows(value), 200.0))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    return call


async def test_expiring_in_any_order_answers_each_at_its_own_deadline(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        running = await start(batcher, rows(0))
        began = engine.clock.now
        seconds = [3, 1, 4, 1, 5, 9, 2, 6]
        calls = [await start(batcher, rows(i), began + second) for i, second in enumerate(seconds)]
        for now in range(1, 10):
            engine.clock.advance(1.0)
            await settle()
            assert [call.done() for call in calls] == [second <= now for second in seconds]
        await asyncio.gather(*calls, return_exceptions=True)
        await engine.release()
        await running


async def test_a_full_queue_is_said_to_be_full_whatever_the_deadline(engine: ToyEngine) -> None:
    async with batching(engine, max_queue_rows=2) as batcher:
        calls = [await start(batcher, rows(1)), await start(batcher, rows(2, 3))]
        with pytest.raises(OverloadedError):
            await batcher.submit(rows(4), deadline=engine.clock.now - 1.0)
        await engine.release()
        await asyncio.gather(*calls)
