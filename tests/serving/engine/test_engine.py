"""The engine's thread, with graphs that have memory of their own, under the batchers that callers wait in."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.batching import Batched, Batcher, Limits, Turn
from serving.engine import BoundGraph, DeviceLostError, Engine
from serving.engine import engine as engine_module
from serving.engine.buckets import Rows
from serving.health import REBUILDING, Readiness
from serving.heartbeat import heartbeat_of, hung
from serving.models import batcher_of
from tests.serving.engine.toys import CPU, OUT_OF_MEMORY, SIZES, Memory, encoder, images, same
from tests.serving.toy_graphs import HANGS, ToyGraph, as_bound
from tests.serving.waiting import until
from vaeport.arrays import to_float
from vaeport.errors import UnavailableError
from vaeport.graphs import Graph

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


class SlowLoads:
    """Of sessions on a device: each but the first waits to be let."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.loading, self.may_load = threading.Event(), threading.Event()

    def __call__(self) -> Graph:
        if self.memory.sessions:
            self.loading.set()
            self.may_load.wait(30)
        return self.memory.load()


async def test_a_session_that_is_made_anew_is_neither_ready_nor_hung() -> None:
    engine, load = Engine(), SlowLoads()
    graph = BoundGraph("toy encoder", load, CPU, SIZES, engine.rebuilding)
    engine.call(graph.warm_up)
    assert engine.rebuild_seconds is None
    shown: list[Sequence[str]] = []
    turn = Turn()
    readiness = Readiness(
        {"toy": [ToyGraph().canary()]},
        engine,
        turn,
        every=0.02,
        hang=0.1,
        show=lambda unready: shown.append(tuple(unready)),
    )
    watching = asyncio.create_task(readiness.run())
    queue = batcher_of(graph, engine, LIMITS, turn)
    load.memory.errors = [RuntimeError(OUT_OF_MEMORY)]
    began = time.monotonic()
    answer = asyncio.ensure_future(queue.submit(images(8)))
    await until(load.loading.is_set)
    await until(lambda: time.monotonic() - began > 0.3 and bool(readiness.unready))
    assert readiness.unready == {"toy": REBUILDING}
    beat = heartbeat_of(engine, readiness, [], calls=1)
    assert (beat.ready, beat.busy_seconds, hung(beat, beat.sent, limit=0.1)) == (False, None, "")
    assert 0.0 < (beat.rebuild_seconds or 0.0) < time.monotonic() - began
    load.may_load.set()
    assert same((await answer).outputs, encoder()(to_float(images(8))))
    await until(lambda: not readiness.unready)
    assert (shown, engine.rebuild_seconds) == ([("toy",), ()], None)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await queue.close()
    engine.close()


class RebuildingGraph(ToyGraph):
    """Makes its session anew before each batch, for a while that it remembers the end of."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(HANGS)
        self._engine = engine
        self.rebuilt = 0.0

    def run(self, pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        with self._engine.rebuilding():
            time.sleep(0.1)
            self.rebuilt = time.monotonic()
        return super().run(pieces)


async def test_the_seconds_of_a_batch_do_not_count_the_session_that_was_made_anew_for_it() -> None:
    engine = Engine()
    graph = RebuildingGraph(engine)
    batch = asyncio.create_task(engine.run_alone(as_bound(graph), np.zeros((1, 2), np.float32)))
    await until(graph.computing.is_set)
    busy = engine.busy_seconds
    assert busy is not None
    assert busy <= time.monotonic() - graph.rebuilt
    graph.release.set()
    await batch
    engine.close()


BRIEF = 0.02  # seconds: so much that no interruption makes a brief batch a long one
LONG = 5 * BRIEF


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches up to BRIEF are brief."""
    monkeypatch.setattr(engine_module, "BRIEF_SECONDS", BRIEF)


class BusyGraph(Graph):
    """An encoder that takes `seconds` of processor time, and `waits` without; knows the threads that it ran on."""

    def __init__(self, seconds: float = 0.0, waits: float = 0.0) -> None:
        plain = encoder()
        super().__init__(plain.session, plain.spec, plain.max_rows)
        self.seconds, self.waits = seconds, waits
        self.broken = False
        self.guilty: NDArray[np.uint8] | None = None
        self.in_the_loop: list[bool] = []

    def __call__(self, rows: NDArray[np.float32] | NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
        self.in_the_loop.append(threading.current_thread() is threading.main_thread())
        time.sleep(self.waits)
        until = time.thread_time() + self.seconds
        while time.thread_time() < until:
            pass
        guilty = self.guilty is not None and any(np.array_equal(row, to_float(self.guilty)[0]) for row in rows)
        if self.broken or guilty:
            raise ValueError("bad rows")
        return super().__call__(rows)


async def ran_in_the_loop(engine: Engine, graph: BusyGraph, *sizes: int) -> list[bool]:
    """Where batches of these sizes were computed, one after the other."""
    queue = batcher_of(graph, engine, LIMITS, Turn())
    graph.in_the_loop.clear()
    try:
        for size in sizes:
            await queue.submit(images(size))
    finally:
        await queue.close()
    return graph.in_the_loop


@pytest.mark.usefixtures("brief")
async def test_batches_of_a_size_that_is_known_to_be_brief_are_computed_in_the_loop() -> None:
    engine, graph = Engine(), BusyGraph()
    await ran_in_the_loop(engine, graph, 2, 2, 4, 4)  # a first run of its size allocates
    assert await ran_in_the_loop(engine, graph, 2, 3, 8, 2) == [True, True, False, True]
    graph.seconds = LONG
    assert await ran_in_the_loop(engine, graph, 2, 2, 2, 4) == [True, False, False, True]
    engine.close()


@pytest.mark.usefixtures("brief")
async def test_a_batch_that_waits_for_its_processor_is_as_brief_as_one_that_does_not() -> None:
    engine, graph = Engine(), BusyGraph(waits=LONG)
    await ran_in_the_loop(engine, graph, 1, 1)
    assert await ran_in_the_loop(engine, graph, 1, 1) == [True, True]
    engine.close()


@pytest.mark.usefixtures("brief")
async def test_what_failed_in_the_loop_is_computed_on_the_thread_next_time() -> None:
    engine, graph = Engine(), BusyGraph()
    await ran_in_the_loop(engine, graph, 1, 1)
    graph.broken = True
    with pytest.raises(ValueError, match="bad rows"):
        await ran_in_the_loop(engine, graph, 1)
    assert graph.in_the_loop == [True]
    assert engine.suspect.is_set()
    graph.broken = False
    assert await ran_in_the_loop(engine, graph, 1, 1) == [False, True]
    engine.close()


@pytest.mark.usefixtures("brief")
async def test_a_guilty_row_in_a_brief_batch_fails_its_caller_alone() -> None:
    engine, graph = Engine(), BusyGraph()
    queue = batcher_of(graph, engine, LIMITS, Turn())
    for size in (1, 1, 2, 2, 4, 4):
        await queue.submit(images(size))
    graph.in_the_loop.clear()
    graph.guilty = images(1, seed=2)
    callers = [images(1, seed) for seed in range(4)]
    answers = await asyncio.gather(*(queue.submit(rows) for rows in callers), return_exceptions=True)
    assert [type(answer) for answer in answers] == [Batched, Batched, ValueError, Batched]
    for rows, answer in zip(callers, answers, strict=True):
        assert not isinstance(answer, Batched) or same(answer.outputs, encoder()(to_float(rows)))
    assert graph.in_the_loop[0]
    assert not all(graph.in_the_loop)  # the halves of what failed are of sizes that were brief, or failed themselves
    await queue.close()
    engine.close()


@pytest.mark.usefixtures("brief")
async def test_a_canary_is_computed_on_the_thread_however_brief_it_is() -> None:
    engine, graph = Engine(), BusyGraph()
    await ran_in_the_loop(engine, graph, 1, 1)
    graph.in_the_loop.clear()
    await engine.run_alone(graph, to_float(images(1)))
    assert graph.in_the_loop == [False]
    engine.close()


@pytest.mark.usefixtures("brief")
async def test_many_brief_batches_in_a_row_leave_the_loop_its_turns() -> None:
    engine, graph = Engine(), BusyGraph()
    queue = batcher_of(graph, engine, Limits(max_batch_rows=1, max_queue_rows=100, max_queue_bytes=10**6), Turn())
    await queue.submit(images(1))
    await queue.submit(images(1))
    graph.in_the_loop.clear()
    calls = [asyncio.ensure_future(queue.submit(images(1, seed))) for seed in range(50)]
    turns = 0
    while not all(call.done() for call in calls):
        turns += 1
        await asyncio.sleep(0)
    assert graph.in_the_loop == [True] * 50
    assert turns >= 50
    await queue.close()
    engine.close()
