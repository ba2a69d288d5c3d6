"""What an error of ONNX Runtime means for those who come next. It has only the text to tell them apart.

Memory that has run out may suffice for smaller batches. An error of CUDA itself spoils the process: the driver answers
every later call with it, until the process ends. Everything else is taken for an error of the rows.
"""

import re
from enum import Enum, auto

from vaeport.errors import UnavailableError

# ONNX Runtime's arena, with and without a limit; then CUDA, cuBLAS and cuDNN in ONNX Runtime's words
# (onnxruntime/core/framework/bfc_arena.cc and core/providers/cuda/cuda_call.cc, version 1.31); std::bad_alloc.
OUT_OF_MEMORY = re.compile(
    r"Failed to allocate memory for requested buffer"
    r"|Available memory of \d+ is smaller than requested bytes"
    r"|out of memory|cudaErrorMemoryAllocation|CU[A-Z]+_STATUS_ALLOC_FAILED|bad_alloc",
    re.IGNORECASE,
)
LOST = re.compile(
    r"\b(CUDA|CUBLAS|CUBLASLT|CUDNN|CUDNN_FE|CURAND|CUFFT) (failure|error)\b"
    r"|cudaError[A-Z]|illegal memory access|misaligned address|device-side assert|unspecified launch failure"
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
