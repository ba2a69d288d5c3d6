"""Readiness from canary batches: engines that hang, fail, give wrong numbers and recover."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import numpy as np
import pytest

from serving.batching import Batcher, Limits, Turn
from serving.engine import DeviceLostError, Engine
from serving.health import Readiness
from tests.serving.toy_graphs import FAILS, GOOD, HANGS, NAN, WRONG, ToyGraph, as_bound
from tests.serving.waiting import until

ROW = np.zeros((1, 2), np.float32)


class Watched:
    """Toy models on one engine, whose canaries run."""

    def __init__(self, graphs: Mapping[str, ToyGraph], every: float, hang: float) -> None:
        self.graphs = graphs
        self.engine, self.turn = Engine(), Turn()
        self.shown: list[list[str]] = []
        self.readiness = Readiness(
            {name: [graph.canary(f"{name} encoder")] for name, graph in graphs.items()},
            self.engine,
            self.turn,
            every=every,
            hang=hang,
            show=lambda unready: self.shown.append(sorted(unready)),
        )

    async def rounds(self, number: int = 2) -> None:
        """Wait for so many canaries of every model to begin, from now on."""
        goal = {name: graph.ran + number for name, graph in self.graphs.items()}
        await until(lambda: all(graph.ran >= goal[name] for name, graph in self.graphs.items()))


@asynccontextmanager
async def watched(*, every: float = 0.02, hang: float = 20.0, **graphs: ToyGraph) -> AsyncIterator[Watched]:
    one = Watched(graphs, every, hang)
    task = asyncio.create_task(one.readiness.run())
    try:
        yield one
    finally:
        for graph in graphs.values():
            graph.release.set()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        one.engine.close()


async def test_models_that_compute_stay_ready_and_nothing_is_said() -> None:
    async with watched(a=ToyGraph(), b=ToyGraph()) as one:
        await one.rounds(3)
        assert one.readiness.reason == ""
        assert one.shown == []


@pytest.mark.parametrize(
    ("mood", "why"),
    [
        (FAILS, "RuntimeError: the device has a bad day"),
        (WRONG, "SelfTestError: a encoder.out, index [0, 0]: expected np.float64(0.5), got"),
        (NAN, "SelfTestError: a encoder.out, index [0, 0]: expected np.float64(0.5), got np.float32(nan)"),
    ],
)
async def test_a_canary_that_fails_makes_its_model_unready_until_one_passes(
    mood: str, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    graph = ToyGraph()
    async with watched(a=graph, b=ToyGraph()) as one:
        await one.rounds()
        graph.mood = mood
        await until(lambda: bool(one.readiness.unready))
        assert one.readiness.reason.startswith(f"a: {why}")
        await one.rounds(3)
        graph.mood = GOOD
        await until(lambda: not one.readiness.unready)
        assert one.shown == [["a"], []]
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["ERROR", "INFO"]  # once, however many canaries failed
    assert said[0][1].startswith(f"a is not ready: {why}")
    assert said[1][1] == "a is ready again"


async def test_an_engine_that_hangs_makes_all_models_unready_until_it_comes_back() -> None:
    graph = ToyGraph()
    async with watched(hang=0.1, a=ToyGraph(), b=graph, c=ToyGraph()) as one:
        await one.rounds()
        graph.mood = HANGS
        await until(graph.computing.is_set)
        await until(lambda: len(one.readiness.unready) == 3)
        assert one.readiness.unready["a"] == "the engine has not come back for 0.1 s"
        before = graph.ran
        await asyncio.sleep(0.1)  # no canary is sent meanwhile
        assert graph.ran == before
        assert graph.most_at_once == 1
        graph.mood = GOOD
        graph.release.set()
        await until(lambda: not one.readiness.unready)


async def test_a_batch_of_a_caller_that_hangs_counts_too() -> None:
    """The canary then waits for its turn, and has not begun."""
    graph = ToyGraph(HANGS)
    async with watched(hang=0.1, a=ToyGraph()) as one:
        async with one.turn:
            batch = asyncio.ensure_future(one.engine.run_alone(as_bound(graph), ROW))
            await until(lambda: bool(one.readiness.unready))
            graph.release.set()
            await batch
        await until(lambda: not one.readiness.unready)


async def test_a_turn_that_never_comes_is_noticed_though_nothing_is_computed() -> None:
    async with watched(hang=0.1, a=ToyGraph()) as one:
        async with one.turn:
            await until(lambda: bool(one.readiness.unready))
        await until(lambda: not one.readiness.unready)


async def test_long_waits_for_batches_that_all_come_back_are_no_hang() -> None:
    """A dozen batches of 0.1 s stand before the canary, and a hang would be one of 1 s."""
    graph = ToyGraph()
    async with watched(every=60, hang=1.0, a=graph) as one:
        await one.rounds(1)
        async with one.turn:
            one.engine.suspect.set()
            for _ in range(12):
                slow = ToyGraph(HANGS)
                batch = asyncio.ensure_future(one.engine.run_alone(as_bound(slow), ROW))
                asyncio.get_running_loop().call_later(0.1, slow.release.set)
                await batch
        assert one.shown == []


async def test_a_batch_that_fails_brings_the_next_canary_at_once() -> None:
    graph, bad = ToyGraph(), ToyGraph(FAILS)
    async with watched(every=5, a=graph) as one:
        await one.rounds(1)
        with pytest.raises(RuntimeError):
            await one.engine.run_alone(as_bound(bad), ROW)
        await until(lambda: graph.ran == 2, seconds=3)
        assert one.shown == []  # the rows were to blame


async def test_callers_whose_rows_fail_again_and_again_do_not_fill_the_engine_with_canaries() -> None:
    graph, bad = ToyGraph(), ToyGraph(FAILS)
    async with watched(every=100, a=graph) as one:
        await one.rounds(1)
        for _ in range(200):
            with pytest.raises(RuntimeError):
                await one.engine.run_alone(as_bound(bad), ROW)
        await asyncio.sleep(0)
        assert graph.ran == 1  # the next one comes in 10 s


async def test_a_full_queue_makes_nobody_unready_and_the_canary_gets_its_turn() -> None:
    graph, busy = ToyGraph(), ToyGraph()
    async with watched(a=graph) as one:
        limits = Limits(max_batch_rows=4, max_queue_rows=40, max_queue_bytes=10**6)
        batcher = Batcher(lambda pieces: one.engine.run_bound(as_bound(busy), pieces), limits, turn=one.turn)

        async def caller() -> None:
            while True:
                await batcher.submit(np.zeros((4, 2), np.float32))

        callers = [asyncio.create_task(caller()) for _ in range(10)]
        await until(lambda: batcher.queued_rows >= 36)
        await one.rounds(5)
        assert batcher.queued_rows >= 30
        assert one.shown == []
        for each in callers:
            each.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        await batcher.close()


async def test_a_lost_device_is_not_ready() -> None:
    graph = ToyGraph()
    async with watched(a=graph) as one:
        await one.rounds(1)
        graph.mood, graph.error = FAILS, DeviceLostError("the device is lost: CUDA failure 700")
        await until(lambda: bool(one.readiness.unready))
        assert one.readiness.reason.startswith("a: DeviceLostError: the device is lost")
        assert one.engine.lost.is_set()


async def test_nobody_is_called_ready_when_nobody_looks(caplog: pytest.LogCaptureFixture) -> None:
    """A defect of ours in the watching itself."""
    async with watched(a=ToyGraph()) as one:
        await one.rounds(1)
        del one.engine.suspect
        await until(lambda: bool(one.readiness.unready))
        assert one.readiness.reason == "a: the canaries have stopped"
        assert "the canaries have failed" in caplog.text
