"""One timer for the earliest of many deadlines.

Most requests are answered long before their deadline, so a timer for each of them would be set and cancelled for
nothing. Here an answered request only gives its ticket back; its entry stays in the heap until it comes to the top, or
until such entries are the majority.
"""

import heapq
import math
from collections.abc import Callable
from typing import Protocol

from serving.batching.delivery import Request

SPARE_ENTRIES = 64  # entries of answered requests in the heap; fewer are not worth a clean-up


class Timer(Protocol):
    """What `call_at` returns."""

    def cancel(self) -> None:
        """Cancel the call."""


class Clock(Protocol):
    """Monotonic seconds and timers on them. Every event loop is one."""

    def time(self) -> float:
        """Seconds now."""

    def call_at(self, when: float, callback: Callable[..., object]) -> Timer:
        """Call back at `when`, or soon after."""


class Deadlines:
    """Calls `on_due` with each request at the moment it was added for, unless it is forgotten before.

    Args:
        clock: seconds and timers.
        on_due: answers the request (and thereby has it forgotten), or returns when to look at it again.
    """

    def __init__(self, clock: Clock, on_due: Callable[[Request, float], float]) -> None:
        self._clock = clock
        self._on_due = on_due
        self._heap: list[tuple[float, int]] = []
        self._requests: dict[int, Request] = {}  # by ticket: those that are not answered
        self._tickets = 0
        self._timer: Timer | None = None
        self._armed_for = math.inf

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def earliest(self) -> float:
        """No request is due before this time; infinity if there are no requests."""
        return self._heap[0][0] if self._heap else math.inf

    def add(self, request: Request, when: float) -> None:
        """Look at `request` at `when`."""
        self._tickets += 1
        request.ticket = self._tickets
        self._requests[self._tickets] = request
        heapq.heappush(self._heap, (when, self._tickets))
        if when < self._armed_for:
            self._arm(when)

    def forget(self, request: Request) -> None:
        """Forget a request because it is answered; nothing happens if it was never added."""
        if self._requests.pop(request.ticket, None) is None:
            return
        if not self._requests:
            self._heap.clear()
            self._arm(math.inf)
        elif len(self._heap) > 2 * len(self._requests) + SPARE_ENTRIES:
            self._heap = [entry for entry in self._heap if entry[1] in self._requests]
            heapq.heapify(self._heap)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if when == math.inf else self._clock.call_at(when, self._fire)
        self._armed_for = when

    def _fire(self) -> None:
        now = max(self._clock.time(), self._armed_for)  # a loop's timer may fire one tick of its clock early
        self._timer, self._armed_for = None, math.inf
        again = []
        while self._heap and self._heap[0][0] <= now:
            ticket = heapq.heappop(self._heap)[1]
            if (request := self._requests.get(ticket)) is not None:
                when = self._on_due(request, now)
                if ticket in self._requests:
                    again.append((when, ticket))
        for entry in again:
            heapq.heappush(self._heap, entry)
        while self._heap and self._heap[0][1] not in self._requests:
            heapq.heappop(self._heap)
        self._arm(self.earliest)
