"""The graphs of a package in ONNX Runtime: the device, and the sessions that compute.

Used in-process (vaeport.model), by the server's engine and by the export's proof, so that all three run the same
sessions. Needs vaeport[cpu] or vaeport[cuda]; importing this module loads neither.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from vaeport.cuda import CUDA_PROVIDER as CUDA_PROVIDER
from vaeport.cuda import missing_for_cuda
from vaeport.errors import DeviceError, InvalidInputError, bounded
from vaeport.extras import import_onnxruntime
from vaeport.graph_rules import check_graph, check_size
from vaeport.manifest import GraphSpec, Manifest
from vaeport.package import FP32, ROLES, GraphRuleError, Package, entry_of, graph_name, read_listed

if TYPE_CHECKING:
    from collections.abc import Iterable

DeviceName = Literal["auto", "cpu", "cuda"]

CPU_PROVIDER = "CPUExecutionProvider"

MAX_FOLDED_BYTES = 1 << 24  # of a constant that ONNX Runtime computes from others when it loads: an int8 weight, say


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
    check_size(package.path / path, entry_of(package, path).size)
    return read_listed(package, path)


def load_graph(path: Path, data: bytes, spec: GraphSpec, device: Device, threads: int) -> Graph:
    """A session for the graph in `data`, the content of `path`; see `load_graphs`."""
    max_rows = check_graph(path, data, spec)
    return Graph(_session(path, data, device, threads), spec, max_rows)


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
