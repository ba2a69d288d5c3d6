"""Which failed calls are retried, and when. Pure: the client asks this module, sleeps and calls.

Every call of the service is idempotent: the same request gives the same answer, samples too, since the client draws the
seed before the first attempt. So another attempt does no harm, whatever became of the last one. These are retried:

* UnavailableError: the connection was refused or lost, or the server is starting, stopping or draining, whether it
  said so or cut the call;
* OverloadedError with a hint (`retry_after`), not before the time it names. Without a hint it is not a full queue but a
  message that is too large, and stays so.

An attempt after UnavailableError waits for a connection (gRPC's `wait_for_ready`); otherwise it would fail at once
while the channel pauses between its own attempts to connect. How long it waits depends on whether any server has
answered this client before. If so, the address is right, and it waits until shortly before the deadline: a shorter
restart fails no call. If not, the address may be wrong, and it waits for `connect_timeout`. Then one last attempt that
does not wait gives an error that says what is wrong, which a passing deadline would not.

Four things limit retries: the deadline of the call, which all attempts share; `retries` per call; full jitter under an
exponential cap, so that calls that failed together are not retried together; and a budget per client, so that an
outage is not multiplied: a retry takes a token, a success gives a tenth of one back, and without tokens there is no
retry. The budget is enough for every call of a busy connection that is lost, several times over.
"""

import random
import time
from collections.abc import Callable

from vaeport.errors import DeadlineExceededError, InvalidInputError, OverloadedError, UnavailableError, VaeportError

DEFAULT_RETRIES = 4
DEFAULT_CONNECT_TIMEOUT_SECONDS = 5.0
FIRST_DELAY_SECONDS = 0.05  # the cap of the first delay; it doubles with each attempt
MAX_DELAY_SECONDS = 1.0
LAST_WORD_SECONDS = 0.5  # reserved for the last attempt, but at most a tenth of the time
BUDGET_TOKENS = 1000.0
TOKENS_PER_SUCCESS = 0.1


class Retries:
    """The retries of one client's calls. Safe to use from several threads.

    Args:
        retries: the most attempts after the first one; 0 switches them off.
        connect_timeout: seconds that a call waits for the first connection, but at most half of its own timeout.
        clock: monotonic seconds.
        uniform: draws a random number between two others.

    Raises:
        InvalidInputError: a number outside its range.
    """

    def __init__(
        self,
        retries: int = DEFAULT_RETRIES,
        connect_timeout: float = DEFAULT_CONNECT_TIMEOUT_SECONDS,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        if retries < 0:
            raise InvalidInputError.of("retries", expected="at least 0", got=retries)
        self.retries = retries
        self.connect_timeout = connect_timeout
        self.clock = clock
        self.uniform = uniform
        self.answered = False  # whether any server has ever answered
        self._tokens = BUDGET_TOKENS

    def begin(self, timeout: float) -> "Attempts":
        """The attempts of a call that may take `timeout` seconds from now, all together."""
        return Attempts(self, timeout)

    def take_token(self) -> bool:
        """Take a token for a retry, if one is left. Two racing threads may lose one, which does no harm."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def succeeded(self) -> None:
        """Note that a call was answered."""
        self.answered = True
        if self._tokens < BUDGET_TOKENS:
            self._tokens = min(BUDGET_TOKENS, self._tokens + TOKENS_PER_SUCCESS)


class Attempts:
    """The attempts of one call, made with `Retries.begin`.

    Each is made with `timeout()` and `wait_for_ready`; after a failure, `after_failure` says what to do.
    """

    __slots__ = ("_before", "_began", "_deadline", "_last", "_made", "_shared", "_waits", "wait_for_ready")

    def __init__(self, shared: Retries, timeout: float) -> None:
        self._shared = shared
        self._began = shared.clock()
        self._deadline = self._began + timeout
        self._made = 0  # retries
        self._waits = False  # the attempt under way waits for a connection, and must not take all the time
        self._last = False
        self._before: VaeportError | None = None  # why there was more than one attempt
        self.wait_for_ready = False

    def timeout(self) -> float:
        """Seconds that the next attempt may take."""
        now = self._shared.clock()
        self._waits = self.wait_for_ready
        return max(0.0, self._end() - now)

    def excuse(self, seconds: float) -> None:
        """Do not count seconds in which the attempt's outcome was there but not read."""
        self._began += seconds
        self._deadline += seconds

    def after_failure(self, error: VaeportError) -> float | None:
        """Seconds to wait before the next attempt; None: `error` is final, and says what came before it."""
        if self._waits and isinstance(error, DeadlineExceededError):
            return self._tell_why()
        if not isinstance(error, UnavailableError | DeadlineExceededError):
            self._shared.answered = True
        if isinstance(error, DeadlineExceededError) and self._before is not None:
            error.args = (f"{error.args[0]}; before that, {self._before.args[0]}",)
        if self._last or self._made >= self._shared.retries or not _is_retryable(error):
            return None
        delay = self._backoff() + (getattr(error, "retry_after", None) or 0.0)
        self.wait_for_ready = self.wait_for_ready or isinstance(error, UnavailableError)
        if self._shared.clock() + delay >= self._end() or not self._shared.take_token():
            return None
        self._made += 1
        self._before = error
        return delay

    def _tell_why(self) -> float:
        self._last, self.wait_for_ready = True, False
        return 0.0

    def _backoff(self) -> float:
        cap = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(self._made, 64))
        return self._shared.uniform(0.0, cap)

    def _end(self) -> float:
        """When the next attempt must end; if it waits, when the last attempt must begin."""
        if not self.wait_for_ready:
            return self._deadline
        total = self._deadline - self._began
        if self._shared.answered:
            return self._deadline - min(LAST_WORD_SECONDS, total / 10)
        return self._began + min(self._shared.connect_timeout, total / 2)


def _is_retryable(error: VaeportError) -> bool:
    if isinstance(error, OverloadedError):
        return error.retry_after is not None
    return isinstance(error, UnavailableError)
