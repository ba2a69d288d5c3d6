"""The golden vectors of a package: inputs, the outputs that they must give, and how far off this machine may be.

`self_test` replays them in the sessions that will compute, on this machine and its provider. The file is safetensors
(https://github.com/huggingface/safetensors, "Format"): eight bytes with the length of a JSON header, the header, and
the tensors. It is read here with numpy: a few lines do not justify a dependency of the base library.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vaeport.errors import SelfTestError, bounded
from vaeport.manifest import GraphSpec, ManifestFieldError, parse_json
from vaeport.package import GoldenInvalidError, Package, entry_of, read_listed

GOLDEN_NAME = "golden.safetensors"
GOLDEN_MAX_BYTES = 1 << 28
HEADER_MAX_BYTES = 1 << 20
MAX_ROWS = 1024  # each row is computed alone, too
MAX_AXES = 8
DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "U8": np.dtype("u1")}

# How much further off a product in TF32 may be (ONNX Runtime's CUDA provider with `use_tf32`). Its factors have 11 bits
# instead of float32's 24, and both are truncated rather than rounded: 2 * 2^-10 / 2^-24.
TF32_SLACK = 2.0**15

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Golden:
    """The golden vectors of one graph.

    Attributes:
        rows: the input [rows, ...], in the graph's dtype.
        truth: each output in float64, by name.
        limits: how far each element may be from the truth, in the same shape.
    """

    rows: NDArray[np.float32] | NDArray[np.uint8]
    truth: Mapping[str, NDArray[np.float64]]
    limits: Mapping[str, NDArray[np.float64]]


class Computes(Protocol):
    """A graph in memory: vaeport.graphs.Graph, or one that a server keeps on its device."""

    outputs: tuple[str, ...]

    def __call__(self, rows: Any) -> tuple[NDArray[Any], ...]:
        """All outputs for rows [rows, ...]."""


def has_golden(package: Package) -> bool:
    """Whether the package has golden vectors; packages of the first versions do not."""
    return any(entry.path == GOLDEN_NAME for entry in package.manifest.files)


def self_test(
    package: Package, graphs: Mapping[str, Computes], slack: float = 1.0, batches: Sequence[int] = ()
) -> dict[str, Golden]:
    """Replay the golden vectors, together and row by row; returns them.

    Args:
        package: an opened package.
        graphs: its graphs, by name, as `vaeport.graphs.load_graphs` made them.
        slack: factor for the limits, for those who have asked for less precision.
        batches: further batch sizes, in rows, to repeat the vectors to: each may run other code on a device.

    Raises:
        SelfTestError: the package has none, or an output exceeds its limit; the text has the worst place.
        GoldenInvalidError: the file is not what the format says.
        DigestMismatchError: the file has changed since the package was opened.
    """
    vectors = read_golden(package)
    for name, graph in graphs.items():
        golden = vectors[name]
        every = np.arange(len(golden.rows))
        alone = zip(*(graph(golden.rows[i : i + 1]) for i in every), strict=True)
        replays = [("", every, graph(golden.rows)), (", row by row", every, tuple(map(np.concatenate, alone)))]
        for rows in batches:
            repeated = np.arange(rows) % len(every)
            replays.append((f", batch of {rows}", repeated, graph(golden.rows[repeated])))
        for how, index, outputs in replays:
            for output, got in zip(graph.outputs, outputs, strict=True):
                truth, limits = golden.truth[output][index], slack * golden.limits[output][index]
                compare(f"{package.path}: {name}.{output}{how}", got, truth, limits)
    return vectors


def read_golden(package: Package) -> dict[str, Golden]:
    """The golden vectors by the name of their graph; see `self_test` for the errors."""
    if not has_golden(package):
        raise SelfTestError(f"{package.path}: holds no {GOLDEN_NAME}: export the run again")
    path = package.path / GOLDEN_NAME
    if entry_of(package, GOLDEN_NAME).size > GOLDEN_MAX_BYTES:
        raise GoldenInvalidError(f"{path}: over {GOLDEN_MAX_BYTES} bytes")
    data = read_listed(package, GOLDEN_NAME)
    try:
        tensors = parse_safetensors(data)
        return {name: _golden_of(name, spec, tensors) for name, spec in package.manifest.graphs.items()}
    except KeyError as error:
        raise GoldenInvalidError(f"{path}: missing {bounded(str(error))}") from error
    except ValueError as error:
        raise GoldenInvalidError(f"{path}: {bounded(str(error))}") from error


def tensor_names(graph: str, spec: GraphSpec) -> tuple[str, dict[str, str], dict[str, str]]:
    """The names in the file: the graph's input, and each output's truth and limit."""
    outputs = [output.name for output in spec.outputs]
    return (
        f"{graph}/{spec.inputs[0].name}",
        {name: f"{graph}/{name}/truth" for name in outputs},
        {name: f"{graph}/{name}/limit" for name in outputs},
    )


def parse_safetensors(data: bytes) -> Tensors:
    """The tensors of a safetensors file, views of `data`.

    Raises:
        ValueError: the file breaks a rule of that format, or a dtype is not one of DTYPES.
    """
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(HEADER_MAX_BYTES, len(data) - 8):
        raise ValueError(f"a header of {length} bytes in a file of {len(data)}")
    try:
        header = parse_json(data[8 : 8 + length])
    except ManifestFieldError as error:
        raise ValueError(f"header: {error}") from error
    if not isinstance(header, dict):
        raise ValueError("header: expected an object")
    body = memoryview(data)[8 + length :]
    try:
        return {name: _tensor(name, entry, body) for name, entry in header.items() if name != "__metadata__"}
    except (KeyError, TypeError) as error:
        raise ValueError(f"header: {type(error).__name__}: {error}") from error


def _tensor(name: str, entry: dict[str, Any], body: memoryview) -> NDArray[Any]:
    shape, (start, end) = entry["shape"], entry["data_offsets"]
    if (dtype := DTYPES.get(entry["dtype"])) is None:
        raise ValueError(f"{name}: dtype {entry['dtype']!r}, expected one of {', '.join(DTYPES)}")
    if any(type(number) is not int or not 0 <= number <= GOLDEN_MAX_BYTES for number in (start, end, *shape)):
        raise ValueError(f"{name}: shape and offsets must be integers from 0 to {GOLDEN_MAX_BYTES}")
    if len(shape) > MAX_AXES:  # the product of very many axes takes very long
        raise ValueError(f"{name}: a shape of {len(shape)} axes, expected at most {MAX_AXES}")
    if end > len(body) or end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name}: offsets {start} to {end} do not hold {shape} of {entry['dtype']}")
    tensor: NDArray[Any] = np.frombuffer(body[start:end], dtype).reshape(shape)
    return tensor


def _golden_of(graph: str, spec: GraphSpec, tensors: Tensors) -> Golden:
    name, truth, limits = tensor_names(graph, spec)
    rows, dtype = tensors[name], np.dtype(spec.inputs[0].dtype)
    _check_shape(name, rows, (*rows.shape[:1], *spec.inputs[0].shape[1:]), dtype)
    if not 1 <= len(rows) <= MAX_ROWS:
        raise ValueError(f"{name}: expected 1 to {MAX_ROWS} rows, got {len(rows)}")
    for output in spec.outputs:
        for tensor in (truth[output.name], limits[output.name]):
            _check_shape(tensor, tensors[tensor], (len(rows), *output.shape[1:]), np.dtype(np.float64))
    return Golden(
        rows.astype(dtype),
        {output: tensors[key] for output, key in truth.items()},
        {output: tensors[key] for output, key in limits.items()},
    )


def _check_shape(name: str, tensor: NDArray[Any], shape: tuple[str | int, ...], dtype: np.dtype[Any]) -> None:
    if tensor.shape != shape or tensor.dtype != dtype:
        expected = f"{dtype.name} {list(shape)}"
        raise ValueError(f"{name}: expected {expected}, got {tensor.dtype} {list(tensor.shape)}")
    if not np.isfinite(tensor).all():
        raise ValueError(f"{name}: a number that is not finite")


def compare(where: str, got: NDArray[Any], truth: NDArray[np.float64], limits: NDArray[np.float64]) -> None:
    """Raise SelfTestError, naming `where` and the worst place, if `got` is further from the truth than the limits.

    All must have one shape: broadcasting would let a graph pass that gives one row for many.
    """
    if not got.shape == truth.shape == limits.shape:
        raise SelfTestError(f"{where}: expected shape {list(truth.shape)}, got {list(got.shape)}")
    error = np.abs(got.astype(np.float64) - truth)
    excess = np.where(np.isnan(error), np.inf, error - limits)
    index = np.unravel_index(np.argmax(excess), excess.shape)
    if excess[index] > 0:
        raise SelfTestError(
            f"{where}, index {[int(i) for i in index]}: expected {truth[index]!r}, got {got[index]!r}, "
            f"error {error[index]:.3g}, limit {limits[index]:.3g}; this machine does not compute what was proven"
        )
