"""A failed batch is computed again in halves, so that only the guilty callers get the error.

One guilty caller among n costs 2 log2(n) further runs. Splits are limited by an allowance: each split takes one from
it, and each run that succeeds gives one back. A guilty caller among innocent ones can thus be found any number of times
(each split that leads to it has another half, which succeeds). An engine that always fails uses the allowance up once,
in 2 * ALLOWANCE further runs, and then costs one run per batch until it works again. While the allowance is used up,
innocent callers in a failed batch get the error, too.
"""

from collections.abc import Awaitable, Callable

from serving.batching.delivery import Piece
from serving.batching.observer import Reason
from vaeport.errors import UnavailableError

ALLOWANCE = 64  # splits


class Bisection:
    """Computes batches, and retries those that fail.

    Args:
        attempt: computes pieces, taken for that reason, and answers their callers; raises what the engine raised.
            UnavailableError means that the engine is lost, and is not retried.
        fail: gives the caller of a piece an error.
    """

    def __init__(
        self, attempt: Callable[[list[Piece], Reason], Awaitable[None]], fail: Callable[[Piece, Exception], None]
    ) -> None:
        self._attempt = attempt
        self._fail = fail
        self._allowance = ALLOWANCE

    async def compute(self, pieces: list[Piece], reason: Reason) -> None:
        """Compute a batch; everyone in it has been served or has an error when this returns.

        `reason` is why it is taken now; what is left of it after a failure is a retry.
        """
        waiting = [pieces]
        while waiting:
            part = [piece for piece in waiting.pop() if not piece.request.done.done()]  # others left meanwhile
            if not part:
                continue
            try:
                await self._attempt(part, reason)
                self._allowance = min(ALLOWANCE, self._allowance + 1)
            except UnavailableError as error:
                self._fail_all([piece for rest in (part, *waiting) for piece in rest], error)
                return
            except Exception as error:  # whatever the engine raises becomes some caller's answer
                halves = self._split(part)
                if not halves:
                    self._fail_all(part, error)
                waiting += halves
                reason = Reason.RETRY

    def _split(self, part: list[Piece]) -> list[list[Piece]]:
        """The halves to try, the first one last; none for a single caller, or if the allowance is used up."""
        if len(part) < 2 or not self._allowance:
            return []
        self._allowance -= 1
        return [part[len(part) // 2 :], part[: len(part) // 2]]

    def _fail_all(self, pieces: list[Piece], error: Exception) -> None:
        for piece in pieces:
            self._fail(piece, error)
