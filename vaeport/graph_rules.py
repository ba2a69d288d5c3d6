"""The rules of an ONNX graph in a package, which docs/package-format.md states: a stranger's graph is checked by them.

Needs onnx, which vaeport[cpu] and vaeport[cuda] bring; importing this module does not load it.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaeport.errors import bounded
from vaeport.extras import import_extra
from vaeport.manifest import GraphSpec, TensorSpec
from vaeport.package import BATCH_AXIS, GraphRuleError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx

# What ONNX Runtime 1.31 loads (docs/package-format.md).
OPSET_RANGE = (18, 26)
MAX_IR_VERSION = 13
GRAPH_MAX_BYTES = 1 << 29  # 128 million float32 weights; the larger graph of Stable Diffusion's autoencoder has 50
MAX_ROW_ELEMENTS = 1 << 25  # of a value: 32 feature maps with half the height and width of the largest image
MAX_RUN_BYTES = 1 << 32  # of all values of a run: `conv` on 3x128x128 has 3 GiB in 1,024 rows
MAX_CONSTANT_BYTES = GRAPH_MAX_BYTES  # of all values that depend on no input: int8 weights, as float32, of such a graph
MAX_COLUMN_BYTES = 1 << 30  # of a ConvTranspose, for one image; `conv` has half of it on the largest image
TYPICAL_ROWS = 1024  # a batch that vaeport.model computes at once, and the most that a session does
SMALL_CONSTANT = 64  # elements; one that is a shape or axes has fewer

# The operators that encoders and decoders are made of, and for which the proof has limits (export/limits.py). ONNX
# Runtime has hundreds more; each is code that a stranger's package could reach.
OPERATORS = frozenset(
    {"Add", "Cast", "Clip", "Conv", "ConvTranspose", "DequantizeLinear", "Div", "Expand", "Flatten", "Gemm"}
    | {"Identity", "LeakyRelu", "MatMul", "Mul", "QuantizeLinear", "Relu", "Reshape", "Round", "Shape", "Sigmoid"}
    | {"Softplus", "Sub", "Tanh", "Transpose"}
)

# The parts of a graph that a rule checks, or that compute nothing. Anything else could escape every rule: nested
# graphs, functions, training, sparse and quantised tensors, and additions of later ONNX versions.
FIELDS = {
    "model": frozenset(
        {"ir_version", "opset_import", "producer_name", "producer_version", "domain", "model_version", "doc_string"}
        | {"graph", "metadata_props"}
    ),
    "graph": frozenset(
        {"node", "name", "initializer", "doc_string", "input", "output", "value_info", "metadata_props"}
    ),
    "node": frozenset({"input", "output", "name", "op_type", "domain", "attribute", "doc_string", "metadata_props"}),
    "attribute": frozenset({"name", "doc_string", "type", "f", "i", "s", "t", "floats", "ints", "strings", "tensors"}),
}

# An encoder or decoder gives the same output for the same input. Sampling is up to the caller, with a seed
# (vaeport.prior).
RANDOM_OPERATORS = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def check_graph(path: Path, data: bytes, spec: GraphSpec) -> int:
    """Check a graph's rules: versions, one plain graph of known operators, nothing outside, the manifest's signature.

    Returns how many rows one run may have, for its values to stay within MAX_RUN_BYTES.

    Raises:
        GraphRuleError: naming the file, the rule, what was expected and what came.
        DeviceError: onnx is not installed.
    """
    onnx = import_extra("onnx")
    check_size(path, len(data))
    try:
        proto = onnx.load_from_string(data)
    except Exception as error:  # protobuf and onnx raise several unrelated types
        raise GraphRuleError(f"{path}: not an ONNX graph: {bounded(str(error))}") from error
    _check_text(path, proto)
    _check_versions(path, proto, spec)
    _check_plain(path, proto)
    if random := sorted({node.op_type for node in proto.graph.node} & RANDOM_OPERATORS):
        raise GraphRuleError(f"{path}: random operators are not allowed, got {', '.join(random)}")
    if unknown := sorted({node.op_type for node in proto.graph.node} - OPERATORS):
        raise GraphRuleError(f"{path}: operators outside the allow-list, got {bounded(', '.join(unknown))}")
    for kind, found, expected in (
        ("inputs", tensor_specs(proto.graph.input), spec.inputs),
        ("outputs", tensor_specs(proto.graph.output), spec.outputs),
    ):
        if found != expected:
            raise GraphRuleError(f"{path}: {kind}: expected {_show(expected)}, got {bounded(_show(found))}")
    # Some values are large even without a batch, others grow with it, at least in proportion.
    one_row = _infer_shapes(path, proto, 1)
    _check_columns(path, proto, one_row)
    bytes_of_one = _check_sizes(path, proto, one_row, 1)
    bytes_of_many = _check_sizes(path, proto, _infer_shapes(path, proto, TYPICAL_ROWS), TYPICAL_ROWS)
    if bytes_of_one > MAX_RUN_BYTES:
        limit = f"at most {MAX_RUN_BYTES} bytes in all values of a row"
        raise GraphRuleError(f"{path}: expected {limit}, got {bytes_of_one:.0f}")
    return max(1, min(TYPICAL_ROWS, int(MAX_RUN_BYTES / max(1, bytes_of_one, bytes_of_many / TYPICAL_ROWS))))


def check_size(path: Path, size: int) -> None:
    """Check that a graph has at most GRAPH_MAX_BYTES bytes; raises GraphRuleError."""
    if size > GRAPH_MAX_BYTES:
        raise GraphRuleError(f"{path}: expected a graph of at most {GRAPH_MAX_BYTES} bytes, got {size}")


def _check_text(path: Path, proto: "onnx.ModelProto") -> None:
    """Check that names are text: protobuf gives bytes for what is not UTF-8, and bytes do not sort with text."""
    names: list[Any] = [name for node in proto.graph.node for name in (node.op_type, node.domain)]
    if not all(isinstance(name, str) for name in names):
        raise GraphRuleError(f"{path}: an operator whose name is not UTF-8")


def _check_versions(path: Path, proto: "onnx.ModelProto", spec: GraphSpec) -> None:
    imports = [(entry.domain or "ai.onnx", entry.version) for entry in proto.opset_import]
    if [domain for domain, _ in imports] != ["ai.onnx"]:
        raise GraphRuleError(f"{path}: opset imports: expected one, of ai.onnx, got {bounded(str(imports))}")
    opset = imports[0][1]
    if not OPSET_RANGE[0] <= opset <= OPSET_RANGE[1] or opset != spec.opset:
        raise GraphRuleError(f"{path}: opset: expected {spec.opset}, within {OPSET_RANGE}, got {opset}")
    if proto.ir_version > MAX_IR_VERSION or proto.ir_version != spec.ir_version:
        raise GraphRuleError(
            f"{path}: IR version: expected {spec.ir_version}, at most {MAX_IR_VERSION}, got {proto.ir_version}"
        )


def _check_plain(path: Path, proto: "onnx.ModelProto") -> None:
    """Check for one flat graph of standard operators: a branch, function or attribute could escape every rule."""
    graph = proto.graph
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    for kind, messages in (("model", [proto]), ("graph", [graph]), ("node", graph.node), ("attribute", attributes)):
        found = {field.name for message in messages for field, _ in message.ListFields()}
        if unknown := sorted(found - FIELDS[kind]):
            raise GraphRuleError(f"{path}: {kind} fields outside the allow-list, got {', '.join(unknown)}")
    size = proto.ByteSize()
    proto.DiscardUnknownFields()  # type: ignore[attr-defined]
    if proto.ByteSize() != size:
        raise GraphRuleError(f"{path}: fields that the installed version of onnx does not know are not allowed")
    if foreign := sorted({node.domain for node in graph.node} - {"", "ai.onnx"}):
        raise GraphRuleError(f"{path}: operators of other domains are not allowed, got {bounded(', '.join(foreign))}")
    tensors = [*graph.initializer, *(a.t for a in attributes), *(t for a in attributes for t in a.tensors)]
    if any(tensor.data_location or tensor.external_data for tensor in tensors):
        raise GraphRuleError(f"{path}: tensors outside the file (external data) are not allowed")


def _infer_shapes(path: Path, proto: "onnx.ModelProto", rows: int) -> "onnx.GraphProto":
    """The sketch of a graph for a batch of `rows`, with the shapes of its values."""
    onnx = import_extra("onnx")
    try:
        sketch = _sketch(proto, rows)
        inferred = onnx.shape_inference.infer_shapes(sketch, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # onnx raises several types
        raise GraphRuleError(f"{path}: shapes cannot be inferred: {bounded(str(error))}") from error
    return inferred.graph  # type: ignore[no-any-return]


def _types(values: "Iterable[onnx.ValueInfoProto]") -> "dict[str, onnx.TypeProto.Tensor]":
    return {value.name: value.type.tensor_type for value in values}


def _check_sizes(path: Path, proto: "onnx.ModelProto", inferred: "onnx.GraphProto", rows: int) -> float:
    """Check that every value has a shape that is known in advance, and at most MAX_ROW_ELEMENTS elements a row.

    Values that depend on no input have at most MAX_CONSTANT_BYTES together.

    Returns the bytes of all other values together.
    """
    onnx = import_extra("onnx")
    tensors = _types([*inferred.value_info, *inferred.output])
    computed = {value.name for value in proto.graph.input}
    constant_bytes = computed_bytes = 0.0
    for name, inputs in ((output, node.input) for node in proto.graph.node for output in node.output if output):
        tensor = tensors.get(name)
        axes = () if tensor is None else tensor.shape.dim
        shape = [axis.dim_value if axis.HasField("dim_value") else -1 for axis in axes]
        if tensor is None or min(shape, default=0) < 0:
            raise GraphRuleError(f"{path}: {bounded(str(name))}: its shape is not known before it is computed")
        if tensor.elem_type == onnx.TensorProto.STRING:
            raise GraphRuleError(f"{path}: {bounded(str(name))}: expected numbers, got strings")
        if _elements(shape) > rows * MAX_ROW_ELEMENTS:
            expected = f"at most {MAX_ROW_ELEMENTS} elements for each row"
            got = f"shape {bounded(str(shape))} for {rows}"
            raise GraphRuleError(f"{path}: {bounded(str(name))}: expected {expected}, got {got}")
        size = _elements(shape) * onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
        if computed.isdisjoint(inputs):
            constant_bytes += size
        else:
            computed.add(name)
            computed_bytes += size
    if constant_bytes > MAX_CONSTANT_BYTES:
        expected = f"at most {MAX_CONSTANT_BYTES} bytes in all values that depend on no input"
        raise GraphRuleError(f"{path}: expected {expected}, got {constant_bytes:.0f}")
    return computed_bytes


def _check_columns(path: Path, proto: "onnx.ModelProto", inferred: "onnx.GraphProto") -> None:
    """ONNX Runtime lays out each pixel of an image times the whole kernel before a ConvTranspose adds that up."""
    tensors = _types([*inferred.input, *inferred.value_info, *inferred.output])  # values and large weights
    shapes = {name: [axis.dim_value for axis in tensor.shape.dim] for name, tensor in tensors.items()}
    shapes |= {tensor.name: list(tensor.dims) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "ConvTranspose":
            image, kernel = (shapes.get(name, []) for name in node.input[:2])
            size = _elements(image[2:]) * _elements(kernel[1:]) * np.dtype(np.float32).itemsize
            if size > MAX_COLUMN_BYTES:
                expected = f"at most {MAX_COLUMN_BYTES} bytes between its image and its sum"
                raise GraphRuleError(f"{path}: {bounded(node.output[0])}: expected {expected}, got {size:.0f}")


def _elements(shape: "Iterable[int]") -> float:
    """The number of elements of a shape; a float, since the exact product of very many axes takes very long."""
    return math.prod(map(float, shape))


def _sketch(proto: "onnx.ModelProto", rows: int) -> "onnx.ModelProto":
    """The parts of a graph that decide its shapes for a batch of `rows`: no weights, and no shapes that it claims."""
    onnx = import_extra("onnx")
    graph = onnx.GraphProto(name="sketch", node=proto.graph.node, input=proto.graph.input, output=proto.graph.output)
    for value in (*graph.input, *graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == BATCH_AXIS:
                axis.dim_value = rows
    for tensor in proto.graph.initializer:
        if _elements(tensor.dims) <= SMALL_CONSTANT:
            graph.initializer.append(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return onnx.ModelProto(  # type: ignore[no-any-return]
        ir_version=proto.ir_version, opset_import=proto.opset_import, graph=graph
    )


def tensor_specs(values: "Iterable[onnx.ValueInfoProto]") -> tuple[TensorSpec, ...]:
    """The inputs or outputs of an ONNX graph as the manifest states them."""
    specs = []
    for value in values:
        tensor = value.type.tensor_type
        shape = tuple(axis.dim_param or axis.dim_value for axis in tensor.shape.dim)
        specs.append(TensorSpec(value.name, _dtype_name(tensor.elem_type), shape))
    return tuple(specs)


def _dtype_name(elem_type: int) -> Any:
    """numpy's name for ONNX's number of a dtype; unknown numbers stay numbers."""
    onnx = import_extra("onnx")
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(elem_type).name
    except KeyError:
        return f"dtype {elem_type}"


def _show(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs) or "none"
