"""A small encoder in real ONNX Runtime sessions, on the CPU, whose memory is as large as a test says."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from serving.engine import BoundGraph
from serving.engine.buckets import Rows
from vaeport.graphs import CPU_PROVIDER, Device, Graph, load_graph
from vaeport.manifest import GraphSpec, TensorSpec

CPU = Device(CPU_PROVIDER, "a test")
IMAGE_SHAPE = (1, 5, 6)
SIZES = (1, 2, 4, 8)
OPSET, IR_VERSION = 18, 10
OUT_OF_MEMORY = "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 1024"


def encoder(dtype: Literal["float32", "uint8"] = "float32") -> Graph:
    """Two linear heads over the pixels, the first through a ReLU; bytes are divided by 255 first."""
    outputs = tuple(TensorSpec(name, "float32", ("batch", 4)) for name in ("mean", "log_var"))
    spec = GraphSpec("encoder.onnx", (TensorSpec("image", dtype, ("batch", *IMAGE_SHAPE)),), outputs, OPSET, IR_VERSION)
    values = [
        helper.make_tensor_value_info(
            tensor.name, helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype)), tensor.shape
        )
        for tensor in (*spec.inputs, *spec.outputs)
    ]
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(30, 4)).astype(np.float32) for name in ("a", "b")}
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    constants.append(numpy_helper.from_array(np.array(255.0, np.float32), "full"))
    bytes_first = [
        helper.make_node("Cast", ["image"], ["value"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["value", "full"], ["pixels"]),
    ]
    nodes = [
        *(bytes_first if dtype == "uint8" else []),
        helper.make_node("Flatten", ["pixels" if dtype == "uint8" else "image"], ["flat"]),
        helper.make_node("MatMul", ["flat", "a"], ["linear"]),
        helper.make_node("Relu", ["linear"], ["mean"]),
        helper.make_node("MatMul", ["flat", "b"], ["log_var"]),
    ]
    graph = helper.make_graph(nodes, "toy", values[:1], values[1:], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(proto, full_check=True)
    return load_graph(Path("encoder.onnx"), proto.SerializeToString(), spec, CPU, 1)


@dataclass
class Memory:
    """Of a device: how many rows of buffers fit, and what happens to the next runs.

    Attributes:
        rows: of all batch sizes of a session together.
        errors: what the next runs raise.
        sessions: how many have been made.
        ran: the size of each batch that was computed.
        fetched: the rows of each output of which only a part was wanted.
    """

    rows: int = 10**6
    errors: list[Exception] = field(default_factory=list)
    sessions: int = 0
    ran: list[int] = field(default_factory=list)
    fetched: list[int] = field(default_factory=list)

    def load(self) -> Graph:
        """An encoder on this device."""
        self.sessions += 1
        graph = encoder()
        graph.session = Session(graph.session, self)
        return graph

    def bound(self, sizes: tuple[int, ...] = SIZES) -> BoundGraph:
        """An encoder on this device that is warm."""
        graph = BoundGraph("toy encoder", self.load, CPU, sizes)
        graph.warm_up()
        self.ran.clear()
        return graph


class Session:
    """A real session; beyond the memory it fails as one does on a GPU."""

    def __init__(self, session: Any, memory: Memory) -> None:
        self._session = session
        self._memory = memory
        self._allocated: set[int] = set()
        self._sizes: dict[int, int] = {}

    def create_ortvalue_from_shape_and_type(self, shape: tuple[int, ...], dtype: Any, kind: str) -> Any:
        self._allocated.add(shape[0])
        self._check()
        return self._session.create_ortvalue_from_shape_and_type(shape, dtype, kind)

    def io_binding(self) -> Any:
        binding = self._session.io_binding()
        if not self._allocated:
            return Window(binding, self._memory)
        self._sizes[id(binding)] = min(self._allocated)  # the largest is bound first
        return binding

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self._check()
        if self._memory.errors:
            raise self._memory.errors.pop(0)
        self._memory.ran.append(self._sizes[id(binding)])
        self._session.run_with_iobinding(binding, options)

    def get_provider_graph_assignment_info(self) -> Any:
        return self._session.get_provider_graph_assignment_info()

    def _check(self) -> None:
        if sum(self._allocated) > self._memory.rows:
            raise RuntimeError(OUT_OF_MEMORY)


class Window:
    """A binding that outputs are fetched by."""

    def __init__(self, binding: Any, memory: Memory) -> None:
        self._binding = binding
        self._memory = memory
        self.clear_binding_outputs, self.get_outputs = binding.clear_binding_outputs, binding.get_outputs

    def bind_output(self, *args: Any) -> None:
        *_, shape, _ = args
        self._memory.fetched.append(shape[0])
        self._binding.bind_output(*args)


def images(rows: int, seed: int = 0) -> NDArray[np.uint8]:
    """Random images as bytes."""
    return np.random.default_rng(seed).integers(0, 256, (rows, *IMAGE_SHAPE), np.uint8)


def same(left: tuple[Rows, ...], right: tuple[Rows, ...]) -> bool:
    """Bit for bit."""
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(left, right, strict=True))
