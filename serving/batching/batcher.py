"""Rows of concurrent callers, computed in batches by an engine that does one thing at a time.

One task owns the queue, so there are no locks. It takes whatever waits the moment the engine is free, up to
`max_batch_rows`: no timer, no artificial delay; batches grow by themselves while the engine is busy. A request that
does not fit is split, and its outputs are put together again in order.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaeport.errors import OverloadedError, UnavailableError

Rows = NDArray[Any]  # the first axis is rows
Run = Callable[[Sequence[Rows]], Awaitable[tuple[Rows, ...]]]


@dataclass(frozen=True, slots=True)
class Batched:
    """What the engine made of a caller's rows.

    Attributes:
        outputs: one array per output, each with the caller's rows in the caller's order.
        queue_seconds: from arrival until the engine began with the first row.
        compute_seconds: in the engine, summed over the batches the rows were in.
        batch_rows: rows of all callers in the largest of these batches.
    """

    outputs: tuple[Rows, ...]
    queue_seconds: float
    compute_seconds: float
    batch_rows: int


@dataclass(slots=True, eq=False)
class _Request:
    """A caller that waits. `taken` rows have been given to the engine, so far."""

    rows: Rows
    done: asyncio.Future[Batched]
    arrived: float
    taken: int = 0
    started: float | None = None
    compute_seconds: float = 0.0
    batch_rows: int = 0
    outputs: list[tuple[Rows, ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows `start` to `stop` of a request, as part of one batch."""

    request: _Request
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Batch:
    """When a batch began, how long it took, and its rows of all callers."""

    started: float
    seconds: float
    rows: int


class Batcher:
    """The queue of one graph.

    Args:
        run: computes a batch, given as the pieces to concatenate; returns one array per output.
        max_batch_rows: rows of one batch.
        max_queue_rows: rows that wait, at most; more are refused.
        clock: seconds, monotonic.
    """

    def __init__(
        self, run: Run, *, max_batch_rows: int, max_queue_rows: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run = run
        self._max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._clock = clock
        self._queue: deque[_Request] = deque()
        self._queued_rows = 0
        self._seconds_per_row = 0.0
        self._arrival = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def queued_rows(self) -> int:
        """Rows that wait for the engine."""
        return self._queued_rows

    def start(self) -> None:
        """Begin to compute. Needs a running loop."""
        self._owner = asyncio.create_task(self._own(), name="batcher")

    async def close(self) -> None:
        """End the owner; whoever still waits, or comes later, gets UnavailableError."""
        self._closed = True
        if self._owner is not None:
            self._owner.cancel()
            await asyncio.gather(self._owner, return_exceptions=True)
        while self._queue:
            self._fail(self._queue[0], UnavailableError("the server is stopping"))

    async def submit(self, rows: Rows) -> Batched:
        """Wait until all of `rows` (at least one) are computed.

        Raises:
            OverloadedError: the queue has no room for them; they were not queued.
            UnavailableError: the batcher is closed, or was meanwhile.
            Exception: what the engine raised on a batch with some of these rows.
        """
        assert len(rows) > 0
        if self._closed:
            raise UnavailableError("the server is stopping")
        if self._queued_rows + len(rows) > self._max_queue_rows:
            wait = self._queued_rows * self._seconds_per_row
            text = f"the queue is full: {self._queued_rows} rows wait, {len(rows)} more would exceed"
            raise OverloadedError(f"{text} {self._max_queue_rows}", retry_after=wait)
        request = _Request(rows, asyncio.get_running_loop().create_future(), self._clock())
        self._queue.append(request)
        self._queued_rows += len(rows)
        self._arrival.set()
        try:
            return await request.done
        finally:
            self._forget(request)  # a cancelled caller's rows leave at once

    async def _own(self) -> None:
        while True:
            await self._arrival.wait()
            self._arrival.clear()
            while pieces := self._take():
                await self._compute(pieces)

    def _take(self) -> list[_Piece]:
        """The pieces of the next batch, in order of arrival."""
        pieces: list[_Piece] = []
        room = self._max_batch_rows
        while room and self._queue:
            request = self._queue[0]
            stop = min(request.taken + room, len(request.rows))
            pieces.append(_Piece(request, request.taken, stop))
            room -= stop - request.taken
            self._queued_rows -= stop - request.taken
            request.taken = stop
            if stop == len(request.rows):
                self._queue.popleft()
        return pieces

    async def _compute(self, pieces: list[_Piece]) -> None:
        """Run a batch and answer its callers, whatever happens: the owner must not end with somebody waiting."""
        started = self._clock()
        rows = sum(piece.stop - piece.start for piece in pieces)
        try:
            outputs = await self._run([piece.request.rows[piece.start : piece.stop] for piece in pieces])
            seconds = self._clock() - started
            if wrong := [len(output) for output in outputs if len(output) != rows]:
                raise RuntimeError(f"the engine made {wrong} rows of {rows}")
            self._deliver_all(pieces, outputs, _Batch(started, seconds, rows))
        except asyncio.CancelledError:  # closed while the batch runs
            self._fail_all(pieces, UnavailableError("the server is stopping"))
            raise
        except Exception as error:
            self._fail_all(pieces, error)

    def _deliver_all(self, pieces: list[_Piece], outputs: tuple[Rows, ...], batch: _Batch) -> None:
        self._seconds_per_row = batch.seconds / batch.rows
        start = 0
        for piece in pieces:
            stop = start + piece.stop - piece.start
            self._deliver(piece, tuple(output[start:stop] for output in outputs), batch)
            start = stop

    def _deliver(self, piece: _Piece, outputs: tuple[Rows, ...], batch: _Batch) -> None:
        request = piece.request
        request.outputs.append(outputs)
        request.started = batch.started if request.started is None else request.started
        request.compute_seconds += batch.seconds
        request.batch_rows = max(request.batch_rows, batch.rows)
        if piece.stop < len(request.rows) or request.done.done():
            return
        whole = request.outputs[0]
        if len(request.outputs) > 1:
            whole = tuple(np.concatenate(parts) for parts in zip(*request.outputs, strict=True))
        queue_seconds = request.started - request.arrived
        request.done.set_result(Batched(whole, queue_seconds, request.compute_seconds, request.batch_rows))

    def _fail_all(self, pieces: list[_Piece], error: Exception) -> None:
        for piece in pieces:
            self._fail(piece.request, error)

    def _fail(self, request: _Request, error: Exception) -> None:
        self._forget(request)
        if not request.done.done():
            request.done.set_exception(error)

    def _forget(self, request: _Request) -> None:
        """Take what the engine has not begun with out of the queue."""
        waiting = len(request.rows) - request.taken
        if waiting:
            self._queue.remove(request)
            self._queued_rows -= waiting
            request.taken = len(request.rows)
