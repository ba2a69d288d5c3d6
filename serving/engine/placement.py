"""Checks, by ONNX Runtime's own record, where the nodes of a graph compute."""

from typing import Protocol

from vaeport.errors import DeviceError
from vaeport.graphs import Device, Graph

# The operators, among those that a package may have, whose kernel leaves its result in the CPU's memory. A captured
# CUDA graph holds only work of the GPU
# (https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html).
ON_THE_HOST = frozenset({"Shape"})


class Placed(Protocol):
    """A graph that knows where its nodes compute."""

    @property
    def placement(self) -> dict[str, int]:
        """The number of nodes of each execution provider."""


def check_placement(name: str, graph: Placed, device: Device) -> int:
    """The number of the graph's nodes, which must all be on the device.

    Raises:
        DeviceError: some are elsewhere, or ONNX Runtime has no record of any.
    """
    placement = graph.placement
    if placement.keys() != {device.provider}:
        found = ", ".join(f"{count} on {provider}" for provider, count in sorted(placement.items())) or "no record"
        raise DeviceError(f"{name}: expected all nodes on {device.provider}, got {found}")
    return placement[device.provider]


def check_capturable(name: str, graph: Graph) -> None:
    """Raise DeviceError if no CUDA graph of `graph` can be captured; it must have passed `check_placement`."""
    parts = graph.session.get_provider_graph_assignment_info()
    if wrong := sorted({node.op_type for part in parts for node in part.get_nodes()} & ON_THE_HOST):
        raise DeviceError(f"{name}: --cuda-graphs: cannot be captured, because of {', '.join(wrong)}; leave it off")
