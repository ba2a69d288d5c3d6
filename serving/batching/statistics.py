"""What a graph has done since it was loaded, in sums: of the requests of all callers, and of its batches."""

import time
from dataclasses import dataclass, field

from serving.batching.delivery import Batched


@dataclass(slots=True)
class Duration:
    """How often, and how long altogether."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Once more."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class Statistics:
    """Sums; they only grow.

    Attributes:
        success: of requests, from arrival to answer.
        fail: of those that were refused, failed or left.
        queue: of those that succeeded, until the engine began with them.
        compute: of those, in the engine.
        rows: of those.
        batches: what a batch took, by its rows; those that failed are not here.
        last_run: when the last of them had been computed, as Unix time; 0 is never.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    rows: int = 0
    batches: dict[int, Duration] = field(default_factory=dict)
    last_run: float = 0.0

    def answered(self, rows: int, seconds: float, batched: Batched) -> None:
        """A request has got its answer, `seconds` after it came."""
        self.success.add(seconds)
        self.queue.add(batched.queue_seconds)
        self.compute.add(batched.compute_seconds)
        self.rows += rows

    def failed(self, seconds: float) -> None:
        """A request has ended without."""
        self.fail.add(seconds)

    def ran(self, rows: int, seconds: float) -> None:
        """The engine has computed a batch."""
        if rows not in self.batches:
            self.batches[rows] = Duration()
        self.batches[rows].add(seconds)
        self.last_run = time.time()
