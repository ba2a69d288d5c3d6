"""Rows that wait: how many may, and whose go into the next batch.

There are two lanes, each first come, first served: small requests (up to an eighth of a batch) and large ones. While
both wait, each has half of every batch, and either may use what the other does not need. So a small request waits for
the batch that runs and for small ones before it, never for all batches of a large one; and a large one has half of the
engine whatever arrives after it. Large requests finish one after the other, which is sooner on average than if they
shared each batch.

A batch that would end too late for a request in it takes fewer rows from the large lane; the rest come with the next
batch. The rows by which that lane then falls short of its half are owed to it, and so are the rows that the engine
could have computed in the time that two batches cost more than one. While a whole batch is owed, batches are full
again, and a request that cannot wait for the end of a full one leaves: many urgent requests must not have the engine to
themselves, nor make it compute a few rows at a time, at a fraction of its rate.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from serving.batching.delivery import Piece, Request
from serving.batching.observer import Refusal

CUT_MARGIN = 0.1  # times its cost: the margin that a batch which was cut for a deadline leaves before it
SMALL_FRACTION = 8  # a small request has at most one eighth of the rows of a batch


@dataclass(frozen=True, slots=True)
class Limits:
    """What a queue holds, and how it becomes batches.

    Attributes:
        max_batch_rows: rows of one batch.
        max_queue_rows: rows that wait.
        max_queue_bytes: bytes of the requests that wait; a single larger one may wait alone.
        max_delay: seconds that a free engine waits for a fuller batch.
    """

    max_batch_rows: int
    max_queue_rows: int
    max_queue_bytes: int
    max_delay: float = 0.0


@dataclass(slots=True)
class _Lane:
    """Requests with rows that wait, in order of arrival; a dict, since any of them may leave at any time."""

    requests: OrderedDict[Request, None] = field(default_factory=OrderedDict)
    rows: int = 0


class Queue:
    """The requests of one graph that wait, in whole or in part."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._small_rows = max(1, limits.max_batch_rows // SMALL_FRACTION)
        self._small, self._large = _Lane(), _Lane()
        self._odd = 0
        self._owed = 0  # rows, to the large lane
        self.bytes = 0  # of all requests that have rows here; each is held in memory whole

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._small.rows + self._large.rows

    def limit_batches(self, rows: int) -> None:
        """Limit batches to `rows` rows from now on. What counts as small stays: waiting requests keep their lane."""
        self._limits = replace(self._limits, max_batch_rows=rows)

    def refusal(self, rows: int, size: int) -> tuple[Refusal, str] | None:
        """Why a request of `rows` rows and `size` bytes may not be added, also in words; None if it may."""
        limits = self._limits
        if self.rows + rows > limits.max_queue_rows:
            text = f"the queue is full: {self.rows} rows wait, and {rows} more would exceed {limits.max_queue_rows}"
            return Refusal.QUEUE_ROWS, text
        if self.bytes and self.bytes + size > limits.max_queue_bytes:
            text = f"the queue is full: {self.bytes} bytes wait, and {size} more would exceed {limits.max_queue_bytes}"
            return Refusal.QUEUE_BYTES, text
        return None

    def rows_until(self, rows: int) -> int:
        """Rows that would be computed until a request of `rows` rows, added now, is done.

        Batches are full where possible; the last one of a small request may hold only small ones.
        """
        small = rows <= self._small_rows
        lane, other = (self._small, self._large) if small else (self._large, self._small)
        own = lane.rows + rows
        size = self._limits.max_batch_rows
        batches = -(-(own + min(own, other.rows)) // size)
        if small and self._may_cut:
            return own + min(other.rows, (batches - 1) * (size // 2))
        return min(own + other.rows, batches * size)

    def add(self, request: Request) -> None:
        """Put a request at the end of its lane."""
        lane = self._lane(request)
        lane.requests[request] = None
        lane.rows += request.count
        self.bytes += request.rows.nbytes

    def remove(self, request: Request) -> None:
        """Remove the rows of `request` that still wait, if any."""
        waiting = request.count - request.taken
        if waiting:
            self._drop(self._lane(request), request)
            request.taken = request.count

    def waiting(self) -> list[Request]:
        """All requests with rows that wait."""
        return [*self._small.requests, *self._large.requests]

    def oldest_arrival(self) -> float:
        """When the oldest waiting request arrived; there must be one."""
        return min(next(iter(lane.requests)).arrived for lane in (self._small, self._large) if lane.requests)

    def take(self, now: float, seconds: Callable[[int], float]) -> tuple[list[Piece], list[Request]]:
        """The pieces of the next batch, and the requests that left because even the smallest one is too late for them.

        Args:
            now: when the batch begins.
            seconds: predicts the cost of a number of rows.
        """
        room, may_cut = self._limits.max_batch_rows, self._may_cut
        self._odd = 1 - self._odd  # the odd row goes to either lane in turn; a batch may have no other
        reserved = min((room + self._odd) // 2, self._large.rows)
        small = min(room - reserved, self._small.rows)
        least = small if may_cut else min(room, self.rows)  # rows of the batch, whatever its deadlines

        def ends(rows: int) -> float:
            return now + seconds(max(rows, least))

        pieces, late = self._fill(self._small, room - reserved, 0, ends, seconds)
        rows = sum([piece.stop - piece.start for piece in pieces])
        latest = min([piece.request.deadline for piece in pieces], default=math.inf)

        def in_time(rows: int, latest: float) -> bool:
            return not may_cut or ends(rows) + CUT_MARGIN * (ends(rows) - now) <= latest

        large, too_late = self._fill(self._large, room - rows, rows, ends, seconds, in_time, latest)
        taken = sum([piece.stop - piece.start for piece in large])
        left = min(room - rows - taken, self._large.rows)
        lost = left and seconds(rows + taken) + seconds(left) - seconds(rows + taken + left)  # two batches for one
        missing = reserved - taken + (round(room * lost / seconds(room)) if lost > 0 else 0)
        self._owed = max(0, self._owed + missing) if self._large.rows else 0
        return pieces + large, late + too_late

    @property
    def _may_cut(self) -> bool:
        return self._owed < self._limits.max_batch_rows

    def _fill(
        self,
        lane: _Lane,
        free: int,
        rows: int,
        ends: Callable[[int], float],
        seconds: Callable[[int], float],
        in_time: Callable[[int, float], bool] = lambda *_: True,
        latest: float = math.inf,
    ) -> tuple[list[Piece], list[Request]]:
        """Up to `free` rows of a lane, for a batch that has `rows` already, and the requests that are too late for it.

        `ends` says when a batch of a number of rows will have been computed, `in_time` whether that is before `latest`,
        the earliest deadline in the batch.
        """
        pieces: list[Piece] = []
        late: list[Request] = []
        while free and lane.requests:
            request = next(iter(lane.requests))
            waiting = request.count - request.taken
            fitting = min(waiting, free)
            if request.deadline < ends(rows + fitting) + (seconds(waiting - fitting) if waiting > fitting else 0.0):
                self.remove(request)
                late.append(request)
                continue
            taken = _most(fitting, rows, latest, in_time)
            if taken:
                pieces.append(self._piece(lane, request, taken))
            if taken < fitting:
                break
            rows, free, latest = rows + taken, free - taken, min(latest, request.deadline)
        return pieces, late

    def _piece(self, lane: _Lane, request: Request, room: int) -> Piece:
        start = request.taken
        stop = min(request.count, start + room)
        if stop == request.count:
            self._drop(lane, request)
        else:
            lane.rows -= stop - start
        request.taken = stop
        return Piece(request, start, stop)

    def _drop(self, lane: _Lane, request: Request) -> None:
        del lane.requests[request]
        lane.rows -= request.count - request.taken
        self.bytes -= request.rows.nbytes

    def _lane(self, request: Request) -> _Lane:
        return self._small if request.count <= self._small_rows else self._large


def _most(more: int, rows: int, latest: float, in_time: Callable[[int, float], bool]) -> int:
    """How many of `more` rows can join a batch of `rows` rows so that it is still in time."""
    if in_time(rows + more, latest):
        return more
    fits, too_many = 0, more
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if in_time(rows + middle, latest):
            fits = middle
        else:
            too_many = middle
    return fits
