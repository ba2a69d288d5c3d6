"""From settings to a running server."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from serving.security.start import check_start, raise_file_limit
from serving.settings import Settings
from serving.supervisor.entry import work
from serving.supervisor.gpus import visible_gpus
from serving.supervisor.notify import Notifier
from serving.supervisor.ports import reserved_address
from serving.supervisor.status import serve_status
from serving.supervisor.supervisor import Supervisor
from vaeport.machine import usable_cores


def launch(settings: Settings, environment: Mapping[str, str]) -> int:
    """Serve until a signal, then drain, and return the exit status. Prints `ready HOST:PORT`, or
    `ready unix:PATH`, when calls are answered.

    Args:
        settings: the server's settings.
        environment: CUDA_VISIBLE_DEVICES and NOTIFY_SOCKET are read.

    Raises:
        SettingsError: impossible settings, or the address is taken, or open to others in plain text.
        PackageError: there are no models.
        StartError: a worker ended before all were ready.
        CrashLoopError: workers die as fast as they are started.
    """
    settings.check()
    check_start(settings)
    raise_file_limit()
    settings, gpus = with_workers(settings, environment)
    with reserved_address(settings) as address:
        notify = Notifier(environment.get("NOTIFY_SOCKET"))
        supervisor = Supervisor(settings, partial(work, settings, address, gpus), partial(_announce, address), notify)
        with serve_status(supervisor, settings):
            return supervisor.run()


def with_workers(settings: Settings, environment: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """The settings with the actual number of workers, and the GPUs for them.

    If nobody says how many, there is one for each GPU, or each core; a socket in the file system has one.
    """
    gpus = [] if settings.device == "cpu" else visible_gpus(environment.get("CUDA_VISIBLE_DEVICES"))
    count = 1 if settings.listen else len(gpus) or usable_cores()
    return replace(settings, workers=settings.workers or count), gpus


def _announce(address: str) -> None:
    print(f"ready {address}", flush=True)
