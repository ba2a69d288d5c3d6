"""Finds out what a worker did not do in time."""

from serving.heartbeat import hung
from serving.settings import Settings
from serving.supervisor.process import State, WorkerProcess
from serving.supervisor.status import HUNG

START_SECONDS = 600.0  # for loading and warming up: a large model on a GPU takes minutes
FAILED_SECONDS = 5.0  # to end after it has said why; what a broken device holds may never come back from being freed
KILL_AFTER_GRACE_SECONDS = 5.0
LEAVING_AGES = 1.2  # times a connection's maximum age: how long a leaving worker may wait for the last one


def overdue(worker: WorkerProcess, settings: Settings, now: float, *, stopping: bool, patient: bool) -> str:
    """What `worker` did not do in time; "" if there is nothing.

    Args:
        worker: a worker in any state.
        settings: the server's settings.
        now: seconds on the supervisor's clock.
        stopping: the server is stopping, so a leaving worker waits for no connection.
        patient: no worker counts as hung, because the whole machine was paused a moment ago.
    """
    if worker.failed_since is not None and now - worker.failed_since > FAILED_SECONDS:
        return "has failed, and did not end in time"
    if worker.leaving_since is not None:
        asks = worker.state is State.LEAVING and not stopping
        limit = LEAVING_AGES * settings.max_connection_age_seconds if asks else 0.0
        limit += settings.lame_duck_seconds + settings.grace + KILL_AFTER_GRACE_SECONDS
        if now - worker.leaving_since > limit:
            return "did not end in time"
    elif worker.state is State.LOADING:
        return f"did not load in {START_SECONDS:g} s" if now - worker.since > START_SECONDS else ""
    return "" if patient else _hung(worker, settings.hang_seconds, now)


def _hung(worker: WorkerProcess, limit: float, now: float) -> str:
    """How a worker with callers hangs; "" if it does not."""
    if worker.state not in (State.OPENING, State.SERVING, State.LEAVING):
        return ""
    if (silence := now - worker.heard) > limit:
        return f"{HUNG} for {silence:.1f} s"
    if worker.beat and (why := hung(worker.beat, now, limit)):
        return f"{HUNG}: {why}"
    return ""
