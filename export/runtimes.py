"""The runtimes that are held to the truth: each a function from rows to outputs, of the dtypes of the graph."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from export.inputs import AnyRows
from export.limits import FLOAT32, TF32, Rounding
from export.parity import NotRun
from export.truth import run_torch
from vaeport.errors import DeviceError
from vaeport.graphs import CudaOptions, Device, choose_device, load_graph
from vaeport.manifest import GraphSpec
from vaeport.package import FP32

if TYPE_CHECKING:
    import torch

ONNXRUNTIME_CPU = "onnxruntime cpu"
ONNXRUNTIME_CUDA = "onnxruntime cuda"
ONNXRUNTIME_TF32 = "onnxruntime cuda tf32"
PYTORCH = "pytorch cpu"
TORCHSCRIPT = "torchscript cpu"
TORCHSCRIPT_CUDA = "torchscript cuda"

TARGETS: dict[str, Literal["cpu", "cuda"]] = {"fp16": "cuda", "int8": "cpu"}  # what is not here is for both


@dataclass(frozen=True, slots=True)
class Runtime:
    """A program that computes a graph.

    Attributes:
        name: as in parity.json.
        run: rows [rows, ...] -> all outputs.
        placement: for ONNX Runtime, the provider it should compute with and the nodes each one got.
        float32: how it rounds numbers of 32 bits.
    """

    name: str
    run: Callable[[AnyRows], tuple[NDArray[Any], ...]]
    placement: tuple[str, dict[str, int]] | None = None
    float32: Rounding = FLOAT32


@functools.cache
def cuda_device() -> Device | None:
    """CUDA, where it can compute."""
    with contextlib.suppress(DeviceError):
        return choose_device("cuda")
    return None


def onnx_runtimes(path: Path, data: bytes, spec: GraphSpec, precision: str) -> tuple[list[Runtime], list[NotRun]]:
    """ONNX Runtime on the CPU, and on a GPU if there is one and graphs of this precision are for it.

    There float32 graphs run in TF32 as well: `--tf32` of the server offers it.
    """
    runtimes = [_onnx_runtime(ONNXRUNTIME_CPU, choose_device("cpu"), path, data, spec)]
    if TARGETS.get(precision) == "cpu":
        return runtimes, []
    names = [ONNXRUNTIME_CUDA, ONNXRUNTIME_TF32] if precision == FP32 else [ONNXRUNTIME_CUDA]
    device = cuda_device()
    if device is None:
        return runtimes, [NotRun(name, "no GPU") for name in names]
    for name in names:
        cuda = CudaOptions(tf32=name == ONNXRUNTIME_TF32)
        runtimes.append(_onnx_runtime(name, replace(device, cuda=cuda), path, data, spec))
    return runtimes, []


def _onnx_runtime(name: str, device: Device, path: Path, data: bytes, spec: GraphSpec) -> Runtime:
    graph = load_graph(path, data, spec, device, threads=1)
    return Runtime(name, graph, (device.provider, graph.placement), TF32 if device.cuda.tf32 else FLOAT32)


def pytorch(module: "torch.nn.Module") -> Runtime:
    """The module on the CPU."""
    return Runtime(PYTORCH, lambda rows: run_torch(module, rows))


def torchscript(path: Path, content: bytes) -> tuple[list[Runtime], list[NotRun]]:
    """The file `path` of the package on the CPU, and on a GPU if PyTorch has one."""
    import torch

    from export.torchscript import load_torchscript

    module = load_torchscript(path, content)
    runtimes = [Runtime(TORCHSCRIPT, lambda rows: run_torch(module, rows))]
    if not torch.cuda.is_available():
        return runtimes, [NotRun(TORCHSCRIPT_CUDA, "no GPU")]
    moved = load_torchscript(path, content).cuda()
    return [*runtimes, Runtime(TORCHSCRIPT_CUDA, lambda rows: _on_cuda(moved, rows))], []


def _on_cuda(module: "torch.nn.Module", rows: AnyRows) -> tuple[NDArray[Any], ...]:
    """In float32: PyTorch would take TF32 for convolutions."""
    import torch

    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
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
