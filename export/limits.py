"""How far a runtime may be from the truth: a limit for every element of every output, propagated through the graph.

Each operation is off by a relative error of at most u, which is 2^-24 in float32 and 2^-11 in float16. A sum of n
products in any order is then off by at most lambda sqrt(n) u |w||x|, with probability at least
1 - 2 exp(-lambda^2 / 2), if the errors are independent with mean zero (Higham and Mary, "A new approach to
probabilistic rounding error analysis", SIAM J. Sci. Comput. 41, 2019, theorem 3.1). Errors that come in from the layer
before pass the weights, and add up in squares under the same model.
So every element carries a deviation s, in units of its value,

    y = W x + b     s_y^2 = W^2 s_x^2 + (n + 1) u^2 (|W||x| + |b|)^2
    y = f(x)        s_y^2 = s_x^2 + (FUNCTION_UNITS u max(1, |y|))^2      for f with |f'| <= 1

and may be off by LAMBDA s_y. Rounding to an integer makes of it a whole step, where an edge between two integers is
within LAMBDA s_x, and nothing elsewhere. docs/proof.md has the derivation and what it catches, and that of TF32, which
cuts the factors of products to 11 bits.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.errors import ExportError
from export.evaluator import evaluator

UNIT = 2.0**-24  # unit roundoff of float32
LAMBDA = 8.0  # 2 exp(-32) = 3e-14 an element: over the ten million elements of a ladder, one in a million
FUNCTION_UNITS = 2.0  # of a sigmoid or tanh: ONNX Runtime's on the CPU is off by 1.2e-7 (microsoft/onnxruntime#22557)

Doubles = NDArray[np.float64]
Shape = tuple[int, ...]
Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Rounding:
    """The rounding of a floating-point format.

    Attributes:
        unit: the unit roundoff.
        tiny: the absolute error where numbers are too small for it.
        factors: the relative error of each factor of a product before they are multiplied; 0 takes them as they are.
    """

    unit: float
    tiny: float
    factors: float = 0.0


FLOAT32 = Rounding(UNIT, 2.0**-126)  # the smallest normal number: runtimes may flush what is below it to zero
FLOAT16 = Rounding(2.0**-11, 2.0**-24)  # the spacing of the subnormal numbers, which are not flushed to zero
# 10 bits after the point, cut off or rounded: tensor cores ignore the others, kernels may round before (Fasi, Higham,
# Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7, 2021, e330).
TF32 = Rounding(FLOAT32.unit, FLOAT32.tiny, factors=2.0**-10)
ROUNDINGS: dict[int, Rounding] = {onnx.TensorProto.FLOAT: FLOAT32, onnx.TensorProto.FLOAT16: FLOAT16}


def roundings(proto: onnx.ModelProto, float32: Rounding = FLOAT32) -> defaultdict[str, Rounding]:
    """How each tensor of a graph is rounded, by name, if those of 32 bits and of no known type are as `float32`."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    known = {**ROUNDINGS, onnx.TensorProto.FLOAT: float32}
    return defaultdict(lambda: float32, {name: known[dtype] for name, dtype in types.items() if dtype in known})


def deviations(
    graph: onnx.GraphProto, values: Values, rounded: defaultdict[str, Rounding], entering: Doubles | None = None
) -> dict[str, Doubles]:
    """The deviation s of every value of a graph.

    Args:
        graph: flat, of the operators in RULES.
        values: of every tensor in float64, initializers included.
        rounded: from `roundings`, before the graph was brought into float64.
        entering: the deviation of the graph's input; None is an exact one.

    Returns:
        By name of the tensor, each of its shape.

    Raises:
        ExportError: an operator without a rule.
    """
    computed = {name for node in graph.node for name in node.output}
    found = {name: np.zeros_like(value, np.float64) for name, value in values.items() if name not in computed}
    if entering is not None:
        found[graph.input[0].name] = entering
    for node in graph.node:
        if node.op_type not in RULES:
            raise ExportError(f"{graph.name}: no limit is known for the operator {node.op_type}")
        rounding = rounded[node.output[0]]
        found[node.output[0]] = RULES[node.op_type](node, values, found, rounding)
    return found


def _linear(terms: Callable[[Shape, Shape], int]) -> Callable[..., Doubles]:
    """The rule of an operator that is linear in its first input; `terms` counts the products of an output's element,
    from the shapes of input and weight.
    """

    def rule(node: onnx.NodeProto, values: Values, found: Values, rounding: Rounding) -> Doubles:
        x, weight, *bias = (values[name] for name in node.input)
        s_x, s_weight, *s_bias = (found[name] for name in node.input)
        scale = run_node(node, np.abs(x), np.abs(weight), *(np.abs(b) for b in bias))
        passed = run_node(node, s_x**2, weight**2, *(np.zeros_like(b) for b in bias))
        if any(np.any(s) for s in (s_weight, *s_bias)):  # of weights that the graph has to compute first
            passed = passed + run_node(node, x**2, s_weight**2, *(s**2 for s in s_bias))
        # Products and sums are float32's, also of float16 numbers: the result alone is rounded to that.
        own = (terms(x.shape, weight.shape) + len(bias)) * (FLOAT32.unit * scale + FLOAT32.tiny) ** 2
        if rounding is FLOAT32:
            return np.asarray(np.sqrt(passed + own))
        apart = run_node(node, np.zeros_like(x), weight, *(np.abs(b) for b in bias))  # the bias alone
        if rounding.factors:
            nothing = [np.zeros_like(b) for b in bias]
            scattered = 2 * run_node(node, x**2, weight**2, *nothing)  # each of both factors on its own
            common = run_node(node, x, weight, *nothing) ** 2  # what is cut off always has the sign of its factor
            # The bias may be a product with ones: onnxruntime/core/providers/cuda/math/gemm.cc, ComputeDefault.
            own = own + rounding.factors**2 * (scattered + common + apart**2)
        if rounding is FLOAT16:
            own = own + (rounding.unit * np.abs(values[node.output[0]]) + rounding.tiny) ** 2
            own = own + (rounding.unit * apart) ** 2  # some kernels add the bias to a sum that is rounded already
        return np.asarray(np.sqrt(passed + own))

    return rule


def _function(node: onnx.NodeProto, values: Values, found: Values, rounding: Rounding) -> Doubles:
    """An element-wise function whose slope is at most 1."""
    own = FUNCTION_UNITS * rounding.unit * np.maximum(1.0, np.abs(values[node.output[0]]))
    return np.asarray(np.hypot(found[node.input[0]], own))


def _exact(node: onnx.NodeProto, _values: Values, found: Values, _rounding: Rounding) -> Doubles:
    """An element-wise function without rounding whose slope is at most 1."""
    return np.asarray(found[node.input[0]])


def _cast(node: onnx.NodeProto, values: Values, found: Values, rounding: Rounding) -> Doubles:
    """Exact, but into float16. Into uint8 comes what has been rounded to an integer."""
    if rounding is not FLOAT16:
        return np.asarray(found[node.input[0]])
    return np.asarray(np.hypot(found[node.input[0]], rounding.unit * np.abs(values[node.input[0]]) + rounding.tiny))


def _sum(node: onnx.NodeProto, values: Values, found: Values, rounding: Rounding) -> Doubles:
    left, right = (found[name] for name in node.input)
    return np.asarray(np.sqrt(left**2 + right**2 + (rounding.unit * values[node.output[0]]) ** 2))


def _product(node: onnx.NodeProto, values: Values, found: Values, rounding: Rounding) -> Doubles:
    """The deviation of a product of two tensors, or a quotient: both relative deviations, and the rounding's."""
    left, right = (values[name] for name in node.input)
    s_left, s_right = (found[name] for name in node.input)
    result = values[node.output[0]]
    if node.op_type == "Mul":
        passed = np.hypot(s_left * right, left * s_right)
    else:
        passed = np.hypot(s_left / right, result * s_right / right)
    return np.asarray(np.hypot(passed, rounding.unit * np.abs(result) + rounding.tiny))


def _round(node: onnx.NodeProto, values: Values, found: Values, _rounding: Rounding) -> Doubles:
    """To an image of bytes, that is: an output, which may be off by those steps and no more."""
    return _steps(values[node.input[0]], found[node.input[0]]) / LAMBDA


def _quantize(node: onnx.NodeProto, values: Values, found: Values, _rounding: Rounding) -> Doubles:
    """In units of the integer. Its division, by one scale for all, is float32's.

    Steps are not independent of each other, but as long as a row has up to LAMBDA^2 = 64 of them, LAMBDA times the
    square root of the sum of their squares is never below the sum of their absolute values (Cauchy and Schwarz).
    """
    x, scale = values[node.input[0]], _one_scale(node, values)
    return _steps(x / scale, np.hypot(found[node.input[0]], UNIT * x) / scale)


def _dequantize(node: onnx.NodeProto, values: Values, found: Values, rounding: Rounding) -> Doubles:
    """Integers that are constants may have a scale for each channel."""
    own, steps = rounding.unit * np.abs(values[node.output[0]]), found[node.input[0]]
    return np.asarray(np.hypot(steps * _one_scale(node, values), own) if np.any(steps) else own)


def _one_scale(node: onnx.NodeProto, values: Values) -> float:
    scale = values[node.input[1]]
    if scale.size != 1:
        raise ExportError(f"{node.name}: no limit is known for activations with {scale.size} scales")
    return float(scale.reshape(()))


def _steps(x: Doubles, s: Doubles) -> Doubles:
    """The deviation of x rounded to an integer: as many steps as LAMBDA s may cause."""
    middle = np.rint(x)
    return np.asarray(np.maximum(np.rint(x + LAMBDA * s) - middle, middle - np.rint(x - LAMBDA * s)))


def _moved(node: onnx.NodeProto, values: Values, found: Values, _rounding: Rounding) -> Doubles:
    """An operator that only moves the elements of its first input."""
    others = (values[name] for name in node.input[1:])
    return run_node(node, found[node.input[0]], *others)


def _nothing(node: onnx.NodeProto, values: Values, _found: Values, _rounding: Rounding) -> Doubles:
    """An operator whose output has no rounding: a shape."""
    return np.zeros_like(values[node.output[0]], np.float64)


# Every operator of vaeport.graph_rules.OPERATORS has one.
RULES: dict[str, Callable[[onnx.NodeProto, Values, Values, Rounding], Doubles]] = {
    "Add": _sum,
    "Cast": _cast,
    "Clip": _exact,
    "Conv": _linear(lambda _, weight: math.prod(weight[1:])),
    "ConvTranspose": _linear(lambda _, weight: weight[0] * math.prod(weight[2:])),
    "DequantizeLinear": _dequantize,
    "Div": _product,
    "Expand": _moved,
    "Flatten": _moved,
    "Gemm": _linear(lambda x, _: x[-1]),
    "Identity": _exact,
    "LeakyRelu": _function,
    "MatMul": _linear(lambda x, _: x[-1]),
    "Mul": _product,
    "QuantizeLinear": _quantize,
    "Relu": _exact,
    "Reshape": _moved,
    "Round": _round,
    "Shape": _nothing,
    "Sigmoid": _function,
    "Softplus": _function,
    "Sub": _sum,
    "Tanh": _function,
    "Transpose": _moved,
}


def run_node(node: onnx.NodeProto, *inputs: NDArray[Any]) -> Doubles:
    """One node in the reference evaluator, on other inputs than its own."""
    (output,) = evaluator(node).run(None, dict(zip(node.input, inputs, strict=True)))
    return np.asarray(output, np.float64)
