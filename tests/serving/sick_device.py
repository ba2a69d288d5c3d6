"""A worker whose device falls ill and recovers: the package of the command line on the CPU, in bound memory.

    python -m tests.serving.sick_device FOLDER ADDRESS

Each line on standard input is how the device is from then on: one of tests.serving.toy_graphs. test_health.py of
tests/system runs it.
"""

import multiprocessing
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from serving import worker
from serving.engine.buckets import Rows
from serving.logs import configure_logging
from serving.models import LoadedModel, load_models
from serving.repository import default_packages
from serving.settings import Settings
from serving.supervisor.messages import Order
from tests.serving.lost_device import announce
from tests.serving.toy_graphs import GOOD, HANGS, WRONG
from vaeport.graphs import choose_device


class SickGraph:
    """A real graph, as well as the device is."""

    mood = GOOD
    well = threading.Event()

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self.max_rows, self.padded_rows = graph.max_rows, graph.padded_rows

    def run(self, pieces: Sequence[Rows]) -> Any:
        if self.mood == HANGS:
            self.well.wait()
        outputs = self._graph.run(pieces)
        return tuple(output + np.float32(self.mood == WRONG) for output in outputs)

    @classmethod
    def listen(cls) -> None:
        """Change with the lines that come."""
        for line in sys.stdin:
            cls.mood = line.strip()
            (cls.well.clear if cls.mood == HANGS else cls.well.set)()


def load_sick(packages: Sequence[Path], *_: object) -> list[LoadedModel]:
    """In place of `load_models`: as on CUDA, in batches of up to 4 rows."""
    sick: dict[int, Any] = {}

    def of(graph: Any) -> Any:
        return sick.setdefault(id(graph), SickGraph(graph))

    return [
        replace(
            model,
            graphs={role: of(getattr(graph, "floats", graph)) for role, graph in model.graphs.items()},
            canaries=tuple(replace(canary, graph=of(canary.graph)) for canary in model.canaries),
        )
        for model in load_models(packages, choose_device("cpu"), 1, buckets=(1, 2, 4))
    ]


if __name__ == "__main__":
    configure_logging()
    vars(worker)["load_models"] = load_sick
    threading.Thread(target=SickGraph.listen, daemon=True).start()
    folder, address = Path(sys.argv[1]), sys.argv[2]
    quick = {"canary_seconds": 0.05, "hang_seconds": 2.0, "grace": 10.0, "lame_duck_seconds": 0.0}
    settings = Settings(models=folder, device="cpu", workers=1, max_queue_rows=1024, **quick)  # type: ignore[arg-type]
    supervisor, channel = multiprocessing.Pipe()
    supervisor.send(Order.SERVE)
    threading.Thread(target=announce, args=(supervisor,), daemon=True).start()
    worker.run(settings, address, default_packages(folder), channel)
