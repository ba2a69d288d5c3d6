"""One thread runs ONNX Runtime, which releases the GIL, so that the event loop goes on meanwhile.

One, because batches compete for the same cores or the same GPU: two at a time would each take twice as long.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from vaeport.arrays import to_float
from vaeport.graphs import Graph

Rows = NDArray[np.uint8] | NDArray[np.float32]


class Engine:
    """Runs batches one after the other."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    async def run(self, graph: Graph, pieces: Sequence[Rows]) -> tuple[NDArray[np.float32], ...]:
        """Compute all outputs of `graph` for the concatenated pieces; uint8 pieces mean value / 255."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, _compute, graph, pieces)

    @staticmethod
    def run_here(graph: Graph, pieces: Sequence[Rows]) -> tuple[NDArray[np.float32], ...]:
        """The same in the caller's thread: for batches that take less than waking another one."""
        return _compute(graph, pieces)

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
