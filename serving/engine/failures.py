"""What an error of ONNX Runtime means for those who come next. It has only the text to tell them apart.

Memory that has run out may suffice for smaller batches. Some errors of CUDA spoil the process: the driver answers every
later call with them, until the process ends. Everything else, also what a library of CUDA does not support, is taken
for an error of the rows; the canary finds out whether others can still be computed.
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
# Errors of CUDA's runtime after which "the process must be terminated and relaunched" (driver_types.h), and those of a
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
    r"|\bCUDA error executing cudaMemcpy"  # its text has no number; a copy of bound memory has no fault of its own
    r"|\bCU(BLAS|DNN|RAND)_STATUS_(EXECUTION_FAILED|MAPPING_ERROR|INTERNAL_ERROR|(LAUNCH|PREEXISTING)_FAILURE)"
    r"|\bCUFFT_(EXEC_FAILED|INTERNAL_ERROR)"
    r"|illegal memory access|misaligned address|device-side assert|unspecified launch failure"
    r"|(device|GPU) (is |was )?lost|fallen off the bus|uncorrectable ECC",
    re.IGNORECASE,
)


class DeviceLostError(UnavailableError):
    """The device computes nothing any more in this process. The batcher does not try again, and the worker ends."""


class Meaning(Enum):
    """Of an error, for the batches that follow."""

    OUT_OF_MEMORY = auto()
    LOST = auto()
    OF_THE_ROWS = auto()


def meaning_of(error: BaseException) -> Meaning:
    """What an error that a session raised means."""
    text = str(error)
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text):  # first: CUDA's text for it matches both
        return Meaning.OUT_OF_MEMORY
    if isinstance(error, DeviceLostError) or LOST.search(text):
        return Meaning.LOST
    return Meaning.OF_THE_ROWS
