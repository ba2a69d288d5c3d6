"""Rows that wait: how many may, and whose go into the next batch.

There are two lanes, each first come, first served: small requests (up to an eighth of a batch) and large ones. While
both wait, each has half of every batch, and what one lane does not need the other may have. So a small request waits
for the batch that runs and for small ones before it, never for all batches of a large one; and a large one has half of
the engine whatever arrives after it. Large requests finish one after the other, which is sooner on average than if they
shared each batch among them.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from serving.batching.delivery import Piece, Request
from serving.batching.observer import Refusal

SMALL_FRACTION = 8  # a small request has at most one eighth of the rows of a batch


@dataclass(frozen=True, slots=True)
class Limits:
    """What a queue holds, and how it becomes batches.

    Attributes:
        max_batch_rows: rows of one batch.
        max_queue_rows: rows that wait.
        max_queue_bytes: bytes of the requests that wait; a single larger one may, if it is alone.
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
        self.bytes = 0  # of all requests that have rows here; each is held in memory whole

    @property
    def rows(self) -> int:
        """Rows that wait."""
        return self._small.rows + self._large.rows

    def limit_batches(self, rows: int) -> None:
        """Batches have at most `rows` rows from now on. What a small request is stays: who waits keeps the lane."""
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
        """Rows that are computed until a request of `rows` rows is, were it added now. Batches are full if they can."""
        lane, other = (self._small, self._large) if rows <= self._small_rows else (self._large, self._small)
        own = lane.rows + rows
        size = self._limits.max_batch_rows
        batches = -(-(own + min(own, other.rows)) // size)
        return min(own + other.rows, batches * size)

    def add(self, request: Request) -> None:
        """Put a request at the end of its lane."""
        lane = self._lane(request)
        lane.requests[request] = None
        lane.rows += request.count
        self.bytes += request.rows.nbytes

    def remove(self, request: Request) -> None:
        """Whatever rows of it wait leave; nothing happens if none do."""
        waiting = request.count - request.taken
        if waiting:
            self._drop(self._lane(request), request)
            request.taken = request.count

    def waiting(self) -> list[Request]:
        """All requests with rows that wait."""
        return [*self._small.requests, *self._large.requests]

    def oldest_arrival(self) -> float:
        """When the first of those that wait came; there must be one."""
        return min(next(iter(lane.requests)).arrived for lane in (self._small, self._large) if lane.requests)

    def take(self, ends: float, seconds: Callable[[int], float]) -> tuple[list[Piece], list[Request]]:
        """The pieces of the next batch, and the requests that left because it comes too late for them.

        Args:
            ends: when the batch will have been computed.
            seconds: the cost of further rows, for requests that are not finished then.
        """
        pieces: list[Piece] = []
        late: list[Request] = []
        room = self._limits.max_batch_rows
        self._odd = 1 - self._odd  # the odd row goes to either lane in turn; a batch may have no other
        half = (room + self._odd) // 2
        for lane, reserved in ((self._small, min(half, self._large.rows)), (self._large, 0)):
            free = room - reserved
            while free and lane.requests:
                request = next(iter(lane.requests))
                rest = request.count - request.taken - free
                if request.deadline < (ends if rest <= 0 else ends + seconds(rest)):
                    self.remove(request)
                    late.append(request)
                else:
                    pieces.append(self._piece(lane, request, free))
                    free -= pieces[-1].stop - pieces[-1].start
            room = free + reserved
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
