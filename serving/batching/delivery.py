"""A caller's request, and how the rows of its batches become its one answer."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[Any]  # the first axis is rows


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
class Request:
    """A caller that waits.

    Attributes:
        rows: what is to be computed.
        count: how many rows that are.
        arrived: seconds on the clock.
        deadline: seconds on the clock; infinity is none.
        done: the answer.
        note: what the observer returned when the request arrived.
        taken: how many of its rows, counted from the first, have been given to the engine.
        ticket: identifies its deadline; see Deadlines.
        parts: its rows of the outputs so far, by the first one's index; None before the first part.
    """

    rows: Rows
    count: int
    arrived: float
    deadline: float
    done: asyncio.Future[Batched]
    note: object = None
    taken: int = 0
    ticket: int = 0
    started: float = 0.0
    compute_seconds: float = 0.0
    batch_rows: int = 0
    parts: dict[int, tuple[Rows, ...]] | None = None


@dataclass(slots=True, eq=False)
class Piece:
    """Rows `start` to `stop` of a request, as part of one batch. A request has at most one piece in a batch."""

    request: Request
    start: int
    stop: int

    @property
    def rows(self) -> Rows:
        """The rows themselves, not copied."""
        rows = self.request.rows
        return rows if self.stop - self.start == len(rows) else rows[self.start : self.stop]


def deliver(pieces: Sequence[Piece], outputs: Sequence[Rows], started: float, seconds: float) -> list[Request]:
    """Give each piece of a batch its rows of the outputs.

    Args:
        pieces: the batch.
        outputs: one array per output, with the rows of all pieces.
        started: when the engine began with the batch.
        seconds: how long it took.

    Returns:
        The requests that are answered now.
    """
    run = (started, seconds, len(outputs[0]))
    answered = []
    start = 0
    for piece in pieces:
        request = piece.request
        stop = start + piece.stop - piece.start
        if not request.done.done():  # else its caller has left
            part = tuple([output[start:stop] for output in outputs])
            answer = _answer(piece, part, run)
            if answer is not None:
                request.done.set_result(answer)
                answered.append(request)
        start = stop
    return answered


def _answer(piece: Piece, part: tuple[Rows, ...], run: tuple[float, float, int]) -> Batched | None:
    """The whole answer if this is its last part. `run` is when the run began, how long it took, and its rows."""
    request, last = piece.request, piece.stop == piece.request.count
    started, seconds, rows = run
    if last and request.parts is None:  # not split, as nearly all are
        return Batched(part, started - request.arrived, seconds, rows)
    if request.parts is None:
        request.parts = {}
        request.started = started
    request.parts[piece.start] = part  # overwrites the part if a failed delivery made the batch be computed again
    request.compute_seconds += seconds
    request.batch_rows = max(request.batch_rows, rows)
    if not last:
        return None
    outputs = tuple(np.concatenate(parts) for parts in zip(*request.parts.values(), strict=True))
    return Batched(outputs, request.started - request.arrived, request.compute_seconds, request.batch_rows)
