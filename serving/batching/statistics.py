"""Sums of what a graph has done since it was loaded: the requests of all callers, and its batches."""

import time
from dataclasses import dataclass, field

from serving.batching.delivery import Batched


@dataclass(slots=True)
class Duration:
    """How often something happened, and how long it took altogether."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class Statistics:
    """Sums; they only grow.

    Attributes:
        success: requests that were answered, from arrival to answer.
        fail: requests that were refused, failed or left.
        queue: the successful requests, until the engine began with them.
        compute: the successful requests, in the engine.
        rows: the rows of the successful requests.
        batches: the successful batches, by their number of rows.
        last_run: when the last batch had been computed, as Unix time; 0 means never.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    rows: int = 0
    batches: dict[int, Duration] = field(default_factory=dict)
    last_run: float = 0.0

    def answered(self, rows: int, seconds: float, batched: Batched) -> None:
        """A request was answered, `seconds` after it came."""
        self.success.add(seconds)
        self.queue.add(batched.queue_seconds)
        self.compute.add(batched.compute_seconds)
        self.rows += rows

    def failed(self, seconds: float) -> None:
        """A request has ended without an answer."""
        self.fail.add(seconds)

    def ran(self, rows: int, seconds: float) -> None:
        """The engine has computed a batch."""
        if rows not in self.batches:
            self.batches[rows] = Duration()
        self.batches[rows].add(seconds)
        self.last_run = time.time()
