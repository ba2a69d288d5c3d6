"""Training: repeatable to the bit, resumable to the bit, and its numbers are what they say."""

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from training import data, loop, vae_loss
from training.config import Config
from training.errors import DivergedError, RunError
from training.initial import derived_seeds
from training.loop import InterruptedRun, choose_device, early_stop, evaluate, train
from training.objective import reparameterize
from training.run import BEST, LAST, STATE, Metrics, Run, create_run, open_run, read_tensors, write_tensors
from training.schedules import Plan, Rates

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load(Config(), Path("/nowhere"))


def config_for(run: Path, **changes: object) -> Config:
    small = Config("digits", run, epochs=3, latent_dim=4, hidden_dims=(16, 16), device="cpu")
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
    weights, order_seed, noise_seed = derived_seeds(config.seed)
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
    _, rows = trained(config_for(tmp_path / "run", epochs=10, hidden_dims=(64, 64)), digits)
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
    assert evaluate(model, digits.test, digits)["test_loss"] == pytest.approx(best["test_loss"])


def test_evaluating_twice_gives_the_same_number(tmp_path: Path, digits: data.Dataset) -> None:
    run, _ = trained(config_for(tmp_path / "run", epochs=1), digits)
    model, _ = run.load_model()
    assert evaluate(model, digits.test, digits) == evaluate(model, digits.test, digits)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_epoch(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tmp_path / "run", epochs=1)
    run, _ = trained(config, digits)
    good = (run.path / LAST).read_bytes()
    monkeypatch.setattr(Plan, "at", lambda self, step: Rates(1e20, 1.0, None))
    with pytest.raises(DivergedError, match=r"epoch 2 is not finite: train_loss (nan|inf), .* try a lower --lr"):
        trained(dataclasses.replace(config, epochs=2, resume=True), digits)
    assert (run.path / LAST).read_bytes() == good
    assert len(metrics_of(run)) == 1


def test_a_test_loss_that_is_not_finite_is_never_saved(tmp_path: Path, digits: data.Dataset) -> None:
    config = config_for(tmp_path / "run", epochs=1, batch_size=5000, lr=1e20)  # one step, which ruins the weights
    run = create_run(config, digits, "cpu")
    with pytest.raises(DivergedError, match="test_loss"):
        train(config, digits, run, CPU)
    assert not list(run.path.glob("*.safetensors"))


def test_a_run_stopped_after_its_weights_were_ruined_keeps_the_state_before(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tmp_path / "run", epochs=1)
    run, _ = trained(config, digits)
    good = (run.path / STATE).read_bytes()
    longer = dataclasses.replace(config, epochs=2, resume=True)
    with monkeypatch.context() as patched:
        patched.setattr(Plan, "at", lambda self, step: Rates(1e20, 1.0, None))
        with pytest.raises(DivergedError, match=r"epoch 2 is not finite: .*; first .*, at step \d+; what was saved"):
            train(longer, digits, run, CPU, stopping=stop_after(6))
    assert (run.path / STATE).read_bytes() == good
    assert len(trained(longer, digits)[1]) == 2


def test_a_run_stopped_before_its_first_epoch_begins_again(tmp_path: Path, digits: data.Dataset) -> None:
    whole, _ = trained(config_for(tmp_path / "whole"), digits)
    create_run(config_for(tmp_path / "stopped"), digits, "cpu")
    begun, _ = trained(config_for(tmp_path / "stopped", resume=True), digits)
    assert_same_training(whole, begun)


def test_weights_order_and_noise_have_streams_of_their_own() -> None:
    assert len({*derived_seeds(0), *derived_seeds(1)}) == 6


def test_float_images_train_too(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((30, 4, 4)))
    dataset = data.load(Config(str(tmp_path / "a.npy")), tmp_path)
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


def stop_after(steps: int) -> Callable[[], bool]:
    asked = iter(range(1, 1000))
    return lambda: next(asked) >= steps


@pytest.mark.parametrize(
    "changes", [{}, {"binarization": "dynamic"}, {"likelihood": "gaussian", "variance": "analytic"}]
)
def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_bits(tmp_path: Path, changes: dict[str, object]) -> None:
    whole_config, parts_config = (
        config_for(tmp_path / name, epochs=3, batch_size=200, lr_schedule="cosine", warmup_epochs=2.0, **changes)
        for name in ("whole", "parts")
    )
    dataset = data.load(whole_config, tmp_path)
    whole, _ = trained(whole_config, dataset)
    run = create_run(parts_config, dataset, "cpu")
    for steps in (4, 9, 3):  # within the first epoch, the second, and again the second
        with pytest.raises(InterruptedRun):
            train(parts_config, dataset, run, CPU, stopping=stop_after(steps))
        run = open_run(parts_config.run)
    parts, _ = trained(dataclasses.replace(parts_config, resume=True), dataset)
    assert_same_training(whole, parts)


@pytest.mark.parametrize("changes", [{}, {"binarization": "dynamic"}])
def test_an_epoch_that_could_not_be_judged_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    whole_config, parts_config = (config_for(tmp_path / name, **changes) for name in ("whole", "parts"))
    dataset = data.load(whole_config, tmp_path)
    whole, _ = trained(whole_config, dataset)
    run, _ = trained(dataclasses.replace(parts_config, epochs=1), dataset)
    resumed = dataclasses.replace(parts_config, resume=True)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "evaluate", without_memory)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            trained(resumed, dataset)
    _, header = read_tensors(run.path / STATE)
    assert (header["step"], len(header["rows"])) == (13, 1)  # all steps of the second epoch
    parts, _ = trained(resumed, dataset)
    assert_same_training(whole, parts)


def without_memory(*_arguments: object) -> Metrics:
    raise RuntimeError("can't allocate memory")


def test_ruined_weights_that_could_not_be_judged_are_not_kept(
    tmp_path: Path, digits: data.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_for(tmp_path / "run", epochs=1, lr=1e20)
    run = create_run(config, digits, "cpu")
    monkeypatch.setattr(loop, "evaluate", without_memory)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        train(config, digits, run, CPU)
    assert not (run.path / STATE).exists()


def test_it_stops_early_once_the_warm_up_is_over_and_says_why(tmp_path: Path, digits: data.Dataset) -> None:
    config = config_for(tmp_path / "run", epochs=60, lr=0.05, patience=3, warmup_epochs=5.0)
    run, rows = trained(config, digits)
    assert 8 <= len(rows) < 60
    plan = Plan(config, 13)
    reason = early_stop(plan, rows)
    best = min(rows[5:], key=lambda row: row["test_objective"])
    assert reason is not None
    below = f"did not fall below {best['test_objective']:.2f} nats on the test images"
    assert f"what is minimised {below}, that of epoch {best['epoch']}, for 3 epochs" in reason
    assert best["epoch"] == len(rows) - 3
    for done in range(1, len(rows)):  # and not before
        assert early_stop(plan, rows[:done]) is None
    assert run.load_model()[1]["epoch"] == best["epoch"]


def test_epochs_of_the_warm_up_do_not_count_for_early_stopping() -> None:
    plan = Plan(Config(patience=2, warmup_epochs=4.0, epochs=9), 5)
    rising = [{"epoch": float(epoch), "test_objective": float(epoch)} for epoch in range(1, 10)]
    assert [early_stop(plan, rising[:n]) is not None for n in range(10)] == [False] * 7 + [True] * 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("encoder.log_var.bias", "first the output of encoder.log_var, at step 1"),
        ("decoder.0.weight", "first the output of decoder.0, at step 1"),
    ],
)
def test_what_is_not_finite_is_named(tmp_path: Path, digits: data.Dataset, name: str, message: str) -> None:
    config = config_for(tmp_path / "run", epochs=1)
    run, _ = trained(config, digits)
    tensors, header = read_tensors(run.path / STATE)
    tensors[f"model.{name}"].fill_(math.inf)
    write_tensors(run.path / STATE, tensors, header)
    with pytest.raises(DivergedError, match=message):
        trained(dataclasses.replace(config, epochs=2, resume=True), digits)


def test_a_step_that_ruins_the_weights_is_named(tmp_path: Path, digits: data.Dataset) -> None:
    config = config_for(tmp_path / "run", epochs=2, batch_size=5000, lr=1e38)
    with pytest.raises(DivergedError, match=r"first .*, (on test images|at step \d)"):
        trained(config, digits)


def test_a_beta_of_100_collapses_and_raises_the_alarm(
    tmp_path: Path, digits: data.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    _, rows = trained(config_for(tmp_path / "run", epochs=20, beta=100.0), digits)
    assert rows[-1]["active_units"] == 0
    assert rows[-1]["test_kl"] < 0.1
    log = capsys.readouterr().err
    assert "posterior collapse: 0 of 4 latents are active" in log
    assert "a lower --beta than 100" in log
    assert log.count("posterior collapse") == 1


def test_a_healthy_run_raises_no_alarm(
    tmp_path: Path, digits: data.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    _, rows = trained(config_for(tmp_path / "run", epochs=40, hidden_dims=(64, 64)), digits)
    assert rows[-1]["active_units"] == 4
    assert "collapse" not in capsys.readouterr().err


def test_a_rise_of_beta_is_told(tmp_path: Path, digits: data.Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    trained(config_for(tmp_path / "run", epochs=4, warmup_epochs=2.0), digits)
    assert "beta still 0.4" in capsys.readouterr().out


def test_a_rise_of_the_capacity_is_told(
    tmp_path: Path, digits: data.Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(config_for(tmp_path / "run", epochs=4, warmup_epochs=2.0, capacity=10.0), digits)
    out = capsys.readouterr().out
    assert "capacity still 4.6" in out
    assert ", capacity 10)" in out


def test_the_loss_under_test_has_beta_1_whatever_the_run_has(tmp_path: Path, digits: data.Dataset) -> None:
    _, rows = trained(config_for(tmp_path / "run", beta=7.0), digits)
    assert rows[-1]["test_loss"] == pytest.approx(rows[-1]["test_reconstruction"] + rows[-1]["test_kl"])
    assert rows[-1]["train_loss"] == pytest.approx(rows[-1]["reconstruction"] + 7 * rows[-1]["kl"])


def test_an_autoencoder_has_no_kl(tmp_path: Path, digits: data.Dataset) -> None:
    _, rows = trained(config_for(tmp_path / "run", autoencoder=True), digits)
    assert (rows[-1]["kl"], rows[-1]["test_kl"], rows[-1]["beta"]) == (0, 0, 0)


def test_iwae_is_judged_by_its_own_bound(tmp_path: Path, digits: data.Dataset) -> None:
    config = config_for(tmp_path / "run", objective="iwae", importance_samples=8, epochs=20)
    _, rows = trained(config, digits)
    assert rows[-1]["test_loss"] < rows[-1]["test_reconstruction"] + rows[-1]["test_kl"]


def test_images_in_a_file_train_like_images_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (300, 8, 8), np.uint8))
    resident = data.load(Config(str(tmp_path / "a.npy")), tmp_path)
    monkeypatch.setattr("training.data.memory.available", lambda: 1000)
    mapped = data.load(Config(str(tmp_path / "a.npy")), tmp_path)
    assert (resident.train.resident, mapped.train.resident) == (True, False)
    one, _ = trained(config_for(tmp_path / "one"), resident)
    other, _ = trained(config_for(tmp_path / "other"), mapped)
    assert_same_training(one, other)


def test_on_the_cpu_the_loop_trains_from_the_images_themselves(digits: data.Dataset) -> None:
    pixels = loop._resident(digits.train, CPU)
    assert pixels is not None
    assert pixels.data_ptr() == digits.train.pixels.ctypes.data


def test_training_leaves_the_images_as_they_are(tmp_path: Path) -> None:
    config = config_for(tmp_path / "run", epochs=1, binarization="dynamic")
    dataset = data.load(config, tmp_path)
    before = dataset.train.pixels.copy()
    trained(config, dataset)
    assert np.array_equal(dataset.train.pixels, before)


def test_images_that_nobody_may_write_to_train_the_same(tmp_path: Path, digits: data.Dataset) -> None:
    pixels = digits.train.pixels.copy()
    pixels.flags.writeable = False
    locked = dataclasses.replace(digits, train=dataclasses.replace(digits.train, pixels=pixels))
    one, _ = trained(config_for(tmp_path / "one", epochs=1), digits)
    other, _ = trained(config_for(tmp_path / "other", epochs=1), locked)
    assert_same_training(one, other)


def test_epochs_of_one_step_can_be_interrupted_too(tmp_path: Path, digits: data.Dataset) -> None:
    config = config_for(tmp_path / "run", epochs=5, batch_size=5000)
    run = create_run(config, digits, "cpu")
    with pytest.raises(InterruptedRun):
        train(config, digits, run, CPU, stopping=stop_after(3))
    parts, rows = trained(dataclasses.replace(config, resume=True), digits)
    whole, _ = trained(dataclasses.replace(config, run=tmp_path / "whole"), digits)
    assert len(rows) == 5
    assert_same_training(whole, parts)


def test_a_run_goes_on_without_the_run_that_it_started_from(tmp_path: Path, digits: data.Dataset) -> None:
    trained(config_for(tmp_path / "first", epochs=1), digits)
    config = config_for(tmp_path / "second", epochs=1, init_from=tmp_path / "first")
    trained(config, digits)
    shutil.rmtree(tmp_path / "first")
    _, rows = trained(dataclasses.replace(config, epochs=2, resume=True), digits)
    assert len(rows) == 2


def test_the_best_epoch_is_chosen_by_what_is_minimised_once_the_warm_up_is_over(
    tmp_path: Path, digits: data.Dataset
) -> None:
    """A KL of 25 nats costs more than it brings here: by the plain ELBO the best epoch would be an early one."""
    config = config_for(tmp_path / "run", epochs=40, latent_dim=5, capacity=25.0, warmup_epochs=20.0)
    run, rows = trained(config, digits)
    by_elbo = min(rows, key=lambda row: row["test_loss"])
    best = min(rows[20:], key=lambda row: row["test_objective"])
    assert by_elbo["epoch"] < 20 < best["epoch"]
    assert run.load_model()[1]["epoch"] == best["epoch"] == run.description["best"]["epoch"]
    assert best["test_kl"] == pytest.approx(25.0, abs=2.0)


@pytest.mark.parametrize("changes", [{"beta": 3.0}, {"free_bits": 1.0}, {"objective": "iwae", "importance_samples": 3}])
def test_what_is_minimised_is_known_for_the_test_images_too(
    tmp_path: Path, digits: data.Dataset, changes: dict[str, object]
) -> None:
    _, rows = trained(config_for(tmp_path / "run", epochs=1, **changes), digits)
    expected = {
        "beta": rows[0]["test_reconstruction"] + 3 * rows[0]["test_kl"],
        "free_bits": rows[0]["test_reconstruction"] + 4.0,  # all four latents are below it after an epoch
        "objective": rows[0]["test_loss"],
    }[next(iter(changes))]
    assert rows[0]["test_objective"] == pytest.approx(expected)
