"""P0: what must be true of a graph before it computes."""

from pathlib import Path

import onnx

from export.parity import Fact
from vaeport.graphs import check_graph
from vaeport.manifest import GraphSpec
from vaeport.package import BATCH_AXIS, GraphRuleError


def structure(role: str, proto: onnx.ModelProto, spec: GraphSpec) -> list[Fact]:
    """The rules of the format, onnx's own checker, and a batch that is nowhere frozen."""
    return [
        Fact("P0", role, "onnx", "rules of the format", "kept", _rules(proto, spec)),
        Fact("P0", role, "onnx", "full check, with strict shape inference", "valid", _full_check(proto)),
        Fact("P0", role, "onnx", "first axis of every output, inferred", BATCH_AXIS, _inferred_batch(proto)),
    ]


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
    """The first axis of the outputs as it follows from the input, whatever the graph says about its outputs.

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
