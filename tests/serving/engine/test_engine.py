"""The engine's thread, with graphs that have memory of their own, under the batchers that callers wait in."""

import asyncio
import threading

import numpy as np
import pytest

from serving.batching import Batcher, Limits, Turn
from serving.engine import DeviceLostError, Engine
from serving.models import batcher_of
from tests.serving.engine.toys import OUT_OF_MEMORY, SIZES, Memory, encoder, images, same
from vaeport.arrays import to_float
from vaeport.errors import UnavailableError

LOST = RuntimeError("CUDA failure 719: unspecified launch failure ; GPU=0 ; hostname=x")
LIMITS = Limits(max_batch_rows=SIZES[-1], max_queue_rows=100, max_queue_bytes=10**6)


def batcher(engine: Engine, memory: Memory) -> Batcher:
    return batcher_of(engine.call(memory.bound), engine, LIMITS, Turn())


def test_graphs_are_made_on_the_thread_that_runs_them() -> None:
    engine = Engine()
    first, second = (engine.call(threading.get_ident) for _ in range(2))
    assert first == second != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 // 0)
    engine.close()


async def test_out_of_memory_shrinks_the_batches_and_everybody_is_answered() -> None:
    engine, memory = Engine(), Memory()
    queue = batcher(engine, memory)
    memory.rows = 3
    callers = [images(5, seed) for seed in range(4)]
    answers = await asyncio.gather(*(queue.submit(rows) for rows in callers))
    for rows, answer in zip(callers, answers, strict=True):
        assert same(answer.outputs, encoder()(to_float(rows)))
    memory.ran.clear()
    answer = await queue.submit(images(7))
    assert (answer.batch_rows, memory.ran) == (2, [2, 2, 2, 1])  # the batcher cuts, not the graph
    assert not engine.lost.is_set()
    await queue.close()
    engine.close()


async def test_a_lost_device_refuses_who_waits_and_who_comes_and_says_so() -> None:
    engine, memory = Engine(), Memory()
    queue = batcher(engine, memory)
    memory.errors = [LOST]
    waiting = [asyncio.ensure_future(queue.submit(images(8, seed))) for seed in range(3)]
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [DeviceLostError] * 3
    assert engine.lost.is_set()
    with pytest.raises(UnavailableError, match="the device is lost"):
        await queue.submit(images(1))
    assert memory.ran == []  # the device was left alone
    await queue.close()
    engine.close()


async def test_an_error_of_some_rows_does_not_lose_the_device() -> None:
    engine, memory = Engine(), Memory()
    queue = batcher(engine, memory)
    memory.errors = [ValueError("bad rows")]
    with pytest.raises(ValueError, match="bad rows"):
        await queue.submit(images(1))
    assert np.array_equal((await queue.submit(images(1))).outputs[0], encoder()(to_float(images(1)))[0])
    assert not engine.lost.is_set()
    await queue.close()
    engine.close()


async def test_a_batch_is_never_larger_than_what_fitted_at_the_start() -> None:
    engine, memory = Engine(), Memory(rows=7)
    queue = batcher(engine, memory)
    assert (await queue.submit(images(8))).batch_rows == 4
    await queue.close()
    engine.close()


async def test_a_run_that_is_out_of_memory_once_is_made_again() -> None:
    engine, memory = Engine(), Memory()
    queue = batcher(engine, memory)
    memory.errors = [RuntimeError(OUT_OF_MEMORY)]
    answer = await queue.submit(images(8))
    assert same(answer.outputs, encoder()(to_float(images(8))))
    assert memory.sessions == 2
    await queue.close()
    engine.close()
