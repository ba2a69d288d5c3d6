"""When to start another worker after one has died, and when to give up."""

from dataclasses import dataclass

YOUNG_SECONDS = 10.0  # of service: a worker that dies sooner may do so again at once
FREE_TRIES = 3  # deaths of young workers that are replaced without delay
FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0  # seconds; doubled with each death
LIMIT = 12  # deaths of young workers in a row, with no other serving: this server cannot work


@dataclass(slots=True)
class Crashes:
    """The deaths of workers that did not serve for long, in a row."""

    young: int = 0

    def died(self, served: float) -> float:
        """Note that a worker has died; returns the seconds to wait before the next one is started.

        Args:
            served: seconds for which it took calls; 0 if it never did.
        """
        self.young = self.young + 1 if served < YOUNG_SECONDS else 1
        tries = self.young - FREE_TRIES
        return 0.0 if tries <= 0 else min(FIRST_DELAY * 2.0 ** (tries - 1), LONGEST_DELAY)

    @property
    def is_loop(self) -> bool:
        """Whether another worker would probably die, too."""
        return self.young >= LIMIT
