"""What a batcher reports of its work to observers, which count or trace it. It knows neither kind."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from serving.batching.delivery import Piece

log = logging.getLogger(__name__)


class Reason(StrEnum):
    """Why a batch was taken when it was."""

    FULL = "full"  # it has as many rows as it may have
    DRAINED = "drained"  # no other request had arrived
    GATHERED = "gathered"  # the time to gather others was over, though some were still arriving
    DELAY = "delay"  # the longest delay was over
    DEADLINE = "deadline"  # with a longer delay, a deadline would have been missed
    RETRY = "retry"  # it is half of a batch that failed


class Refusal(StrEnum):
    """Why rows were not computed, or were computed in vain."""

    QUEUE_ROWS = "queue_rows"
    QUEUE_BYTES = "queue_bytes"
    DEADLINE_ON_ARRIVAL = "deadline_on_arrival"
    DEADLINE_IN_QUEUE = "deadline_in_queue"
    DEADLINE_COMPUTING = "deadline_computing"
    STOPPING = "stopping"


CLOSED = "closed"  # the failure of a run that was cut off because the batcher ended


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the engine.

    Attributes:
        pieces: whose rows they were.
        rows: how many rows there were.
        limit: how many rows it might have had.
        reason: why it began when it did.
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
        """The pieces whose requests have waited until now, without those that were begun before."""
        return [] if self.reason is Reason.RETRY else [piece for piece in self.pieces if not piece.start]


class Observer(Protocol):
    """Called in the loop's thread, so each method must be quick. What it raises is logged, and has no other effect."""

    def arrived(self) -> object:
        """A request begins to wait; called in its caller's task. The result is kept as `Request.note`."""

    def refused(self, cause: Refusal) -> None:
        """A request has failed with an error that is not the engine's."""

    def computed(self, run: Run) -> None:
        """The engine has run a batch; the requests that it completes have not been answered yet."""


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
    """An observer that may fail: no answer may depend on who observes."""

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
