"""What the supervisor knows of the server, asked at each scrape and probe."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Status:
    """The server at the moment.

    Attributes:
        reason: why it takes no calls; "" if it does.
        workers: the state of each worker process, one of catalogue.WORKER_STATES, by its pid.
    """

    reason: str
    workers: Mapping[int, str]

    @property
    def ready(self) -> bool:
        """Whether it takes calls."""
        return not self.reason
