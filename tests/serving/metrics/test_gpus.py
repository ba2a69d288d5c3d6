"""Memory of GPUs, as a driver that is imitated says it."""

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pynvml
import pytest

from serving.metrics import gpus


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    gpus._gpus.cache_clear()
    yield
    gpus._gpus.cache_clear()


def driver(count: int, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    fake = SimpleNamespace(
        NVMLError=pynvml.NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: count,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetMemoryInfo=lambda number: SimpleNamespace(used=10 + number, total=100),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_each_gpu_has_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(2, monkeypatch)
    assert gpus.device_memory() == {("0", "used"): 10, ("0", "total"): 100, ("1", "used"): 11, ("1", "total"): 100}


def test_without_a_driver_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = driver(1, monkeypatch)

    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    fake.nvmlInit = missing
    assert gpus.device_memory() == {}


def test_a_gpu_that_does_not_answer_spoils_no_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = driver(1, monkeypatch)

    def lost(number: int) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    fake.nvmlDeviceGetMemoryInfo = lost
    assert gpus.device_memory() == {}
