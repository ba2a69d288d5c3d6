"""When --watch retries packages that were refused: an unfinished copy will be whole soon, a broken package will not."""

from dataclasses import dataclass

FIRST_RETRY, LONGEST_RETRY = 10.0, 600.0  # seconds until the next try; doubled each time


@dataclass(slots=True)
class ReloadBackoff:
    """The last refusal.

    Attributes:
        what: what was refused; None if nothing was.
        retry: seconds that it has to wait.
        until: when they are over, on the supervisor's clock.
    """

    what: object = None
    retry: float = FIRST_RETRY
    until: float = 0.0

    def may_try(self, what: object, now: float) -> bool:
        """Whether to try `what`: at once if it is new, only now and then if it was refused."""
        return what != self.what or now >= self.until

    def refused(self, what: object, now: float) -> None:
        """Note that `what` was tried and refused."""
        self.retry = min(2 * self.retry, LONGEST_RETRY) if what == self.what else FIRST_RETRY
        self.what, self.until = what, now + self.retry

    def forget(self) -> None:
        """Forget the refusal, because what was refused has been replaced."""
        self.what = None
