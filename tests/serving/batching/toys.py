"""A clock that goes when told to, an engine that ends when told to, and rows whose answer shows whose they were."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from serving.batching import Batched, Batcher, Limits, Observer, Turn
from serving.batching.delivery import Rows


@dataclass(order=True)
class Timer:
    """A call to come."""

    when: float
    number: int
    callback: Callable[..., object] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.made = 0
        self._timers: list[Timer] = []
        self._numbers = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., object]) -> Timer:
        timer = Timer(when, next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        self.made += 1
        return timer

    @property
    def timers(self) -> list[Timer]:
        """Those that will still call."""
        return [timer for timer in self._timers if not timer.cancelled]

    def advance(self, seconds: float) -> None:
        """Let time pass; whatever is due meanwhile happens at its time."""
        end = self.now + seconds
        while self._timers and self._timers[0].when <= end:
            timer = heapq.heappop(self._timers)
            self.now = max(self.now, timer.when)
            if not timer.cancelled:
                timer.callback()
        self.now = end


class ToyEngine:
    """Adds one to every value, and gives its negative as a second output.

    Held, every batch runs until `finish`. Otherwise it ends by itself, after `cost(rows)` seconds on the clock.
    """

    def __init__(self, clock: Clock, *, held: bool = False, cost: Callable[[int], float] = lambda _: 0.0) -> None:
        self.clock, self.held, self.cost = clock, held, cost
        self.batches: list[list[float]] = []  # the values of the rows that were computed, in whatever way that ended
        self.guilty: set[float] = set()
        self.broken: Exception | None = None
        self.running: asyncio.Future[None] | None = None

    async def __call__(self, pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        batch = np.concatenate(pieces)
        self.batches.append(batch[:, 0].tolist())
        if self.held:
            self.running = asyncio.get_running_loop().create_future()
            await self.running
        else:
            await asyncio.sleep(0)
            self.clock.advance(self.cost(len(batch)))
        if self.broken is not None:
            raise self.broken
        if self.guilty & set(self.batches[-1]):
            raise RuntimeError(f"the engine broke on {sorted(self.guilty & set(self.batches[-1]))}")
        return batch + 1, -batch

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]

    @property
    def seen(self) -> list[float]:
        return [value for batch in self.batches for value in batch]

    @property
    def busy(self) -> bool:
        return self.running is not None and not self.running.done()

    async def finish(self, seconds: float = 0.0) -> None:
        """Let `seconds` pass, end the batch that runs, and let everyone do what follows from it."""
        assert self.running is not None
        self.clock.advance(seconds)
        self.running.set_result(None)
        await settle()

    async def release(self) -> None:
        """End the batch that runs, and hold none any more."""
        self.held = False
        if self.busy:
            await self.finish()


@asynccontextmanager
async def batching(
    engine: ToyEngine,
    max_batch_rows: int = 4,
    max_queue_rows: int = 100,
    max_queue_bytes: int = 10**6,
    max_delay: float = 0.0,
    turn: Turn | None = None,
    observer: Observer | None = None,
) -> AsyncIterator[Batcher]:
    """A batcher that must have nothing left in the end."""
    limits = Limits(max_batch_rows, max_queue_rows, max_queue_bytes, max_delay)
    batcher = Batcher(engine, limits, turn=turn, clock=engine.clock, observer=observer)
    yield batcher
    await engine.release()
    await batcher.close()
    assert_empty(batcher)
    assert engine.clock.timers == []


def assert_empty(batcher: Batcher) -> None:
    assert batcher.queued_rows == 0
    assert batcher.queued_bytes == 0
    assert batcher._queue.waiting() == []
    assert len(batcher._deadlines) == 0
    assert batcher._deadlines._heap == []
    assert batcher._running == []


def rows(*values: float) -> Rows:
    """One row of two equal columns per value: 8 bytes."""
    return np.array(values, np.float32)[:, np.newaxis].repeat(2, 1)


def assert_own_rows(sent: Rows, got: Batched) -> None:
    assert np.array_equal(got.outputs[0], sent + 1)
    assert np.array_equal(got.outputs[1], -sent)


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


async def start(batcher: Batcher, sent: Rows, deadline: float | None = None) -> "asyncio.Task[Batched]":
    """A caller that has come as far as it can."""
    call = asyncio.create_task(batcher.submit(sent, deadline))
    await settle()
    return call


async def measure(batcher: Batcher, engine: ToyEngine, count: int, seconds: float) -> None:
    """Let the batcher see a batch of `count` rows that takes `seconds`."""
    held, engine.held = engine.held, True
    call = await start(batcher, rows(*range(-count, 0)))
    await engine.finish(seconds)
    await call
    engine.held = held
