"""Active units, mutual information and the probe against posteriors whose answer is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from training import latents
from training.latents import active_units, aggregate_posterior, linear_probe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_unit_is_active_above_a_variance_of_a_hundredth() -> None:
    signs = torch.tensor([-1.0, 1.0]).repeat(50)[:, None]
    assert active_units(signs * torch.tensor([0.0, 0.0999, 0.1001, 3.0]) + 7.0) == 2


def test_a_collapsed_posterior_has_no_information_and_no_distance() -> None:
    found = aggregate_posterior(torch.zeros(300, 4), torch.zeros(300, 4), seeded())
    assert found.mutual_information == pytest.approx(0.0, abs=1e-12)
    assert found.kl == pytest.approx(0.0, abs=1e-12)


def test_posteriors_far_apart_tell_each_image_and_no_more() -> None:
    mu = 100.0 * torch.arange(50.0)[:, None]
    found = aggregate_posterior(mu, torch.full((50, 1), -4.0), seeded())
    assert found.mutual_information == pytest.approx(math.log(50), rel=1e-9)


@pytest.mark.parametrize(("spread", "variance"), [(0.8, 0.36), (1.5, 0.1)])
def test_normal_means_give_the_information_of_a_gaussian_channel(spread: float, variance: float) -> None:
    """mu ~ N(0, s^2), z ~ N(mu, v): I = 1/2 log((s^2 + v) / v) a latent, and q(z) = N(0, s^2 + v)."""
    mu = spread * torch.randn(5000, 2, generator=seeded(1))
    found = aggregate_posterior(mu, torch.full_like(mu, math.log(variance)), seeded())
    total = spread**2 + variance
    assert found.mutual_information == pytest.approx(math.log(total / variance), abs=0.05)
    assert found.kl == pytest.approx(total - 1 - math.log(total), abs=0.05)


def random_posteriors(count: int) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 3, generator=seeded(2)), torch.randn(count, 3, generator=seeded(3)) - 2.0


def test_the_two_parts_add_up_to_the_kl_term() -> None:
    mu, log_var = random_posteriors(200)
    found = aggregate_posterior(mu, log_var, seeded())
    kl = 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum(1).mean()
    assert found.mutual_information + found.kl == pytest.approx(kl.item(), rel=1e-6)


def test_the_mixture_is_that_of_torch_s_distributions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "AGGREGATE_BLOCK", 7)
    mu, log_var = (t.double() for t in random_posteriors(30))
    generator = seeded()
    order = torch.randperm(30, generator=generator)
    mu, log_var = mu[order], log_var[order]
    z = mu + (0.5 * log_var).exp() * torch.randn(30, 3, dtype=torch.float64, generator=generator)
    posteriors = torch.distributions.Normal(mu, (0.5 * log_var).exp())
    densities = posteriors.log_prob(z[:, None]).sum(-1)  # type: ignore[no-untyped-call]
    expected = (densities.diagonal() - densities.logsumexp(1) + math.log(30)).mean()
    found = aggregate_posterior(*random_posteriors(30), seeded())
    assert found.mutual_information == pytest.approx(expected.item(), rel=1e-10)


def test_of_very_many_images_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "AGGREGATE_IMAGES", 20)
    mu = torch.arange(100.0)[:, None] * 100
    found = aggregate_posterior(mu, torch.full((100, 1), -4.0), seeded())
    assert found.images == 20
    assert found.mutual_information == pytest.approx(math.log(20), rel=1e-9)


def test_the_probe_reads_labels_that_are_there_and_no_others() -> None:
    labels = np.arange(600) % 3
    mu = torch.randn(600, 4, generator=seeded())
    noise = linear_probe(mu[:400], labels[:400], mu[400:], labels[400:])
    told = mu + 5 * torch.nn.functional.one_hot(torch.from_numpy(labels), 4)
    read = linear_probe(told[:400], labels[:400], told[400:], labels[400:])
    assert noise.accuracy is not None
    assert read.accuracy is not None
    assert noise.accuracy < 0.45
    assert read.accuracy > 0.95
    assert read.chance == pytest.approx(1 / 3, abs=0.01)
    assert read.trained_on == 400


def test_the_probe_leaves_images_without_a_label_out() -> None:
    labels = np.array([0, 1] * 50)
    mu = torch.from_numpy(labels)[:, None].float() + 0.01 * torch.randn(100, 1, generator=seeded())
    some = np.where(np.arange(100) < 80, labels, -1)
    found = linear_probe(mu, some, mu, some)
    assert (found.accuracy, found.chance, found.trained_on) == (1.0, 0.5, 80)


@pytest.mark.parametrize(
    ("train_labels", "labels", "reason"),
    [([0, 1], [-1, -1], "no image has a label"), ([-1, -1], [0, 1], "no image"), ([3, 3], [3, 3], "all labels are")],
)
def test_without_two_labels_there_is_no_probe(train_labels: list[int], labels: list[int], reason: str) -> None:
    mu = torch.zeros(2, 1)
    found = linear_probe(mu, np.array(train_labels), mu, np.array(labels))
    assert found.accuracy is None
    assert found.reason is not None
    assert reason in found.reason


def test_labels_that_number_the_images_are_no_classes() -> None:
    mu = torch.randn(200, 2, generator=seeded())
    found = linear_probe(mu[:100], np.arange(100), mu[100:], np.arange(100))
    assert (found.accuracy, found.reason) == (None, "100 labels of 100 images are numbers, not classes")
