"""Rows of concurrent callers, computed in batches by an engine that does one thing at a time.

One task owns the queue, so it needs no locks. It takes what waits the moment the engine is free, up to a whole batch:
batches grow by themselves while the engine is busy. What else the batcher knows is in the modules beside this one:
whose rows come next (queue), what a batch costs (cost), when a deadline cannot be met (deadlines), who is to blame for
a batch that fails (halves), and how rows become answers (delivery).
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from serving.batching.bisection import Bisection
from serving.batching.cost import STALE_AFTER_COSTS, WAIT_MARGIN, CostModel
from serving.batching.deadlines import Clock, Deadlines
from serving.batching.delivery import Batched, Piece, Request, Rows, deliver
from serving.batching.observer import CLOSED, Guarded, Observer, Reason, Refusal, Run, Unobserved
from serving.batching.queue import Limits, Queue
from serving.batching.statistics import Statistics
from vaeport.errors import DeadlineExceededError, OverloadedError, UnavailableError

log = logging.getLogger(__name__)

Compute = Callable[[Sequence[Rows]], Awaitable[tuple[Rows, ...]]]
ComputeAtOnce = Callable[[Sequence[Rows]], tuple[Rows, ...] | None]

# Before a free engine takes a batch it lets requests arrive: for GATHERING_SECONDS at most, or until QUIET_TURNS turns
# of the loop brought none. docs/results/serving.md compares other values.
GATHERING_SECONDS = 4e-3
QUIET_TURNS = 4


class Turn(asyncio.Lock):
    """Whose turn it is on an engine that several graphs share: first come, first served, so busy graphs alternate."""

    def __init__(self) -> None:
        super().__init__()
        self._ends = -math.inf

    def ends_at(self, moment: float) -> None:
        """The batch that runs will have been computed then, or the last one was; seconds on the clock."""
        self._ends = moment

    def seconds_left(self, now: float) -> float:
        """Until the batch that runs has been computed; 0 if none runs."""
        return max(0.0, self._ends - now)


class Batcher:
    """The queue of one graph. It works from the moment it is made, which needs a running loop, until it is closed.

    Args:
        compute: computes a batch, given as the pieces to concatenate; returns one array per output. Raises
            UnavailableError if it cannot compute any more; every other error is blamed on some row.
        limits: the limits of the queue and of a batch.
        turn: shared by the graphs of an engine.
        at_once: computes a batch in the loop itself if it is known to be brief; otherwise computes nothing and returns
            None.
        clock: seconds and timers; the running loop unless a test brings another.
        observer: is told what happens.

    Attributes:
        statistics: of all requests and batches so far.
        failed: set when a defect of our own has ended it; it refuses everything from then on.
    """

    def __init__(
        self,
        compute: Compute,
        limits: Limits,
        *,
        turn: Turn | None = None,
        at_once: ComputeAtOnce | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._compute = compute
        self._at_once = at_once or (lambda _: None)
        self._limits = limits
        self._turn = turn or Turn()
        self._loop = asyncio.get_running_loop()
        self._clock = clock or self._loop
        self._time = self._clock.time
        self._queue = Queue(limits)
        self._cost = CostModel(limits.max_batch_rows)
        self._idle_since = -math.inf
        self._deadlines = Deadlines(self._clock, self._on_due)
        self._bisection = Bisection(self._attempt, lambda piece, error: self._fail(piece.request, error))
        self._running: list[Piece] = []
        self.statistics = Statistics()
        self._observer = Guarded(observer or Unobserved())
        self._arrival = asyncio.Event()
        self.failed = asyncio.Event()
        self._closed = False
        self._owner = self._loop.create_task(self._own(), name="batcher")

    @property
    def max_queue_rows(self) -> int:
        """Rows that may wait."""
        return self._limits.max_queue_rows

    @property
    def max_queue_bytes(self) -> int:
        """Bytes of the requests that may wait."""
        return self._limits.max_queue_bytes

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the engine."""
        return self._queue.rows

    @property
    def queued_bytes(self) -> int:
        """Bytes of the requests that wait, in whole or in part."""
        return self._queue.bytes

    def limit_batches(self, rows: int) -> None:
        """Limit batches to `rows` rows from the next one on, unless they are already: the device can take no more."""
        if rows < self._limits.max_batch_rows:
            self._limits = replace(self._limits, max_batch_rows=rows)
            self._queue.limit_batches(rows)
            self._cost.limit_batches(rows)

    def seconds(self, rows: int) -> float:
        """Predicted seconds for `rows` rows on their own; see `_predict`."""
        return self._predict(rows, self._time())

    def predict(self, rows: int) -> float:
        """Predicted seconds until `rows` rows that arrive now are computed, after what runs and waits."""
        now = self._time()
        return self._turn.seconds_left(now) + self._seconds_until(rows, now)

    def check(self, rows: int, size: int, deadline: float | None = None, before: float = 0.0) -> None:
        """Raise what `submit` would raise at once, for rows that do not exist yet. Nothing is reserved.

        Args:
            rows, size: how many rows there will be, and how many bytes they will have.
            deadline: as in `submit`.
            before: seconds until the rows exist.
        """
        now = self._time()
        self._check_room(rows, size, now)
        self._latest_start(rows, now, math.inf if deadline is None else deadline, before)

    def refused(self, cause: Refusal) -> None:
        """Tell the observer that a request for this graph was refused before it came here."""
        self._observer.refused(cause)

    async def close(self) -> None:
        """Answer every request that still waits, or comes later, with UnavailableError."""
        self._end()
        self._owner.cancel()
        await asyncio.gather(self._owner, return_exceptions=True)

    async def submit(self, rows: Rows, deadline: float | None = None) -> Batched:
        """Wait until all of `rows` (at least one) are computed. If this is cancelled, they leave the queue at once.

        Args:
            rows: the first axis is rows.
            deadline: seconds on the clock (that of the running loop); None means no deadline.

        Raises:
            OverloadedError: the queue has no room for them; they were not queued.
            DeadlineExceededError: the deadline cannot be met behind what waits and runs, became impossible to meet in
                the queue, or passed while the rows were computed.
            UnavailableError: the batcher is closed, or was closed meanwhile, or the engine is lost.
            Exception: what the engine raised on these rows.
        """
        arrived = self._time()
        try:
            batched = await self._wait(rows, deadline)
        except BaseException:
            self.statistics.failed(self._time() - arrived)
            raise
        self.statistics.answered(len(rows), self._time() - arrived, batched)
        return batched

    async def _wait(self, rows: Rows, deadline: float | None) -> Batched:
        assert len(rows) > 0
        now = self._time()
        deadline = math.inf if deadline is None else deadline
        self._check_room(len(rows), rows.nbytes, now)
        latest = self._latest_start(len(rows), now, deadline)
        request = Request(rows, len(rows), now, deadline, self._loop.create_future(), self._observer.arrived())
        self._queue.add(request)
        if latest < math.inf:
            self._deadlines.add(request, latest)
        self._arrival.set()
        try:
            return await request.done
        except asyncio.CancelledError:
            self._leave(request)
            raise

    def _check_room(self, rows: int, size: int, now: float) -> None:
        """Raise UnavailableError or OverloadedError if `rows` rows of `size` bytes together may not wait."""
        if self._closed:
            self._observer.refused(Refusal.STOPPING)
            raise self._unavailable()
        if (refusal := self._queue.refusal(rows, size)) is not None:
            cause, text = refusal
            self._observer.refused(cause)
            running = self._turn.seconds_left(now)
            raise OverloadedError(text, retry_after=running + self._cost.seconds(self._queue.rows))

    def _latest_start(self, rows: int, now: float, deadline: float, before: float = 0.0) -> float:
        """The latest time at which the engine can begin `rows` rows; DeadlineExceededError if it cannot by then.

        `before` is the number of seconds until they arrive.
        """
        if deadline == math.inf:
            return deadline
        own = self._predict(rows, now)
        begins = max(before, self._turn.seconds_left(now))
        wait = begins + self._seconds_until(rows, now)
        # Under overload every request is admitted at the last possible moment. Without slack, one that then falls
        # behind its prediction has waited for nothing, and some computed answers reach their callers too late.
        if now + wait + WAIT_MARGIN * (wait - own - before) > deadline:
            self._observer.refused(Refusal.DEADLINE_ON_ARRIVAL)
            raise DeadlineExceededError(
                f"the deadline is in {deadline - now:.3g} s; computing these {rows} rows, after"
                f" {self._queue.rows} that wait, would take {wait:.3g} s"
            )
        return deadline - own

    def _seconds_until(self, rows: int, now: float) -> float:
        """Predicted seconds until `rows` rows that arrive now are computed, not counting the batch that runs."""
        return self._predict(self._queue.rows_until(rows) if self._queue.rows else rows, now)

    async def _own(self) -> None:
        try:
            while True:
                await self._arrival.wait()
                reason = await self._gather()
                if self._limits.max_delay:
                    reason = await self._linger()
                async with self._turn:
                    await self._compute_next(reason)
                if not self._queue.rows:
                    self._arrival.clear()
        except Exception:  # a defect of ours
            log.exception("the batcher has failed, and refuses everything from now on")
            self.failed.set()
        finally:
            self._end()  # in every case: no request may wait for an owner that is gone

    async def _gather(self) -> Reason:
        """Let the loop deliver what has arrived, which it does piece by piece, over several turns.

        A lone request waits for a few empty turns, which take microseconds. Under load, one batch for each turn would
        make each row pay the fixed cost of a batch.
        """
        until = self._time() + GATHERING_SECONDS
        quiet = 0
        while quiet < QUIET_TURNS and (before := self._queue.rows) < self._limits.max_batch_rows:
            now = self._time()
            if now >= until:
                return Reason.GATHERED
            if now >= self._deadlines.earliest - self._cost.seconds(before):
                return Reason.DEADLINE
            await asyncio.sleep(0)
            quiet = 0 if self._queue.rows > before else quiet + 1
        return Reason.DRAINED

    async def _linger(self) -> Reason:
        """Wait for a fuller batch, as long as no deadline is missed because of it."""
        reason = Reason.DELAY
        while 0 < self._queue.rows < self._limits.max_batch_rows:
            full = self._cost.seconds(self._limits.max_batch_rows)
            delayed = self._queue.oldest_arrival() + self._limits.max_delay
            until = min(delayed, self._deadlines.earliest - full)
            reason = Reason.DELAY if until == delayed else Reason.DEADLINE
            if until <= self._time():
                break
            self._arrival.clear()
            timer = self._clock.call_at(until, self._arrival.set)
            try:
                await self._arrival.wait()
            finally:
                timer.cancel()
        return reason

    async def _compute_next(self, reason: Reason) -> None:
        now = self._time()
        if self._queue.rows >= self._limits.max_batch_rows:
            reason = Reason.FULL
        self._running, late = self._queue.take(now, lambda rows: self._predict(rows, now))
        for request in late:
            self._observer.refused(Refusal.DEADLINE_IN_QUEUE)
            self._fail(request, DeadlineExceededError("the deadline could not be met any more"))
        await self._bisection.compute(self._running, reason)
        self._running = []

    async def _attempt(self, pieces: list[Piece], reason: Reason) -> None:
        """Run a batch, which is taken now for that reason, and answer its callers, or raise what the engine raised."""
        started = self._time()
        rows = sum([piece.stop - piece.start for piece in pieces])
        predicted = self._cost.seconds(rows)
        self._turn.ends_at(started + predicted)
        batch = [piece.rows for piece in pieces]
        failure = ""
        try:
            outputs = self._at_once(batch)
            brief = outputs is not None
            if outputs is None:
                outputs = await self._compute(batch)
            if wrong := [len(output) for output in outputs if len(output) != rows]:
                raise RuntimeError(f"the engine made {wrong} rows of {rows}")
        except Exception as error:
            failure = f"{type(error).__name__}: {error}"  # as text: the error would keep what its frames refer to alive
            raise
        except asyncio.CancelledError:
            failure = CLOSED
            raise
        finally:
            self._idle_since = self._time()
            self._turn.ends_at(self._idle_since)
            seconds = self._idle_since - started
            run = Run(pieces, rows, self._limits.max_batch_rows, reason, started, seconds, failure)
            self._observer.computed(run)
        self._cost.measured(rows, seconds)
        self.statistics.ran(rows, seconds)
        for request in deliver(pieces, outputs, started, seconds):
            self._deadlines.forget(request)
        if brief:
            await asyncio.sleep(0)  # many brief batches in a row must not starve signals, deadlines and callers

    def _predict(self, rows: int, now: float) -> float:
        """Predicted seconds for `rows` rows, for refusing deadlines; 0 if the engine has been idle for too long to say.

        If its last batches were slow, and every deadline since is shorter than that, a prediction that never expired
        would refuse everything: nothing would be computed, and so nothing measured, again.
        """
        seconds = self._cost.seconds(rows)
        return 0.0 if not self._running and now - self._idle_since > STALE_AFTER_COSTS * seconds else seconds

    def _on_due(self, request: Request, now: float) -> float:
        """Answer a request whose deadline, or last moment to begin, has come; else return when that will be."""
        waiting = request.count - request.taken
        latest = request.deadline - (self._predict(waiting, now) if waiting else 0.0)
        if latest <= now:
            where = f"while {waiting} rows waited" if waiting else "while the rows were computed"
            self._observer.refused(Refusal.DEADLINE_IN_QUEUE if waiting else Refusal.DEADLINE_COMPUTING)
            self._fail(request, DeadlineExceededError(f"the deadline could not be met any more, {where}"))
        return latest

    def _fail(self, request: Request, error: Exception) -> None:
        self._leave(request)
        if not request.done.done():
            request.done.set_exception(error)

    def _leave(self, request: Request) -> None:
        """Forget a request that has been answered or cancelled."""
        self._queue.remove(request)
        self._deadlines.forget(request)

    def _end(self) -> None:
        """Answer every request with an error, and accept no more."""
        self._closed = True
        unanswered = [request for request in self._waiting_or_running() if not request.done.done()]
        for request in unanswered:
            self._fail(request, self._unavailable())
        self._running = []
        for _ in unanswered:
            self._observer.refused(Refusal.STOPPING)

    def _waiting_or_running(self) -> list[Request]:
        running = [piece.request for piece in self._running]
        return list(dict.fromkeys([*self._queue.waiting(), *running]))  # a split request is both

    def _unavailable(self) -> UnavailableError:
        """Why nothing is computed any more."""
        failed = self.failed.is_set()
        return UnavailableError(
            "the batcher has failed; the worker is being replaced" if failed else "the server is stopping"
        )
