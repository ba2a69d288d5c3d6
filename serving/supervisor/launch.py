"""From settings to a server that runs."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from serving.settings import Settings
from serving.supervisor.entry import work
from serving.supervisor.gpus import visible_gpus
from serving.supervisor.notify import Notifier
from serving.supervisor.ports import reserved_port
from serving.supervisor.supervisor import Supervisor
from vaeport.machine import usable_cores


def launch(settings: Settings, environment: Mapping[str, str]) -> int:
    """Serve until a signal, then drain, and return the exit status. Prints `ready HOST:PORT` when calls are answered.

    Args:
        settings: of the server.
        environment: CUDA_VISIBLE_DEVICES and NOTIFY_SOCKET are of interest.

    Raises:
        SettingsError: impossible settings, or the port is taken.
        PackageError: there are no models.
        StartError: a worker ended before all were ready.
        CrashLoopError: workers die as fast as they are started.
    """
    settings.check()
    gpus = [] if settings.device == "cpu" else visible_gpus(environment.get("CUDA_VISIBLE_DEVICES"))
    settings = replace(settings, workers=settings.workers or len(gpus) or usable_cores())
    with reserved_port(settings.host, settings.port) as address:
        notify = Notifier(environment.get("NOTIFY_SOCKET"))
        supervisor = Supervisor(settings, partial(work, settings, address, gpus), partial(_announce, address), notify)
        return supervisor.run()


def _announce(address: str) -> None:
    print(f"ready {address}", flush=True)
