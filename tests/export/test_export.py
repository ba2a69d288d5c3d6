"""From a run to a version: complete or not there at all, the same bytes for the same run."""

import json
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vaeport
from export import package as folder
from export import pipeline
from export.errors import ExportError, ParityError, VersionExistsError
from export.onnx_tests import write_onnx_tests
from export.package import staging
from export.pipeline import export_run
from export.triton import write_triton
from training import data
from training.config import Config
from training.loop import train
from training.run import create_run, open_run
from vaeport.manifest import Preprocessing
from vaeport.package import open_package
from vaeport.versions import versions

ROOT = Path(__file__).parents[2]
ONNX = ["onnx"]  # where TorchScript would only take time


def test_the_package_says_what_it_is(package: Path) -> None:
    manifest = open_package(package).manifest
    assert (manifest.name, manifest.version, manifest.format) == ("digits", 1, "vaeport/1")
    assert (manifest.model.family, manifest.model.image_shape, manifest.model.latent_dim) == ("mlp", (1, 8, 8), 5)
    assert (manifest.preprocessing.size, manifest.preprocessing.scale) == ((8, 8), 16.0)
    assert manifest.training["metrics"]["test_loss"] > 0
    listed = [entry.path for entry in manifest.files]
    graphs = ["decoder.onnx", "decoder.uint8.onnx", "encoder.onnx", "encoder.uint8.onnx"]
    tensors = ["checkpoint.safetensors", "golden.safetensors"]
    scripts = ["torchscript/decoder.pt", "torchscript/encoder.pt"]
    pictures = ["samples.png", "traversals.png"]
    assert listed == sorted(["README.md", "bom.cdx.json", *graphs, *tensors, *scripts, *pictures, "parity.json"])
    card = (package / "README.md").read_text()
    assert "digits, version 1" in card
    metrics = manifest.training["metrics"]
    assert f"{metrics['test_reconstruction'] + metrics['test_kl']:.2f} nats" in card


def texts(content: bytes) -> list[bytes]:
    """What a person could read in a file: elsewhere, a short host name turns up among random bytes."""
    return re.findall(rb"[\x20-\x7e]{12,}", content)


def test_nothing_inside_tells_when_where_or_how_long(package: Path, digits_run: Path) -> None:
    host = rb"\b" + re.escape(socket.gethostname().encode()) + rb"\b"
    for path in sorted(path for path in package.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for trace in (b'"seconds"', str(digits_run).encode(), str(ROOT).encode(), b"site-packages"):
            assert trace not in content, (path.name, trace)
        assert not [text for text in texts(content) if re.search(host, text)], path.name


def test_a_second_export_is_the_next_version_with_the_same_content(
    digits_run: Path, package: Path, tmp_path: Path
) -> None:
    to = tmp_path / "digits"
    shutil.copytree(package, to / "1")
    second = export_run(digits_run, to)
    assert second == to / "2"
    assert sorted(path.name for path in to.iterdir()) == ["1", "2"]
    for name in ("checkpoint.safetensors", "golden.safetensors", "parity.json"):  # the graphs name their version
        assert (second / name).read_bytes() == (to / "1" / name).read_bytes(), name
    assert vaeport.load(to).info().models[0].version == "2"


def contents(package: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    files = [path for path in package.rglob("*") if path.is_file()]
    return {path.relative_to(package).as_posix(): path.read_bytes() for path in files}


def test_the_same_run_name_and_version_give_the_same_bytes(digits_run: Path, package: Path, tmp_path: Path) -> None:
    again = export_run(digits_run, tmp_path / "digits", version=1)
    assert contents(again) == contents(package)


def test_last_takes_the_last_weights(digits_run: Path, tmp_path: Path) -> None:
    made = export_run(digits_run, tmp_path / "digits", last=True, formats=ONNX)
    assert "chosen by: last" in (made / "README.md").read_text()
    assert (made / "checkpoint.safetensors").read_bytes() == (digits_run / "last.safetensors").read_bytes()


def test_a_colour_model_goes_all_the_way(two_models: Path) -> None:
    model = vaeport.load(two_models / "colour")
    assert model.image_shape == (3, 6, 4)
    assert model.sample(2, seed=0).shape == (2, 3, 6, 4)


def test_a_mismatch_writes_nothing(digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.truth.LAMBDA", 0.0)
    with pytest.raises(ParityError, match="checks failed; nothing is written\nP2: encoder"):
        export_run(digits_run, tmp_path / "digits", formats=ONNX)
    assert list((tmp_path / "digits").iterdir()) == []


def test_an_existing_version_is_refused_before_any_work(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits" / "3").mkdir(parents=True)
    monkeypatch.setattr(pipeline, "open_run", lambda path: pytest.fail("worked all the same"))
    with pytest.raises(VersionExistsError, match="digits/3: is there already"):
        export_run(digits_run, tmp_path / "digits", version=3)


@pytest.mark.parametrize("beside", ["3.sig", "3.receipt.json"])
def test_what_is_left_of_a_deleted_version_never_lies_beside_another(
    digits_run: Path, tmp_path: Path, beside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "digits"
    to.mkdir()
    (to / beside).write_text("of a package that was deleted")
    assert folder.next_version(to) == 4
    monkeypatch.setattr(pipeline, "open_run", lambda path: pytest.fail("worked all the same"))
    with pytest.raises(VersionExistsError, match=f"digits/{beside}: is of an earlier package of version 3"):
        export_run(digits_run, to, version=3)
    assert [path.name for path in to.iterdir()] == [beside]


def test_after_the_last_version_nothing_is_begun(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits" / "999999999").mkdir(parents=True)
    monkeypatch.setattr(pipeline, "open_run", lambda path: pytest.fail("worked all the same"))
    with pytest.raises(ExportError, match="digits: version 999999999 is there, and no later one can be"):
        export_run(digits_run, tmp_path / "digits")


def test_a_version_is_not_taken_for_a_name(digits_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"digits/1: ends in a version; did you mean --to .*digits --version 1\?"):
        export_run(digits_run, tmp_path / "digits" / "1")
    assert not (tmp_path / "digits").exists()


def test_nothing_is_written_into_a_package(digits_run: Path, package: Path) -> None:
    before = contents(package)
    for to in (package / "more", package / "torchscript" / "more"):
        with pytest.raises(ExportError, match=f"more: lies in the package {package}, which never changes"):
            export_run(digits_run, to)
    for to in (package, package / "more"):
        with pytest.raises(ExportError, match=f"lies in the package {package}, which never changes"):
            write_onnx_tests(package, to)
        with pytest.raises(ExportError, match=f"lies in the package {package}, which never changes"):
            write_triton(package, to)
    assert contents(package) == before
    assert not (package / "more").exists()


@pytest.mark.parametrize("content", [b"[" * 10_000, b"{}", b'{"format": "other/1"}', b"\xff"])
def test_a_manifest_of_another_program_is_no_package(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with staging(tmp_path / "models") as staged:
        assert staged.is_dir()


def test_a_version_taken_meanwhile_is_left_alone(
    digits_run: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody publishes version 1 between our choice of it and the rename."""
    to = tmp_path / "digits"
    complete = folder._complete
    raced: list[Path] = []

    def race(staged: Path, manifest: object) -> None:
        complete(staged, manifest)  # type: ignore[arg-type]
        if not raced:
            raced.append(Path(shutil.copytree(package, to / "1")))

    monkeypatch.setattr(folder, "_complete", race)
    assert export_run(digits_run, to, formats=ONNX) == to / "2"
    assert open_package(to / "2").manifest.version == 2
    assert versions(to) == [1, 2]
    with pytest.raises(VersionExistsError):
        export_run(digits_run, to, version=2, formats=ONNX)


def test_something_else_under_the_next_number_is_stepped_over(digits_run: Path, tmp_path: Path) -> None:
    to = tmp_path / "digits"
    to.mkdir()
    (to / "1").write_text("a file")
    (to / "2").symlink_to("/nowhere")
    assert export_run(digits_run, to, formats=ONNX) == to / "3"


def test_a_run_that_goes_on_meanwhile_does_not_mix_two_epochs(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Path(shutil.copytree(digits_run, tmp_path / "run"))
    before = (run / "checkpoint.safetensors").read_bytes()
    write_graphs = pipeline._write_graphs

    def train_on(*arguments: Any) -> Any:
        (run / "checkpoint.safetensors").write_bytes(b"a later epoch")
        return write_graphs(*arguments)

    monkeypatch.setattr(pipeline, "_write_graphs", train_on)
    made = export_run(run, tmp_path / "digits", formats=ONNX)
    assert (made / "checkpoint.safetensors").read_bytes() == before


def test_a_crash_at_any_step_leaves_no_version(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in ("_complete", "open_package", "_sync"):
        with monkeypatch.context() as patch:
            patch.setattr(folder, step, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                export_run(digits_run, tmp_path / "digits", formats=ONNX)
        assert list((tmp_path / "digits").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "version", "message"),
    [
        ("-bad", None, "the last component names the package"),
        ("a b", None, "names the package"),
        ("ok", 0, "--version"),
    ],
)
def test_a_bad_name_or_version_is_refused(
    digits_run: Path, tmp_path: Path, name: str, version: int | None, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export_run(digits_run, tmp_path / name, version=version)


def run_export(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "export", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_the_command_prints_the_folder_alone(digits_run: Path, tmp_path: Path) -> None:
    done = run_export(str(digits_run), "--to", str(tmp_path / "digits"))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/digits/1\n"), done.stderr
    opened = open_package(tmp_path / "digits" / "1")
    parity = json.loads((opened.path / "parity.json").read_text())
    assert all(row["passed"] for row in (*parity["checks"], *parity["facts"]))
    assert {check["rung"] for check in parity["checks"]} == {"P1", "P2", "P3", "P4", "P6"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere"], "export: error: /nowhere: no such run directory"),
        ([str(ROOT / "tests")], "tests: not a run directory: run.json is missing"),
    ],
)
def test_a_mistake_is_one_clear_message_and_exit_status_1(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run_export(*arguments, "--to", str(tmp_path / "digits"))
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "digits").exists()


def run_of(folder: Path, **settings: Any) -> Path:
    """A short run on the built-in digits, without pictures and report, with these settings."""
    config = Config(epochs=1, latent_dim=3, hidden_dims=(8,), device="cpu", run=folder / "run")
    config = replace(config, **settings)
    dataset = data.load(config, folder)
    run = create_run(config, dataset, "cpu")
    train(config, dataset, run, torch.device("cpu"))
    return run.path


@pytest.mark.parametrize(
    ("settings", "family"),
    [
        ({"network": "conv"}, "conv"),
        ({"network": "linear", "likelihood": "gaussian", "sigma": 0.3}, "linear"),
        ({"activation": "tanh", "likelihood": "gaussian", "variance": "analytic"}, "mlp"),
    ],
    ids=["conv", "linear-gaussian", "tanh-gaussian"],
)
def test_every_network_and_likelihood_is_exported_and_loads(
    tmp_path: Path, settings: dict[str, Any], family: str
) -> None:
    run = open_run(run_of(tmp_path, **settings))
    manifest = open_package(export_run(run.path, tmp_path / "model")).manifest
    assert manifest.model.family == family
    loaded, (trained, _) = vaeport.load(tmp_path / "model"), run.load_model()
    latents = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = trained.decode(torch.from_numpy(latents)).reshape(5, 1, 8, 8).numpy()
        mean, log_var = trained.encode(torch.from_numpy(expected))
    np.testing.assert_allclose(loaded.decode(latents), expected, atol=1e-5)
    np.testing.assert_allclose(loaded.encode(expected).mean, mean.numpy(), atol=1e-5)
    np.testing.assert_allclose(loaded.encode(expected).log_var, log_var.numpy(), atol=1e-5)
    if run.config.likelihood == "gaussian":
        assert manifest.model.sigma == trained.likelihood.sigma
        assert [t.name for t in manifest.graphs["decoder"].outputs] == ["image", "mean"]
        assert 0 <= loaded.decode(100 * latents).min() <= loaded.decode(100 * latents).max() <= 1


def test_what_was_done_to_the_images_is_in_the_manifest(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (20, 9, 12), np.uint8))
    run = run_of(tmp_path, data=str(tmp_path / "a.npy"), image_size=8, binarization="threshold")
    preprocessing = open_package(export_run(run, tmp_path / "model")).manifest.preprocessing
    assert preprocessing == Preprocessing((8, 8), 1, "center", 255.0, "threshold")


def test_a_plain_autoencoder_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a plain autoencoder: it has no posterior"):
        export_run(run_of(tmp_path, autoencoder=True), tmp_path / "model")
    assert not (tmp_path / "model").exists()
