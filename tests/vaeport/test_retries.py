"""Which failure is tried again, and when, on a clock that the tests turn."""

from collections.abc import Callable

import pytest

from vaeport import errors
from vaeport.retries import BUDGET_TOKENS, TOKENS_PER_SUCCESS, Attempts, Retries

FULL = errors.OverloadedError("full", retry_after=0.0)
GONE = errors.UnavailableError("gone")
LATE = errors.DeadlineExceededError("too late")


class Clock:
    """Stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(clock: Clock) -> Callable[..., Retries]:
    """Of a client that a server has answered before; delays are as long as they can be."""

    def make(retries: int = 4, connect_timeout: float = 5.0, *, answered: bool = True) -> Retries:
        shared = Retries(retries, connect_timeout, clock=clock, uniform=lambda low, high: high)
        shared.answered = answered
        return shared

    return make


Make = Callable[..., Retries]


def delays(attempts: Attempts, error: errors.VaeportError, clock: Clock, most: int = 100) -> list[float]:
    """The delays after one failure after the other, each of which is waited."""
    found: list[float] = []
    while len(found) < most and (delay := attempts.after_failure(error)) is not None:
        found.append(delay)
        clock.now += delay
    return found


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidInputError("x"),
        errors.NotFoundError("x"),
        errors.InternalError("x"),
        errors.ServerError("x"),
        errors.UnauthenticatedError("x"),
        errors.PermissionDeniedError("x"),
        errors.OverloadedError("a message that is too large"),
        errors.DeadlineExceededError("x"),
    ],
)
def test_what_would_fail_again_is_final(make: Make, error: errors.VaeportError) -> None:
    assert make().begin(30).after_failure(error) is None


def test_unavailable_is_tried_again_after_delays_that_double_up_to_a_second(make: Make, clock: Clock) -> None:
    assert delays(make(7).begin(30), GONE, clock) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_delays_are_anywhere_between_nothing_and_their_cap() -> None:
    drawn = [Retries().begin(30).after_failure(GONE) or 0.0 for _ in range(200)]
    assert 0 <= min(drawn) < 0.01
    assert 0.04 < max(drawn) <= 0.05


def test_no_retries_means_one_attempt(make: Make) -> None:
    assert make(0).begin(30).after_failure(GONE) is None


def test_fewer_than_none_is_refused() -> None:
    with pytest.raises(errors.InvalidInputError, match="retries: expected at least 0, got -1"):
        Retries(-1)


def test_a_full_queue_is_tried_again_not_before_the_time_it_names(make: Make, clock: Clock) -> None:
    full = errors.OverloadedError("full", retry_after=2.0)
    assert delays(make(3).begin(30), full, clock) == [2.05, 2.1, 2.2]


def test_a_time_after_the_deadline_is_not_waited_for(make: Make) -> None:
    assert make().begin(1.5).after_failure(errors.OverloadedError("full", retry_after=2.0)) is None


def test_all_attempts_share_one_deadline(make: Make, clock: Clock) -> None:
    attempts = make().begin(10)
    assert attempts.timeout() == 10
    clock.now += 4
    attempts.after_failure(FULL)
    assert attempts.timeout() == 6
    clock.now += 5.95
    assert attempts.timeout() == pytest.approx(0.05)
    assert attempts.after_failure(FULL) is None
    clock.now += 1
    assert attempts.timeout() == 0


def test_only_an_attempt_after_unavailable_waits_for_a_connection(make: Make) -> None:
    attempts = make().begin(30)
    assert not attempts.wait_for_ready
    attempts.after_failure(FULL)
    assert not attempts.wait_for_ready
    attempts.after_failure(GONE)
    assert attempts.wait_for_ready


@pytest.mark.parametrize(("seconds", "waits"), [(30, 29.5), (1, 0.9)])
def test_after_an_answer_a_connection_may_take_almost_the_deadline_to_come_back(
    make: Make, clock: Clock, seconds: float, waits: float
) -> None:
    attempts = make().begin(seconds)
    attempts.after_failure(GONE)
    assert attempts.timeout() == pytest.approx(waits)
    clock.now += waits
    assert attempts.after_failure(LATE) == 0
    assert attempts.timeout() == pytest.approx(seconds - waits)
    assert not attempts.wait_for_ready
    assert attempts.after_failure(GONE) is None


def test_before_any_answer_a_connection_has_its_own_time_and_then_one_attempt_says_why(
    make: Make, clock: Clock
) -> None:
    attempts = make(answered=False).begin(30)
    clock.now += 1
    attempts.after_failure(GONE)
    assert attempts.timeout() == 4  # of the 5 for connecting
    clock.now += 4
    assert attempts.after_failure(LATE) == 0
    assert (attempts.timeout(), attempts.wait_for_ready) == (25, False)
    assert attempts.after_failure(GONE) is None


def test_an_attempt_that_connected_just_in_time_has_the_rest_of_the_deadline(make: Make, clock: Clock) -> None:
    attempts = make(answered=False).begin(30)
    attempts.after_failure(GONE)
    clock.now += attempts.timeout()
    attempts.after_failure(LATE)
    clock.now += attempts.timeout()
    assert clock.now == 130
    assert attempts.after_failure(LATE) is None


def test_connecting_takes_at_most_half_of_the_deadline(make: Make) -> None:
    attempts = make(answered=False).begin(4)
    attempts.after_failure(GONE)
    assert attempts.timeout() == 2


def test_when_the_time_to_connect_is_over_the_failure_is_final(make: Make, clock: Clock) -> None:
    attempts = make(answered=False).begin(30)
    clock.now += 5  # gRPC itself gives up on a host that does not answer
    assert attempts.after_failure(GONE) is None


@pytest.mark.parametrize("error", [errors.OverloadedError("full"), errors.NotFoundError("no")])
def test_a_refusal_is_an_answer_too(make: Make, error: errors.VaeportError) -> None:
    shared = make(answered=False)
    shared.begin(30).after_failure(error)
    assert shared.answered


def test_silence_is_no_answer(make: Make) -> None:
    shared = make(answered=False)
    for error in (GONE, LATE):
        shared.begin(30).after_failure(error)
    assert not shared.answered


def test_a_deadline_that_passes_says_what_came_before(make: Make, clock: Clock) -> None:
    attempts = make().begin(30)
    attempts.after_failure(GONE)
    clock.now += attempts.timeout()
    attempts.after_failure(LATE)
    clock.now += attempts.timeout()
    late = errors.DeadlineExceededError("too late")
    assert attempts.after_failure(late) is None
    assert clock.now == 130
    assert str(late) == "too late; before that, gone"


def test_without_tokens_nothing_is_tried_again(make: Make, clock: Clock) -> None:
    shared = make(retries=3)
    made = sum(len(delays(shared.begin(30), GONE, clock)) for _ in range(1000))
    assert made == BUDGET_TOKENS
    assert shared.begin(30).after_failure(GONE) is None


def test_success_earns_a_tenth_of_a_retry(make: Make) -> None:
    shared = make()
    while shared.take_token():
        pass
    shared.succeeded()
    assert shared.begin(30).after_failure(GONE) is None
    for _ in range(round(1 / TOKENS_PER_SUCCESS)):
        shared.succeeded()
    assert shared.begin(30).after_failure(GONE) is not None
    assert shared.begin(30).after_failure(GONE) is None


def test_the_budget_is_never_more_than_full(make: Make) -> None:
    shared = make()
    for _ in range(100):
        shared.succeeded()
    assert sum(shared.take_token() for _ in range(2 * int(BUDGET_TOKENS))) == BUDGET_TOKENS


def test_when_every_call_fails_once_retries_stay_within_what_success_earns(make: Make) -> None:
    shared, calls = make(), 20_000
    retried = 0
    for _ in range(calls):
        retried += shared.begin(30).after_failure(GONE) is not None
        shared.succeeded()
    assert retried <= BUDGET_TOKENS + TOKENS_PER_SUCCESS * calls


def test_a_time_in_which_nobody_looked_does_not_count(make: Make, clock: Clock) -> None:
    attempts = make().begin(10)
    clock.now += 60
    attempts.excuse(58)
    assert attempts.after_failure(GONE) is not None
    assert attempts.timeout() <= 8
