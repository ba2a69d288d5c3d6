"""Texts of ONNX Runtime, and what they mean for the batches that follow."""

import pytest

from serving.engine.failures import DeviceLostError, ErrorKind, classify
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
        "CUDNN failure 4003: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED ; GPU=0 ; hostname=x",
        "CUDNN failure 4004: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0 ; hostname=x",
        "CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDNN failure 4: CUDNN_STATUS_ALLOC_FAILED",
        "CURAND failure 102: CURAND_STATUS_ALLOCATION_FAILED",
        "CUFFT failure 2: CUFFT_ALLOC_FAILED",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "std::bad_alloc",
    ],
)
def test_memory_that_has_run_out_is_known_by_its_text(text: str) -> None:
    assert classify(RuntimeError(text)) is ErrorKind.OUT_OF_MEMORY


def test_numpy_s_own_error_is_memory_too() -> None:
    assert classify(MemoryError("Unable to allocate 1 TiB")) is ErrorKind.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "text",
    [
        CUDA.format(700, "an illegal memory access was encountered"),
        CUDA.format(710, "device-side assert triggered"),
        CUDA.format(719, "unspecified launch failure"),
        CUDA.format(999, "unknown error"),
        "CUDA error cudaErrorLaunchFailure",
        "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED",
        "CUBLAS failure 14: CUBLAS_STATUS_INTERNAL_ERROR",
        "CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDNN failure 5003: CUDNN_STATUS_EXECUTION_FAILED_CUDART",
        "CUDNN failure 4000: CUDNN_STATUS_INTERNAL_ERROR",
        "CUDNN failure 8: CUDNN_STATUS_MAPPING_ERROR",
        "device lost",
        "GPU is lost",
        "CUDA error executing cudaMemcpy(dst_data, src_data, bytes, cudaMemcpyDeviceToHost)",
    ],
)
def test_a_lost_device_is_known_by_its_text(text: str) -> None:
    assert classify(RuntimeError(text)) is ErrorKind.LOST


@pytest.mark.parametrize(
    "text",
    [
        "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: image",
        "Non-zero status code returned while running MatMul node. Status Message: CUDAExecutionProvider: bad shape",
        CUDA.format(1, "invalid argument"),
        CUDA.format(701, "too many resources requested for launch"),
        CUDA.format(900, "operation not permitted when stream is capturing"),
        "CUDNN failure 3000: CUDNN_STATUS_NOT_SUPPORTED ; GPU=0 ; hostname=x",
        "CUDNN failure 3002: CUDNN_STATUS_NOT_SUPPORTED_SHAPE ; GPU=0 ; hostname=x",
        "CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED ; GPU=0 ; hostname=x ; file=conv.cc ; line=224 ;",
        "CUBLAS failure 7: CUBLAS_STATUS_INVALID_VALUE ; GPU=0 ; hostname=x",
        "the rows of a lost and found office",
    ],
)
def test_every_other_error_is_of_the_rows(text: str) -> None:
    assert classify(RuntimeError(text)) is ErrorKind.OF_THE_ROWS


def test_the_batcher_and_the_edge_take_a_lost_device_for_unavailable() -> None:
    assert issubclass(DeviceLostError, UnavailableError)
    assert classify(DeviceLostError("no memory for a batch of 1 rows")) is ErrorKind.LOST
