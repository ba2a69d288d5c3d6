"""One thread runs ONNX Runtime, which releases the GIL, so that the event loop goes on meanwhile.

One, because batches compete for the same cores or the same GPU: two at a time would each take twice as long.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from serving.engine.bound import BoundGraph, ByDtype
from serving.engine.failures import DeviceLostError
from vaeport.arrays import to_float
from vaeport.graphs import Graph

Rows = NDArray[np.uint8] | NDArray[np.float32]
P = ParamSpec("P")
T = TypeVar("T")


class Engine:
    """Runs batches one after the other.

    Attributes:
        lost: set when the device computes nothing any more; every batch is refused from then on.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self.lost = asyncio.Event()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on the thread that computes, and wait: what CUDA captures belongs to the thread."""
        return self._thread.submit(function, *args, **kwargs).result()

    async def run(self, graph: Graph, pieces: Sequence[Rows]) -> tuple[NDArray[np.float32], ...]:
        """Compute all outputs of `graph` for the concatenated pieces; uint8 pieces mean value / 255."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, _compute, graph, pieces)

    @staticmethod
    def run_here(graph: Graph, pieces: Sequence[Rows]) -> tuple[NDArray[np.float32], ...]:
        """The same in the caller's thread: for batches that take less than waking another one."""
        return _compute(graph, pieces)

    async def run_bound(self, graph: BoundGraph | ByDtype, pieces: Sequence[Rows]) -> tuple[NDArray[np.float32], ...]:
        """As `run`, for a graph with memory of its own.

        Raises:
            DeviceLostError: the device computes nothing any more, or did not before.
        """
        if self.lost.is_set():
            raise DeviceLostError("the device is lost")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, graph.run, pieces)
        except DeviceLostError:
            self.lost.set()
            raise

    def close(self) -> None:
        """Wait for the running batch and end the thread."""
        self._thread.shutdown()


def _compute(graph: Graph, pieces: Sequence[Rows]) -> tuple[NDArray[np.float32], ...]:
    return graph(assemble(pieces))


def assemble(pieces: Sequence[Rows]) -> NDArray[np.float32]:
    """The pieces as one float32 batch, in order. A single float32 piece is not copied."""
    if len(pieces) == 1:
        return to_float(pieces[0])
    rows = sum(len(piece) for piece in pieces)
    batch = np.empty((rows, *pieces[0].shape[1:]), np.float32)
    start = 0
    for piece in pieces:
        to_float(piece, out=batch[start : start + len(piece)])
        start += len(piece)
    return batch
