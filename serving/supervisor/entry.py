"""The main function of a worker process."""

import contextlib
import logging
import os
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from serving.logs import configure_logging
from serving.settings import Settings, SettingsError
from serving.supervisor.messages import Said

log = logging.getLogger(__name__)


def work(
    settings: Settings,
    address: str,
    gpus: Sequence[str],
    slot: int,
    packages: tuple[Path, ...],
    channel: Connection,
) -> None:
    """Run a worker. Only this function sets what CUDA reads from the environment.

    Args:
        settings: the server's settings.
        address: the address to listen on.
        gpus: the names of the GPUs that are shared out among the workers.
        slot: the worker's place among the workers.
        packages: the packages to serve.
        channel: to the supervisor.
    """
    configure_logging(settings.log_format, slot)
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
    from serving import worker  # not at the top: the supervisor needs neither gRPC nor ONNX Runtime
    from vaeport.errors import VaeportError

    try:
        worker.run(settings, address, packages, channel)
    except (SettingsError, VaeportError) as error:
        with contextlib.suppress(OSError):  # the supervisor is gone
            channel.send((Said.FAILED, str(error)))
        sys.exit(1)
    except Exception:  # multiprocessing would print the traceback itself, in many lines
        log.critical("the worker has failed", exc_info=True)
        sys.exit(1)
