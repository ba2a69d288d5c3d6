"""How far float32 may be from the truth: a limit for every element of every output, propagated through the graph.

Each float32 operation is off by a relative error of at most u = 2^-24. A sum of n products in any order is then off by
at most lambda sqrt(n) u |w||x|, with probability at least 1 - 2 exp(-lambda^2 / 2), if the errors are independent with
mean zero (Higham and Mary, "A new approach to probabilistic rounding error analysis", SIAM J. Sci. Comput. 41, 2019,
theorem 3.1). Errors that come in from the layer before pass the weights, and add up in squares under the same model.
So every element carries a deviation s, in units of its value,

    y = W x + b     s_y^2 = W^2 s_x^2 + ((n + 1) u^2) (|W||x| + |b|)^2
    y = f(x)        s_y^2 = s_x^2 + (FUNCTION_UNITS u max(1, |y|))^2      for f with |f'| <= 1

and may be off by LAMBDA s_y. docs/proof.md has the derivation and what it catches.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from export.errors import ExportError
from export.evaluator import evaluator

UNIT = 2.0**-24  # unit roundoff of float32
TINY = 2.0**-126  # the smallest normal float32: below it the error is absolute
LAMBDA = 8.0  # 2 exp(-32) = 3e-14 an element: over the ten million elements of a ladder, one in a million
FUNCTION_UNITS = 2.0  # of a sigmoid or tanh: ONNX Runtime's on the CPU is off by 1.2e-7 (microsoft/onnxruntime#22557)

Doubles = NDArray[np.float64]
Shape = tuple[int, ...]
Values = Mapping[str, NDArray[Any]]


def deviations(graph: onnx.GraphProto, values: Values, entering: Doubles | None = None) -> dict[str, Doubles]:
    """The deviation s of every value of a graph in float32.

    Args:
        graph: flat, of the operators in RULES.
        values: of every tensor in float64, initializers included.
        entering: the deviation of the graph's input; None is an exact one.

    Returns:
        By name of the tensor, each of its shape.

    Raises:
        ExportError: an operator without a rule.
    """
    found = {name: np.zeros_like(value, np.float64) for name, value in values.items()}
    if entering is not None:
        found[graph.input[0].name] = entering
    for node in graph.node:
        if node.op_type not in RULES:
            raise ExportError(f"{graph.name}: no limit is known for the operator {node.op_type}")
        found[node.output[0]] = RULES[node.op_type](node, values, found)
    return found


def _linear(terms: Callable[[Shape, Shape], int]) -> Callable[..., Doubles]:
    """The rule of an operator that is linear in its first input; `terms` counts the products of an output's element,
    from the shapes of input and weight.
    """

    def rule(node: onnx.NodeProto, values: Values, found: Values) -> Doubles:
        x, weight, *bias = (values[name] for name in node.input)
        scale = run_node(node, np.abs(x), np.abs(weight), *(np.abs(b) for b in bias))
        passed = run_node(node, found[node.input[0]] ** 2, weight**2, *(np.zeros_like(b) for b in bias))
        rounded = (terms(x.shape, weight.shape) + len(bias)) * (UNIT * scale + TINY) ** 2
        return np.asarray(np.sqrt(passed + rounded))

    return rule


def _function(node: onnx.NodeProto, values: Values, found: Values) -> Doubles:
    """An element-wise function whose slope is at most 1."""
    own = FUNCTION_UNITS * UNIT * np.maximum(1.0, np.abs(values[node.output[0]]))
    return np.asarray(np.hypot(found[node.input[0]], own))


def _exact(node: onnx.NodeProto, _values: Values, found: Values) -> Doubles:
    """An element-wise function without rounding whose slope is at most 1."""
    return np.asarray(found[node.input[0]])


def _sum(node: onnx.NodeProto, values: Values, found: Values) -> Doubles:
    left, right = (found[name] for name in node.input)
    return np.asarray(np.sqrt(left**2 + right**2 + (UNIT * values[node.output[0]]) ** 2))


def _moved(node: onnx.NodeProto, values: Values, found: Values) -> Doubles:
    """An operator that only moves the elements of its first input."""
    others = (values[name] for name in node.input[1:])
    return run_node(node, found[node.input[0]], *others)


def _nothing(node: onnx.NodeProto, values: Values, _found: Values) -> Doubles:
    """An operator whose output has no rounding: a shape."""
    return np.zeros_like(values[node.output[0]], np.float64)


# Every operator of vaeport.graphs.OPERATORS has one.
RULES: dict[str, Callable[[onnx.NodeProto, Values, Values], Doubles]] = {
    "Add": _sum,
    "Clip": _exact,
    "Conv": _linear(lambda _, weight: math.prod(weight[1:])),
    "ConvTranspose": _linear(lambda _, weight: weight[0] * math.prod(weight[2:])),
    "Expand": _moved,
    "Flatten": _moved,
    "Gemm": _linear(lambda x, _: x[-1]),
    "Identity": _exact,
    "LeakyRelu": _function,
    "MatMul": _linear(lambda x, _: x[-1]),
    "Relu": _exact,
    "Reshape": _moved,
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
