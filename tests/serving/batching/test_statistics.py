"""What a batcher has done, in sums."""

import asyncio
import time

import numpy as np
import pytest

from serving.batching import Batched, Batcher, Limits, Statistics
from serving.batching.delivery import Rows
from vaeport.errors import OverloadedError

LIMITS = Limits(max_batch_rows=4, max_queue_rows=8, max_queue_bytes=10**6)


def test_sums_grow_by_what_happens() -> None:
    sums = Statistics()
    sums.answered(3, 0.5, Batched((), queue_seconds=0.125, compute_seconds=0.25, batch_rows=4))
    sums.answered(1, 0.25, Batched((), queue_seconds=0.0, compute_seconds=0.25, batch_rows=4))
    sums.failed(2.0)
    sums.ran(4, 0.25)
    sums.ran(4, 0.5)
    assert (sums.success.count, sums.success.seconds) == (2, 0.75)
    assert (sums.fail.count, sums.fail.seconds) == (1, 2.0)
    assert (sums.queue.seconds, sums.compute.seconds, sums.rows) == (0.125, 0.5, 4)
    assert {rows: (batch.count, batch.seconds) for rows, batch in sums.batches.items()} == {4: (2, 0.75)}


async def test_a_batcher_counts_answers_failures_refusals_cancels_and_batches() -> None:
    computing, go_on = asyncio.Event(), asyncio.Event()

    async def compute(pieces: list[Rows]) -> tuple[Rows, ...]:  # a negative row cannot be computed
        computing.set()
        await go_on.wait()
        rows = np.concatenate(pieces)
        if (rows < 0).any():
            raise ValueError("negative")
        return (rows,)

    batcher = Batcher(compute, LIMITS)  # type: ignore[arg-type]
    before = time.time()
    running = asyncio.ensure_future(batcher.submit(np.zeros((6, 1))))
    await computing.wait()
    leaving = asyncio.ensure_future(batcher.submit(np.zeros((1, 1))))
    bad = asyncio.ensure_future(batcher.submit(np.full((1, 1), -1.0)))
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await batcher.submit(np.zeros((9, 1)))
    leaving.cancel()
    go_on.set()
    await running
    with pytest.raises(ValueError, match="negative"):
        await bad
    await batcher.close()

    done = batcher.statistics
    assert (done.success.count, done.rows) == (1, 6)
    assert done.fail.count == 3
    assert sum(rows * batch.count for rows, batch in done.batches.items()) == 6
    assert before <= done.last_run <= time.time()
    assert 0 <= done.queue.seconds <= done.success.seconds
