"""Which GPUs there are, without a GPU."""

from pathlib import Path

import pytest

from serving.supervisor.gpus import visible_gpus


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([], []),
        (["nvidiactl", "nvidia-uvm", "null"], []),
        (["nvidia0", "nvidia1", "nvidiactl"], ["0", "1"]),
        (["nvidia5"], ["0"]),  # a container that is lent the sixth of a machine: CUDA counts from 0
        (["nvidia3", "nvidia10"], ["0", "1"]),
        (["dxg"], ["0"]),  # WSL
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
