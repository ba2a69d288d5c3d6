"""A worker whose device breaks: the package of the command line on the CPU, in bound memory, until an image is white.

    python -m tests.serving.lost_device FOLDER ADDRESS

A program of its own, since such a worker ends its process. test_worker.py runs it.
"""

import multiprocessing
import sys
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Thread
from typing import Any

from serving import worker
from serving.engine import ByDtype
from serving.logs import configure_logging
from serving.models import LoadedModel, load_models
from serving.repository import default_packages
from serving.settings import Settings
from serving.supervisor.messages import Order, Said
from vaeport.graphs import choose_device

BROKEN = "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=x ; file=x.cc ; line=1 ;"


class BreakingSession:
    """A real session until the first image of a batch is white. It says so, waits for a line, and is lost then."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        (image,) = binding._bound_inputs.values()
        if image.numpy()[0].min() == 1:
            print("computing", flush=True)
            sys.stdin.readline()
            raise RuntimeError(BROKEN)
        self._session.run_with_iobinding(binding, options)


def load_breaking(packages: Sequence[Path], *_: object) -> list[LoadedModel]:
    """In place of `load_models`: as on CUDA, in batches of up to 4 rows."""
    models = load_models(packages, choose_device("cpu"), 1, buckets=(1, 2, 4))
    for model in models:
        encoder = model.graphs["encoder"]
        assert isinstance(encoder, ByDtype)
        graph = encoder.floats._graph
        assert graph is not None
        graph.session = BreakingSession(graph.session)
    return models


def announce(supervisor: Connection) -> None:
    """Say that the worker is ready, when it says so."""
    while supervisor.recv()[0] is not Said.SERVING:
        pass
    print("ready", flush=True)


if __name__ == "__main__":
    configure_logging()
    vars(worker)["load_models"] = load_breaking
    settings = Settings(models=Path(sys.argv[1]), device="cpu", workers=1)
    supervisor, channel = multiprocessing.Pipe()
    supervisor.send(Order.SERVE)
    Thread(target=announce, args=(supervisor,), daemon=True).start()
    worker.run(settings, sys.argv[2], default_packages(settings.models), channel)
