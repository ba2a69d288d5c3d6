"""Why CUDA cannot compute: each answer of driver, linker and ONNX Runtime leads to what would help."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from vaeport.cuda import driver_problem, library_problem, missing_for_cuda, no_driver


@pytest.mark.parametrize(
    ("status", "count", "version", "reason", "cure"),
    [
        (0, 1, 12080, "too old: it can do CUDA 12.8, not 13.0", "newer"),
        (100, 0, 13000, "finds no GPU", "CUDA_VISIBLE_DEVICES"),
        (0, 0, 13000, "finds no GPU", "/dev/nvidia"),
        (803, 0, 13000, "another one than its library", "reboot"),
        (999, 0, 13000, "CUresult 999", "nvidia-smi"),
    ],
)
def test_an_answer_of_the_driver_says_what_to_do(status: int, count: int, version: int, reason: str, cure: str) -> None:
    missing = driver_problem(status, count, version, "13.0", gpu=True)
    assert missing is not None
    assert reason in missing.reason
    assert cure in missing.cure


@pytest.mark.parametrize("version", [13000, 13020, 14000])
def test_a_driver_as_new_as_the_runtime_is_no_problem(version: int) -> None:
    assert driver_problem(0, 1, version, "13.0", gpu=True) is None


@pytest.mark.parametrize(
    ("library", "package"),
    [
        ("libcublasLt.so.13", "nvidia-cublas"),
        ("libcudnn.so.9", "nvidia-cudnn-cu13"),
        ("libcudart.so.13", "nvidia-cuda-runtime"),
        ("libcufft.so.12", "nvidia-cufft"),
        ("libcurand.so.10", "nvidia-curand"),
    ],
)
def test_a_missing_library_names_the_package_that_brings_it(library: str, package: str) -> None:
    missing = library_problem(f"{library}: cannot open shared object file: No such file or directory")
    assert missing.cure.startswith(f"pip install {package};")
    assert library in missing.reason


def test_another_complaint_of_the_linker_names_the_extra() -> None:
    assert library_problem("libstdc++.so.6: version `GLIBCXX_3.4.32' not found").cure == "pip install 'vaeport[cuda]'"


def test_a_device_file_without_a_driver_is_a_container_that_was_not_given_its_gpu(tmp_path: Path) -> None:
    assert "--gpus all" in no_driver(gpu=True).cure
    assert "device files" in no_driver(gpu=False).reason


@pytest.mark.parametrize("gpu", [True, False])
def test_a_build_for_the_cpu_is_told_by_its_providers(gpu: bool, tmp_path: Path) -> None:
    if gpu:
        (tmp_path / "nvidia0").touch()
    missing = missing_for_cuda(SimpleNamespace(get_available_providers=lambda: ["CPUExecutionProvider"]), tmp_path)
    assert missing is not None
    assert missing.gpu is gpu
    assert str(missing) == "this ONNX Runtime is built without it (pip install 'vaeport[cuda]')"
