"""Calls that need many batches of one graph, one after the other: first come, first served, and a bounded number.

Such a call would fill a queue for seconds, so it submits its rows in parts. If many such calls ran side by side, all
would be answered late, and those with a deadline never. Here only one of them uses the graph's queue at a time; the
others wait before they compute anything. A call that cannot be answered in time, or that comes when too much has been
promised already, is refused on arrival.
"""

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from serving.batching.cost import STALE_AFTER_COSTS, WAIT_MARGIN, CostModel
from serving.batching.deadlines import Clock
from serving.batching.observer import Refusal
from vaeport.errors import DeadlineExceededError, OverloadedError


@dataclass(slots=True, eq=False)
class _Call:
    """A call between its arrival and its end.

    Attributes:
        rows: rows that it still needs from the graph.
        size: bytes that it holds while it waits.
        begins: done when its turn has come.
        since: when its latest rows had been computed, in seconds on the clock; None before the first ones.
    """

    rows: int
    size: int
    begins: "asyncio.Future[None]"
    since: float | None = None


class Gate:
    """The gate before one graph.

    Args:
        seconds: predicts the seconds that the graph takes for a number of rows; deadlines are refused by it.
        part_rows: the most rows of a part.
        max_rows: the most rows that the admitted calls may still need together; a single larger call may come alone.
        max_bytes: the most bytes that the waiting calls may hold together, likewise.
        refused: is told why a call is not let in.
        clock: seconds and timers; the running loop unless a test brings another.
    """

    def __init__(
        self,
        seconds: Callable[[int], float],
        *,
        part_rows: int,
        max_rows: int,
        max_bytes: int,
        refused: Callable[[Refusal], None],
        clock: Clock | None = None,
    ) -> None:
        self._seconds = seconds
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._refused = refused
        self._clock = clock or asyncio.get_running_loop()
        self._cost = CostModel(part_rows)  # of whole parts with their overhead, which the graph's own model leaves out
        self._idle_since = -math.inf
        self._calls: OrderedDict[_Call, None] = OrderedDict()  # the first one is under way

    @property
    def rows(self) -> int:
        """Rows that the calls inside still need."""
        return sum(call.rows for call in self._calls)

    @property
    def bytes(self) -> int:
        """Bytes that the calls inside hold."""
        return sum(call.size for call in self._calls)

    @asynccontextmanager
    async def turn(
        self, rows: int, size: int, deadline: float | None = None, before: float = 0.0
    ) -> AsyncIterator[Callable[[int], None]]:
        """Wait for this call's turn, which lasts as long as the context. Yields a function to report computed rows to.

        Args:
            rows: rows that the call needs from the graph.
            size: bytes that it holds meanwhile.
            deadline: of the whole call, in seconds on the clock; None means no deadline.
            before: seconds that it needs for other work.

        Raises:
            OverloadedError: the calls that are inside need too much; raised at once.
            DeadlineExceededError: the deadline cannot be met behind the calls inside, raised at once; or it became
                impossible to meet before the turn had come.
        """
        now = self._clock.time()
        deadline = math.inf if deadline is None else deadline
        self._check(rows, size, deadline, before, now)
        call = _Call(rows, size, asyncio.get_running_loop().create_future())
        self._calls[call] = None
        try:
            self._begin_next()
            await self._wait(call, deadline, before)
            yield lambda computed: self._computed(call, computed)
        finally:
            del self._calls[call]
            self._begin_next()

    def _check(self, rows: int, size: int, deadline: float, before: float, now: float) -> None:
        ahead, held = self.rows, self.bytes
        wait, own = self._predict(ahead, now), before + self._predict(rows, now)
        if ahead and ahead + rows > self._max_rows:
            self._refused(Refusal.QUEUE_ROWS)
            text = f"{ahead} rows are promised to calls of many parts, and {rows} more would exceed {self._max_rows}"
            raise OverloadedError(text, retry_after=wait)
        if held and held + size > self._max_bytes:
            self._refused(Refusal.QUEUE_BYTES)
            text = f"calls of many parts hold {held} bytes, and {size} more would exceed {self._max_bytes}"
            raise OverloadedError(text, retry_after=wait)
        if now + own + (1 + WAIT_MARGIN) * wait > deadline:
            self._refused(Refusal.DEADLINE_ON_ARRIVAL)
            raise DeadlineExceededError(
                f"the deadline is in {deadline - now:.3g} s; computing these {rows} rows in parts, after {ahead} that"
                f" are promised to others, would take {own + wait:.3g} s"
            )

    async def _wait(self, call: _Call, deadline: float, before: float) -> None:
        """Wait until the turn has come, or the last moment to begin has passed."""
        if call.begins.done():
            return
        timer = None
        if deadline < math.inf:
            latest = deadline - before - self._predict(call.rows, self._clock.time())
            timer = self._clock.call_at(latest, lambda: self._expire(call))
        try:
            await call.begins
        finally:
            if timer is not None:
                timer.cancel()

    def _expire(self, call: _Call) -> None:
        if not call.begins.done():
            self._refused(Refusal.DEADLINE_IN_QUEUE)
            text = f"the deadline could not be met any more, before {call.rows} rows had their turn"
            call.begins.set_exception(DeadlineExceededError(text))

    def _begin_next(self) -> None:
        """Give the turn to the first call; a call that is about to leave passes the turn on."""
        call = next(iter(self._calls), None)
        if call is not None and not call.begins.done():
            call.begins.set_result(None)

    def _computed(self, call: _Call, rows: int) -> None:
        now = self._idle_since = self._clock.time()
        if call.since is not None:  # else it has done more than compute these rows
            self._cost.measured(rows, now - call.since)
        call.rows -= rows
        call.since = now

    def _predict(self, rows: int, now: float) -> float:
        """Predicted seconds for `rows` rows: what the graph needs, or what recent calls of this kind took."""
        measured = self._cost.seconds(rows)
        if not self._calls and now - self._idle_since > STALE_AFTER_COSTS * measured:
            measured = 0.0
        return max(self._seconds(rows), measured)
