"""When --watch tries again what was refused: what is being copied will be whole soon, what is broken will not."""

from dataclasses import dataclass

FIRST_RETRY, LONGEST_RETRY = 10.0, 600.0  # seconds until it is tried again; doubled each time


@dataclass(slots=True)
class Refusals:
    """The last refusal.

    Attributes:
        what: was refused; None if nothing was.
        retry: seconds that it has to wait.
        until: when they are over, on the supervisor's clock.
    """

    what: object = None
    retry: float = FIRST_RETRY
    until: float = 0.0

    def may_try(self, what: object, now: float) -> bool:
        """Whether to try something: at once what is new, but not again and again what was refused."""
        return what != self.what or now >= self.until

    def refused(self, what: object, now: float) -> None:
        """It was tried, and refused."""
        self.retry = min(2 * self.retry, LONGEST_RETRY) if what == self.what else FIRST_RETRY
        self.what, self.until = what, now + self.retry

    def forget(self) -> None:
        """What was refused is not what is there any more."""
        self.what = None
