"""Graphs with images as bytes at their edge, made of those with floats; without PyTorch, so that a reader can compare.

A published graph with bytes is proven by being what `with_bytes` makes of its sibling: another result here makes every
package before it look forged.
"""

import copy

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def with_bytes(role: str, graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with images as uint8 at its edge: what enters the encoder, and the one output of the decoder."""
    changed = copy.deepcopy(graph)
    if role == "encoder":
        _image_from_bytes(changed.graph)
    else:
        _image_to_bytes(changed.graph)
    onnx.checker.check_model(changed, full_check=True)
    return changed


def _image_from_bytes(graph: onnx.GraphProto) -> None:
    """Cast and divide, before what was the input."""
    image = graph.input[0]
    _rename(graph, image.name, "image_float")
    graph.initializer.append(numpy_helper.from_array(np.array(255.0, np.float32), "full"))
    nodes = [
        helper.make_node("Cast", [image.name], ["image_value"], "image_value", to=TensorProto.FLOAT),
        helper.make_node("Div", ["image_value", "full"], ["image_float"], "image_float"),
        *graph.node,
    ]
    _replace_nodes(graph, nodes)
    image.type.tensor_type.elem_type = TensorProto.UINT8


def _image_to_bytes(graph: onnx.GraphProto) -> None:
    """Multiply, round and cast, after what was the image; the logits or means go with their output."""
    image = graph.output[0]
    _rename(graph, image.name, "image_float")
    graph.initializer.append(numpy_helper.from_array(np.array(255.0, np.float32), "full"))
    graph.node.extend(
        [
            helper.make_node("Mul", ["image_float", "full"], ["image_value"], "image_value"),
            helper.make_node("Round", ["image_value"], ["image_rounded"], "image_rounded"),
            helper.make_node("Cast", ["image_rounded"], [image.name], "image", to=TensorProto.UINT8),
        ]
    )
    image.type.tensor_type.elem_type = TensorProto.UINT8
    del graph.output[1:]
    _drop_unused(graph)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """A tensor, in the nodes alone."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Nodes that no output needs, such as a cast of the logits."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input)
    _replace_nodes(graph, list(reversed(kept)))


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    kept = [copy.deepcopy(node) for node in nodes]  # clearing would empty them
    graph.ClearField("node")
    graph.node.extend(kept)
