"""What an error of ONNX Runtime means for the batches that follow. Only its text tells the kinds apart.

When memory runs out, it may still suffice for smaller batches. Some CUDA errors spoil the process: the driver answers
every later call with them, until the process ends. Any other error, such as a case that a CUDA library does not
support, is blamed on the rows; the canary finds out whether other rows can still be computed.
"""

import re
from enum import Enum, auto

from vaeport.errors import UnavailableError

# ONNX Runtime's arena, with and without a limit; then CUDA and its libraries in ONNX Runtime's words
# (onnxruntime/core/framework/bfc_arena.cc and core/providers/cuda/cuda_call.cc, version 1.31), with the names of
# cublas_api.h, curand.h, cufft.h and cudnn_graph.h of cuDNN 9; std::bad_alloc.
OUT_OF_MEMORY = re.compile(
    r"Failed to allocate memory for requested buffer"
    r"|Available memory of \d+ is smaller than requested bytes"
    r"|out of memory|cudaErrorMemoryAllocation|\bCU[A-Z]+_[A-Z_]*ALLOC(ATION)?_FAILED|bad_alloc",
    re.IGNORECASE,
)
# CUDA runtime errors after which "the process must be terminated and relaunched" (driver_types.h), and errors of a
# device or driver that is gone: 3 and 4 (no runtime), 46, 100 and 101 (no device), 201 and 709 (no context), 214, 220
# and 226 (memory or link broken), 802 to 810 (driver or MPS server gone), 999 (unknown).
STICKY = r"3|4|46|100|101|201|214|220|226|700|702|709|71[04-9]|721|80[2-9]|810|911|999"
STICKY_NAMES = (
    "IllegalAddress|LaunchTimeout|ContextIsDestroyed|Assert|HardwareStackError|IllegalInstruction|MisalignedAddress"
    "|InvalidAddressSpace|InvalidPc|LaunchFailure|TensorMemoryLeak|MpsClientTerminated|ExternalDevice|ECCUncorrectable"
    "|NvlinkUncorrectable|Contained|DevicesUnavailable|NoDevice|Unknown"
)
LOST = re.compile(
    rf"\bCUDA (failure|error) ({STICKY}):|cudaError({STICKY_NAMES})\b"
    r"|\bCUDA error executing cudaMemcpy"  # has no number; copying bound memory cannot itself be at fault
    r"|\bCU(BLAS|DNN|RAND)_STATUS_(EXECUTION_FAILED|MAPPING_ERROR|INTERNAL_ERROR|(LAUNCH|PREEXISTING)_FAILURE)"
    r"|\bCUFFT_(EXEC_FAILED|INTERNAL_ERROR)"
    r"|illegal memory access|misaligned address|device-side assert|unspecified launch failure"
    r"|(device|GPU) (is |was )?lost|fallen off the bus|uncorrectable ECC",
    re.IGNORECASE,
)


class DeviceLostError(UnavailableError):
    """The device cannot compute in this process any more. The batcher does not try again, and the worker ends."""


class ErrorKind(Enum):
    """What an error means for the batches that follow."""

    OUT_OF_MEMORY = auto()
    LOST = auto()
    OF_THE_ROWS = auto()


def classify(error: BaseException) -> ErrorKind:
    """What an error that a session raised means."""
    text = str(error)
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text):  # first: CUDA's text for it matches both
        return ErrorKind.OUT_OF_MEMORY
    if isinstance(error, DeviceLostError) or LOST.search(text):
        return ErrorKind.LOST
    return ErrorKind.OF_THE_ROWS
