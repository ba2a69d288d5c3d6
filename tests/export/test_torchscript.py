"""TorchScript in a package: what torch.jit.load takes, the same function, without traces of its author."""

import json
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vaeport
from export.errors import ExportError
from export.pipeline import export_run
from export.torchscript import load_torchscript, without_debug, write_torchscript
from tests.export.test_export import run_of
from training.run import BEST, open_run
from vaeport.package import open_package


def loaded(path: Path) -> torch.jit.ScriptModule:
    return load_torchscript(path, path.read_bytes())


ROOT = Path(__file__).parents[2]
ROLES = ["encoder", "decoder"]


@pytest.mark.parametrize("role", ROLES)
def test_no_entry_of_the_archive_tells_where_it_was_made(package: Path, digits_run: Path, role: str) -> None:
    with zipfile.ZipFile(package / "torchscript" / f"{role}.pt") as archive:
        for entry in archive.infolist():
            assert not entry.filename.endswith(".debug_pkl")
            assert entry.date_time == (1980, 1, 1, 0, 0, 0)
            content = archive.read(entry)
            for trace in (str(ROOT), str(digits_run), str(Path.home()), "site-packages", torch.__file__):
                assert trace.encode() not in content, (entry.filename, trace)


def test_what_is_dropped_did_tell(tmp_path: Path) -> None:
    """Otherwise the test above could not fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(3, 2))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, tmp_path / "traced.pt")

    def names(path: Path) -> list[str]:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()

    (tmp_path / "clean.pt").write_bytes(without_debug((tmp_path / "traced.pt").read_bytes()))
    assert any(name.endswith(".debug_pkl") for name in names(tmp_path / "traced.pt"))
    assert not any(name.endswith(".debug_pkl") for name in names(tmp_path / "clean.pt"))


@pytest.mark.parametrize("batch", [1, 5])
def test_torch_loads_it_and_it_computes_the_same_at_any_batch(package: Path, batch: int) -> None:
    model = vaeport.load(package)
    encoder, decoder = (loaded(package / "torchscript" / f"{role}.pt") for role in ROLES)
    images = np.random.default_rng(0).random((batch, 1, 8, 8), np.float32)
    with torch.inference_mode():
        mean, log_var = encoder(torch.from_numpy(images))
        image, logits = decoder(mean)
    encoded = model.encode(images)
    np.testing.assert_allclose(mean.numpy(), encoded.mean, atol=1e-5)
    np.testing.assert_allclose(log_var.numpy(), encoded.log_var, atol=1e-5)
    np.testing.assert_allclose(image.numpy(), model.decode(encoded.mean), atol=1e-5)
    assert logits.shape == (batch, 1, 8, 8)


def test_it_is_held_to_the_limits_like_every_runtime(package: Path) -> None:
    checks = json.loads((package / "parity.json").read_text())["checks"]
    rungs = {check["rung"] for check in checks if check["runtime"] == "torchscript cpu"}
    assert rungs == {"P2", "P3", "P4", "P6"}


def test_without_it_the_package_is_complete(digits_run: Path, tmp_path: Path) -> None:
    made = export_run(digits_run, tmp_path / "digits", formats=["onnx"])
    assert not [entry.path for entry in open_package(made).manifest.files if "torchscript" in entry.path]
    assert vaeport.load(made, self_test=True).latent_dim == 5


def test_a_trace_does_not_allow_tf32_for_convolutions(tmp_path: Path) -> None:
    """It keeps what PyTorch allows while it traces, and that is TF32; whoever loads it on a GPU cannot take it back."""
    run = open_run(run_of(tmp_path, network="conv"))
    for path in write_torchscript(tmp_path, run, BEST, (run.path / BEST).read_bytes()).values():
        graph: Any = loaded(path).inlined_graph
        convolutions = graph.findAllNodes("aten::_convolution")
        assert len(convolutions) == 2
        assert [list(node.inputs())[-1].toIValue() for node in convolutions] == [False, False]


@pytest.mark.parametrize("formats", [["torchscript"], ["onnx", "tflite"], [""]])
def test_an_unknown_format_or_none_for_the_server_is_refused(
    digits_run: Path, tmp_path: Path, formats: list[str]
) -> None:
    with pytest.raises(ExportError, match="--formats: expected onnx, or onnx,torchscript, got"):
        export_run(digits_run, tmp_path / "digits", formats=formats)
    assert not (tmp_path / "digits").exists()


def test_the_manifest_covers_it(package: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(package, tmp_path / "package"))
    (copy / "torchscript" / "encoder.pt").write_bytes(b"")
    with pytest.raises(vaeport.PackageError, match=r"torchscript/encoder\.pt: expected \d+ bytes, got 0"):
        vaeport.load(copy)
