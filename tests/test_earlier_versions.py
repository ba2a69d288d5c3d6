"""What earlier versions wrote is still read: packages, and runs for all but resuming (tests/fixtures/README.md)."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import vaeport
from export.pipeline import export_run
from export.verify import verify
from training import data
from training.config import Config
from training.errors import RunError
from training.evaluate import EvaluateOptions, evaluate_run
from training.run import check_resumable, open_run
from vaeport.golden import has_golden
from vaeport.package import open_package

FIXTURES = Path(__file__).parent / "fixtures"
ALL = sorted(path.stem for path in FIXTURES.glob("*.zip"))
TOLERANCE = 1e-5  # another machine rounds otherwise


def unpack(name: str, folder: Path) -> Path:
    with zipfile.ZipFile(FIXTURES / f"{name}.zip") as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(params=ALL)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with what one earlier version made."""
    return unpack(request.param, tmp_path)


def check_numbers(package: Path, made: Path) -> None:
    model = vaeport.load(package)
    with np.load(made / "expected.npz") as expected:
        encoded = model.encode(expected["images"])
        np.testing.assert_allclose(encoded.mean, expected["mean"], atol=TOLERANCE)
        np.testing.assert_allclose(encoded.log_var, expected["log_var"], atol=TOLERANCE)
        np.testing.assert_allclose(model.decode(expected["latents"]), expected["decoded"], atol=TOLERANCE)


def test_the_fixtures_are_those_of_the_list() -> None:
    assert len(ALL) == 4
    assert all(f"`{name}.zip`" in (FIXTURES / "README.md").read_text() for name in ALL)


def test_a_package_loads_and_gives_the_numbers_it_gave(made: Path) -> None:
    package = open_package(made / "models" / "digits" / "1")
    check_numbers(package.path, made)
    if has_golden(package):
        vaeport.load(package.path, self_test=True)


def test_a_package_is_verified_as_it_is(made: Path) -> None:
    assert verify(made / "models" / "digits" / "1", run_torchscript=True).failed == []


def test_a_run_gives_the_numbers_it_gave(made: Path) -> None:
    model, metrics = open_run(made / "runs" / "digits").load_model()
    assert metrics["epoch"] == 2
    with np.load(made / "expected.npz") as expected, torch.inference_mode():
        mean, log_var = model.encode(torch.from_numpy(expected["images"]))
        np.testing.assert_allclose(mean.numpy(), expected["mean"], atol=TOLERANCE)
        np.testing.assert_allclose(log_var.numpy(), expected["log_var"], atol=TOLERANCE)


def test_a_run_of_the_first_version_is_exported_verified_and_evaluated(tmp_path: Path) -> None:
    made = unpack("1-first", tmp_path)
    run = made / "runs" / "digits"
    before = (run / "run.json").read_bytes()
    package = export_run(run, tmp_path / "new", formats=["onnx"])
    check_numbers(package, made)
    assert not verify(package).failed
    measured = evaluate_run(EvaluateOptions(run), tmp_path)
    assert measured["reconstruction"] == pytest.approx(open_run(run).load_model()[1]["test_reconstruction"], rel=0.02)
    assert (run / "run.json").read_bytes() == before


@pytest.mark.parametrize("name", ["1-first", "2-sigma"])
def test_a_run_that_kept_too_little_is_not_resumed(name: str, tmp_path: Path) -> None:
    run = open_run(unpack(name, tmp_path) / "runs" / "digits")
    dataset = data.load(Config(), tmp_path)
    with pytest.raises(RunError, match=r"it can be exported, evaluated and started from .*, but not resumed"):
        check_resumable(run, run.config, dataset, "cpu")


def test_a_later_run_is_resumed(tmp_path: Path) -> None:
    run = open_run(unpack("4-torchscript", tmp_path) / "runs" / "digits")
    check_resumable(run, run.config, data.load(Config(), tmp_path), "cpu")


def test_a_run_of_the_first_format_that_is_damaged_is_named(tmp_path: Path) -> None:
    run = unpack("1-first", tmp_path) / "runs" / "digits"
    description = json.loads((run / "run.json").read_text())
    del description["config"]["hidden_dim"]
    (run / "run.json").write_text(json.dumps(description))
    with pytest.raises(RunError, match=r"run\.json: no description of vaeport-run/1: KeyError: 'hidden_dim'"):
        open_run(run)


def test_a_run_of_a_later_format_is_said_to_be_newer(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": "vaeport-run/3"}')
    with pytest.raises(RunError, match=r"got 'vaeport-run/3'; vaeport newer than .* made it"):
        open_run(tmp_path)
