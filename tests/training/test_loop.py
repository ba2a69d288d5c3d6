"""Training: repeatable to the bit, resumable to the bit, and its numbers are what they say."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from training import data, loop, vae_loss
from training.config import Config
from training.errors import DivergedError, RunError
from training.loop import choose_device, evaluate, streams, train
from training.objective import reparameterize
from training.run import BEST, LAST, STATE, Metrics, Run, create_run, open_run, read_tensors

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", Path("/nowhere"), 0)


def config_for(run: Path, **changes: object) -> Config:
    small = Config("digits", run, epochs=3, latent_dim=4, hidden_dim=16, device="cpu")
    return dataclasses.replace(small, **changes)  # type: ignore[arg-type]


def trained(config: Config, dataset: data.Dataset) -> tuple[Run, list[Metrics]]:
    run = open_run(config.run) if config.resume else create_run(config, dataset, "cpu")
    return run, train(config, dataset, run, CPU)


def metrics_of(run: Run) -> list[Metrics]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def without_seconds(rows: list[Metrics]) -> list[Metrics]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same_training(one: Run, other: Run) -> None:
    for name in (LAST, BEST):
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name
    ours, theirs = (read_tensors(run.path / STATE)[0] for run in (one, other))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    assert without_seconds(metrics_of(one)) == without_seconds(metrics_of(other))


def test_two_runs_of_one_seed_are_equal_to_the_bit(tmp_path: Path, digits: data.Dataset) -> None:
    one, _ = trained(config_for(tmp_path / "one"), digits)
    other, _ = trained(config_for(tmp_path / "other"), digits)
    assert_same_training(one, other)


def test_another_seed_is_another_run(tmp_path: Path, digits: data.Dataset) -> None:
    _, one = trained(config_for(tmp_path / "one"), digits)
    _, other = trained(config_for(tmp_path / "other", seed=1), digits)
    assert one[-1]["train_loss"] != other[-1]["train_loss"]


def test_a_resumed_run_equals_the_one_that_was_never_interrupted(tmp_path: Path, digits: data.Dataset) -> None:
    whole, _ = trained(config_for(tmp_path / "whole", epochs=4), digits)
    trained(config_for(tmp_path / "parts", epochs=2), digits)
    parts, rows = trained(config_for(tmp_path / "parts", epochs=4, resume=True), digits)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert_same_training(whole, parts)


def test_a_run_killed_between_its_files_resumes_from_its_state(tmp_path: Path, digits: data.Dataset) -> None:
    whole, _ = trained(config_for(tmp_path / "whole", epochs=3), digits)
    killed, _ = trained(config_for(tmp_path / "killed", epochs=1), digits)
    derived = (LAST, BEST, "metrics.jsonl", "run.json")
    kept = {name: (killed.path / name).read_bytes() for name in derived}
    trained(config_for(tmp_path / "killed", epochs=2, resume=True), digits)
    for name, content in kept.items():  # as if it had died right after the state of epoch 2
        (killed.path / name).write_bytes(content)
    two, _ = trained(config_for(tmp_path / "two", epochs=2), digits)
    same, _ = trained(config_for(tmp_path / "killed", epochs=2, resume=True), digits)  # nothing left but to catch up
    assert_same_training(two, same)
    resumed, _ = trained(config_for(tmp_path / "killed", epochs=3, resume=True), digits)
    assert_same_training(whole, resumed)


def test_the_training_loss_is_that_of_the_steps_as_taken(tmp_path: Path, digits: data.Dataset) -> None:
    """One batch an epoch: the loss of epoch 1 is that of the fresh model, with the same noise."""
    config = config_for(tmp_path / "run", epochs=1, batch_size=len(digits.train))
    run = create_run(config, digits, "cpu")
    weights, order_seed, noise_seed = streams(config.seed)
    torch.manual_seed(weights)
    fresh = run.build_model()
    rows = train(config, digits, run, CPU)
    order, noise = (torch.Generator().manual_seed(seed) for seed in (order_seed, noise_seed))
    index = torch.randperm(len(digits.train), generator=order)
    x = torch.tensor(digits.train.pixels)[index] / 16
    mu, log_var = fresh.encode(x)
    expected = vae_loss(x, fresh.decode(reparameterize(mu, log_var, noise)), mu, log_var)
    assert rows[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_losses_fall_and_are_the_sum_of_their_terms(tmp_path: Path, digits: data.Dataset) -> None:
    _, rows = trained(config_for(tmp_path / "run", epochs=10, hidden_dim=64), digits)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] - 5
    for row in rows:
        assert row["train_loss"] == pytest.approx(row["reconstruction"] + row["beta"] * row["kl"])
        assert row["test_loss"] == pytest.approx(row["test_reconstruction"] + row["test_kl"])


def test_the_checkpoint_is_of_the_epoch_with_the_lowest_test_loss(tmp_path: Path, digits: data.Dataset) -> None:
    run, rows = trained(config_for(tmp_path / "run", epochs=8, lr=0.02), digits)
    best = min(rows, key=lambda row: row["test_loss"])
    model, metrics = run.load_model()
    assert best["epoch"] != rows[-1]["epoch"], "the case is not interesting"
    assert (metrics["epoch"], run.description["best"]["epoch"]) == (best["epoch"], best["epoch"])
    assert evaluate(model, digits.test, digits.scale)["test_loss"] == pytest.approx(best["test_loss"])


def test_evaluating_twice_gives_the_same_number(tmp_path: Path, digits: data.Dataset) -> None:
    run, _ = trained(config_for(tmp_path / "run", epochs=1), digits)
    model, _ = run.load_model()
    assert evaluate(model, digits.test, 16.0) == evaluate(model, digits.test, 16.0)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_epoch(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tmp_path / "run", epochs=1)
    run, _ = trained(config, digits)
    good = (run.path / LAST).read_bytes()
    monkeypatch.setattr(loop, "reparameterize", lambda mu, *_: mu * math.nan)
    with pytest.raises(DivergedError, match=r"epoch 2 is not finite: train_loss nan, .* try a lower --lr"):
        trained(dataclasses.replace(config, epochs=2, resume=True), digits)
    assert (run.path / LAST).read_bytes() == good
    assert len(metrics_of(run)) == 1


def test_a_test_loss_that_is_not_finite_is_never_saved(tmp_path: Path, digits: data.Dataset) -> None:
    config = config_for(tmp_path / "run", epochs=1, batch_size=5000, lr=1e20)  # one step, which ruins the weights
    run = create_run(config, digits, "cpu")
    with pytest.raises(DivergedError, match="test_loss"):
        train(config, digits, run, CPU)
    assert not list(run.path.glob("*.safetensors"))


def test_a_run_stopped_before_its_first_epoch_begins_again(tmp_path: Path, digits: data.Dataset) -> None:
    whole, _ = trained(config_for(tmp_path / "whole"), digits)
    create_run(config_for(tmp_path / "stopped"), digits, "cpu")
    begun, _ = trained(config_for(tmp_path / "stopped", resume=True), digits)
    assert_same_training(whole, begun)


def test_weights_order_and_noise_have_streams_of_their_own() -> None:
    assert len({*streams(0), *streams(1)}) == 6


def test_float_images_train_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((30, 4, 4)))
    dataset = data.load(str(tmp_path / "a.npy"), tmp_path, 0)
    _, rows = trained(config_for(tmp_path / "run", epochs=1), dataset)
    assert math.isfinite(rows[0]["train_loss"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_cuda_without_a_gpu_is_an_error() -> None:
    with pytest.raises(RunError, match="--device cuda: PyTorch finds no usable GPU"):
        choose_device("cuda")


def test_metrics_are_a_row_per_epoch_with_the_documented_keys(tmp_path: Path, digits: data.Dataset) -> None:
    run, _ = trained(config_for(tmp_path / "run"), digits)
    rows = metrics_of(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert {"epoch", "train_loss", "test_loss", "reconstruction", "kl", "beta", "seconds"} <= rows[0].keys()
