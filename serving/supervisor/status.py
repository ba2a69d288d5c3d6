"""What the supervisor reports of itself: why workers start and end, and the server's current state."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from serving.metrics.status import Status
from serving.settings import Settings
from serving.supervisor.process import State, WorkerProcess

if TYPE_CHECKING:
    from serving.supervisor.supervisor import Supervisor

HUNG = "has hung"
STATES = {State.SERVING: "ready", State.LEAVING: "draining"}  # any other state is "starting"


@contextmanager
def serve_status(supervisor: "Supervisor", settings: Settings) -> Iterator[None]:
    """Serve metrics and probes as long as the server runs; does nothing without `--http-port`.

    Raises:
        SettingsError: it cannot listen there.
    """
    if settings.http_port is None:
        yield
        return
    from serving.metrics.endpoint import http_endpoint

    with http_endpoint(settings.http_host, settings.http_port, supervisor.status, supervisor.live) as metrics:
        supervisor.metrics = metrics
        yield


def exit_cause(worker: WorkerProcess, *, leaving: bool, stopping: bool) -> str:
    """Why a worker has ended, as one of serving.metrics.catalogue.EXIT_CAUSES."""
    if worker.process.exitcode == os.EX_TEMPFAIL:  # serving.worker.EXIT_DEVICE_LOST
        return "device_lost"
    if worker.failure.startswith(HUNG):
        return "hang"
    if stopping:
        return "stopped"
    if leaving and (worker.process.exitcode == 0 or worker.serving_since is None):
        return "replaced"
    return "crash" if worker.serving_since is not None else "failed_start"


def status_of(workers: list[WorkerProcess], reason: str = "") -> Status:
    """The server's current state; `reason` is why it takes no calls, whatever its workers say."""
    states = {worker.process.pid or 0: _state(worker) for worker in workers}
    if not reason and "ready" not in states.values():
        reason = next((why for worker in workers if (why := _fault_of(worker))), "no worker serves")
    return Status(reason, states)


def _state(worker: WorkerProcess) -> str:
    return "unready" if _fault_of(worker) else STATES.get(worker.state, "starting")


def _fault_of(worker: WorkerProcess) -> str:
    """Why a serving worker is not ready, by its last beat."""
    return worker.beat.reason if worker.state is State.SERVING and worker.beat is not None else ""
