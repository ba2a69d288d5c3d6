"""What a batcher tells of its work."""

import asyncio
import logging
from collections.abc import Sequence

import numpy as np
import pytest

from serving.batching import Batcher, Limits, Refusal, Run
from serving.batching.delivery import Rows
from tests.serving.batching.toys import Clock, ToyEngine, batching, measure, rows, start
from vaeport.errors import DeadlineExceededError, OverloadedError, UnavailableError


class Witness:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.came = 0
        self.refusals: list[Refusal] = []
        self.runs: list[Run] = []

    def arrived(self) -> int:
        self.came += 1
        return self.came

    def refused(self, cause: Refusal) -> None:
        self.refusals.append(cause)

    def computed(self, run: Run) -> None:
        self.runs.append(run)

    @property
    def reasons(self) -> list[str]:
        return [run.reason.value for run in self.runs]

    @property
    def notes(self) -> list[list[object]]:
        return [[piece.request.note for piece in run.pieces] for run in self.runs]


@pytest.fixture
def engine() -> ToyEngine:
    return ToyEngine(Clock(), held=True)


async def test_a_run_says_whose_rows_it_had_when_and_why(engine: ToyEngine) -> None:
    witness = Witness()
    async with batching(engine, observer=witness) as batcher:
        first = await start(batcher, rows(1))
        rest = [await start(batcher, rows(value)) for value in (2, 3, 4, 5, 6)]
        await engine.finish(2.0)
        await engine.finish(3.0)
        await engine.finish(4.0)
        await asyncio.gather(first, *rest)
    assert witness.reasons == ["drained", "full", "drained"]
    assert witness.notes == [[1], [2, 3, 4, 5], [6]]
    assert [(run.rows, run.limit, run.started, run.seconds) for run in witness.runs] == [
        (1, 4, 100.0, 2.0),
        (4, 4, 102.0, 3.0),
        (1, 4, 105.0, 4.0),
    ]
    assert not any(run.failure for run in witness.runs)


async def test_a_split_request_begins_once(engine: ToyEngine) -> None:
    witness = Witness()
    async with batching(engine, observer=witness) as batcher:
        call = await start(batcher, rows(*range(6)))
        await engine.release()
        await call
    assert [[piece.request.note for piece in run.began] for run in witness.runs] == [[1], []]


async def test_the_answer_is_given_after_the_report(engine: ToyEngine) -> None:
    engine.held = False
    done = []

    class Looking(Witness):
        def computed(self, run: Run) -> None:
            done.append(run.pieces[0].request.done.done())

    async with batching(engine, observer=Looking()) as batcher:
        await batcher.submit(rows(1))
    assert done == [False]


async def test_halves_of_a_batch_that_failed_are_retries(engine: ToyEngine) -> None:
    witness = Witness()
    engine.guilty = {3.0}
    async with batching(engine, observer=witness) as batcher:
        first = await start(batcher, rows(0))
        calls = [await start(batcher, rows(value)) for value in (1, 3)]
        await engine.release()
        await asyncio.gather(first, *calls, return_exceptions=True)
        engine.held = False
        await batcher.submit(rows(7))
    assert witness.reasons == ["drained", "drained", "retry", "retry", "drained"]
    assert [run.failure for run in witness.runs if run.failure] == ["RuntimeError: the engine broke on [3.0]"] * 2
    assert [len(run.began) for run in witness.runs] == [1, 2, 0, 0, 1]


async def test_too_few_rows_from_the_engine_are_a_failure() -> None:
    witness = Witness()

    async def short(pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        return (np.concatenate(pieces)[1:],)

    batcher = Batcher(short, Limits(4, 100, 10**6), observer=witness)
    with pytest.raises(RuntimeError):
        await batcher.submit(rows(1, 2))
    await batcher.close()
    assert witness.runs[0].failure == "RuntimeError: the engine made [1] rows of 2"


async def test_a_delay_that_is_over_and_one_that_a_deadline_ends(engine: ToyEngine) -> None:
    witness = Witness()
    engine.held, engine.cost = False, lambda _: 0.5
    async with batching(engine, max_delay=5.0, observer=witness) as batcher:
        patient = await start(batcher, rows(1))
        engine.clock.advance(5.0)
        await patient
        hurried = await start(batcher, rows(2), deadline=engine.clock.now + 3.0)
        engine.clock.advance(2.0)
        await hurried
        full = [await start(batcher, rows(value)) for value in (3, 4, 5, 6)]
        await asyncio.gather(*full)
    assert witness.reasons == ["delay", "deadline", "full"]


async def test_each_refusal_has_its_cause(engine: ToyEngine) -> None:
    witness = Witness()
    async with batching(engine, max_queue_rows=5, max_queue_bytes=32, observer=witness) as batcher:
        await measure(batcher, engine, 1, 1.0)
        running = await start(batcher, rows(1), deadline=engine.clock.now + 1.5)
        waiting = await start(batcher, rows(2), deadline=engine.clock.now + 2.5)
        with pytest.raises(OverloadedError, match="rows wait"):
            await batcher.submit(rows(*range(5)))
        with pytest.raises(OverloadedError, match="bytes wait"):
            await batcher.submit(rows(*range(4)))
        with pytest.raises(DeadlineExceededError):
            await batcher.submit(rows(3), deadline=engine.clock.now + 0.5)
        engine.clock.advance(2.0)
        await asyncio.gather(running, waiting, return_exceptions=True)
        assert witness.refusals == [
            *(Refusal.QUEUE_ROWS, Refusal.QUEUE_BYTES, Refusal.DEADLINE_ON_ARRIVAL),
            *(Refusal.DEADLINE_COMPUTING, Refusal.DEADLINE_IN_QUEUE),
        ]
        witness.refusals.clear()
        last = await start(batcher, rows(4))
        await batcher.close()
        with pytest.raises(UnavailableError):
            await last
        with pytest.raises(UnavailableError):
            await batcher.submit(rows(5))
        assert witness.refusals == [Refusal.STOPPING] * 2


async def test_a_request_that_comes_too_late_for_its_batch_is_refused_in_the_queue(engine: ToyEngine) -> None:
    witness = Witness()
    async with batching(engine, max_batch_rows=1, observer=witness) as batcher:
        first = await start(batcher, rows(1))
        second = await start(batcher, rows(2), deadline=engine.clock.now + 3.0)  # the cost is not known yet
        await engine.finish(2.0)
        await engine.release()
        await first
        with pytest.raises(DeadlineExceededError):
            await second
    assert witness.refusals == [Refusal.DEADLINE_IN_QUEUE]


class Broken:
    """An observer that fails, whatever it is told."""

    def arrived(self) -> object:
        raise OSError("no disk")

    def refused(self, cause: Refusal) -> None:
        raise OSError("no disk")

    def computed(self, run: Run) -> None:
        raise OSError("no disk")


async def test_an_observer_that_fails_harms_nobody(engine: ToyEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    async with batching(engine, max_queue_rows=40, observer=Broken()) as batcher:
        await measure(batcher, engine, 1, 1.0)
        running = await start(batcher, rows(1))
        late = await start(batcher, rows(2), deadline=engine.clock.now + 2.5)
        waiting = await start(batcher, rows(3))
        with pytest.raises(OverloadedError):
            await batcher.submit(rows(*range(40)))
        engine.clock.advance(2.0)
        with pytest.raises(DeadlineExceededError):
            await late
        await engine.finish()
        assert (await running).outputs[0].shape == (1, 2)
        split = await start(batcher, rows(*range(9)))
        await batcher.close()
        for call in (waiting, split):
            with pytest.raises(UnavailableError):
                await call
    for what, times in (("an arrival", 5), ("a refusal", 4), ("a batch", 3)):
        assert caplog.text.count(f"{what} could not be reported") == times


async def test_a_batch_that_the_end_cuts_off_has_failed(engine: ToyEngine) -> None:
    witness = Witness()
    async with batching(engine, observer=witness) as batcher:
        split = await start(batcher, rows(*range(9)))
        await batcher.close()
        with pytest.raises(UnavailableError):
            await split
    assert [run.failure for run in witness.runs] == ["closed"]
    assert witness.refusals == [Refusal.STOPPING]  # of one request, which waited and was computed
