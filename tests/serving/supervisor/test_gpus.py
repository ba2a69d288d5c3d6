"""Which GPUs there are, and how many workers for them, without a GPU."""

from importlib import import_module
from pathlib import Path

import pytest

from serving.settings import Settings
from serving.supervisor.gpus import visible_gpus


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([], []),
        (["nvidiactl", "nvidia-uvm", "null"], []),
        (["nvidia0", "nvidia1", "nvidiactl"], ["0", "1"]),
        (["nvidia5"], ["0"]),  # a container that is lent the sixth of a machine: CUDA counts from 0
        (["nvidia3", "nvidia10"], ["0", "1"]),
    ],
)
def test_gpus_are_numbered_as_cuda_does(tmp_path: Path, nodes: list[str], expected: list[str]) -> None:
    for node in nodes:
        (tmp_path / node).touch()
    assert visible_gpus(None, tmp_path) == expected


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("", []), ("-1", []), ("NoDevFiles", []), ("3", ["3"]), ("1, GPU-6f8a", ["1", "GPU-6f8a"])],
)
def test_those_that_the_environment_names_keep_their_names(tmp_path: Path, visible: str, expected: list[str]) -> None:
    (tmp_path / "nvidia0").touch()
    assert visible_gpus(visible, tmp_path) == expected


def test_a_worker_for_each_gpu_or_core_and_one_where_cuda_shows_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    launch = import_module("serving.supervisor.launch")  # the package has a function of this name
    monkeypatch.setattr(launch, "usable_cores", lambda: 6)
    assert launch._count(Settings(device="cpu"), []) == 6
    assert launch._count(Settings(device="auto"), []) == 6
    assert launch._count(Settings(device="auto"), ["0", "1"]) == 2
    assert launch._count(Settings(device="cuda"), ["0", "1"]) == 2
    assert launch._count(Settings(device="cuda"), []) == 1
    assert launch._count(Settings(listen="unix:/run/vaeport.sock"), []) == 1
