"""Graphs that do what a test says, for the real engine with its real thread."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from serving.canary import Canary
from serving.engine.buckets import Rows

GOOD, FAILS, WRONG, NAN, HANGS = "good", "fails", "wrong", "nan", "hangs"


class ToyGraph:
    """Doubles each row, like a graph in bound memory.

    Attributes:
        mood: what becomes of the next batches.
        error: what a batch that fails raises.
        ran: how many batches it has been given.
        computing: set while it hangs.
        release: ends a hang.
        most_at_once: batches that were in it together.
    """

    def __init__(self, mood: str = GOOD) -> None:
        self.mood = mood
        self.error: Exception = RuntimeError("the device has\na bad day")
        self.ran = self.most_at_once = self._inside = 0
        self.computing, self.release = threading.Event(), threading.Event()

    def run(self, pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        self.ran += 1
        self._inside += 1
        self.most_at_once = max(self.most_at_once, self._inside)
        try:
            if self.mood == FAILS:
                raise self.error
            if self.mood == HANGS:
                self.computing.set()
                self.release.wait(30)
            offset = {WRONG: 0.01, NAN: np.nan}.get(self.mood, 0.0)
            return (2 * np.concatenate(pieces) + np.float32(offset),)
        finally:
            self._inside -= 1

    def canary(self, name: str = "toy encoder") -> Canary:
        """One that passes while the graph is good."""
        row = np.array([[0.25, 0.5]], np.float32)
        return Canary(name, as_bound(self), row, {"out": 2.0 * row.astype(np.float64)}, {"out": np.full((1, 2), 1e-6)})


def as_bound(graph: ToyGraph) -> Any:
    """The type that the engine wants."""
    return graph
