"""What a worker did not do in time, by a clock that the test sets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.settings import Settings
from serving.supervisor.overdue import FAILED_SECONDS, START_SECONDS, overdue
from serving.supervisor.process import State, WorkerProcess

SETTINGS = Settings(models=Path("models"), hang_seconds=30.0, lame_duck_seconds=1.0, grace=10.0)
PROCESS: Any = None  # nobody looks at it
WORKER = WorkerProcess(0, 0, (), PROCESS, None, since=0.0, heard=0.0)
FAILED = replace(WORKER, failure="the self-test failed", failed_since=0.0)
SERVING = replace(WORKER, state=State.SERVING)
STOPPED = replace(SERVING, state=State.LEAVING, leaving_since=0.0, heard=1e9)


@pytest.mark.parametrize(
    ("worker", "now", "why"),
    [
        (WORKER, START_SECONDS, ""),
        (WORKER, START_SECONDS + 1, f"did not load in {START_SECONDS:g} s"),
        (SERVING, 30.0, ""),
        (SERVING, 31.0, "31.0 s"),
        (FAILED, FAILED_SECONDS, ""),
        (FAILED, FAILED_SECONDS + 1, "has failed, and did not end in time"),
        (STOPPED, 16.0, ""),
        (STOPPED, 16.1, "did not end in time"),
    ],
)
def test_a_worker_has_its_time_and_no_more(worker: WorkerProcess, now: float, why: str) -> None:
    found = overdue(worker, SETTINGS, now, stopping=True, patient=False)
    assert why in found if why else found == ""


def test_one_that_leaves_after_a_reload_may_wait_for_its_connections() -> None:
    settings = replace(SETTINGS, max_connection_age_seconds=60.0)
    assert overdue(STOPPED, settings, 80.0, stopping=False, patient=False) == ""
    assert overdue(STOPPED, settings, 90.0, stopping=False, patient=False) == "did not end in time"


def test_nobody_has_hung_where_all_have_stood_still() -> None:
    assert overdue(SERVING, SETTINGS, 100.0, stopping=False, patient=True) == ""
