"""A graph with memory of its own on a device, for each batch size of a closed set.

The device may also be the CPU: there this only costs copies, and lets all of it be tested without a GPU.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.engine.buckets import Rows, bucket_of, cut, fill
from serving.engine.failures import DeviceLostError, ErrorKind, classify
from serving.engine.placement import check_capturable, check_placement
from vaeport.errors import DeviceError, VaeportError
from vaeport.graphs import CUDA_PROVIDER, Device, Graph, graph_run_options
from vaeport.manifest import TensorSpec

log = logging.getLogger(__name__)

WARM_UP_RUNS = 2  # the first allocates, tunes and captures; the second is what callers will get


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Memory on the device for one batch size; its address is fixed, as a captured graph requires.

    Attributes:
        input, outputs: OrtValues from the session's own allocator: its limit counts them, and they are freed with it.
        binding: binds the session to them.
        options: the options of a run; they name its CUDA graph.
    """

    input: Any
    outputs: tuple[Any, ...]
    binding: Any
    options: Any


class BoundGraph:
    """A graph that computes in memory bound once. The thread that warms it up must run it: CUDA captures per thread.

    When memory runs out, the largest batch size is given up, the session is rebuilt (one that has been out of memory
    may stay so), and the rows are computed in smaller parts. Their callers still get their answers, only later.

    Args:
        name: for the log.
        load: makes the graph, each time with a new session.
        device: the device that it computes on.
        sizes: the batch sizes, in rows, ascending.
        rebuilding: is entered while the session is rebuilt between batches.

    Attributes:
        outputs: the names of the outputs.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Graph],
        device: Device,
        sizes: Sequence[int],
        rebuilding: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._name = name
        self._load = load
        self._device = device
        self._sizes = tuple(sizes)
        self._rebuilding = rebuilding
        self._graph: Graph | None = None
        self._buckets: dict[int, _Bucket] = {}
        self._window: Any = None  # a binding that is never run; see _fetch
        self._room: Rows = np.empty(0)  # where a batch is put together before it crosses
        self.outputs: tuple[str, ...] = ()

    @property
    def max_rows(self) -> int:
        """Rows of the largest batch that still fits; 0 if none does."""
        return self._sizes[-1] if self._sizes else 0

    def padded_rows(self, rows: int) -> int:
        """How many rows are computed for a batch of `rows` rows, padding included."""
        full, rest = divmod(rows, max(1, self.max_rows))
        return full * self.max_rows + (bucket_of(rest, self._sizes) if rest and self._sizes else 0)

    @property
    def placement(self) -> dict[str, int]:
        """Like `Graph.placement`; the graph must be warm."""
        assert self._graph is not None
        return self._graph.placement

    def warm_up(self) -> None:
        """Make the session, and run every batch size, the largest first, so that no caller pays for it.

        Raises:
            DeviceError: a node would compute elsewhere, `--cuda-graphs` is not legal for this graph, or it fails.
            DeviceLostError: there is no memory for a single row.
            PackageError: the graph cannot be loaded.
        """
        while not self._buckets:
            try:
                self._build()
            except Exception as error:  # onnxruntime's exceptions share no public base
                self._buckets = {}
                if classify(error) is ErrorKind.OUT_OF_MEMORY:
                    self._give_up_largest(error)
                elif isinstance(error, VaeportError):
                    raise
                else:
                    raise DeviceError(f"{self._name}: {self._device.provider} does not compute: {error}") from error

    def __call__(self, rows: Rows) -> tuple[Rows, ...]:
        """Compute all outputs, in the manifest's order, for rows [rows, ...]."""
        return self.run([rows])

    def run(self, pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        """Compute all outputs for the concatenated pieces, any number of rows; uint8 pieces mean value / 255.

        Raises:
            DeviceLostError: this process cannot compute on the device any more.
            Exception: what ONNX Runtime raised on these rows.
        """
        while self._buckets:
            try:
                return self._compute(pieces)
            except Exception as error:  # onnxruntime's exceptions share no public base
                kind = classify(error)
                if kind is ErrorKind.LOST:
                    raise DeviceLostError(f"{self._name}: the device is lost: {error}") from error
                if kind is ErrorKind.OF_THE_ROWS:
                    raise
                self._give_up_largest(error)
            # Outside the handler: only here nothing refers to the old session any more, and its memory is free.
            self._rebuild()
        raise DeviceLostError(f"{self._name}: the device is lost")

    def _compute(self, pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        parts = [self._compute_part(part) for part in cut(pieces, self.max_rows)]
        return parts[0] if len(parts) == 1 else tuple(np.concatenate(part) for part in zip(*parts, strict=True))

    def _compute_part(self, pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        size = bucket_of(sum(len(piece) for piece in pieces), self._sizes)
        room = self._room[:size]
        rows = fill(room, pieces)
        bucket = self._buckets[size]
        bucket.input.update_inplace(room)
        self._run_bucket(bucket)
        assert self._graph is not None
        kind, tensors = _kind(self._device), self._graph.spec.outputs
        return tuple(
            _fetch(self._window, tensor, value, kind, rows)
            for tensor, value in zip(tensors, bucket.outputs, strict=True)
        )

    def _run_bucket(self, bucket: _Bucket) -> None:
        assert self._graph is not None
        self._graph.session.run_with_iobinding(bucket.binding, bucket.options)  # releases the GIL

    def _build(self) -> None:
        graph = self._graph = self._load()
        check_placement(self._name, graph, self._device)
        if self._device.cuda.graphs and self._device.provider == CUDA_PROVIDER:
            check_capturable(self._name, graph)
        self.outputs = graph.outputs
        self._window = graph.session.io_binding()
        entering = graph.spec.inputs[0]
        self._room = np.zeros((self.max_rows, *map(int, entering.shape[1:])), entering.dtype)
        for size in reversed(self._sizes):
            bucket = self._buckets[size] = _bind(graph, self._device, size)
            bucket.input.update_inplace(self._room[:size])
            for _ in range(WARM_UP_RUNS):
                self._run_bucket(bucket)

    def _rebuild(self) -> None:
        """Like `warm_up`, but for a server with callers: a failure is final, and not repeated for each batch."""
        try:
            with self._rebuilding():
                self.warm_up()
        except DeviceLostError:
            raise
        except Exception as error:
            raise DeviceLostError(f"{self._name}: cannot be loaded again: {error}") from error

    def _give_up_largest(self, error: Exception) -> None:
        """Drop the session and the largest batch size; raises DeviceLostError if that was the last size."""
        self._graph, self._buckets, self._window = None, {}, None
        given_up, self._sizes = self._sizes[-1], self._sizes[:-1]
        if not self._sizes:
            raise DeviceLostError(f"{self._name}: no memory for a batch of {given_up} rows: {error}") from error
        text = str(error)  # not the error itself, which refers to the session
        log.warning("%s: out of memory, so batches of %d rows are given up: %s", self._name, given_up, text)


@dataclass(frozen=True, slots=True)
class ByDtype:
    """An encoder: images that are all bytes go to the graph that takes bytes, a quarter of the size of floats.

    Attributes:
        floats, uint8: the same encoder.
    """

    floats: BoundGraph
    uint8: BoundGraph

    @property
    def max_rows(self) -> int:
        """Rows of the largest batch that both can compute at once."""
        return min(self.floats.max_rows, self.uint8.max_rows)

    def padded_rows(self, rows: int) -> int:
        """Like `BoundGraph.padded_rows`; the two have the same batch sizes until one of them runs out of memory."""
        return self.floats.padded_rows(rows)

    def run(self, pieces: Sequence[Rows]) -> tuple[Rows, ...]:
        """As `BoundGraph.run`."""
        graph = self.uint8 if all(piece.dtype == np.uint8 for piece in pieces) else self.floats
        return graph.run(pieces)


def _kind(device: Device) -> str:
    """ONNX Runtime's name for the device's memory."""
    return "cuda" if device.provider == CUDA_PROVIDER else "cpu"


def _bind(graph: Graph, device: Device, size: int) -> _Bucket:
    """Allocate memory for batches of `size` rows."""
    session, spec, kind = graph.session, graph.spec, _kind(device)
    values = [
        session.create_ortvalue_from_shape_and_type((size, *map(int, tensor.shape[1:])), np.dtype(tensor.dtype), kind)
        for tensor in (*spec.inputs, *spec.outputs)
    ]
    binding = session.io_binding()
    binding.bind_ortvalue_input(spec.inputs[0].name, values[0])
    for tensor, value in zip(spec.outputs, values[1:], strict=True):
        binding.bind_ortvalue_output(tensor.name, value)
    return _Bucket(values[0], tuple(values[1:]), binding, graph_run_options(device, size))


def _fetch(window: Any, tensor: TensorSpec, value: Any, kind: str, rows: int) -> Rows:
    """The first `rows` rows of an output, in memory that the next batch does not overwrite.

    ONNX Runtime copies only whole OrtValues from a device. `window`, a binding that is never run, makes an OrtValue of
    the wanted rows in the same memory: this costs 14 microseconds, saves up to half of a copy, and drops the padding.
    """
    size, *dims = value.shape()
    if rows < size:
        window.clear_binding_outputs()
        window.bind_output(tensor.name, kind, 0, np.dtype(tensor.dtype), (rows, *dims), value.data_ptr())
        (value,) = window.get_outputs()
    fetched: Rows = value.numpy()
    return fetched.copy() if kind == "cpu" else fetched  # from another device, it is a copy already
