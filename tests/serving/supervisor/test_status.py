"""Why a worker ended, in the words of the metrics, and the server's state."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.heartbeat import Heartbeat
from serving.metrics.catalogue import EXIT_CAUSES, WORKER_STATES
from serving.supervisor.process import State, WorkerProcess
from serving.supervisor.status import STATES, exit_cause, status_of
from serving.worker import EXIT_DEVICE_LOST

SIGKILL = -9


def worker(pid: int = 1, exitcode: int | None = None, state: State = State.SERVING, **changes: Any) -> WorkerProcess:
    process: Any = SimpleNamespace(pid=pid, exitcode=exitcode)
    return WorkerProcess(0, 0, (Path("m/1"),), process, None, 0.0, 0.0, state=state, **changes)


@pytest.mark.parametrize(
    ("ended", "leaving", "stopping", "cause"),
    [
        (worker(exitcode=SIGKILL, serving_since=1.0), False, False, "crash"),
        (worker(exitcode=0, serving_since=1.0), False, False, "crash"),
        (worker(exitcode=SIGKILL, serving_since=1.0), True, False, "crash"),
        (worker(exitcode=1), False, False, "failed_start"),
        (worker(exitcode=SIGKILL, serving_since=1.0, failure="has hung for 31.0 s"), False, False, "hang"),
        (worker(exitcode=EXIT_DEVICE_LOST, serving_since=1.0, failure="the device is lost"), True, True, "device_lost"),
        (worker(exitcode=0, serving_since=1.0), True, False, "replaced"),
        (worker(exitcode=-15), True, False, "replaced"),
        (worker(exitcode=0, serving_since=1.0), True, True, "stopped"),
    ],
)
def test_each_end_has_its_cause(ended: WorkerProcess, leaving: bool, stopping: bool, cause: str) -> None:
    assert exit_cause(ended, leaving=leaving, stopping=stopping) == cause
    assert cause in EXIT_CAUSES


def test_a_server_is_ready_while_a_worker_is() -> None:
    assert {*STATES.values(), "unready"} < set(WORKER_STATES)
    sick = worker(4, beat=Heartbeat(0.0, False, "digits: the canary took too long", None, 0.0, {}, 0))
    serving, loading = worker(1), worker(2, state=State.LOADED)
    status = status_of([serving, loading, worker(3, state=State.LEAVING), sick])
    assert status.ready
    assert dict(status.workers) == {1: "ready", 2: "starting", 3: "draining", 4: "unready"}
    assert status_of([loading]).reason == "no worker serves"
    assert status_of([loading, sick]).reason == "digits: the canary took too long"
    assert status_of([serving], "stopping").reason == "stopping"
    assert not status_of([serving], "stopping").ready
