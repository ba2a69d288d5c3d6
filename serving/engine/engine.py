"""One thread runs ONNX Runtime, which releases the GIL, so that the event loop goes on meanwhile.

One thread, because batches compete for the same cores or the same GPU: two at a time would each take twice as long.
Brief batches are computed in the loop itself.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

import numpy as np
from numpy.typing import NDArray

from serving.engine.bound import BoundGraph, ByDtype
from serving.engine.failures import DeviceLostError
from vaeport.arrays import to_float
from vaeport.graphs import Graph

Rows = NDArray[np.uint8] | NDArray[np.float32]
P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

BRIEF_SECONDS = 1e-3  # about as long as the thread needs to get the interpreter back from a busy loop


class Engine:
    """Runs batches one after the other.

    Attributes:
        lost: set when the device cannot compute any more; every batch is refused from then on.
        suspect: set when a batch has failed, or a session is being rebuilt: the rows may be to blame, or the device.
            Cleared by whoever checks the device next.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._began: float | None = None
        self._ended = self._rebuilt = time.monotonic()
        self._rebuild_began: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._took: dict[tuple[Graph, int], float] = {}  # by graph and power of two of the rows
        self.lost, self.suspect = asyncio.Event(), asyncio.Event()

    @property
    def busy_seconds(self) -> float | None:
        """For how long the thread has been computing its batch, or since a session was last rebuilt during it.

        None if it has no batch, or is rebuilding a session.
        """
        if self._began is None or self._rebuild_began is not None:
            return None
        return time.monotonic() - max(self._began, self._rebuilt)

    @property
    def rebuild_seconds(self) -> float | None:
        """For how long the thread has been rebuilding a session; None if it is not."""
        began = self._rebuild_began  # read once: the thread may end it meanwhile
        return None if began is None else time.monotonic() - began

    @contextlib.contextmanager
    def rebuilding(self) -> Iterator[None]:
        """Entered on the thread by a graph that rebuilds its session, which takes far longer than a batch."""
        self._rebuild_began = time.monotonic()
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self.suspect.set)
            yield
        finally:
            self._rebuilt, self._rebuild_began = time.monotonic(), None

    @property
    def idle_seconds(self) -> float:
        """Seconds since the thread last finished a batch, with whatever result."""
        return time.monotonic() - self._ended

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on the thread that computes, and wait: what CUDA captures belongs to the thread."""
        return self._thread.submit(function, *args, **kwargs).result()

    async def run(self, graph: Graph, pieces: Sequence[Rows]) -> tuple[NDArray[np.float32], ...]:
        """Compute all outputs of `graph` for the concatenated pieces; uint8 pieces mean value / 255."""
        outputs, self._took[_size(graph, pieces)] = await self._on_thread(_timed, graph, pieces)
        return outputs

    def run_here(self, graph: Graph, pieces: Sequence[Rows]) -> tuple[NDArray[np.float32], ...] | None:
        """The same in the caller's thread, if the last batch of about that size was brief; None if it was not.

        "Brief" is measured in processor time: by the clock, a batch on the thread also waits for a core and for the
        interpreter, and would never look brief again. "About that size" is up to twice as large, so the loop is blocked
        for at most two BRIEF_SECONDS, plus any time in which it has no core.
        """
        size = _size(graph, pieces)
        if self._took.pop(size, math.inf) > BRIEF_SECONDS:  # popped: a batch that fails now leaves no time
            return None
        try:
            outputs, self._took[size] = _timed(graph, pieces)
        except Exception:
            self.suspect.set()
            raise
        return outputs

    async def run_bound(self, graph: BoundGraph | ByDtype, pieces: Sequence[Rows]) -> tuple[NDArray[np.float32], ...]:
        """Like `run`, for a graph with memory of its own.

        Raises:
            DeviceLostError: the device is lost, now or before.
        """
        if self.lost.is_set():
            raise DeviceLostError("the device is lost")
        try:
            return await self._on_thread(graph.run, pieces)
        except DeviceLostError:
            self.lost.set()
            raise

    async def run_alone(self, graph: Graph | BoundGraph, rows: Rows) -> tuple[NDArray[np.float32], ...]:
        """Like `run` or `run_bound`, whichever the graph needs."""
        return await (self.run(graph, [rows]) if isinstance(graph, Graph) else self.run_bound(graph, [rows]))

    async def _on_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        self._began = time.monotonic()
        self._loop = asyncio.get_running_loop()
        try:
            return await self._loop.run_in_executor(self._thread, function, *args)
        except Exception:
            self.suspect.set()
            raise
        finally:
            self._began, self._ended = None, time.monotonic()

    def close(self) -> None:
        """Wait for the running batch and end the thread."""
        self._thread.shutdown()


def _size(graph: Graph, pieces: Sequence[Rows]) -> tuple[Graph, int]:
    """A key that batches of about the same cost share."""
    return graph, sum([len(piece) for piece in pieces]).bit_length()


def _timed(graph: Graph, pieces: Sequence[Rows]) -> tuple[tuple[NDArray[np.float32], ...], float]:
    """The outputs, and the seconds of processor time that this thread took for them."""
    began = time.thread_time()
    outputs = graph(assemble(pieces))
    return outputs, time.thread_time() - began


def assemble(pieces: Sequence[Rows]) -> NDArray[np.float32]:
    """The pieces as one float32 batch, in order. A single float32 piece is not copied."""
    if len(pieces) == 1:
        return to_float(pieces[0])
    if len({piece.dtype for piece in pieces}) > 1:
        pieces = [to_float(piece) for piece in pieces]
    batch: NDArray[Any] = np.concatenate(pieces)
    return to_float(batch)
