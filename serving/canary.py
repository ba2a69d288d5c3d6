"""Canaries: a row for each graph of a model with known outputs, to see whether the device still computes correctly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from serving.engine import BoundGraph
from vaeport.errors import SelfTestError
from vaeport.golden import Golden, compare
from vaeport.graphs import Graph
from vaeport.manifest import GraphSpec
from vaeport.package import Package

# How far a graph without golden vectors may be from what it gave when it was loaded: many times the rounding of
# float16, far less than what a broken device gives.
UNPROVEN_LIMIT = 1e-2  # times 1 + |value|

Row: TypeAlias = NDArray[np.float32] | NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Canary:
    """A row for one graph, and the outputs that it must give.

    Attributes:
        name: the model and the graph, for messages.
        graph: the graph, in the memory that serves.
        row: [1, ...], in the graph's dtype.
        expected: each output [1, ...], by name, in the graph's order.
        limits: how far each element may be from the expected one, in the same shape.
    """

    name: str
    graph: Graph | BoundGraph
    row: Row
    expected: Mapping[str, NDArray[np.float64]]
    limits: Mapping[str, NDArray[np.float64]]

    def check(self, outputs: tuple[NDArray[Any], ...]) -> None:
        """Raise SelfTestError if these outputs are not the expected ones, within the limits."""
        for (output, expected), got in zip(self.expected.items(), outputs, strict=True):
            where = f"{self.name}.{output}"
            if got.shape != expected.shape:
                raise SelfTestError(f"{where}: expected shape {list(expected.shape)}, got {list(got.shape)}")
            compare(where, got, expected, self.limits[output])


def canaries_of(
    package: Package,
    graphs: Mapping[str, Graph] | Mapping[str, BoundGraph],
    vectors: Mapping[str, Golden] | None,
    slack: float = 1.0,
) -> tuple[Canary, ...]:
    """A canary for each graph.

    Args:
        package: the package of the graphs.
        graphs: by name, after their self-test.
        vectors: the golden vectors; the first row of each is taken, with its truth and its limits. Without them, a
            random row, and what the graph gives for it now.
        slack: factor for the limits, as in the self-test.
    """
    return tuple(
        _with_truth(f"{package.manifest.name} {name}", graph, vectors[name], slack)
        if vectors
        else _as_now(f"{package.manifest.name} {name}", graph, package.manifest.graphs[name])
        for name, graph in graphs.items()
    )


def _with_truth(name: str, graph: Graph | BoundGraph, golden: Golden, slack: float) -> Canary:
    expected = {output: golden.truth[output][:1].copy() for output in graph.outputs}  # not a view of the whole file
    limits = {output: golden.limits[output][:1] * slack for output in graph.outputs}
    return Canary(name, graph, golden.rows[:1].copy(), expected, limits)


def _as_now(name: str, graph: Graph | BoundGraph, spec: GraphSpec) -> Canary:
    shape = (1, *map(int, spec.inputs[0].shape[1:]))
    random = np.random.default_rng(0)
    bytes_enter = spec.inputs[0].dtype == "uint8"
    row: Row = random.integers(0, 256, shape, np.uint8) if bytes_enter else random.random(shape, np.float32)
    outputs = [output.astype(np.float64) for output in graph(row)]
    expected = dict(zip(graph.outputs, outputs, strict=True))
    limits = {name: UNPROVEN_LIMIT * (1 + np.abs(value)) for name, value in expected.items()}
    return Canary(name, graph, row, expected, limits)
