"""Why CUDA cannot compute here, and what would change that: the first thing that is missing, from the driver up."""

import ctypes
import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CUDA_PROVIDER = "CUDAExecutionProvider"

# https://docs.nvidia.com/cuda/cuda-driver-api, CUresult
NO_DEVICE, DRIVER_MISMATCH = 100, 803

# The PyPI packages of NVIDIA that bring the libraries of the CUDA provider, by the beginning of a library's name.
PACKAGE_OF = {
    "libcublas": "nvidia-cublas",
    "libcudart": "nvidia-cuda-runtime",
    "libcudnn": "nvidia-cudnn-cu13",
    "libcufft": "nvidia-cufft",
    "libcurand": "nvidia-curand",
    "libnvJitLink": "nvidia-nvjitlink",
    "libnvrtc": "nvidia-cuda-nvrtc",
}


@dataclass(frozen=True, slots=True)
class Missing:
    """What keeps CUDA from computing.

    Attributes:
        reason: what is not there, or does not work.
        cure: what to do about it.
        gpu: whether this machine seems to have a GPU all the same, so that the user may want to know.
    """

    reason: str
    cure: str
    gpu: bool = False

    def __str__(self) -> str:
        return f"{self.reason} ({self.cure})"


def missing_for_cuda(onnxruntime: Any, devices: Path = Path("/dev")) -> Missing | None:
    """What keeps this ONNX Runtime from computing on CUDA here, or None.

    Args:
        onnxruntime: the module.
        devices: where the device files are.
    """
    gpu = any(devices.glob("nvidia[0-9]*"))
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        return Missing("this ONNX Runtime is built without it", "pip install 'vaeport[cuda]'", gpu)
    return _missing_driver(onnxruntime.cuda_version, gpu) or _missing_library(onnxruntime)


def _missing_driver(wanted: str, gpu: bool) -> Missing | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return no_driver(gpu)
    status = driver.cuInit(0)
    return driver_problem(status, _asked(driver.cuDeviceGetCount), _asked(driver.cuDriverGetVersion), wanted, gpu)


def no_driver(gpu: bool) -> Missing:
    """What to report if the driver's library, libcuda.so.1, is missing."""
    if gpu:
        cure = "install it; for a container: --gpus all, or nvidia.com/gpu: 1"
        return Missing("the NVIDIA driver is missing: libcuda.so.1", cure, gpu)
    return Missing("neither driver (libcuda.so.1) nor device files (/dev/nvidia*) are here", "needs an NVIDIA GPU")


def driver_problem(status: int, count: int, version: int, wanted: str, gpu: bool) -> Missing | None:
    """What the answers of the driver mean.

    Args:
        status: the result of cuInit.
        count: GPUs that it finds.
        version: the newest CUDA that it can do, 1000 * major + 10 * minor.
        wanted: the CUDA that ONNX Runtime is built for, "13.0".
        gpu: whether there are device files.
    """
    if status == DRIVER_MISMATCH:
        return Missing(
            "the NVIDIA driver in the kernel is another one than its library", "reboot, or reinstall it", True
        )
    if status == NO_DEVICE or (status == 0 and count == 0):
        cure = "let the process have its device files, /dev/nvidia*, and look at CUDA_VISIBLE_DEVICES"
        return Missing("the NVIDIA driver finds no GPU", cure, gpu)
    if status != 0:
        return Missing(f"the NVIDIA driver does not start, CUresult {status}", "see what nvidia-smi says", gpu)
    if version // 1000 < int(wanted.partition(".")[0] or 0):
        has = f"{version // 1000}.{version % 1000 // 10}"
        return Missing(f"the NVIDIA driver is too old: it can do CUDA {has}, not {wanted}", "install a newer one", True)
    return None


def _asked(function: Any) -> int:
    """The integer that a function of the driver returns through a pointer; 0 if it fails."""
    answer = ctypes.c_int(0)
    return answer.value if function(ctypes.byref(answer)) == 0 else 0


def _missing_library(onnxruntime: Any) -> Missing | None:
    onnxruntime.preload_dlls()
    error = _probe(onnxruntime)
    if error is None:
        return None
    # Only now, after the failure: loaded before ONNX Runtime has set it up, the library would not work.
    try:
        ctypes.CDLL(str(Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"))
    except OSError as reason:
        return library_problem(str(reason))
    return Missing(f"the CUDA provider does not compute: {error}", "see what nvidia-smi says", gpu=True)


def library_problem(reason: str) -> Missing:
    """What the dynamic linker's error means: the missing library, and the package that brings it."""
    found = re.match(r"(lib\w+?)\.so[.\d]*: cannot open", reason)
    package = next((PACKAGE_OF[name] for name in PACKAGE_OF if found and found[1].startswith(name)), None)
    cure = f"pip install {package}; 'vaeport[cuda]' brings them all" if package else "pip install 'vaeport[cuda]'"
    return Missing(f"a library of the CUDA provider does not load: {reason}", cure, gpu=True)


def _probe(onnxruntime: Any) -> Exception | None:
    """Run one node on CUDA; what went wrong, or None."""
    onnx = importlib.import_module("onnx")
    tensor = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "probe", tensor[:1], tensor[1:])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(
            proto.SerializeToString(), options, providers=[CUDA_PROVIDER], enable_fallback=0
        )
        session.run(None, {"x": np.ones(1, np.float32)})
    except Exception as error:  # onnxruntime's exceptions share no public base
        return error
    return None
