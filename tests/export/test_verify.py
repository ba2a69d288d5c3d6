"""`python -m export verify`: a package proves itself again, and one that was changed with all its digests does not."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from export.errors import ExportError
from export.verify import verify
from vaeport.golden import GOLDEN_NAME

ROOT = Path(__file__).parents[2]
WITHOUT_TORCH = """
import sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, NoTorch())
import runpy
sys.argv = ["export", "verify", sys.argv[1]]
runpy.run_module("export", run_name="__main__")
"""


@pytest.fixture
def copy(package: Path, tmp_path: Path) -> Path:
    """A package to change."""
    return Path(shutil.copytree(package, tmp_path / "package"))


def edit(folder: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Change a file, and the manifest with it: what somebody does who wants it to look right."""
    content = change((folder / name).read_bytes())
    (folder / name).write_bytes(content)
    edit_manifest(folder, lambda m: resign(m, name, content))


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def resign(manifest: dict[str, Any], name: str, content: bytes) -> None:
    entry = next(e for e in manifest["files"] if e["path"] == name)
    entry.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def nudge_a_weight(content: bytes) -> bytes:
    proto = onnx.load_from_string(content)
    initializer = next(i for i in proto.graph.initializer if len(i.dims) == 2)
    array = numpy_helper.to_array(initializer).copy()
    array[0, 0] += 1e-5
    initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    return proto.SerializeToString(deterministic=True)


def widen_the_limits(content: bytes) -> bytes:
    tensors = {name: np.array(tensor) for name, tensor in load_tensors(content).items()}
    return save_tensors({name: 1e6 * t if name.endswith("/limit") else t for name, t in tensors.items()})


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_command_prints_every_rung_as_a_table(package: Path) -> None:
    done = command("-m", "export", "verify", str(package), "--run-torchscript")
    assert done.returncode == 0, done.stderr
    assert {line[:2] for line in done.stdout.splitlines() if line[0] == "P"} == {"P1", "P2", "P3", "P4", "P6", "P7"}
    assert "torchscript cpu" in done.stdout
    assert "FAIL" not in done.stdout


def test_without_torch_there_is_one_truth_and_a_row_that_says_so(package: Path) -> None:
    done = command("-c", WITHOUT_TORCH, str(package))
    assert done.returncode == 0, done.stderr
    assert "pytorch cpu: not run: PyTorch is not installed" in done.stdout
    assert not [line for line in done.stdout.splitlines() if line.startswith("P1")]
    assert [line for line in done.stdout.splitlines() if line.startswith("P2")]


def test_torchscript_does_not_run_unasked(package: Path) -> None:
    report = verify(package)
    assert report.failed == []
    assert "torchscript cpu: not run: it is code: --run-torchscript, if you trust the package" in map(
        str, report.not_run
    )
    assert "torchscript cpu" not in {check.runtime for check in report.checks}


def test_a_graph_that_is_not_of_the_checkpoint_fails_and_the_exit_status_says_so(copy: Path) -> None:
    edit(copy, "decoder.onnx", nudge_a_weight)
    done = command("-m", "export", "verify", str(copy))
    assert done.returncode == 1
    assert "FAIL P1: decoder.logits, onnx in float64, random input" in done.stdout
    assert f"checks failed; {copy} is not what it says" in done.stderr
    assert "Traceback" not in done.stderr


def test_golden_limits_that_would_let_anything_pass_are_found(copy: Path) -> None:
    edit(copy, GOLDEN_NAME, widen_the_limits)
    failed = verify(copy).failed
    assert {row.rung for row in failed} == {"P7"}
    assert {row.runtime for row in failed} == {"its limits"}


def test_another_checkpoint_is_found(copy: Path, digits_run: Path) -> None:
    last = (digits_run / "last.safetensors").read_bytes()
    if last == (copy / "checkpoint.safetensors").read_bytes():
        last = save_tensors({name: t + np.float32(1e-3) for name, t in load_tensors(last).items()}, header_of(last))
    edit(copy, "checkpoint.safetensors", lambda _: last)
    assert {"P0", "P1"} <= {row.rung for row in verify(copy).failed}


def header_of(content: bytes) -> dict[str, str]:
    length = int.from_bytes(content[:8], "little")
    header: dict[str, str] = json.loads(content[8 : 8 + length])["__metadata__"]
    return header


@pytest.mark.parametrize(
    "network",
    [
        {"hidden_dims": [65536] * 128, "activation": "relu"},
        {"hidden_dims": [5], "activation": "relu"},
        {"hidden_dims": [3]},
    ],
)
def test_a_network_that_the_checkpoint_is_not_of_is_an_error_and_no_memory(copy: Path, network: dict[str, Any]) -> None:
    edit_manifest(copy, lambda m: m["training"].update(network=network))
    with pytest.raises(ExportError, match="the checkpoint is not of the network in the manifest"):
        verify(copy)


def test_a_package_that_does_not_name_its_network_is_verified_without_pytorch(copy: Path) -> None:
    edit_manifest(copy, lambda m: m["training"].pop("network"))
    report = verify(copy)
    assert report.failed == []
    assert "the manifest does not say what the network is made of" in str(report.not_run)
