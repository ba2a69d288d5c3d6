"""Every option of the command line changes the result that it claims to change; what excludes each other is refused."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from training import data
from training.config import Config, ConfigError, config_from_json
from training.initial import initial_state
from training.likelihood import Gaussian
from training.loop import train
from training.networks import NetworkError
from training.run import Metrics, create_run, open_run, planned_run

CPU = torch.device("cpu")
SMALL = Config(epochs=2, latent_dim=3, hidden_dims=(8, 8), batch_size=256, device="cpu")


@dataclasses.dataclass(frozen=True)
class Result:
    """What can be seen of a run."""

    rows: list[Metrics]
    weights: dict[str, torch.Tensor]
    data: dict[str, Any]

    @property
    def last(self) -> Metrics:
        return self.rows[-1]


def run_with(folder: Path, **changes: Any) -> Result:
    config = dataclasses.replace(SMALL, run=folder / "run", **changes)
    config.check()
    dataset = data.load(config, folder)
    run = create_run(config, dataset, "cpu")
    rows = train(config, dataset, run, CPU)
    return Result(rows, run.load_model()[0].state_dict(), run.description["data"])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run_with(tmp_path_factory.mktemp("plain"))


# Option, its value and what else is needed: the loss of the first epoch, or of the last, is another one.
CHANGES_THE_LOSS: dict[str, dict[str, Any]] = {
    "split_seed": {"split_seed": 1},
    "test_fraction": {"test_fraction": 0.3},
    "network": {"network": "conv"},
    "latent_dim": {"latent_dim": 5},
    "hidden_dims": {"hidden_dims": (9, 8)},
    "activation": {"activation": "tanh"},
    "init": {"init": "glorot"},
    "likelihood": {"likelihood": "gaussian"},
    "objective": {"objective": "iwae", "importance_samples": 3},
    "importance_samples": {"importance_samples": 3},
    "autoencoder": {"autoencoder": True},
    "beta": {"beta": 0.5},
    "warmup_epochs": {"warmup_epochs": 1.5},
    "warmup_steps": {"warmup_steps": 3},
    "cycles": {"cycles": 2},
    "free_bits": {"free_bits": 2.0},
    "capacity": {"capacity": 3.0},
    "batch_size": {"batch_size": 100},
    "lr": {"lr": 0.002},
    "lr_schedule": {"lr_schedule": "cosine"},
    "adam_epsilon": {"adam_epsilon": 0.1},
    "precision": {"precision": "bf16"},
    "seed": {"seed": 1},
    "binarization": {"binarization": "dynamic"},
}
# Options that change the result of another option: its value, and what it is compared with.
CHANGES_ANOTHER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "variance": (
        {"likelihood": "gaussian", "variance": "analytic"},
        {"likelihood": "gaussian", "variance": "learned"},
    ),
    "sigma": ({"likelihood": "gaussian", "sigma": 0.5}, {"likelihood": "gaussian"}),
    "gamma": ({"capacity": 3.0, "gamma": 5.0}, {"capacity": 3.0}),
    "lr_milestones": ({"lr_schedule": "steps", "lr_milestones": (1,)}, {}),
    "lr_decay": (
        {"lr_schedule": "steps", "lr_milestones": (1,), "lr_decay": 0.5},
        {"lr_schedule": "steps", "lr_milestones": (1,)},
    ),
}
# Options with a test of their own below, or in the file named.
ELSEWHERE = {
    "data": "test_data.py",
    "test_data": "test_data.py",
    "crop": "here",
    "image_size": "here",
    "channels": "here",
    "run": "test_cli.py",
    "init_from": "here",
    "epochs": "here",
    "patience": "test_loop.py",
    "device": "test_loop.py",
    "resume": "test_loop.py",
    "recipe": "test_recipe.py",
}


def test_every_option_is_walked() -> None:
    walked = CHANGES_THE_LOSS.keys() | CHANGES_ANOTHER.keys() | ELSEWHERE.keys()
    assert {field.name for field in dataclasses.fields(Config)} == walked


@pytest.mark.parametrize("name", CHANGES_THE_LOSS)
def test_an_option_changes_the_loss(tmp_path: Path, plain: Result, name: str) -> None:
    changed = run_with(tmp_path, **CHANGES_THE_LOSS[name])
    assert changed.last["train_loss"] != plain.last["train_loss"]
    assert all(math.isfinite(value) for value in changed.last.values())


@pytest.mark.parametrize("name", CHANGES_ANOTHER)
def test_an_option_changes_what_another_asks_for(tmp_path: Path, name: str) -> None:
    with_it, without = (run_with(tmp_path / f"{i}", **changes) for i, changes in enumerate(CHANGES_ANOTHER[name]))
    assert with_it.last["train_loss"] != without.last["train_loss"]


def test_the_dreg_gradient_is_another_one_for_the_same_bound(tmp_path: Path) -> None:
    iwae = run_with(tmp_path / "iwae", objective="iwae", importance_samples=4, epochs=1, batch_size=2000)
    dreg = run_with(tmp_path / "dreg", objective="dreg", importance_samples=4, epochs=1, batch_size=2000)
    assert iwae.last["train_loss"] == pytest.approx(dreg.last["train_loss"], rel=1e-6)  # one step: the same weights
    assert iwae.last["test_loss"] != dreg.last["test_loss"]


@pytest.mark.parametrize("changes", [{"binarization": kind} for kind in ("dynamic", "threshold", "static")])
def test_binary_pixels_are_0_and_1(tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[float] = set()
    original = train.__globals__["Step"].differentiate.__globals__["prepared"]

    def spy(pixels: torch.Tensor, dataset: data.Dataset, noise: torch.Generator) -> torch.Tensor:
        x: torch.Tensor = original(pixels, dataset, noise)
        seen.update(x.flatten().tolist())
        return x

    monkeypatch.setattr("training.step.prepared", spy)
    result = run_with(tmp_path, **changes)
    assert seen == {0.0, 1.0}
    assert result.data["preprocessing"]["binarization"] == changes["binarization"]


def test_dynamic_binarisation_draws_anew_at_each_use_and_static_once(tmp_path: Path) -> None:
    def images(kind: str) -> list[torch.Tensor]:
        from training.batches import prepared

        dataset = data.load(Config(binarization=kind), tmp_path)  # type: ignore[arg-type]
        noise = torch.Generator().manual_seed(0)
        return [prepared(torch.from_numpy(dataset.train.pixels[:50]), dataset, noise) for _ in range(2)]

    assert not torch.equal(*images("dynamic"))
    assert torch.equal(*images("static"))


@pytest.mark.parametrize(("name", "value", "shape"), [("image_size", 4, (1, 4, 4)), ("channels", 3, (3, 8, 8))])
def test_size_and_channels_are_those_asked_for(tmp_path: Path, name: str, value: int, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8))
    result = run_with(tmp_path, data=str(tmp_path / "a.npy"), **{name: value})
    assert open_run(tmp_path / "run").image_shape == shape
    assert result.weights["encoder.body.0.weight"].shape == (8, math.prod(shape))
    assert result.data["preprocessing"][{"image_size": "size"}.get(name, name)] in ((4, 4), 3)


def test_cropping_cuts_and_padding_adds(tmp_path: Path) -> None:
    (tmp_path / "wide").mkdir()
    for i in range(4):
        picture = np.zeros((8, 16), np.uint8)
        picture[:, :4] = 255 - i  # outside the centre
        picture[:, 6:10] = 100 - i
        Image.fromarray(picture).save(tmp_path / "wide" / f"{i}.png")
    config = Config(str(tmp_path / "wide"), image_size=8)
    centre = data.load(config, tmp_path).train.pixels
    padded = data.load(dataclasses.replace(config, crop="pad"), tmp_path).train.pixels
    assert centre.max() == 100
    assert padded.max() > 200
    assert (padded[:, :, 0] == 0).all()


def test_epochs_are_rows(plain: Result) -> None:
    assert len(plain.rows) == SMALL.epochs


def test_a_run_starts_from_the_weights_of_another(tmp_path: Path, plain: Result) -> None:
    first = run_with(tmp_path / "first", epochs=20)
    second = run_with(tmp_path / "second", epochs=1, init_from=tmp_path / "first" / "run", seed=5)
    assert second.rows[0]["test_loss"] < plain.last["test_loss"]
    assert second.rows[0]["test_loss"] == pytest.approx(first.last["test_loss"], abs=0.5)


def test_a_fixed_sigma_is_not_that_of_the_run_it_starts_from(tmp_path: Path) -> None:
    run_with(tmp_path / "first", likelihood="gaussian")
    start: dict[str, Any] = {"likelihood": "gaussian", "init_from": tmp_path / "first" / "run"}
    second = run_with(tmp_path / "second", variance="fixed", sigma=0.3, **start)
    assert second.last["sigma"] == pytest.approx(0.3)


@pytest.mark.parametrize("before", ["learned", "analytic", "fixed"])
@pytest.mark.parametrize("after", ["learned", "analytic", "fixed"])
def test_a_run_starts_from_one_of_another_variance(tmp_path: Path, before: str, after: str) -> None:
    first = run_with(tmp_path / "first", likelihood="gaussian", variance=before, sigma=0.4, epochs=1)
    config = dataclasses.replace(SMALL, run=tmp_path / "second", likelihood="gaussian", variance=after, sigma=0.7)  # type: ignore[arg-type]
    config = dataclasses.replace(config, init_from=tmp_path / "first" / "run")
    dataset = data.load(config, tmp_path)
    model = initial_state(config, planned_run(config, dataset), dataset, CPU).model
    assert torch.equal(model.state_dict()["encoder.mean.weight"], first.weights["encoder.mean.weight"])
    assert isinstance(model.likelihood, Gaussian)
    assert model.likelihood.sigma == pytest.approx(0.7 if after == "fixed" else first.last["sigma"])


def test_a_run_cannot_start_from_another_network(tmp_path: Path) -> None:
    run_with(tmp_path / "first")
    with pytest.raises(ValueError, match=r"--init-from: another network, .*expected shape \[4, 8\], got \[3, 8\]"):
        run_with(tmp_path / "second", latent_dim=4, init_from=tmp_path / "first" / "run")


def test_glorot_starts_from_the_mean_image(tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, run=tmp_path / "run", init="glorot", lr=1e-12, epochs=1)
    dataset = data.load(config, tmp_path)
    run = create_run(config, dataset, "cpu")
    train(config, dataset, run, CPU)
    bias = run.load_model()[0].decoder[-1].bias  # type: ignore[index]
    mean = (dataset.train.pixels / 16.0).mean(0).flatten().clip(1e-3, 1 - 1e-3)
    torch.testing.assert_close(torch.sigmoid(bias).detach().double(), torch.from_numpy(mean), atol=1e-5, rtol=0)


def test_a_learned_sigma_moves_a_fixed_one_stays_and_the_analytic_one_is_that_of_the_errors(tmp_path: Path) -> None:
    gaussian = {"likelihood": "gaussian", "epochs": 30}
    sigmas = {kind: run_with(tmp_path / kind, variance=kind, **gaussian) for kind in ("learned", "fixed", "analytic")}
    assert sigmas["learned"].last["sigma"] < 0.95
    assert sigmas["fixed"].last["sigma"] == 1.0
    analytic = sigmas["analytic"].last
    nats = 64 * (math.log(analytic["sigma"]) + 0.5 * math.log(2 * math.pi))  # and the squared errors, in units of
    assert analytic["test_reconstruction"] - nats == pytest.approx(0.5 * 64, rel=0.1)  # sigma^2: 1 a pixel, halved


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": -1.0}, "--beta: expected 0 or a positive number, got -1"),
        ({"free_bits": math.nan}, "--free-bits: expected 0 or a positive number"),
        ({"hidden_dims": (4, 0)}, r"--hidden-dims: expected widths of at least 1, got \[4, 0\]"),
        ({"hidden_dims": (), "network": "conv"}, "--hidden-dims: expected one width at least"),
        ({"test_fraction": 1.0}, "--test-fraction: expected a number between 0 and 1, got 1"),
        ({"image_size": 0}, "--image-size: expected at least 1, got 0"),
        (
            {"likelihood": "gaussian", "sigma": 0.002},
            "--sigma: expected at least 0.0025, half a grey level of 255, got",
        ),
        ({"warmup_epochs": 3.0}, "--warmup-epochs 3 does not end before the run"),
        ({"warmup_epochs": 2.0}, "--warmup-epochs 2 does not end before the run"),
        ({"warmup_epochs": 1.0, "warmup_steps": 1}, "--warmup-epochs and --warmup-steps: give one of them"),
        ({"cycles": 2, "warmup_steps": 1}, "--cycles has a warm-up of its own"),
        ({"cycles": 2, "patience": 1}, "--patience would stop within a cycle"),
        ({"cycles": 2, "capacity": 1.0}, "--cycles is for beta"),
        ({"capacity": 1.0, "beta": 2.0}, "--capacity and --beta both weigh"),
        ({"capacity": 1.0, "free_bits": 1.0}, "--capacity and --free-bits"),
        ({"objective": "iwae", "capacity": 1.0}, "--objective iwae has no KL term for --capacity"),
        ({"objective": "dreg", "free_bits": 1.0}, "--objective dreg has no KL term for --free-bits"),
        ({"objective": "iwae", "likelihood": "gaussian", "variance": "analytic"}, "analytic is fitted to the ELBO"),
        ({"autoencoder": True, "objective": "iwae"}, "--autoencoder has no bound"),
        ({"autoencoder": True, "importance_samples": 2}, "--autoencoder draws no latents"),
        ({"autoencoder": True, "beta": 2.0}, "--autoencoder has no KL term to weigh"),
        ({"autoencoder": True, "free_bits": 1.0}, "--autoencoder has no KL term"),
        ({"likelihood": "gaussian", "binarization": "dynamic"}, "binary pixels are not Gaussian"),
        ({"precision": "tf32"}, "--precision tf32 needs CUDA"),
        ({"lr_schedule": "steps"}, "--lr-milestones: expected epochs from 1 in rising order, got nothing"),
        ({"lr_milestones": (0, 2)}, r"--lr-milestones: expected epochs from 1 in rising order, got \[0, 2\]"),
        ({"lr_milestones": (2, 2)}, "--lr-milestones: expected epochs from 1 in rising order"),
        ({"lr_decay": 0.0}, "--lr-decay: expected a number above 0 and at most 1, got 0.0"),
        ({"lr_decay": 1.5}, "--lr-decay: expected a number above 0 and at most 1, got 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, **changes).check()


def test_a_warm_up_in_steps_that_would_not_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--warmup-steps 14 does not end before the run, which has 14 steps"):
        run_with(tmp_path, warmup_steps=14)


def test_a_network_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    np.save(tmp_path / "odd.npy", np.random.default_rng(0).integers(0, 256, (20, 6, 8), np.uint8))
    with pytest.raises(NetworkError, match="expected height and width divisible by 4, got 6x8"):
        run_with(tmp_path, data=str(tmp_path / "odd.npy"), network="conv")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.1}, "--sigma has no effect but for"),
        ({"variance": "fixed"}, "--variance has no effect without --likelihood gaussian"),
        ({"gamma": 1.0}, "--gamma has no effect without --capacity"),
        ({"lr_milestones": (3,)}, "--lr-milestones has no effect without --lr-schedule steps"),
        ({"lr_decay": 0.5}, "--lr-decay has no effect without --lr-schedule steps"),
        (
            {"lr_schedule": "steps", "lr_milestones": (3, 9), "epochs": 9},
            "--lr-milestones has no effect after the last of --epochs",
        ),
        ({"crop": "pad"}, "--crop has no effect without --image-size"),
        ({"network": "linear", "hidden_dims": (3,)}, "--hidden-dims has no effect on --network linear"),
        ({"test_data": "x", "test_fraction": 0.5}, "--test-fraction has no effect beside --test-data"),
        ({"test_data": "x", "split_seed": 5}, "--split-seed has no effect beside --test-data"),
        ({"network": "conv", "hidden_dims": (3, 4)}, "--hidden-dims has no effect on --network conv, but for the last"),
        (
            {"likelihood": "gaussian", "sigma": 0.1, "init_from": Path("x")},
            "--sigma has no effect beside --init-from: it goes on from that of the run",
        ),
        ({"patience": 5, "warmup_epochs": 24.0}, "--patience has no effect in a run that ends before, warm-up"),
    ],
)
def test_a_setting_without_effect_says_so(changes: dict[str, Any], message: str) -> None:
    assert any(message in line for line in Config(**changes).without_effect())


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "conv", "hidden_dims": (3,)},
        {"likelihood": "gaussian", "variance": "fixed", "sigma": 0.1, "init_from": Path("x")},
        {"test_data": "x", "split_seed": 5, "binarization": "static"},
        {"patience": 4, "warmup_epochs": 24.0},
    ],
)
def test_a_setting_with_an_effect_says_nothing(changes: dict[str, Any]) -> None:
    assert Config(**changes).without_effect() == []


def test_the_settings_survive_run_json(tmp_path: Path) -> None:
    run_with(tmp_path, hidden_dims=(8,), capacity=2.0)
    config = open_run(tmp_path / "run").config
    assert config == dataclasses.replace(SMALL, run=tmp_path / "run", hidden_dims=(8,), capacity=2.0)
    with pytest.raises(ConfigError, match=r"run\.json: unknown settings: colour"):
        config_from_json({"colour": 1}, "run.json")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"latent_dim": "20"}, "run.json: latent_dim: expected int, got '20'"),
        ({"lr": "1e-3"}, "run.json: lr: expected float, got '1e-3'"),
        ({"autoencoder": 1}, "run.json: autoencoder: expected bool, got 1"),
        ({"hidden_dims": [4, "5"]}, r"run.json: hidden_dims: expected tuple, got \[4, '5'\]"),
        ({"network": "cnn"}, "run.json: network: expected Literal.*, got 'cnn'"),
        ({"channels": 2}, "run.json: channels: expected .*, got 2"),
        ({"run": None}, "run.json: run: expected Path, got None"),
    ],
)
def test_a_setting_of_another_type_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_json(values, "run.json")


def test_every_setting_is_of_its_own_type() -> None:
    for config in (SMALL, Config(capacity=2.0, channels=3, image_size=4, lr_milestones=(1,), init_from=Path("x"))):
        assert config_from_json(config.to_json(), "run.json") == config
    assert config_from_json({"warmup_epochs": 2, "capacity": 25}, "run.json").capacity == 25


def test_the_command_line_of_a_run_makes_it_again() -> None:
    import tyro

    config = Config("x.npy", Path("runs/x"), hidden_dims=(8, 9), capacity=2.0, autoencoder=True, init_from=Path("a b"))
    assert tyro.cli(Config, args=config.arguments()) == config


def test_a_run_cannot_start_from_weights_that_would_mean_another_function(tmp_path: Path) -> None:
    run_with(tmp_path / "first")
    with pytest.raises(ValueError, match="--init-from: --activation: that run has relu, this one differs"):
        run_with(tmp_path / "second", activation="tanh", init_from=tmp_path / "first" / "run")


@pytest.mark.parametrize(
    ("data", "name"),
    [("a/photos.2023", "photos.2023"), ("a/photos.npy", "photos"), ("b.c.npz", "b.c"), ("digits", "digits")],
)
def test_a_run_has_the_name_of_its_data(data: str, name: str) -> None:
    assert Config(data).with_default_run().run == Path("runs") / name


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_data_without_a_name_give_the_run_none(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--run: .* gives the run no name"):
        Config(name).with_default_run()
