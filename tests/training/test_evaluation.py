"""The measures of a model against each other, and where they are not defined."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.evaluation import Evaluation, evaluate_model
from training.likelihood import Gaussian, Likelihood
from training.model import VAE
from training.networks import NETWORKS, NetworkSpec

PIXELS = 16


def vae(likelihood: Likelihood | None = None) -> VAE:
    """A network with random weights."""
    torch.manual_seed(0)
    networks = NETWORKS["mlp"](NetworkSpec((1, 4, 4), 3, (12,)))
    return VAE(PIXELS, latent_dim=3, networks=networks, likelihood=likelihood)


def images(count: int, seed: int = 0) -> Tensor:
    """Binary images, [count, 1, 4, 4]."""
    return (torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def evaluate(model: VAE, x: Tensor, **options: Any) -> Evaluation:
    def batches() -> Iterator[Tensor]:
        yield from x.split(32)  # type: ignore[no-untyped-call]

    return evaluate_model(model, batches, **options)


class Collapsed(nn.Module):
    """The posterior is the prior, whatever the image."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.new_zeros(len(x), 3), x.new_zeros(len(x), 3)


def test_the_terms_add_up() -> None:
    found = evaluate(vae(), images(100))
    assert found.images == 100
    assert found.elbo is not None
    assert found.kl is not None
    assert found.kl_per_latent is not None
    assert found.aggregate is not None
    assert found.elbo == pytest.approx(-(found.reconstruction + found.kl))
    assert sum(found.kl_per_latent) == pytest.approx(found.kl)
    assert found.aggregate.mutual_information + found.aggregate.kl == pytest.approx(found.kl)


def test_the_kl_of_each_latent_stands_in_the_latent_s_place() -> None:
    model, x = vae(), images(50)
    mu, log_var = model.encode(x)
    expected = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).mean(0)
    assert evaluate(model, x).kl_per_latent == pytest.approx(expected.tolist(), rel=1e-4)


def test_a_collapsed_model_is_seen_as_one() -> None:
    model = vae()
    model.encoder = Collapsed()
    found = evaluate(model, images(100), samples=10)
    assert found.active_units == 0
    assert found.kl == 0.0
    assert found.aggregate is not None
    assert found.aggregate.mutual_information == pytest.approx(0.0, abs=1e-12)


def test_for_binary_data_elbo_log_likelihood_and_zero_are_in_that_order() -> None:
    found = evaluate(vae(), images(200), samples=500)
    assert found.elbo is not None
    assert found.log_likelihood is not None
    assert found.elbo < found.log_likelihood.mean < 0.0
    assert found.log_likelihood.samples == 500
    assert found.log_likelihood.standard_error == pytest.approx(0.1, abs=0.1)


def test_densities_may_be_positive() -> None:
    model = vae(Gaussian("fixed", 0.05))
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
    found = evaluate(model, torch.zeros(20, 1, 4, 4), samples=5)
    assert found.log_likelihood is not None
    assert found.log_likelihood.mean > 0.0


def test_quantiles_are_ordered_and_those_of_single_images() -> None:
    found = evaluate(vae(), images(100))
    assert found.elbo_quantiles is not None
    assert found.elbo is not None
    values = list(found.elbo_quantiles.values())
    assert values == sorted(values)
    assert values[0] < found.elbo < values[-1]
    keys = list(found.elbo_quantiles)
    assert keys[:4] == ["min", "0.01", "0.05", "0.1"]
    assert keys[-3:] == ["0.95", "0.99", "max"]
    one = evaluate(vae(), images(1))
    assert one.elbo_quantiles is not None
    assert set(one.elbo_quantiles.values()) == {one.elbo}


def test_the_seed_decides_and_the_elbo_does_not_depend_on_the_samples() -> None:
    model, x = vae(), images(40)
    first, again, other = (evaluate(model, x, samples=3, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.elbo != other.elbo
    assert first.log_likelihood != other.log_likelihood
    assert first.elbo == evaluate(model, x, samples=0, seed=1).elbo == evaluate(model, x, samples=9, seed=1).elbo


def test_a_plain_autoencoder_has_a_reconstruction_and_no_bound() -> None:
    model, x = vae(), images(40)
    found = evaluate(model, x, autoencoder=True)
    expected = model.likelihood.negative_log_likelihood(x, model.decoder(model.encode(x)[0])).mean().item()
    assert found.reconstruction == pytest.approx(expected, rel=1e-6)
    undefined = (found.kl, found.elbo, found.elbo_quantiles, found.kl_per_latent, found.aggregate, found.log_likelihood)
    assert undefined == (None,) * 6
    with pytest.raises(ValueError, match="no posterior"):
        evaluate(model, x, autoencoder=True, samples=1)


def test_the_probe_is_fitted_on_the_training_images() -> None:
    model, x, train = vae(), images(200), images(400, seed=1)
    labels, train_labels = (np.asarray(t[:, 0, 0, 0].numpy(), np.int64) for t in (x, train))
    for pictures, marks in ((x, labels), (train, train_labels)):  # a label that fills three rows of the image
        pictures[:, 0, :3] = torch.from_numpy(marks)[:, None, None].float()
    options = {"labels": labels, "train_labels": train_labels, "train_batches": lambda: train.split(100)}  # type: ignore[no-untyped-call]
    found = evaluate(model, x, **options).linear_probe
    assert found.accuracy is not None
    assert found.chance is not None
    assert found.accuracy > found.chance + 0.2
    assert found.trained_on == 400
    reversed_labels = {**options, "train_labels": 1 - train_labels}
    assert evaluate(model, x, **reversed_labels).linear_probe.accuracy == pytest.approx(1 - found.accuracy)
    reason = evaluate(model, x, **{**options, "labels": None}).linear_probe.reason
    assert reason is not None
    assert "needs labels" in reason


def test_measuring_changes_nothing_that_training_keeps() -> None:
    model = vae(Gaussian("analytic")).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, images(40), samples=3)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_measures_survive_json() -> None:
    for options in ({"samples": 2}, {"autoencoder": True}):
        values = evaluate(vae(), images(10), **options).to_json()
        assert json.loads(json.dumps(values, allow_nan=False)) == values


@pytest.mark.parametrize("samples", [0, 4])
def test_progress_counts_every_image(samples: int) -> None:
    done: list[int] = []
    evaluate(vae(), images(70), samples=samples, progress=lambda count: done.append(count))
    assert sum(done) == 70


def test_without_images_there_is_nothing_to_measure() -> None:
    with pytest.raises(ValueError, match="no images"):
        evaluate_model(vae(), list)
