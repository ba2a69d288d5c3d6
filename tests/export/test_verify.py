"""`python -m export verify`: a package proves itself again, and one that was changed with all its digests does not."""

import hashlib
import json
import re
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

import export.verify
import vaeport.graphs
from export.bom import BOM_NAME
from export.claims import claims
from export.errors import ExportError
from export.inputs import random_latents
from export.ladder import Subject, climb
from export.parity import Fact, Report
from export.verify import verify, verify_command
from tests.test_earlier_versions import unpack
from vaeport.golden import GOLDEN_NAME
from vaeport.package import DigestMismatchError, Package, open_package

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
    if name == BOM_NAME:
        return
    bill = json.loads((folder / BOM_NAME).read_text())
    for part in bill["components"]:
        if part["name"] == name:
            part["hashes"][0]["content"] = hashlib.sha256(content).hexdigest()
    listed = json.dumps(bill).encode()
    (folder / BOM_NAME).write_bytes(listed)
    edit_manifest(folder, lambda m: resign(m, BOM_NAME, listed))


def edit_graph(folder: Path, name: str, change: Callable[[onnx.ModelProto], object]) -> None:
    def changed(content: bytes) -> bytes:
        proto = onnx.load_from_string(content)
        change(proto)
        return proto.SerializeToString(deterministic=True)

    edit(folder, f"{name}.onnx", changed)


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


def test_random_rows_are_drawn_from_the_digest_of_the_package(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no graph can have been made for them; each time the same."""
    drawn: list[int] = []

    def spy(subject: Subject, real: None, seed: int) -> Report:
        drawn.append(seed)
        return climb(subject, real, seed)

    monkeypatch.setattr("export.verify.climb", spy)
    assert not verify(package).failed
    assert set(drawn) == {int(open_package(package).digest.removeprefix("sha256:"), 16)}
    assert not np.array_equal(random_latents((5,), drawn[0]), random_latents((5,)))


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


def test_pytorch_can_be_required(package: Path, copy: Path) -> None:
    verify_command([str(package), "--require-pytorch"])
    edit_manifest(copy, lambda m: m["training"].pop("network"))
    verify_command([str(copy)])
    with pytest.raises(ExportError, match="--require-pytorch: pytorch cpu: not run: the manifest does not say what"):
        verify_command([str(copy), "--require-pytorch"])


def lose_digits(proto: onnx.ModelProto) -> None:
    """The mean, plus 1000, minus 1000: the same in float64, with limits 60 times as wide."""
    mean = proto.graph.output[0].name
    for node in proto.graph.node:
        node.output[:] = ["exact" if name == mean else name for name in node.output]
    proto.graph.initializer.append(numpy_helper.from_array(np.array(1000, np.float32), "thousand"))
    proto.graph.node.append(onnx.helper.make_node("Add", ["exact", "thousand"], ["more"]))
    proto.graph.node.append(onnx.helper.make_node("Sub", ["more", "thousand"], [mean]))


def test_a_graph_cannot_widen_its_own_limits(copy: Path) -> None:
    edit_graph(copy, "encoder", lose_digits)
    edit_graph(copy, "encoder.uint8", lose_digits)
    failed = verify(copy).failed
    assert ("P1", "encoder", "its limits") in {(row.rung, row.graph, row.runtime) for row in failed}


def leave_out_the_bias(proto: onnx.ModelProto) -> None:
    next(node for node in proto.graph.node if node.op_type == "Gemm").input[2] = ""


def test_a_graph_that_the_limits_do_not_cover_fails_and_is_not_judged(copy: Path) -> None:
    edit_graph(copy, "encoder", leave_out_the_bias)
    failed = verify(copy).failed
    assert "P0: encoder, onnx, nodes with an input left out" in "".join(map(str, failed))
    assert {row.rung for row in failed} <= {"P0", "P7"}


def test_a_graph_that_the_evaluator_cannot_compute_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def climb(*_: object) -> None:
        raise TypeError("unsupported operand")

    monkeypatch.setattr(export.verify, "climb", climb)
    with pytest.raises(ExportError, match="coder cannot be judged: TypeError: unsupported operand"):
        verify(copy)


LIES = {
    "vaeport.name": "another",
    "vaeport.version": "77",
    "vaeport.role": "neither",
    "vaeport.latent_dim": "3",
    "vaeport.checkpoint_sha256": "0" * 64,
}


def test_what_a_graph_says_about_itself_is_compared(copy: Path) -> None:
    edit_graph(copy, "encoder", lambda proto: onnx.helper.set_model_props(proto, LIES))
    failed = [row for row in verify(copy).failed if row.graph == "encoder"]
    assert {row.what: row.got for row in failed if isinstance(row, Fact)} == LIES


def change_json(change: Callable[[Any], object]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        value = json.loads(content)
        change(value)
        return json.dumps(value).encode()

    return changed


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda _: b"[1, 2", "rows: expected readable, got "),
        (lambda _: b"[]", "rows: expected readable, got "),
        (change_json(lambda v: v.update(checks=[])), "no check in it"),
        (change_json(lambda v: v["checks"].pop()), "manifest.parity.checks: expected "),
        (change_json(lambda v: v["checks"][0].update(error=1e9)), "a row says that it has passed"),
        (change_json(lambda v: v["checks"][0].update(error=1e9, passed=False)), "that failed: expected none, got P"),
        (change_json(lambda v: v["facts"][0].update(got="else")), "a row says that it has passed"),
    ],
)
def test_rows_that_are_not_those_of_the_manifest_are_found(
    copy: Path, change: Callable[[bytes], bytes], found: str
) -> None:
    edit(copy, "parity.json", change)
    facts = [str(fact) for fact in claims(open_package(copy)).facts if not fact.passed]
    assert any(found in fact for fact in facts), facts


@pytest.mark.parametrize("key", ["checks", "worst", "worst_share_of_limit", "not_run", "overruled"])
def test_a_summary_that_is_not_that_of_the_rows_is_found(copy: Path, key: str) -> None:
    edit_manifest(copy, lambda m: m["parity"].update({key: ["perfect"]}))
    assert [fact.what for fact in claims(open_package(copy)).failed] == [f"manifest.parity.{key}"]  # type: ignore[union-attr]


def test_the_stored_rows_are_printed_on_request(package: Path) -> None:
    done = command("-m", "export", "verify", str(package), "--stored")
    assert done.returncode == 0, done.stderr
    assert "real" not in done.stdout
    assert len(re.findall("^P2 .* pytorch cpu", done.stdout, re.MULTILINE)) == 4


def test_another_bill_is_found_and_a_card_that_is_not_ours_has_a_row(copy: Path) -> None:
    assert claims(open_package(copy)).not_run == []
    edit(copy, "README.md", lambda card: card + b"audited")
    edit(copy, BOM_NAME, change_json(lambda v: v["metadata"]["component"].update(version="9")))
    report = claims(open_package(copy))
    assert [str(fact) for fact in report.failed] == ["P0: package, bom.cdx.json, version: expected 1, got 9"]
    assert "README.md: not run: it is not what this version makes of the manifest" in str(report.not_run[0])
    edit_manifest(copy, lambda m: resign(m, "README.md", b""))
    (copy / "README.md").write_bytes(b"")
    assert "files that differ: expected none, got README.md" in str(claims(open_package(copy)).failed[1])


@pytest.mark.parametrize("bill", [b"{}", b"[]", b"?", b'{"metadata": {"component": 1}}'])
def test_a_bill_that_is_none_is_a_row(copy: Path, bill: bytes) -> None:
    edit(copy, BOM_NAME, lambda _: bill)
    assert ["content" in str(fact) for fact in claims(open_package(copy)).failed] == [True]


def test_sigma_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    package = unpack("4-torchscript", tmp_path) / "models" / "digits" / "1"
    edit_manifest(package, lambda m: m["model"].update(sigma=5.0))
    assert "model.sigma: expected 0.97" in "".join(map(str, verify(package).failed))


def test_torchscript_for_one_role_is_a_row(copy: Path) -> None:
    (copy / "torchscript" / "decoder.pt").unlink()
    edit_manifest(copy, lambda m: m["files"].remove(next(e for e in m["files"] if e["path"].endswith("decoder.pt"))))
    failed = [str(row) for row in verify(copy, run_torchscript=True).failed]
    assert "P0: both, torchscript, its files: expected encoder, decoder, got encoder" in failed


def test_torchscript_that_is_none_is_an_error(copy: Path) -> None:
    edit(copy, "torchscript/encoder.pt", lambda _: b"garbage")
    with pytest.raises(ExportError, match=r"encoder\.pt: PyTorch cannot load it"):
        verify(copy, run_torchscript=True)


def test_torchscript_needs_no_network_in_the_manifest(copy: Path) -> None:
    edit_manifest(copy, lambda m: m["training"].pop("network"))
    report = verify(copy, run_torchscript=True)
    assert report.failed == []
    assert "torchscript cpu" in {check.runtime for check in report.checks}


@pytest.mark.parametrize("name", ["encoder.onnx", "checkpoint.safetensors", "README.md", "parity.json", BOM_NAME])
def test_what_is_judged_is_what_has_the_digest(copy: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    load = vaeport.graphs.load_graphs

    def then_change(package: Package, *arguments: Any) -> Any:
        loaded = load(package, *arguments)
        (copy / name).write_bytes((copy / name).read_bytes() + b" ")
        return loaded

    monkeypatch.setattr(export.verify, "load_graphs", then_change)
    with pytest.raises(DigestMismatchError, match=name):
        verify(copy)
