"""More load than the engine can bear, on a server in a process of its own, from a generator in another one."""

import pytest

from benchmarks.serving.overload import DEADLINE, QUEUES, Overload, cells, measure

SECONDS = 15.0  # of each load; `python -m benchmarks.serving.overload` takes a minute of each
ATTEMPTS = 3  # a machine that has something else to do can spoil a measurement, never improve it
MAX_GROWTH_BYTES = 4 << 20

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("queue_rows", QUEUES.values(), ids=QUEUES)
def test_above_the_knee_the_engine_stays_busy_and_who_is_not_answered_knows_it_at_once(queue_rows: int) -> None:
    broken = ["nothing was measured"]
    for _ in range(ATTEMPTS):
        if broken:
            broken = [promise for run in measure(queue_rows, SECONDS) for promise in broken_promises(run)]
    assert broken == []


def broken_promises(run: Overload) -> list[str]:
    """What does not hold of a run."""
    print(f"{run.share:.0%}: {cells(run)}")
    excess = (run.share - 1) * run.knee * run.calls.seconds
    promises = {
        "no call fails": run.calls.failed == 0,
        "goodput above 0.9 of the knee": run.goodput > 0.9,
        "p99 of the admitted before the deadline": run.p99 < DEADLINE,  # at most one in a hundred has no answer
        "the excess is refused at once": len(run.refusals) > 0.4 * excess,  # but for what the queue takes, and chance
        "memory is flat": run.growth < MAX_GROWTH_BYTES,
    }
    return [f"{promise}, at {run.share:.0%}" for promise, held in promises.items() if not held]
