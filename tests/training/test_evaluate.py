"""`python -m training evaluate`: which figure belongs to which data, what is refused, what the run keeps."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.config import Config, ConfigError
from training.data import load
from training.errors import DataError, RunError
from training.evaluate import SETTINGS, EvaluateOptions, evaluate_run, setting_of
from training.loop import train
from training.run import Run, create_run, open_run
from training.summary import evaluate_command


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    """A run of its own on the built-in digits, grey, without the measures that its training has left."""
    copy = Path(shutil.copytree(digits_run, tmp_path / "run"))
    open_run(copy).describe(evaluation=None)
    return copy


def binarised(run: Path, binarization: str) -> Path:
    """The same run, as if its pixels had been binarised."""
    described = open_run(run)
    described.description["config"]["binarization"] = binarization
    described.description["data"]["preprocessing"]["binarization"] = binarization
    described.describe()
    return run


def evaluated(run: Path, **options: Any) -> dict[str, Any]:
    return evaluate_run(EvaluateOptions(run, device="cpu", **options), Path("data"))


def test_the_measures_are_printed_as_json_and_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_command([str(run), "--json", "--device", "cpu"], Path("data"))
    printed = json.loads(capsys.readouterr().out)
    assert printed == open_run(run).description["evaluation"]
    assert printed["setting"] == "grey"
    assert printed["images"] == open_run(run).description["data"]["test"]
    assert printed["epoch"] == open_run(run).description["best"]["epoch"]
    assert printed["elbo"] == pytest.approx(-open_run(run).description["best"]["test_loss"], abs=0.5)
    assert printed["linear_probe"]["accuracy"] > printed["linear_probe"]["chance"]
    assert printed["log_likelihood"] is None


def test_a_person_gets_a_table(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluated(run)
    out = capsys.readouterr().out
    assert f"{found['elbo']:.2f}" in out
    assert SETTINGS["grey"] in out


@pytest.mark.parametrize("options", [{"part": "train"}, {"last": True}, {"images": 7}])
def test_only_the_best_weights_on_the_whole_test_part_are_kept(run: Path, options: dict[str, Any]) -> None:
    found = evaluated(run, **options)
    assert open_run(run).description["evaluation"] is None
    assert found["images"] == {"train": 1617}.get(found["part"], options.get("images", 180))


def test_a_log_likelihood_on_grey_pixels_is_refused_or_labelled(run: Path) -> None:
    with pytest.raises(ConfigError, match="--grey-log-likelihood"):
        evaluated(run, samples=10)
    assert open_run(run).description["evaluation"] is None
    found = evaluated(run, samples=10, grey_log_likelihood=True)
    assert found["log_likelihood"]["label"] == "not a likelihood: targets between 0 and 1"


@pytest.mark.parametrize("binarization", ["dynamic", "static", "threshold"])
def test_binarised_pixels_have_a_log_likelihood(run: Path, binarization: str) -> None:
    found = evaluated(binarised(run, binarization), samples=10)
    assert found["setting"] == binarization
    assert found["elbo"] < found["log_likelihood"]["mean"] < 0
    assert found["log_likelihood"]["label"] is None


def test_a_plain_autoencoder_has_no_bound(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    described = open_run(run)
    described.describe(config={**described.description["config"], "autoencoder": True})
    assert evaluated(run)["elbo"] is None
    assert "has no posterior" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="no posterior"):
        evaluated(run, samples=10)


def test_other_data_than_the_run_s_are_refused(run: Path) -> None:
    described = open_run(run)
    described.describe(data={**described.description["data"], "digest": "sha256:0"})
    with pytest.raises(RunError, match="digest"):
        evaluated(run)


def test_data_that_have_moved_are_found_where_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(seed).integers(0, 256, (30, 4, 4), np.uint8))
    old, new, test = (str(tmp_path / f"{name}.npy") for name in ("a", "c", "b"))
    config = Config(old, tmp_path / "run", test_data=test, epochs=1, latent_dim=2, hidden_dims=(8,), device="cpu")
    dataset = load(config, tmp_path)
    train(config, dataset, create_run(config, dataset, "cpu"), torch.device("cpu"))
    (tmp_path / "a.npy").rename(new)
    with pytest.raises(DataError, match=r"a\.npy: no such file .* have moved, --data and --test-data say where"):
        evaluated(config.run)
    with pytest.raises(RunError, match=r"b\.npy is not what it was .*: its digest differs"):
        evaluated(config.run, data=test)
    assert evaluated(config.run, data=new, test_data=test)["images"] == 30


def test_a_run_without_a_finished_epoch_has_nothing_to_measure(run: Path) -> None:
    open_run(run).describe(best=None, last=None)
    with pytest.raises(RunError, match="no epoch is finished yet; go on with it by --resume"):
        evaluated(run)


def test_data_to_test_on_are_those_of_a_run_that_had_some(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"--test-data: .* was trained without it"):
        evaluated(run, test_data="b.npy")


@pytest.mark.parametrize(
    ("options", "flag"), [({"samples": -1}, "--samples"), ({"images": 0}, "--images"), ({"seed": -1}, "--seed")]
)
def test_numbers_out_of_range_are_refused(run: Path, options: dict[str, int], flag: str) -> None:
    with pytest.raises(ConfigError, match=flag):
        evaluated(run, **options)


def test_a_run_that_has_gone_on_keeps_nothing_of_older_weights(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from training import evaluate

    def goes_on(*arguments: Any) -> str:
        described = open_run(run)
        described.describe(best={**described.description["best"], "epoch": 99})
        return ""

    monkeypatch.setattr(evaluate, "table", goes_on)
    evaluated(run)
    assert "not kept in run.json" in capsys.readouterr().err
    assert open_run(run).description["evaluation"] is None


def test_every_setting_of_the_data_has_its_words() -> None:
    def setting(likelihood: str, binarization: str) -> str:
        data = {"preprocessing": {"binarization": binarization}}
        return setting_of(Run(Path(), {"config": {"likelihood": likelihood}, "data": data}))

    kinds = {setting("bernoulli", binarization) for binarization in ("none", "dynamic", "static", "threshold")}
    assert kinds | {setting("gaussian", "none")} == SETTINGS.keys()


def test_a_log_likelihood_outlives_a_later_evaluation_of_the_same_weights(run: Path) -> None:
    evaluated(binarised(run, "dynamic"), samples=5)
    before = open_run(run).description["evaluation"]["log_likelihood"]
    assert evaluated(run)["log_likelihood"] is None
    assert open_run(run).description["evaluation"]["log_likelihood"] == before
