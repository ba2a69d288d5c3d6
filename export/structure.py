"""P0: what must be true of a graph before it computes."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from export.parity import Fact
from vaeport.graph_rules import check_graph
from vaeport.manifest import GraphSpec
from vaeport.package import BATCH_AXIS, GraphRuleError, has_bytes, precision_of, role_of

# What a graph may hold inside, by its precision; INT64 are shapes. The limits take the rounding of each value from its
# type, so that a float32 graph with a detour through float16 would have the limits of float16.
TYPES = {
    "fp32": {TensorProto.FLOAT, TensorProto.INT64},
    "fp16": {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64},
    "int8": {TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32, TensorProto.INT64},
}
MAY_LEAVE_OUT = {"Clip"}  # of the operators, an input by an empty name


def structure(name: str, proto: onnx.ModelProto, spec: GraphSpec) -> list[Fact]:
    """The rules of the format, onnx's own checker, what the limits take for granted, and a batch nowhere frozen."""
    facts = [
        Fact("P0", name, "onnx", "rules of the format", "kept", _rules(proto, spec)),
        Fact("P0", name, "onnx", "full check, with strict shape inference", "valid", _full_check(proto)),
        Fact("P0", name, "onnx", "first axis of every output, inferred", BATCH_AXIS, _inferred_batch(proto)),
        Fact("P0", name, "onnx", "types that are not of its precision", "none", _foreign_types(name, proto)),
        Fact("P0", name, "onnx", "constants that are not of their shape", "none", _torn_constants(proto)),
        Fact("P0", name, "onnx", "nodes with an input left out, or a Gemm with a factor", "none", _odd_nodes(proto)),
    ]
    if role_of(name) == "decoder" and not has_bytes(name):  # one with bytes is made of it (export.edges)
        facts.append(Fact("P0", name, "onnx", "where the image comes from", "Clip to [0.0, 1.0]", _last(proto)))
    return facts


def _rules(proto: onnx.ModelProto, spec: GraphSpec) -> str:
    try:
        check_graph(Path(spec.path), proto.SerializeToString(), spec)
    except GraphRuleError as error:
        return str(error)
    return "kept"


def _full_check(proto: onnx.ModelProto) -> str:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # onnx's checker and its shape inference share no base
        return str(error).strip()
    return "valid"


def _inferred_batch(proto: onnx.ModelProto) -> str:
    """The first axis of the outputs as it follows from the input, whatever the graph claims.

    A Reshape to [-1, ...] leaves the axis unnamed; a frozen one leaves a number.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    bare.graph.ClearField("value_info")
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, data_prop=True)
    except Exception as error:  # onnx.shape_inference raises RuntimeError's children and others
        return str(error).strip()
    axes = [o.type.tensor_type.shape.dim[0] for o in inferred.graph.output if o.type.tensor_type.shape.dim]
    frozen = sorted({str(axis.dim_value) for axis in axes if axis.HasField("dim_value")})
    return f"frozen at {', '.join(frozen)}" if frozen else BATCH_AXIS


def _foreign_types(name: str, proto: onnx.ModelProto) -> str:
    """Dtypes, of constants, casts and values, that are not allowed, by ONNX's names."""
    allowed = TYPES[precision_of(name)] | ({TensorProto.UINT8} if has_bytes(name) else set())
    foreign = {dtype for dtype in _types(proto) if dtype not in allowed}
    return ", ".join(sorted(TensorProto.DataType.Name(dtype) for dtype in foreign)) or "none"


def _types(proto: onnx.ModelProto) -> Iterator[int]:
    """The dtypes of everything in the graph, declared and inferred."""
    graph = onnx.shape_inference.infer_shapes(proto).graph
    yield from (initializer.data_type for initializer in graph.initializer)
    yield from (value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info))
    attributes = (attribute for node in graph.node if node.op_type == "Cast" for attribute in node.attribute)
    yield from (attribute.i for attribute in attributes if attribute.name == "to")


def _torn_constants(proto: onnx.ModelProto) -> str:
    """Those whose data is not as long as their shape says, by name."""
    return ", ".join(initializer.name for initializer in proto.graph.initializer if not _whole(initializer)) or "none"


def _whole(initializer: onnx.TensorProto) -> bool:
    try:
        numpy_helper.to_array(initializer)
    except Exception:  # ValueError, TypeError and onnx's own
        return False
    return True


def _odd_nodes(proto: onnx.ModelProto) -> str:
    """Nodes that the rules of export.limits do not cover, by name and operator.

    They take every input for one that is there, and a Gemm for W x + b: they would square its alpha and beta in one
    place and not in another.
    """
    nodes = proto.graph.node
    odd = [node for node in nodes if ("" in node.input and node.op_type not in MAY_LEAVE_OUT) or _has_factor(node)]
    return ", ".join(f"{node.name} ({node.op_type})" for node in odd) or "none"


def _last(proto: onnx.ModelProto) -> str:
    """The node that the image comes from, through casts. Sigmoids overshoot 1, seldom and far within their limit."""
    made = {output: node for node in proto.graph.node for output in node.output}
    constants = {initializer.name: initializer for initializer in proto.graph.initializer}
    node = made.get(proto.graph.output[0].name)
    while node is not None and node.op_type == "Cast":
        node = made.get(node.input[0])
    if node is None or node.op_type != "Clip":
        return node.op_type if node else "nowhere"
    ends = [numpy_helper.to_array(constants[name]).tolist() for name in node.input[1:] if name in constants]
    return f"Clip to {ends}"


def _has_factor(node: onnx.NodeProto) -> bool:
    factors = [attribute.f for attribute in node.attribute if attribute.name in ("alpha", "beta")]
    return node.op_type == "Gemm" and any(factor != 1.0 for factor in factors)
