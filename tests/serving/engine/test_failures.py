"""Texts of ONNX Runtime, and what they mean for the batches that follow."""

import pytest

from serving.engine.failures import DeviceLostError, Meaning, meaning_of
from vaeport.errors import UnavailableError

CUDA = (
    "[ONNXRuntimeError] : 1 : FAIL : CUDA failure {}: {} ; GPU=0 ; hostname=x ; file=cuda_stream_handle.cc ; line=175 ;"
)

NODE = (
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Status Message: bfc.cc {}"
)


@pytest.mark.parametrize(
    "text",
    [
        NODE.format("Failed to allocate memory for requested buffer of size 4585490"),
        NODE.format("Available memory of 147456 is smaller than requested bytes of 819200"),
        CUDA.format(2, "out of memory"),
        "CUDNN failure 4002: CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
    ],
)
def test_memory_that_has_run_out_is_known_by_its_text(text: str) -> None:
    assert meaning_of(RuntimeError(text)) is Meaning.OUT_OF_MEMORY


def test_numpy_s_own_error_is_memory_too() -> None:
    assert meaning_of(MemoryError("Unable to allocate 1 TiB")) is Meaning.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "text",
    [
        CUDA.format(700, "an illegal memory access was encountered"),
        CUDA.format(710, "device-side assert triggered"),
        CUDA.format(719, "unspecified launch failure"),
        CUDA.format(999, "unknown error"),
        "CUDA error cudaErrorLaunchFailure",
        "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED",
        "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED",
        "device lost",
        "GPU is lost",
        "CUDA error executing cudaMemcpy(dst_data, src_data, bytes, cudaMemcpyDeviceToHost)",
    ],
)
def test_a_lost_device_is_known_by_its_text(text: str) -> None:
    assert meaning_of(RuntimeError(text)) is Meaning.LOST


@pytest.mark.parametrize(
    "text",
    [
        "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: image",
        "Non-zero status code returned while running MatMul node. Status Message: CUDAExecutionProvider: bad shape",
        "the rows of a lost and found office",
    ],
)
def test_every_other_error_is_of_the_rows(text: str) -> None:
    assert meaning_of(RuntimeError(text)) is Meaning.OF_THE_ROWS


def test_the_batcher_and_the_edge_take_a_lost_device_for_unavailable() -> None:
    assert issubclass(DeviceLostError, UnavailableError)
    assert meaning_of(DeviceLostError("no memory for a batch of 1 rows")) is Meaning.LOST
