"""The pictures of a run show what their titles say."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from training import plots
from training.batches import EVALUATION_PIXELS
from training.config import Config
from training.data import Images, load
from training.model import VAE
from training.plots import TRAVERSAL_STEPS, Posterior, losses, traversals
from training.run import Metrics, open_run


def row(epoch: int, beta: float) -> Metrics:
    terms = {"reconstruction": 50.0 / epoch, "kl": 3.0, "test_reconstruction": 60.0 / epoch, "test_kl": 2.0}
    minimised = {"train_loss": 50.0 / epoch + beta * 3.0, "test_objective": 60.0 / epoch + beta * 2.0}
    return {"epoch": epoch, **terms, **minimised}


@pytest.mark.parametrize(
    ("beta", "titles"),
    [
        (1.0, ["Negative ELBO", "Reconstruction", "KL divergence"]),
        (4.0, ["Negative ELBO", "Reconstruction", "KL divergence", "What was minimised"]),
    ],
)
def test_the_negative_elbo_is_the_sum_of_its_terms_whatever_was_minimised(beta: float, titles: list[str]) -> None:
    axes = losses([row(1, beta), row(2, beta)]).axes
    assert [each.get_title() for each in axes] == titles
    assert [np.array(line.get_ydata()).tolist() for line in axes[0].lines] == [[53.0, 28.0], [62.0, 32.0]]
    if beta != 1.0:
        assert [np.array(line.get_ydata()).tolist() for line in axes[3].lines] == [[62.0, 37.0], [68.0, 38.0]]


def test_pictures_show_held_out_images_of_all_classes(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, dataset = open_run(digits_run), load(Config(), Path("/nowhere"))
    assert dataset.test.labels is not None
    by_class = dataset.test.take(np.argsort(dataset.test.labels, kind="stable"))
    seen: list[Images] = []

    def spy(_model: object, shown: Images, _dataset: object) -> Figure:
        seen.append(shown)
        return Figure()

    monkeypatch.setattr(plots, "reconstructions", spy)
    monkeypatch.setattr(Figure, "savefig", lambda *arguments, **options: None)
    rows = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    plots.plot_run(run, run.load_model()[0], dataclasses.replace(dataset, test=by_class), rows)
    labels = seen[0].labels
    assert labels is not None
    assert len(set(labels[:30])) >= 8  # the first 30 are of two
    assert sorted(labels) == sorted(dataset.test.labels)


def test_thirty_reconstructions_are_shown_of_images_that_are_evaluated_one_at_a_time(
    digits_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, dataset = open_run(digits_run), load(Config(), Path("/nowhere"))
    rows: list[int] = []
    monkeypatch.setattr("training.batches.EVALUATION_PIXELS", 1)
    monkeypatch.setattr(plots, "_tiles", lambda shown, _title: rows.extend(map(len, shown)))
    plots.reconstructions(run.load_model()[0], dataset.test, dataset)
    assert rows == [plots.COLUMNS] * 6


@pytest.mark.parametrize(
    ("shape", "tile"),
    [((1, 28, 28), (28, 28)), ((1, 96, 96), (96, 96)), ((3, 512, 512), (96, 96)), ((1, 10, 960), (1, 96))],
)
def test_large_images_are_shown_smaller_and_decoded_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], tile: tuple[int, int]
) -> None:
    decoded: list[int] = []
    shown: list[plots.Pictures] = []

    class Black(VAE):
        def decode(self, z: torch.Tensor) -> torch.Tensor:
            decoded.append(len(z))
            return torch.zeros(len(z), *shape)

    monkeypatch.setattr(plots, "_tiles", lambda rows, _title: shown.extend(rows))
    plots.latent_grid(Black(4, 4, 2), shape)
    assert {row.shape for row in shown} == {(plots.GRID_SIDE, shape[0], *tile)}
    assert len(shown) == plots.GRID_SIDE
    assert sum(decoded) == plots.GRID_SIDE**2
    assert max(decoded) * np.prod(shape) <= EVALUATION_PIXELS


def test_what_is_shown_smaller_keeps_its_means() -> None:
    image = torch.arange(384.0 * 192).reshape(1, 1, 384, 192)
    smaller = plots._shrunk(image)
    assert smaller.shape == (1, 1, 96, 48)
    assert smaller[0, 0, 1, 2].item() == image[0, 0, 4:8, 8:12].mean().item()


def test_a_plain_autoencoder_has_no_curve_of_an_elbo() -> None:
    assert [each.get_title() for each in losses([row(1, 0.0)], autoencoder=True).axes] == ["Reconstruction"]


def test_the_traversals_of_an_autoencoder_go_by_the_spread_of_its_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.tensor([[1.0, -20.0, 5.0], [3.0, 20.0, 5.0]])
    asked: list[torch.Tensor] = []

    def decode(_model: object, latents: torch.Tensor, shape: tuple[int, int, int]) -> plots.Pictures:
        asked.append(latents.clone())
        return np.zeros((len(latents), *shape), np.float32)

    monkeypatch.setattr(plots, "_decode", decode)
    figure = plots.code_traversals(VAE(16, 8, 3), (1, 4, 4), codes)
    assert [text.get_text() for text in figure.axes[0].texts] == ["1: 20.00", "0: 1.00", "2: 0.00"]
    first, second, third = asked
    torch.testing.assert_close(first[[0, 5, 10]], torch.tensor([[2.0, -60.0, 5.0], [2.0, 0.0, 5.0], [2.0, 60.0, 5.0]]))
    assert second[:, 0].tolist() == pytest.approx(np.linspace(-1.0, 5.0, 11))
    assert (third == codes.mean(0)).all()


def test_active_latents_alone_are_traversed_through_0_by_falling_kl() -> None:
    mean = torch.zeros(10, 4)
    mean[:, 1], mean[:, 3] = torch.linspace(-1, 1, 10), torch.linspace(-2, 2, 10)
    kl = torch.tensor([0.0, 0.5, 0.0, 2.0]).expand(10, 4)
    (axes,) = traversals(VAE(16, 8, 4).eval(), (1, 4, 4), Posterior(mean, kl)).axes
    assert [text.get_text() for text in axes.texts] == ["3: 2.00", "1: 0.50"]
    assert "2 of 4 latents (2 are active)" in axes.get_title()
    assert torch.linspace(-3.0, 3.0, TRAVERSAL_STEPS).abs().min() < 1e-6


def test_where_no_latent_is_active_all_are_traversed() -> None:
    posterior = Posterior(torch.zeros(10, 3), torch.zeros(10, 3))
    (axes,) = traversals(VAE(16, 8, 3).eval(), (1, 4, 4), posterior).axes
    assert len(axes.texts) == 3
