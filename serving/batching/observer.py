"""What a batcher tells of its work, to whoever counts it or traces it. It knows neither of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from serving.batching.delivery import Piece


class Reason(StrEnum):
    """Why a batch was taken when it was."""

    FULL = "full"  # it has all the rows that it may have
    DRAINED = "drained"  # nobody else had arrived
    GATHERED = "gathered"  # the time to gather others was over, though some still arrived
    DELAY = "delay"  # the longest delay was over
    DEADLINE = "deadline"  # a longer delay would have cost a deadline
    RETRY = "retry"  # it is half of a batch that failed


class Refusal(StrEnum):
    """Why rows were not computed, or not for their caller any more."""

    QUEUE_ROWS = "queue_rows"
    QUEUE_BYTES = "queue_bytes"
    DEADLINE_ON_ARRIVAL = "deadline_on_arrival"
    DEADLINE_IN_QUEUE = "deadline_in_queue"
    DEADLINE_COMPUTING = "deadline_computing"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the engine.

    Attributes:
        pieces: whose rows they were.
        rows: how many.
        limit: how many it might have had.
        reason: why then.
        started: seconds on the batcher's clock.
        seconds: how long it took.
        failure: what the engine raised, in words; "" if it succeeded.
    """

    pieces: Sequence[Piece]
    rows: int
    limit: int
    reason: Reason
    started: float
    seconds: float
    failure: str = ""

    @property
    def began(self) -> list[Piece]:
        """The pieces whose requests have waited until now: not those that were begun before."""
        return [] if self.reason is Reason.RETRY else [piece for piece in self.pieces if not piece.start]


class Observer(Protocol):
    """Called in the loop's thread, so each method must be quick."""

    def arrived(self) -> object:
        """A request will wait; called in its caller's task. What it returns is kept as `Request.note`."""

    def refused(self, cause: Refusal) -> None:
        """A request has got an error that is not the engine's."""

    def computed(self, run: Run) -> None:
        """The engine has run; those whose last rows these were have not been told yet."""


class Unobserved:
    """An observer that does nothing."""

    def arrived(self) -> object:
        """No note."""
        return None

    def refused(self, cause: Refusal) -> None:
        """Nothing."""

    def computed(self, run: Run) -> None:
        """Nothing."""
