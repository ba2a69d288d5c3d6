"""What docs/theory.md says and no other test proves: what targets and variances mean, and the exact optimum."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training import VAE, data, kl_divergence
from training.config import Config
from training.latents import ACTIVE_VARIANCE
from training.likelihood import LOG_2PI, Bernoulli, Gaussian
from training.loop import train
from training.networks import LinearEncoder, NetworkSpec, linear
from training.objective import Objective, log_prior_over_posterior
from training.run import create_run

PIXELS = 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Many small steps: on a busy machine, threads that wait for each other take most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def drawn_images(grey: Tensor) -> tuple[Tensor, Tensor]:
    """All binary images, [2^pixels, pixels], and the probability of each to be drawn from the grey one, [1, pixels]."""
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=grey.shape[1])), dtype=torch.float64)
    return images, torch.where(images == 1.0, grey, 1.0 - grey).prod(1)


def test_grey_targets_give_the_mean_over_images_drawn_from_them() -> None:
    grey, logits = torch.sigmoid(normal(1, PIXELS)), 3.0 * normal(1, PIXELS, seed=1)
    images, probabilities = drawn_images(grey)
    of_drawn = Bernoulli().negative_log_likelihood(images, logits.expand_as(images))
    torch.testing.assert_close((probabilities * of_drawn).sum(), Bernoulli().negative_log_likelihood(grey, logits)[0])


def test_the_floor_of_grey_cross_entropy_is_the_entropy_of_the_pixels() -> None:
    grey = torch.sigmoid(normal(1, PIXELS))
    floor = torch.distributions.Bernoulli(grey).entropy().sum()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(Bernoulli().negative_log_likelihood(grey, torch.logit(grey))[0], floor)
    others = torch.logit(grey) + normal(1000, 1, PIXELS, seed=1)
    assert (Bernoulli().negative_log_likelihood(grey, others) > floor).all()
    assert floor > 1.0


def test_an_importance_weighted_figure_of_a_grey_image_is_below_the_mean_over_images_drawn_from_it() -> None:
    grey = torch.sigmoid(normal(1, PIXELS))
    images, probabilities = drawn_images(grey)
    z, logits = normal(50, 1, 2), 3.0 * normal(50, 1, PIXELS, seed=1)  # one latent and its decoded image a row
    prior_over_posterior = log_prior_over_posterior(z, torch.zeros(1, 2), torch.zeros(1, 2))

    def estimate(x: Tensor) -> Tensor:
        weights = prior_over_posterior - Bernoulli().negative_log_likelihood(x, logits.expand(-1, len(x), -1))
        return torch.logsumexp(weights, 0) - math.log(50)

    assert estimate(grey).item() < (probabilities * estimate(images)).sum().item() - 0.1


def test_averaging_the_pixels_and_not_the_latents_is_a_beta_of_the_number_of_pixels() -> None:
    model, x, epsilon = VAE(PIXELS, 8, 2).double(), torch.sigmoid(normal(5, PIXELS)), normal(1, 5, 2)
    mu, log_var = model.encode(x)
    logits = model.decoder(mu + (0.5 * log_var).exp() * epsilon[0])
    averaged = F.binary_cross_entropy_with_logits(logits, x) + kl_divergence(mu, log_var).mean()
    torch.testing.assert_close(Objective()(model, x, epsilon, beta=PIXELS).loss / 5 / PIXELS, averaged)


def test_a_sigma_of_one_is_half_the_squared_error_and_a_constant() -> None:
    x, output = torch.rand(4, PIXELS, dtype=torch.float64), normal(1, 4, PIXELS)
    expected = 0.5 * (x - output[0]).square().sum(1) + PIXELS * 0.5 * LOG_2PI
    torch.testing.assert_close(Gaussian("fixed", 1.0).negative_log_likelihood(x, output)[0], expected)


def test_no_variance_is_better_for_a_batch_than_the_analytic_one() -> None:
    x, output = torch.rand(4, PIXELS, dtype=torch.float64), normal(1, 4, PIXELS)
    best = (x - output[0]).square().mean().sqrt().item()

    def mean(likelihood: Gaussian) -> float:
        return likelihood.double().negative_log_likelihood(x, output).mean().item()

    analytic = mean(Gaussian("analytic").train())
    assert analytic == pytest.approx(mean(Gaussian("fixed", best)))
    assert analytic == pytest.approx(PIXELS * (math.log(best) + 0.5 * (1.0 + LOG_2PI)))
    assert all(mean(Gaussian("fixed", factor * best)) > analytic + 1e-3 for factor in (0.5, 0.9, 1.1, 2.0))


@pytest.mark.usefixtures("one_thread")
def test_the_kl_rises_while_the_loss_falls(tmp_path: Path) -> None:
    config = Config("digits", tmp_path / "run", epochs=10, latent_dim=4, hidden_dims=(64, 64), lr=3e-3, device="cpu")
    config = replace(config, likelihood="gaussian", variance="analytic")
    dataset = data.load(config, tmp_path)
    rows = train(config, dataset, create_run(config, dataset, "cpu"), torch.device("cpu"))
    assert rows[0]["kl"] < 0.5 < 1.0 < rows[-1]["kl"]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] - 10.0


@pytest.fixture(scope="module")
def digits() -> NDArray[np.float64]:
    """[1617, 64], in [0, 1]."""
    pixels = data.load(Config("digits"), Path()).train.pixels
    return pixels.reshape(len(pixels), -1).astype(np.float64) / 16.0


def eigen(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues of the covariance, falling, and their vectors as columns."""
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    return values[::-1].clip(min=0.0), vectors[:, ::-1]


def ppca_log_likelihood(values: NDArray[np.float64], kept: int, variance: float) -> float:
    """Of an image in the mean, in nats, with the leading eigenvectors kept (Tipping and Bishop, 1999)."""
    rest = values[kept:] / variance
    return float(-0.5 * (len(values) * LOG_2PI + np.sum(np.log(values[:kept]) + 1) + np.sum(np.log(variance) + rest)))


def optimal_linear_vae(x: NDArray[np.float64], latents: int) -> VAE:
    """The linear VAE whose decoder is the maximum of the pPCA likelihood, and whose q is its true posterior."""
    values, vectors = eigen(x)
    variance = values[latents:].mean()
    networks, likelihood = linear(NetworkSpec((1, 8, 8), latents)), Gaussian("learned")
    model = VAE(64, latent_dim=latents, networks=networks, likelihood=likelihood).double()
    encoder, decoder = networks[0], networks[1].get_submodule("0")
    assert isinstance(encoder, LinearEncoder)
    assert isinstance(decoder, nn.Linear)
    weight = torch.from_numpy(vectors[:, :latents] * np.sqrt(values[:latents] - variance))
    kept = torch.from_numpy(values[:latents].copy())
    with torch.no_grad():
        likelihood.log_sigma.fill_(0.5 * math.log(variance))
        decoder.weight.copy_(weight)
        decoder.bias.copy_(torch.from_numpy(x.mean(0)))
        encoder.mean.weight.copy_(weight.T / kept[:, None])
        encoder.mean.bias.copy_(-encoder.mean.weight @ decoder.bias)
        encoder.log_var.copy_(torch.log(variance / kept))
    return model


def test_the_elbo_of_the_optimal_linear_vae_is_the_likelihood_of_probabilistic_pca(digits: NDArray[np.float64]) -> None:
    latents = 5
    model, x = optimal_linear_vae(digits, latents), torch.from_numpy(digits)
    axes = math.sqrt(latents) * torch.cat((torch.eye(latents), -torch.eye(latents))).double()  # mean 0, covariance I,
    epsilon = axes[:, None].expand(-1, len(x), -1)  # so that the mean over them is exact: the loss is quadratic in z
    loss = Objective(samples=2 * latents)(model, x, epsilon).loss / len(x)
    values = eigen(digits)[0]
    assert -loss.item() == pytest.approx(ppca_log_likelihood(values, latents, values[latents:].mean()), rel=1e-9)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert max(gradient.abs().max().item() for gradient in gradients) < 1e-8


@pytest.mark.usefixtures("one_thread")
def test_training_finds_the_latents_whose_eigenvalue_is_above_the_fixed_variance(
    tmp_path: Path, digits: NDArray[np.float64]
) -> None:
    values, variance = eigen(digits)[0], 0.33
    kept = int((values > variance).sum())
    assert kept == 4
    assert (1.0 - variance / values[:kept] > ACTIVE_VARIANCE).all()  # the variance of their posterior means
    config = Config("digits", tmp_path / "run", epochs=60, latent_dim=6, lr=2e-2, device="cpu")
    config = replace(config, lr_schedule="cosine", network="linear")
    config = replace(config, likelihood="gaussian", variance="fixed", sigma=variance**0.5)
    dataset = data.load(config, tmp_path)
    row = train(config, dataset, create_run(config, dataset, "cpu"), torch.device("cpu"))[-1]
    assert row["active_units"] == kept
    assert -row["train_loss"] == pytest.approx(ppca_log_likelihood(values, kept, variance), abs=0.2)


def test_the_floor_of_mnist_and_its_collapsed_model_are_those_of_the_page(mnist_root: Path) -> None:
    dataset = data.load(Config("mnist"), mnist_root)
    parts = (dataset.train, dataset.test)
    known, held_out = (part.pixels.reshape(len(part), -1).astype(np.float64) / 255.0 for part in parts)
    floor = torch.distributions.Bernoulli(torch.from_numpy(held_out)).entropy()  # type: ignore[no-untyped-call]
    assert floor.sum(1).mean().item() == pytest.approx(45.53, abs=0.01)
    mean_image = torch.logit(torch.from_numpy(known.mean(0)), eps=1e-4)
    collapsed = Bernoulli().negative_log_likelihood(torch.from_numpy(held_out.mean(0, keepdims=True)), mean_image[None])
    assert collapsed.item() == pytest.approx(205.82, abs=0.01)  # linear in the image: that of the mean is the mean
