"""Where the nodes of a graph compute, by ONNX Runtime's own record: checked, never assumed."""

from typing import Protocol

from vaeport.errors import DeviceError
from vaeport.graphs import Device, Graph

# Of the operators that a package may have, those whose kernel leaves its result in the CPU's memory. A captured CUDA
# graph holds work of the GPU alone (https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html).
ON_THE_HOST = frozenset({"Shape"})


class Placed(Protocol):
    """A graph that knows where its nodes are."""

    @property
    def placement(self) -> dict[str, int]:
        """How many nodes each execution provider has."""


def check_placement(name: str, graph: Placed, device: Device) -> int:
    """How many nodes the graph has, all of them on the device.

    Raises:
        DeviceError: some are elsewhere, or ONNX Runtime has no record of any.
    """
    placement = graph.placement
    if placement.keys() != {device.provider}:
        found = ", ".join(f"{count} on {provider}" for provider, count in sorted(placement.items())) or "no record"
        raise DeviceError(f"{name}: expected all nodes on {device.provider}, got {found}")
    return placement[device.provider]


def check_capturable(name: str, graph: Graph) -> None:
    """Raise DeviceError if a CUDA graph of this cannot be legal; `check_placement` has passed."""
    parts = graph.session.get_provider_graph_assignment_info()
    if wrong := sorted({node.op_type for part in parts for node in part.get_nodes()} & ON_THE_HOST):
        raise DeviceError(f"{name}: --cuda-graphs: cannot be captured, because of {', '.join(wrong)}; leave it off")
