"""What a batcher tells of its work, to whoever counts it or traces it. It knows neither of them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from serving.batching.delivery import Piece

log = logging.getLogger(__name__)


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


CLOSED = "closed"  # the failure of a run that the end of the batcher has cut off


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
        failure: what the engine raised, in words, or CLOSED; "" if it succeeded.
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
    """Called in the loop's thread, so each method must be quick. What one raises is logged, and harms nobody."""

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


class Guarded:
    """An observer that may fail: nobody's answer may depend on who looks on."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def arrived(self) -> object:
        """The observer's note, or none."""
        try:
            return self._observer.arrived()
        except Exception:
            log.exception("an arrival could not be reported")
            return None

    def refused(self, cause: Refusal) -> None:
        """As the observer."""
        try:
            self._observer.refused(cause)
        except Exception:
            log.exception("a refusal could not be reported")

    def computed(self, run: Run) -> None:
        """As the observer."""
        try:
            self._observer.computed(run)
        except Exception:
            log.exception("a batch could not be reported")
