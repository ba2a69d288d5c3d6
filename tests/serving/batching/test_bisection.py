"""A batch that fails is computed again by halves; what that may cost is bounded."""

import asyncio
from collections.abc import Collection, Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from serving.batching.bisection import ALLOWANCE, Bisection
from serving.batching.delivery import Batched, Piece, Request, Rows
from serving.batching.observer import Reason
from tests.serving.batching.toys import ToyEngine, assert_own_rows, batching, rows, start
from vaeport.errors import UnavailableError


class Attempts:
    """An engine that fails on some callers, and what became of each."""

    def __init__(self, guilty: Collection[int] = (), error: type[Exception] = RuntimeError) -> None:
        self.guilty, self.error = guilty, error
        self.sizes: list[int] = []
        self.reasons: list[Reason] = []
        self.halves = Bisection(self.attempt, lambda piece, error: piece.request.done.set_exception(error))

    async def attempt(self, pieces: list[Piece], reason: Reason) -> None:
        self.sizes.append(len(pieces))
        self.reasons.append(reason)
        await asyncio.sleep(0)
        if any(piece.start in self.guilty for piece in pieces):
            raise self.error("broken")
        for piece in pieces:
            piece.request.done.set_result(Batched((), 0.0, 0.0, len(pieces)))

    async def batch(self, callers: Collection[int]) -> set[int]:
        """The callers who got an error."""
        loop = asyncio.get_running_loop()
        pieces = [
            Piece(Request(np.zeros(1), 1, 0.0, 0.0, loop.create_future()), caller, caller + 1) for caller in callers
        ]
        await self.halves.compute(pieces, Reason.FULL)
        assert all(piece.request.done.done() for piece in pieces)
        return {piece.start for piece in pieces if piece.request.done.exception() is not None}


@pytest.mark.parametrize("guilty", [{0}, {255}, {100}, {0, 1}, {3, 99, 200}, set(range(0, 256, 32))])
async def test_only_the_guilty_get_the_error(guilty: set[int]) -> None:
    attempts = Attempts(guilty)
    assert await attempts.batch(range(256)) == guilty


async def test_one_guilty_caller_of_256_costs_16_more_runs() -> None:
    attempts = Attempts({77})
    await attempts.batch(range(256))
    assert len(attempts.sizes) == 1 + 16
    assert attempts.reasons == [Reason.FULL] + 16 * [Reason.RETRY]


async def test_a_guilty_caller_alone_is_not_tried_twice() -> None:
    attempts = Attempts({5})
    assert await attempts.batch([5]) == {5}
    assert attempts.sizes == [1]


async def test_an_engine_that_fails_for_everything_soon_costs_one_run_per_batch() -> None:
    attempts = Attempts(range(256))
    for _ in range(100):
        assert await attempts.batch(range(256)) == set(range(256))
    assert len(attempts.sizes) <= 100 + 2 * ALLOWANCE
    attempts.sizes.clear()
    await attempts.batch(range(256))
    assert attempts.sizes == [256]


async def test_when_the_engine_works_again_the_guilty_are_found_again() -> None:
    attempts = Attempts(range(256))
    for _ in range(10):
        await attempts.batch(range(256))
    attempts.guilty = ()
    for _ in range(8):
        await attempts.batch(range(256))
    attempts.guilty = {9}
    assert await attempts.batch(range(256)) == {9}


async def test_a_guilty_caller_in_every_batch_for_ever_never_harms_its_neighbours() -> None:
    attempts = Attempts()
    for i in range(500):
        attempts.guilty = {i % 64}
        assert await attempts.batch(range(64)) == {i % 64}


async def test_a_lost_engine_is_not_tried_again() -> None:
    attempts = Attempts({3}, UnavailableError)
    assert await attempts.batch(range(8)) == set(range(8))
    assert attempts.sizes == [8]


async def test_an_engine_lost_during_the_retries_fails_whoever_is_left() -> None:
    attempts = Attempts({0})

    async def lost(pieces: list[Piece], reason: Reason) -> None:
        if attempts.sizes == [8, 4, 2, 1, 1]:
            raise UnavailableError("lost")
        await attempts.attempt(pieces, reason)

    attempts.halves = Bisection(lost, lambda piece, error: piece.request.done.set_exception(error))
    assert await attempts.batch(range(8)) == {0, 2, 3, 4, 5, 6, 7}


async def test_a_part_whose_delivery_failed_is_in_the_answer_once(
    engine: ToyEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [MemoryError("no room for the answer")]

    def concatenate(parts: Sequence[Rows]) -> Rows:
        if failures:
            raise failures.pop()
        return np.concatenate(parts)

    monkeypatch.setattr("serving.batching.delivery.np", SimpleNamespace(concatenate=concatenate))
    async with batching(engine) as batcher:
        sent = rows(*range(6))
        split, neighbour = await start(batcher, sent), await start(batcher, rows(7))
        await engine.release()
        assert_own_rows(sent, await split)
        assert_own_rows(rows(7), await neighbour)
    assert not failures
