"""Leaving, at any moment: cancelled callers, the end of the batcher, a defect. Nobody waits for ever."""

import asyncio
import gc
from typing import Any

import pytest

from serving.batching import Batcher, Limits
from serving.batching.delivery import Request
from tests.serving.batching.toys import Clock, ToyEngine, assert_empty, assert_own_rows, batching, rows, settle, start
from vaeport.errors import UnavailableError

# Cancellation


async def test_a_cancelled_caller_leaves_the_queue_at_once_and_its_rows_are_never_computed(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        running, leaving, staying = [await start(batcher, one) for one in (rows(1), rows(2, 3), rows(4))]
        leaving.cancel()
        await settle()
        assert (batcher.queued_rows, batcher.queued_bytes) == (1, 8)
        await engine.release()
        assert_own_rows(rows(1), await running)
        assert_own_rows(rows(4), await staying)
    assert 2.0 not in engine.seen


async def test_a_caller_cancelled_while_its_batch_runs_harms_no_neighbour(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        first, leaving, staying = [await start(batcher, rows(i), deadline=200.0) for i in (1, 2, 3)]
        await engine.finish()
        assert engine.batches[1] == [2, 3]
        leaving.cancel()
        await settle()
        assert len(batcher._deadlines) == 1
        await engine.finish()
        assert_own_rows(rows(1), await first)
        assert_own_rows(rows(3), await staying)
        await engine.release()
        assert_own_rows(rows(5), await batcher.submit(rows(5)))


async def test_a_split_caller_cancelled_between_its_batches_takes_its_rest_along(engine: ToyEngine) -> None:
    async with batching(engine, max_batch_rows=2) as batcher:
        leaving = await start(batcher, rows(1, 2, 3, 4, 5))
        assert batcher.queued_rows == 3
        leaving.cancel()
        await settle()
        assert (batcher.queued_rows, batcher.queued_bytes) == (0, 0)
        await engine.release()
        assert_own_rows(rows(9), await batcher.submit(rows(9)))
    assert engine.seen == [1.0, 2.0, 9.0]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_caller_cancelled_while_its_answer_is_on_its_way_is_cancelled(engine: ToyEngine, fails: bool) -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with batching(engine) as batcher:
        leaving = await start(batcher, rows(1))
        engine.guilty = {1.0} if fails else set()
        finishing = asyncio.create_task(engine.finish())
        await asyncio.sleep(0)  # the batcher is the next to run, and answers
        asyncio.get_running_loop().call_soon(leaving.cancel)  # before the caller wakes up
        await finishing
        assert leaving.cancelled()
    del leaving
    gc.collect()
    assert complaints == []  # of an exception that nobody has asked for


async def test_ten_thousand_cancelled_calls_leave_nothing(engine: ToyEngine) -> None:
    async with batching(engine, max_batch_rows=64, max_queue_rows=20_000) as batcher:
        tasks = asyncio.all_tasks()
        calls = [asyncio.create_task(batcher.submit(rows(*range(i % 100 + 1)), 200.0 + i)) for i in range(300)]
        calls += [asyncio.create_task(batcher.submit(rows(i), 200.0 + i % 77)) for i in range(4000)]
        await settle()
        for call in calls[::2]:
            call.cancel()
        await engine.finish()
        for call in calls[1::2]:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert_empty_but_running(batcher)
        for _ in range(6):
            calls = [asyncio.create_task(batcher.submit(rows(i), 300.0)) for i in range(1000)]
            await asyncio.sleep(0)
            for call in reversed(calls):
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert_empty_but_running(batcher)
        await engine.release()
        await settle()
        del calls, call
        gc.collect()
        assert_empty(batcher)
        assert asyncio.all_tasks() == tasks
        assert engine.clock.timers == []
        assert not [thing for thing in gc.get_objects() if type(thing) is Request]


def assert_empty_but_running(batcher: Batcher) -> None:
    assert (batcher.queued_rows, batcher.queued_bytes, len(batcher._deadlines)) == (0, 0, 0)
    assert batcher._queue.waiting() == []


# The end


@pytest.mark.parametrize("batches", [0, 1, 2])
async def test_closing_answers_everyone_who_waits_or_is_computed(engine: ToyEngine, batches: int) -> None:
    async with batching(engine, max_batch_rows=2) as batcher:
        sent = [rows(0), *[rows(*range(i)) for i in range(1, 6)]]
        calls = [await start(batcher, one, deadline=200.0) for one in sent]
        for _ in range(batches):
            await engine.finish()
        answered = [call for call in calls if call.done()]
        await asyncio.gather(batcher.close(), batcher.close())
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(r) for r in results].count(UnavailableError) == len(calls) - len(answered)
        assert_empty(batcher)
        with pytest.raises(UnavailableError):
            await batcher.submit(rows(1))


async def test_closing_before_the_first_step_answers_too() -> None:
    batcher = Batcher(ToyEngine(Clock()), Limits(4, 10, 1000))
    call = asyncio.create_task(batcher.submit(rows(1)))
    await batcher.close()
    with pytest.raises(UnavailableError):
        await call


async def test_a_defect_of_the_batcher_itself_leaves_nobody_waiting(
    engine: ToyEngine, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with batching(engine) as batcher:
        running = await start(batcher, rows(1))
        waiting = await start(batcher, rows(2))
        monkeypatch.setattr(batcher._queue, "take", lambda *_: 1 / 0)
        await engine.finish()
        assert_own_rows(rows(1), await running)
        for call in (waiting, batcher.submit(rows(3))):
            with pytest.raises(UnavailableError, match="the batcher has failed; the worker is being replaced"):
                await call
        assert batcher.failed.is_set()
    assert "ZeroDivisionError" in caplog.text


async def test_a_batcher_that_is_closed_has_not_failed(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        await batcher.close()
        with pytest.raises(UnavailableError, match="the server is stopping"):
            await batcher.submit(rows(1))
        assert not batcher.failed.is_set()


async def test_an_engine_that_cancels_the_batcher_leaves_nobody_waiting(engine: ToyEngine) -> None:
    async with batching(engine) as batcher:
        calls = [await start(batcher, rows(1)), await start(batcher, rows(2))]
        assert engine.running is not None
        engine.running.cancel()
        await settle()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(result) for result in results] == [UnavailableError] * 2
