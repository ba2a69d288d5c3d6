"""The graphs of a package in ONNX Runtime: their rules, the device, and the sessions that compute.

Used in-process (vaeport.model), by the server's engine and by the export's proof, so that all three run the same
sessions. Needs vaeport[cpu] or vaeport[cuda]; importing this module loads neither.
"""

import importlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vaeport.cuda import CUDA_PROVIDER as CUDA_PROVIDER
from vaeport.cuda import missing_for_cuda
from vaeport.errors import DeviceError, InvalidInputError, bounded
from vaeport.manifest import GraphSpec, Manifest, TensorSpec
from vaeport.package import BATCH_AXIS, FP32, ROLES, GraphRuleError, Package, entry_of, graph_name, read_listed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import onnx

DeviceName = Literal["auto", "cpu", "cuda"]

CPU_PROVIDER = "CPUExecutionProvider"

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
MAX_FOLDED_BYTES = 1 << 24  # of a constant that ONNX Runtime computes from others when it loads: an int8 weight, say

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


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """How graphs compute on CUDA; without effect elsewhere.

    Attributes:
        tf32: whether the factors of products may be rounded to 11 bits, which is faster and less exact.
        memory_limit: bytes that the session of a graph may allocate on the device, with bound memory; 0 means no limit.
        graphs: whether runs are captured as CUDA graphs, one for each batch size, and replayed. Needs memory that is
            bound once, and a single thread.
    """

    tf32: bool = False
    memory_limit: int = 0
    graphs: bool = False


@dataclass(frozen=True, slots=True)
class Device:
    """Where graphs compute.

    Attributes:
        provider: the ONNX Runtime execution provider.
        reason: why this provider, for the log.
        cuda: options, if the provider is CUDA.
    """

    provider: str
    reason: str
    cuda: CudaOptions = CudaOptions()


class Graph:
    """One graph of a package, ready to compute. Safe to call from several threads at once.

    Attributes:
        session: ONNX Runtime's session, for callers that bind memory of their own.
        spec: inputs and outputs, as in the manifest.
        outputs: the names of the outputs.
        max_rows: the most rows of one run.
    """

    def __init__(self, session: Any, spec: GraphSpec, max_rows: int) -> None:
        self.session = session
        self.spec = spec
        self.max_rows = max_rows
        self._input = spec.inputs[0].name
        self.outputs = tuple(output.name for output in spec.outputs)

    def __call__(self, rows: NDArray[np.float32] | NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
        """Compute all outputs, in the manifest's order and dtypes, for rows [rows, ...] of the input's dtype.

        Releases the GIL.
        """
        if len(rows) <= self.max_rows:
            return tuple(self.session.run(self.outputs, {self._input: rows}))
        starts = range(0, len(rows), self.max_rows)
        parts = [self.session.run(self.outputs, {self._input: rows[i : i + self.max_rows]}) for i in starts]
        return tuple(map(np.concatenate, zip(*parts, strict=True)))

    @property
    def placement(self) -> dict[str, int]:
        """The number of nodes that each execution provider has, by ONNX Runtime's own record."""
        placed = ((part.ep_name, len(part.get_nodes())) for part in self.session.get_provider_graph_assignment_info())
        nodes: dict[str, int] = {}
        for provider, count in placed:
            nodes[provider] = nodes.get(provider, 0) + count
        return nodes


def choose_device(requested: DeviceName) -> Device:
    """The device to compute on: the requested one, never silently another.

    Args:
        requested: "cpu", "cuda", or "auto", which takes CUDA if there is a driver with a GPU and its libraries.

    Raises:
        DeviceError: the name is unknown, ONNX Runtime is not installed, or "cuda" cannot compute here; the text says
            what is missing.
    """
    if requested not in get_args(DeviceName):
        raise DeviceError(f"device: expected one of {', '.join(get_args(DeviceName))}, got {requested!r}")
    onnxruntime = import_onnxruntime()
    if requested == "cpu":
        return Device(CPU_PROVIDER, "asked for")
    missing = missing_for_cuda(onnxruntime)
    if missing is None:
        return Device(CUDA_PROVIDER, "asked for" if requested == "cuda" else "a GPU is there")
    if requested == "cuda":
        raise DeviceError(f"device cuda cannot compute here: {missing}")
    return Device(CPU_PROVIDER, f"no CUDA: {missing}")


def names_in_precision(manifest: Manifest, precision: str) -> dict[str, str]:
    """The names of the graphs of a precision, by role.

    Raises:
        InvalidInputError: the package does not have it.
    """
    there = (FP32, *manifest.precisions)
    if precision not in there:
        name = f"{manifest.name} version {manifest.version}"
        raise InvalidInputError.of("precision", expected=f"what {name} has: {', '.join(there)}", got=precision)
    return {role: graph_name(role, precision) for role in ROLES}


def load_graphs(package: Package, device: Device, threads: int, names: "Iterable[str]" = ROLES) -> dict[str, Graph]:
    """Sessions for graphs of a package, by name, after the graph rules have been checked.

    Args:
        package: an opened package.
        device: from `choose_device`.
        threads: threads of one graph on the CPU; a CUDA session needs one.
        names: names of graphs in the manifest.

    Raises:
        DigestMismatchError: a file has changed since the package was opened.
        GraphRuleError: a graph breaks a rule.
        DeviceError: onnx is not installed, or the session would compute elsewhere than on `device`.
    """
    graphs = {}
    for name in names:
        spec = package.manifest.graphs[name]
        data = read_graph(package, name)  # read once: what is checked is what computes
        graphs[name] = load_graph(package.path / spec.path, data, spec, device, threads)
    return graphs


def read_graph(package: Package, name: str) -> bytes:
    """The ONNX file of a graph, as it was when the package was opened.

    Raises:
        DigestMismatchError: the file has changed since.
        GraphRuleError: the file is over GRAPH_MAX_BYTES, and was not read.
    """
    path = package.manifest.graphs[name].path
    _check_bytes(package.path / path, entry_of(package, path).size)
    return read_listed(package, path)


def load_graph(path: Path, data: bytes, spec: GraphSpec, device: Device, threads: int) -> Graph:
    """A session for the graph in `data`, the content of `path`; see `load_graphs`."""
    max_rows = check_graph(path, data, spec)
    return Graph(_session(path, data, device, threads), spec, max_rows)


def check_graph(path: Path, data: bytes, spec: GraphSpec) -> int:
    """Check a graph's rules: versions, one plain graph of known operators, nothing outside, the manifest's signature.

    Returns how many rows one run may have, for its values to stay within MAX_RUN_BYTES.

    Raises:
        GraphRuleError: naming the file, the rule, what was expected and what came.
        DeviceError: onnx is not installed.
    """
    onnx = _import("onnx")
    _check_bytes(path, len(data))
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
    bytes_of_one, bytes_of_many = (_check_sizes(path, proto, rows) for rows in (1, TYPICAL_ROWS))
    if bytes_of_one > MAX_RUN_BYTES:
        limit = f"at most {MAX_RUN_BYTES} bytes in all values of a row"
        raise GraphRuleError(f"{path}: expected {limit}, got {bytes_of_one:.0f}")
    return max(1, min(TYPICAL_ROWS, int(MAX_RUN_BYTES / max(1, bytes_of_one, bytes_of_many / TYPICAL_ROWS))))


def _check_bytes(path: Path, size: int) -> None:
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


def _check_sizes(path: Path, proto: "onnx.ModelProto", rows: int) -> float:
    """Check that every value has a shape that is known in advance, and at most MAX_ROW_ELEMENTS elements a row.

    Values that depend on no input have at most MAX_CONSTANT_BYTES together.

    Returns the bytes of all other values together.
    """
    onnx = _import("onnx")
    try:
        sketch = _sketch(proto, rows)
        inferred = onnx.shape_inference.infer_shapes(sketch, check_type=True, strict_mode=True, data_prop=True).graph
    except Exception as error:  # onnx raises several types
        raise GraphRuleError(f"{path}: shapes cannot be inferred: {bounded(str(error))}") from error
    tensors = {value.name: value.type.tensor_type for value in (*inferred.value_info, *inferred.output)}
    _check_columns(path, proto, {value.name: value.type.tensor_type for value in inferred.input} | tensors)
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


def _check_columns(path: Path, proto: "onnx.ModelProto", tensors: "Mapping[str, onnx.TypeProto.Tensor]") -> None:
    """ONNX Runtime lays out each pixel of an image times the whole kernel before a ConvTranspose adds that up.

    Args:
        path: of the graph.
        proto: the graph.
        tensors: its values and large weights, with their shapes.
    """
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
    onnx = _import("onnx")
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
    onnx = _import("onnx")
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(elem_type).name
    except KeyError:
        return f"dtype {elem_type}"


def cuda_provider_options(cuda: CudaOptions) -> dict[str, str]:
    """What ONNX Runtime's CUDA provider is told."""
    options = {
        "use_tf32": "1" if cuda.tf32 else "0",  # on by default, which is 1e-3 off what was proven
        "arena_extend_strategy": "kSameAsRequested",  # by default it doubles its memory, and never gives any back
        # The default, EXHAUSTIVE, searches for the quickest kernel of each Conv, for each batch size of each graph, at
        # every start and rebuild: for 16 new shapes 10,141 ms, and 31 with this (PaddleX #5057). As in export.triton.
        "cudnn_conv_algo_search": "HEURISTIC",
        "enable_cuda_graph": "1" if cuda.graphs else "0",
    }
    return options | ({"gpu_mem_limit": str(cuda.memory_limit)} if cuda.memory_limit else {})


def graph_run_options(device: Device, number: int) -> Any:
    """The options of a run that is captured as CUDA graph `number`, or replays it; None if nothing is captured."""
    if device.provider != CUDA_PROVIDER or not device.cuda.graphs:
        return None
    options = import_onnxruntime().RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options


def _session(path: Path, data: bytes, device: Device, threads: int) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if device.provider == CUDA_PROVIDER else threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # an idle server must not burn a core
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # Graph.placement
    # Otherwise a graph of 4 kB could fill 1 GB while it loads: Expand of a constant to a large shape.
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(MAX_FOLDED_BYTES))
    provider: str | tuple[str, dict[str, str]] = device.provider
    if device.provider == CUDA_PROVIDER:
        # Otherwise a node without a CUDA kernel, or a library that does not load, silently moves to the CPU.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        provider = (CUDA_PROVIDER, cuda_provider_options(device.cuda))
    try:
        session = onnxruntime.InferenceSession(data, options, providers=[provider], enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no public base
        text = f"{path}: {device.provider} cannot run this graph: {bounded(str(error))}"
        raise (GraphRuleError(text) if device.provider == CPU_PROVIDER else DeviceError(text)) from error
    session.disable_fallback()
    if session.get_providers()[0] != device.provider:
        raise DeviceError(f"{path}: expected {device.provider}, ONNX Runtime chose {session.get_providers()}")
    return session


def import_onnxruntime() -> Any:
    """ONNX Runtime, or a DeviceError that says how to get it.

    Its official Linux builds send events about models and sessions to Microsoft, unless this variable forbids it before
    the import (https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md). 0 allows it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    onnxruntime = _import("onnxruntime")
    onnxruntime.set_default_logger_severity(3)  # its warnings repeat what our errors say
    return onnxruntime


def _import(module: str) -> Any:
    """A module that the extras bring."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DeviceError(f"{module} is missing: pip install 'vaeport[cpu]' or 'vaeport[cuda]'") from error


def _show(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.dtype} {list(spec.shape)}" for spec in specs) or "none"
