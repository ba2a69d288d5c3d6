"""Arrivals, cancels, deadlines, failures, delays, shrinking batches and the end, in every order that hypothesis finds.

Whatever happens: every caller gets exactly one answer, which is its own rows in order and in time, or an error that
has a reason; the engine never idles while rows wait; and nothing is left behind.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from serving.batching import Batched, Batcher, Limits, Turn
from serving.batching.delivery import Rows
from tests.serving.batching.toys import Clock, ToyEngine, assert_empty, assert_own_rows, rows, settle
from vaeport.errors import DeadlineExceededError, OverloadedError, UnavailableError

GUILTY = 0.5  # in the values of rows that the engine breaks on; others are whole numbers
SECONDS = st.sampled_from([0.0, 0.01, 0.1, 1.0])


@dataclass(eq=False)
class Caller:
    """Somebody who wants rows computed, and what came of it."""

    sent: Rows
    deadline: float | None
    had_room: bool
    task: "asyncio.Task[None]"
    answer: Batched | BaseException | None = None
    answered_at: float = 0.0
    left: bool = False

    @property
    def is_guilty(self) -> bool:
        return bool((self.sent % 1).any())


class Batching(RuleBasedStateMachine):
    """One batcher, or two that take turns on an engine, from their start to their end."""

    @initialize(
        max_batch_rows=st.integers(1, 8),
        max_queue_rows=st.integers(12, 40),
        max_queue_bytes=st.sampled_from([100, 1000]),
        max_delay=st.sampled_from([0.0, 0.0, 0.05]),
        graphs=st.integers(1, 2),
        brief_rows=st.integers(0, 2),
    )
    def begin(
        self,
        max_batch_rows: int,
        max_queue_rows: int,
        max_queue_bytes: int,
        max_delay: float,
        graphs: int,
        brief_rows: int,
    ) -> None:
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.engine = ToyEngine(self.clock, held=True)
        self.limits = Limits(max_batch_rows, max_queue_rows, max_queue_bytes, max_delay)
        self.callers: list[Caller] = []
        self.numbers = 0
        self.was_lost = self.closed = self.allowance_was_short = False
        self.brief_rows = brief_rows
        self.batchers = self.run(self.make(graphs))

    async def make(self, graphs: int) -> list[Batcher]:
        turn = Turn()
        return [
            Batcher(self.engine, self.limits, turn=turn, at_once=self.at_once, clock=self.clock) for _ in range(graphs)
        ]

    def at_once(self, pieces: Sequence[Rows]) -> tuple[Rows, ...] | None:
        """What the engine does with few rows, in the loop itself."""
        batch = np.concatenate(pieces)
        if len(batch) > self.brief_rows:
            return None
        assert not self.engine.busy
        self.engine.batches.append(batch[:, 0].tolist())
        if guilty := self.engine.guilty & set(self.engine.batches[-1]):
            raise RuntimeError(f"the engine broke on {sorted(guilty)}")
        return batch + 1, -batch

    @rule(data=st.data(), rows=st.integers(1, 8))
    def limit_batches(self, data: st.DataObject, rows: int) -> None:
        data.draw(st.sampled_from(self.batchers)).limit_batches(rows)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    @rule(
        size=st.one_of(st.just(1), st.integers(1, 12)),
        patience=st.one_of(st.none(), st.sampled_from([-0.1, 0.001, 0.02, 0.2, 2.0, 20.0])),
        guilty=st.integers(0, 9).map(lambda number: number == 0),
        steps=st.integers(0, 4),
        graph=st.integers(0, 1),
    )
    def arrive(self, size: int, patience: float | None, guilty: bool, steps: int, graph: int) -> None:
        sent = rows(*range(self.numbers, self.numbers + size))
        self.numbers += size
        if guilty:
            sent[size // 2] += GUILTY
            self.engine.guilty.add(float(sent[size // 2, 0]))
        deadline = None if patience is None else self.clock.now + patience
        self.run(self.call(self.batchers[graph % len(self.batchers)], sent, deadline, steps))

    async def call(self, batcher: Batcher, sent: Rows, deadline: float | None, steps: int) -> None:
        async def ask() -> None:
            queued = batcher.queued_bytes, batcher.queued_rows
            caller.had_room = (not queued[0] or queued[0] + sent.nbytes <= self.limits.max_queue_bytes) and queued[
                1
            ] + len(sent) <= self.limits.max_queue_rows
            try:
                caller.answer = await batcher.submit(sent, deadline)
            except BaseException as error:  # whatever it is, it is the answer
                caller.answer = error
            caller.answered_at = self.clock.now

        caller = Caller(sent, deadline, False, asyncio.create_task(ask()))
        self.callers.append(caller)
        for _ in range(steps):  # not always until everybody waits
            await asyncio.sleep(0)

    @rule(data=st.data(), settled=st.booleans())
    def leave(self, data: st.DataObject, settled: bool) -> None:
        waiting = [caller for caller in self.callers if not caller.task.done()]
        if waiting:
            caller = data.draw(st.sampled_from(waiting))
            caller.left = True
            caller.task.cancel()
        if settled:
            self.run(settle())

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.run(settle())
        self.clock.advance(seconds)

    @precondition(lambda self: self.engine.busy)
    @rule(seconds=SECONDS)
    def finish(self, seconds: float) -> None:
        self.run(settle())
        self.run(self.engine.finish(seconds))

    @precondition(lambda self: self.engine.busy)
    @rule(error=st.sampled_from([RuntimeError, RuntimeError, MemoryError, UnavailableError]), batches=st.integers(1, 6))
    def break_down(self, error: type[Exception], batches: int) -> None:
        self.run(settle())
        self.engine.broken = error("everything breaks")
        self.was_lost |= error is UnavailableError
        for _ in range(batches):
            if self.engine.busy:
                self.run(self.engine.finish())
        self.engine.broken = None

    @precondition(lambda self: self.engine.busy)
    @rule(data=st.data())
    def leave_while_the_answer_is_on_its_way(self, data: st.DataObject) -> None:
        async def scenario(caller: Caller) -> None:
            finishing = asyncio.create_task(self.engine.finish())
            await asyncio.sleep(0)
            self.loop.call_soon(caller.task.cancel)
            await finishing

        if waiting := [caller for caller in self.callers if not caller.task.done()]:
            caller = data.draw(st.sampled_from(waiting))
            caller.left = True
            self.run(scenario(caller))

    @precondition(lambda self: self.numbers > 30)
    @rule()
    def close(self) -> None:
        self.closed = True
        for batcher in self.batchers:
            self.run(batcher.close())

    @invariant()
    def what_waits_is_counted(self) -> None:
        for batcher in self.batchers:
            waiting = batcher._queue.waiting()
            assert batcher.queued_rows == sum(request.count - request.taken for request in waiting)
            assert batcher.queued_bytes == sum(request.rows.nbytes for request in waiting)
            assert batcher.queued_rows <= self.limits.max_queue_rows
            self.allowance_was_short |= batcher._bisection._allowance < 16
        assert max(self.engine.sizes, default=0) <= self.limits.max_batch_rows
        assert len(self.clock.timers) <= len(self.batchers) * (1 + (self.limits.max_delay > 0))

    @invariant()
    def the_engine_never_idles_while_rows_wait_and_nobody_waits_past_a_deadline(self) -> None:
        self.run(settle())
        assert all(batcher._closed == self.closed and not batcher.failed.is_set() for batcher in self.batchers)
        if not self.limits.max_delay:
            assert self.engine.busy or not any(batcher.queued_rows for batcher in self.batchers)
        for caller in self.callers:
            if not caller.task.done():
                assert caller.deadline is None or caller.deadline > self.clock.now
        self.check_answers()

    def check_answers(self) -> None:
        for caller in [caller for caller in self.callers if caller.task.done()]:
            self.check(caller)
            self.callers.remove(caller)

    def check(self, caller: Caller) -> None:
        answer = caller.answer
        if isinstance(answer, Batched):
            assert_own_rows(caller.sent, answer)
            assert not caller.is_guilty
            assert caller.deadline is None or caller.answered_at <= caller.deadline
        elif isinstance(answer, DeadlineExceededError):
            assert caller.deadline is not None
        elif isinstance(answer, OverloadedError):
            assert not caller.had_room
        elif isinstance(answer, UnavailableError):
            assert self.closed or self.was_lost
        elif isinstance(answer, RuntimeError) and "broke on" in str(answer):
            assert caller.is_guilty or self.allowance_was_short
        elif isinstance(answer, RuntimeError | MemoryError):
            assert str(answer) == "everything breaks"
        else:  # None, if it was cancelled before its first step
            assert caller.left
            assert answer is None or isinstance(answer, asyncio.CancelledError)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        try:
            self.run(self.end())
            self.check_answers()
            assert self.callers == []
            for batcher in self.batchers:
                assert_empty(batcher)
            assert self.clock.timers == []
            assert asyncio.all_tasks(self.loop) == set()
        finally:
            self.loop.close()

    async def end(self) -> None:
        await self.engine.release()
        if not self.closed and self.numbers % 2:
            await settle()
            self.clock.advance(self.limits.max_delay)  # which is all that a batch may still wait for
            while not all(caller.task.done() for caller in self.callers):
                await settle()
                self.clock.advance(self.limits.max_delay)
        self.closed = True
        for batcher in self.batchers:
            await batcher.close()
        await settle()


Batching.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestBatching = Batching.TestCase
