"""The truth: what a graph computes in float64, by two programs that share no code.

The exported graph in onnx's reference evaluator with its constants in float64, and the PyTorch module in double. Where
they differ by more than AGREEMENT, the graph is not the module; rounding cannot explain it.
"""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from export.evaluator import evaluator
from export.limits import FLOAT32, LAMBDA, ROUNDINGS, Doubles, Rounding, deviations, roundings

if TYPE_CHECKING:
    import torch

AGREEMENT = 1e-12  # of the largest absolute value of the output, or of 1; rounding in float64 is 1e-13 at most
CHUNK_ROWS = 64  # bounds the memory of a convolution's intermediate values


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a graph should give for some rows.

    Attributes:
        truth: the outputs in float64, in the order of the graph.
        deviation: of the outputs in a runtime, of the same shapes.
    """

    truth: tuple[Doubles, ...]
    deviation: tuple[Doubles, ...]

    @property
    def limits(self) -> tuple[Doubles, ...]:
        """How far a runtime's output may be from the truth."""
        return tuple(LAMBDA * s for s in self.deviation)

    def take(self, rows: NDArray[np.intp]) -> "Judgement":
        """These rows."""
        return Judgement(tuple(t[rows] for t in self.truth), tuple(d[rows] for d in self.deviation))


class DoubleGraph:
    """An exported graph in float64, and how far one is from it whose numbers of 32 bits are rounded as `float32`."""

    def __init__(self, proto: onnx.ModelProto, float32: Rounding = FLOAT32) -> None:
        self._rounded = roundings(proto, float32)
        self._proto = in_double(proto)
        self._evaluator = evaluator(self._proto)
        self._constants = {i.name: numpy_helper.to_array(i) for i in self._proto.graph.initializer}

    def judge(self, rows: NDArray[Any], entering: Doubles | None = None) -> Judgement:
        """The truth for rows [rows, ...], and a runtime's deviation from it; `entering` is that of the rows."""
        chunks = [slice(start, start + CHUNK_ROWS) for start in range(0, len(rows), CHUNK_ROWS)]
        parts = [self._judge(rows[chunk], None if entering is None else entering[chunk]) for chunk in chunks]
        truth = tuple(map(np.concatenate, zip(*(part.truth for part in parts), strict=True)))
        return Judgement(truth, tuple(map(np.concatenate, zip(*(part.deviation for part in parts), strict=True))))

    def _judge(self, rows: NDArray[Any], entering: Doubles | None) -> Judgement:
        graph = self._proto.graph
        name = graph.input[0].name
        exact = rows if rows.dtype == np.uint8 else np.asarray(rows, np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # sigmoid: the side not taken
            computed = self._evaluator.run(None, {name: exact}, intermediate=True)
        assert isinstance(computed, dict)  # what `intermediate` asks for
        values = {**self._constants, **computed, name: exact}
        found = deviations(graph, values, self._rounded, entering)
        outputs = [output.name for output in graph.output]
        truth = tuple(np.asarray(values[o], np.float64) for o in outputs)
        return Judgement(truth, tuple(found[o] for o in outputs))


def in_double(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose floating-point constants, casts, inputs and outputs are float64. Integers stay as they are."""
    double = onnx.ModelProto()
    double.CopyFrom(proto)
    for initializer in double.graph.initializer:
        if initializer.data_type in ROUNDINGS:
            array = numpy_helper.to_array(initializer).astype(np.float64)
            initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    for attribute in (a for node in double.graph.node if node.op_type == "Cast" for a in node.attribute):
        if attribute.name == "to" and attribute.i in ROUNDINGS:
            attribute.i = TensorProto.DOUBLE
    for value in (*double.graph.input, *double.graph.output, *double.graph.value_info):
        if value.type.tensor_type.elem_type in ROUNDINGS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return double


def torch_in_double(module: "torch.nn.Module", rows: NDArray[Any]) -> tuple[Doubles, ...]:
    """All outputs of a PyTorch module for rows [rows, ...], computed in float64."""
    exact = rows if rows.dtype == np.uint8 else np.asarray(rows, np.float64)
    outputs = run_torch(copy.deepcopy(module).double(), exact)
    return tuple(np.asarray(output, np.float64) for output in outputs)


def run_torch(module: "torch.nn.Module", rows: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """All outputs of a PyTorch module for rows [rows, ...] on the CPU, in the precision of the rows."""
    import torch

    with torch.inference_mode():
        return tuple(output.numpy() for output in module(torch.from_numpy(rows)))
