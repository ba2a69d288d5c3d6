"""The runtimes that are held to the truth: each a function from float32 rows to float32 outputs."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from export.inputs import AnyRows
from export.parity import NotRun
from export.truth import run_torch
from vaeport.errors import DeviceError
from vaeport.graphs import CPU_PROVIDER, CUDA_PROVIDER, Device, choose_device, load_graph
from vaeport.manifest import GraphSpec

if TYPE_CHECKING:
    import torch

ONNXRUNTIME_CPU = "onnxruntime cpu"
ONNXRUNTIME_CUDA = "onnxruntime cuda"
PYTORCH = "pytorch cpu"
TORCHSCRIPT = "torchscript cpu"
TORCHSCRIPT_CUDA = "torchscript cuda"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A program that computes a graph.

    Attributes:
        name: as in parity.json.
        run: rows [rows, ...] -> all outputs.
        placement: for ONNX Runtime, the provider it should compute with and the nodes each one got.
    """

    name: str
    run: Callable[[AnyRows], tuple[NDArray[Any], ...]]
    placement: tuple[str, dict[str, int]] | None = None


def cuda_device() -> Device | None:
    """CUDA, where it can compute."""
    with contextlib.suppress(DeviceError):
        return choose_device("cuda")
    return None


def onnx_runtimes(path: Path, data: bytes, spec: GraphSpec, *, cuda: bool = True) -> tuple[list[Runtime], list[NotRun]]:
    """ONNX Runtime on the CPU, and on a GPU if there is one and the graph is for it."""
    runtimes = [_onnx_runtime(ONNXRUNTIME_CPU, CPU_PROVIDER, choose_device("cpu"), path, data, spec)]
    if not cuda:
        return runtimes, []
    device = cuda_device()
    if device is None:
        return runtimes, [NotRun(ONNXRUNTIME_CUDA, "no GPU")]
    return [*runtimes, _onnx_runtime(ONNXRUNTIME_CUDA, CUDA_PROVIDER, device, path, data, spec)], []


def _onnx_runtime(name: str, provider: str, device: Device, path: Path, data: bytes, spec: GraphSpec) -> Runtime:
    graph = load_graph(path, data, spec, device, threads=1)
    return Runtime(name, graph, (provider, graph.placement))


def pytorch(module: "torch.nn.Module") -> Runtime:
    """The module on the CPU."""
    return Runtime(PYTORCH, lambda rows: run_torch(module, rows))


def torchscript(path: Path) -> tuple[list[Runtime], list[NotRun]]:
    """A file of the package on the CPU, and on a GPU if PyTorch has one."""
    import torch

    from export.torchscript import load_torchscript

    module = load_torchscript(path)
    runtimes = [Runtime(TORCHSCRIPT, lambda rows: run_torch(module, rows))]
    if not torch.cuda.is_available():
        return runtimes, [NotRun(TORCHSCRIPT_CUDA, "no GPU")]
    moved = load_torchscript(path).cuda()
    return [*runtimes, Runtime(TORCHSCRIPT_CUDA, lambda rows: _on_cuda(moved, rows))], []


def _on_cuda(module: "torch.nn.Module", rows: AnyRows) -> tuple[NDArray[Any], ...]:
    """In float32: PyTorch would take TF32 for convolutions."""
    import torch

    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        return tuple(output.cpu().numpy() for output in module(torch.from_numpy(rows).cuda()))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """numpy and PyTorch on one thread: the last bits of their sums, which go into the package, depend on the number."""
    torch = sys.modules.get("torch")  # it may not be installed
    threads = torch.get_num_threads() if torch else 0
    with threadpool_limits(1):
        if torch:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(threads)
