"""What the supervisor knows, as it is asked at each scrape and probe."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Status:
    """The server at the moment.

    Attributes:
        ready: whether it takes calls.
        workers: the state of each worker process, of catalogue.WORKER_STATES, by its pid.
    """

    ready: bool
    workers: Mapping[int, str]
